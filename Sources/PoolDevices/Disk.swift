import CLinuxAIO
import Glibc

/// An open disk: a block device or a regular file, locked against every other process.
///
/// Opened once and shared by every shard that uses it: nothing in it changes. Dropping the last
/// reference closes it; the lock goes when the kernel has finished what is under way.
public final class Disk: Sendable {
    public enum Kind: UInt8, Sendable { case blockDevice, regularFile }

    public let path: String
    public let kind: Kind
    /// The size when it was opened. A file that is found smaller later has lost data.
    public let sizeBytes: UInt64
    /// 512 or 4096: what a power cut keeps or loses whole, and what operations are aligned to.
    public let sectorBytes: UInt32
    /// Whether I/O goes past the page cache.
    public let isDirect: Bool
    /// Whether the medium turns; nil where nothing is known of it.
    public let isRotational: Bool?
    /// Whether it claims to take back ranges. A refusal is still handled.
    public let supportsDiscard: Bool
    /// Whether the size of its file can be asked for without waiting for a program or another
    /// machine, which may not answer.
    let hasLocalSize: Bool
    /// Identifies the device or file itself, by whatever path it was reached.
    public let identity: Identity
    let file: OpenFile
    /// Has the lock: the same, or the one beside which this was opened.
    let lockedBy: OpenFile
    /// Of all its users.
    let flushes = FlushLedger()

    public struct Identity: Hashable, Sendable {
        var device: UInt64
        /// 0 for a block device: its number is in `device`.
        var inode: UInt64
    }

    var descriptor: Int32 { file.descriptor }

    init(
        path: String, kind: Kind, file: OpenFile, lockedBy: OpenFile? = nil, status: stat,
        sizeBytes: UInt64, sectorBytes: UInt32, isDirect: Bool
    ) {
        self.path = path
        self.kind = kind
        self.file = file
        self.lockedBy = lockedBy ?? file
        self.sizeBytes = sizeBytes
        self.sectorBytes = sectorBytes
        self.isDirect = isDirect
        identity = Identity(kind, status)
        let device = kind == .blockDevice ? status.st_rdev : status.st_dev
        isRotational = BlockDeviceFacts.isRotational(device: UInt64(device))
        hasLocalSize = kind == .regularFile && FileSystem.isLocal(file)
        supportsDiscard =
            switch kind {
            case .blockDevice: BlockDeviceFacts.supportsDiscard(device: UInt64(device))
            case .regularFile: true
            }
    }

    /// The size it has now, or nil where it cannot be found out (the device is gone).
    ///
    /// Cost: one system call for a file. A block device is not asked: it refuses what lies beyond
    /// its end by itself.
    public func currentSizeBytes() -> UInt64? {
        switch kind {
        case .blockDevice: return sizeBytes
        case .regularFile:
            guard case .success(let status) = file.status() else { return nil }
            return UInt64(exactly: status.st_size)
        }
    }
}

extension Disk.Identity {
    init(_ kind: Disk.Kind, _ status: stat) {
        switch kind {
        case .blockDevice: self.init(device: UInt64(status.st_rdev), inode: 0)
        case .regularFile:
            self.init(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        }
    }
}

private enum FileSystem {
    /// Those that a program or another machine serves, by the kernel's numbers (linux/magic.h, and
    /// where a file system keeps its own).
    private static let remote: Set<UInt32> = [
        0x6573_5546,  // FUSE
        0x6969,  // NFS
        0xff53_4d42, 0xfe53_4d42, 0x517b,  // CIFS, SMB2, SMB
        0x00c3_6400,  // Ceph
        0x0102_1997,  // 9P
        0x0bd0_0bd0,  // Lustre
        0x00c0_ffee,  // hostfs
        0x0116_1970,  // GFS2
        0x7461_636f,  // OCFS2
        0x5346_414f, 0x6b41_4653,  // AFS
    ]

    static func isLocal(_ file: OpenFile) -> Bool {
        let number = UInt32(truncatingIfNeeded: poold_file_system(file.descriptor))
        return number != 0 && !remote.contains(number)
    }
}
