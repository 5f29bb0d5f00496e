import Glibc

extension Disk {
    /// How long an open waits for its lock when nothing else is said: a killed daemon's last writes
    /// have to land, and udev looks at a device under a shared lock for a moment.
    public static let lockWaitNs: UInt64 = 10_000_000_000

    /// Opens a disk for reading and writing, exclusively.
    ///
    /// Blocks the calling thread while the lock is held elsewhere: not for a shard's thread, unless
    /// with `waitNs: 0`.
    ///
    /// - Parameters:
    ///   - waitNs: how long to wait for another holder; 0 tries once.
    ///   - other: the same disk, which this process has open: after a failed write or flush only a
    ///     new open file, with a ledger of its own, can be trusted. The lock stays with the first
    ///     until both are gone, so nobody else gets in between.
    ///   - log: told, in one line, when the page cache cannot be avoided.
    public static func open(
        path: String, waitNs: UInt64 = lockWaitNs, beside other: Disk? = nil,
        log: @Sendable (String) -> Void = { _ in }
    ) throws(DiskError) -> Disk {
        let deadlineNs = monotonicNs() &+ waitNs
        while true {
            do {
                return try openOnce(path: path, beside: other, log: log)
            } catch .inUse where monotonicNs() < deadlineNs {
                _ = usleep(20_000)
            } catch {
                throw error
            }
        }
    }

    private static func openOnce(
        path: String, beside other: Disk?, log: @Sendable (String) -> Void
    ) throws(DiskError) -> Disk {
        let (kind, _) = try inspect(path)
        // O_EXCL without O_CREAT claims a block device: mounts, arrays and other claims exclude it.
        let exclusive = kind == .blockDevice && other == nil ? O_EXCL : 0
        var (file, isDirect) = try openForWriting(path, flags: O_RDWR | O_NONBLOCK | exclusive)
        if other == nil { try lock(file, path: path) }
        let status = try statusOf(file, path: path)
        // The path may have been replaced between the look and the open: what is open decides.
        guard try Kind(status, path: path) == kind else { throw .notADisk(path: path) }
        if let other, other.identity != Identity(kind, status) {
            throw .cannotOpen(path: path, errno: ESTALE)
        }
        // O_NONBLOCK kept the open from waiting. Left on, io_uring would answer EAGAIN for I/O.
        clearNonBlocking(file)
        let sizeBytes = try sizeOf(file, kind: kind, status: status, path: path)
        var sectorBytes = try sectorOf(file, kind: kind, path: path)
        if isDirect && kind == .regularFile && !isUsableDirectly(file, sizeBytes: sizeBytes) {
            isDirect = false
            setDirect(file, false)
            sectorBytes = 512
        }
        if !isDirect {
            log("\(path): O_DIRECT refused, using the page cache")
        }
        return Disk(
            path: path, kind: kind, file: file, lockedBy: other?.lockedBy, status: status,
            sizeBytes: sizeBytes, sectorBytes: sectorBytes, isDirect: isDirect)
    }

    // MARK: - steps

    /// What a path names, without the side effects that opening a device or a pipe can have.
    static func inspect(_ path: String) throws(DiskError) -> (Kind, stat) {
        switch OpenFile.open(path, flags: oPath) {
        case .failure(let error): throw .cannotOpen(path: path, errno: error.code)
        case .success(let file):
            let status = try statusOf(file, path: path)
            return (try Kind(status, path: path), status)
        }
    }

    static func statusOf(_ file: OpenFile, path: String) throws(DiskError) -> stat {
        switch file.status() {
        case .success(let status): return status
        case .failure(let error): throw .cannotOpen(path: path, errno: error.code)
        }
    }

    private static func openForWriting(
        _ path: String, flags: Int32
    ) throws(DiskError) -> (OpenFile, isDirect: Bool) {
        switch OpenFile.open(path, flags: flags | oDirect) {
        case .success(let file): return (file, true)
        case .failure(let error) where error.code == EBUSY: throw .inUse(path: path)
        case .failure(let error) where error.code == EINVAL: break
        case .failure(let error): throw .cannotOpen(path: path, errno: error.code)
        }
        switch OpenFile.open(path, flags: flags) {
        case .success(let file): return (file, false)
        case .failure(let error) where error.code == EBUSY: throw .inUse(path: path)
        case .failure(let error): throw .cannotOpen(path: path, errno: error.code)
        }
    }

    private static func lock(_ file: OpenFile, path: String) throws(DiskError) {
        while flock(file.descriptor, LOCK_EX | LOCK_NB) != 0 {
            switch errno {
            case EINTR: continue
            case EWOULDBLOCK: throw .inUse(path: path)
            case let code: throw .lockRefused(path: path, errno: code)
            }
        }
    }

    private static func clearNonBlocking(_ file: OpenFile) {
        let flags = fcntl(file.descriptor, F_GETFL)
        _ = fcntl(file.descriptor, F_SETFL, flags & ~O_NONBLOCK)
    }

    private static func setDirect(_ file: OpenFile, _ direct: Bool) {
        let flags = fcntl(file.descriptor, F_GETFL)
        _ = fcntl(file.descriptor, F_SETFL, direct ? flags | oDirect : flags & ~oDirect)
    }

    static func sizeOf(
        _ file: OpenFile, kind: Kind, status: stat, path: String
    ) throws(DiskError) -> UInt64 {
        switch kind {
        case .regularFile:
            guard let size = UInt64(exactly: status.st_size) else {
                throw .sizeUnknown(path: path, errno: EOVERFLOW)
            }
            return size
        case .blockDevice:
            switch BlockDeviceFacts.sizeBytes(file) {
            case .success(let size): return size
            case .failure(let error): throw .sizeUnknown(path: path, errno: error.code)
            }
        }
    }

    static func sectorOf(_ file: OpenFile, kind: Kind, path: String) throws(DiskError) -> UInt32 {
        let bytes =
            switch kind {
            case .blockDevice: BlockDeviceFacts.sectorBytes(file) ?? 512
            case .regularFile: DirectAlignment.of(file)?.offsetBytes ?? 512
            }
        switch bytes {
        // A file system may ask for less than a sector (tmpfs: 1); the sector stays ours.
        case 1...512: return 512
        case 513...4096: return 4096
        default: throw .unsupportedSector(path: path, bytes: bytes)
        }
    }

    /// Some file systems take O_DIRECT at open and refuse the first read; one read tells.
    private static func isUsableDirectly(_ file: OpenFile, sizeBytes: UInt64) -> Bool {
        guard sizeBytes >= 4096 else { return true }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { unsafe memory.deallocate() }
        return unsafe pread(file.descriptor, memory, 4096, 0) >= 0 || errno != EINVAL
    }
}

extension Disk.Kind {
    init(_ status: stat, path: String) throws(DiskError) {
        switch status.st_mode & S_IFMT {
        case S_IFREG: self = .regularFile
        case S_IFBLK: self = .blockDevice
        default: throw .notADisk(path: path)
        }
    }
}

/// Flags of open(2) that are not imported, because their macros are conditional; x86-64 and arm64
/// differ in the first.
#if arch(arm64)
    let oDirect: Int32 = 0o200000
#else
    let oDirect: Int32 = 0o40000
#endif
let oPath: Int32 = 0o10000000
