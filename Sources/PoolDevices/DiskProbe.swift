import Glibc

/// What lies on a path, looked at without claiming or changing anything.
public struct DiskProbe: Sendable {
    public var path: String
    public var kind: Disk.Kind
    public var identity: Disk.Identity
    public var sizeBytes: UInt64
    public var sectorBytes: UInt32
    public var isRotational: Bool?
    /// The first and last 128 KiB, less where the disk is smaller (then they overlap).
    public var head: [UInt8]
    public var tail: [UInt8]
    /// What somebody else keeps there, in words for people; nil: nothing known was found.
    public var foreignSignature: String?

    public static let edgeBytes = 128 << 10

    /// Cost: two reads of 128 KiB.
    public init(path: String) throws(DiskError) {
        let (kind, _) = try Disk.inspect(path)
        let file: OpenFile
        // O_DIRECT sees what is on the medium now, not what the page cache once read of it.
        let flags = O_RDONLY | O_NONBLOCK
        switch OpenFile.open(path, flags: flags | oDirect) {
        case .success(let opened): file = opened
        case .failure(let error) where error.code == EINVAL:
            switch OpenFile.open(path, flags: flags) {
            case .success(let opened): file = opened
            case .failure(let error): throw .cannotOpen(path: path, errno: error.code)
            }
        case .failure(let error): throw .cannotOpen(path: path, errno: error.code)
        }
        let status = try Disk.statusOf(file, path: path)
        guard try Disk.Kind(status, path: path) == kind else { throw .notADisk(path: path) }
        self.path = path
        self.kind = kind
        identity = Disk.Identity(kind, status)
        sizeBytes = try Disk.sizeOf(file, kind: kind, status: status, path: path)
        sectorBytes = try Disk.sectorOf(file, kind: kind, path: path)
        let device = kind == .blockDevice ? status.st_rdev : status.st_dev
        isRotational = BlockDeviceFacts.isRotational(device: UInt64(device))
        let count = Int(min(UInt64(Self.edgeBytes), sizeBytes))
        head = try Self.read(file, path: path, offsetBytes: 0, count: count)
        tail = try Self.read(
            file, path: path, offsetBytes: sizeBytes - UInt64(count), count: count)
        foreignSignature = ForeignSignature.find(head: head, tail: tail)
    }

    /// Reads any range, aligned or not, through an aligned buffer.
    static func read(
        _ file: OpenFile, path: String, offsetBytes: UInt64, count: Int
    ) throws(DiskError) -> [UInt8] {
        let start = offsetBytes & ~4095
        let skip = Int(offsetBytes - start)
        let length = (skip + count + 4095) & ~4095
        guard off_t(exactly: start) != nil else { throw .endOfDisk(path: path) }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 4096)
        defer { unsafe memory.deallocate() }
        var done = 0
        while done < skip + count {
            let result = unsafe pread(
                file.descriptor, memory + done, length - done, off_t(start) + off_t(done))
            if result < 0 {
                let code = errno
                if code == EINTR { continue }
                // A file system that takes O_DIRECT at open and refuses it here.
                let flags = fcntl(file.descriptor, F_GETFL)
                guard code == EINVAL, flags & oDirect != 0 else {
                    throw .readFailed(path: path, errno: code)
                }
                _ = fcntl(file.descriptor, F_SETFL, flags & ~oDirect)
                continue
            }
            if result == 0 { throw .endOfDisk(path: path) }
            done += result
        }
        return unsafe Array(UnsafeRawBufferPointer(start: memory + skip, count: count))
    }
}

extension Disk {
    /// Reads a range at once, on the calling thread: for looking at labels, not for data.
    public func readBytes(at offsetBytes: UInt64, count: Int) throws(DiskError) -> [UInt8] {
        guard count >= 0, offsetBytes <= sizeBytes, UInt64(count) <= sizeBytes - offsetBytes else {
            throw .endOfDisk(path: path)
        }
        return try DiskProbe.read(file, path: path, offsetBytes: offsetBytes, count: count)
    }
}
