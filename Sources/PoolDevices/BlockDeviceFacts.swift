import Glibc

/// What the kernel says of a block device: ioctls on the open device, files below /sys.
enum BlockDeviceFacts {
    // <linux/fs.h>; the macros that make these numbers are not imported.
    private static let getSize64: UInt = 0x8008_1272
    private static let getLogicalSector: UInt = 0x1268

    static func sizeBytes(_ file: OpenFile) -> Result<UInt64, Errno> {
        var size: UInt64 = 0
        guard unsafe ioctl(file.descriptor, getSize64, &size) == 0 else {
            return .failure(Errno(code: errno))
        }
        return .success(size)
    }

    static func sectorBytes(_ file: OpenFile) -> UInt32? {
        var sector: Int32 = 0
        guard unsafe ioctl(file.descriptor, getLogicalSector, &sector) == 0 else { return nil }
        return UInt32(exactly: sector)
    }

    /// Whether the device (of a file: the one it lies on) turns; nil where nothing is known.
    static func isRotational(device: UInt64) -> Bool? {
        switch queueAttribute("rotational", device: device) {
        case "0": false
        case "1": true
        default: nil
        }
    }

    /// Whether the device says it can take back ranges.
    static func supportsDiscard(device: UInt64) -> Bool {
        guard let text = queueAttribute("discard_max_bytes", device: device) else { return false }
        return text != "0" && UInt64(text) != nil
    }

    /// A partition has no queue of its own: its disk, one directory up, has.
    private static func queueAttribute(_ name: String, device: UInt64) -> String? {
        let directory = "/sys/dev/block/\(major(device)):\(minor(device))"
        return firstLine(of: "\(directory)/queue/\(name)")
            ?? firstLine(of: "\(directory)/../queue/\(name)")
    }

    private static func firstLine(of path: String) -> String? {
        guard case .success(let file) = OpenFile.open(path, flags: O_RDONLY) else { return nil }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = unsafe read(file.descriptor, &bytes, bytes.count)
        guard count > 0 else { return nil }
        return String(decoding: bytes[..<count].prefix { $0 != 0x0A }, as: UTF8.self)
    }

    /// glibc's gnu_dev_major: twelve bits and, far above, the rest.
    static func major(_ device: UInt64) -> UInt64 {
        (device >> 8) & 0xFFF | (device >> 32) & 0xFFFF_F000
    }

    static func minor(_ device: UInt64) -> UInt64 {
        device & 0xFF | (device >> 12) & 0xFFFF_FF00
    }
}
