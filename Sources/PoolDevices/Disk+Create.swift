import Glibc

extension Disk {
    /// Makes a new sparse file of this size, durably. An existing file is refused.
    public static func createSparseFile(path: String, bytes: UInt64) throws(DiskError) {
        guard let length = off_t(exactly: bytes) else {
            throw .sizeTooLarge(path: path, bytes: bytes)
        }
        let file: OpenFile
        switch OpenFile.open(path, flags: O_RDWR | O_CREAT | O_EXCL, mode: 0o600) {
        case .success(let opened): file = opened
        case .failure(let error): throw .cannotCreate(path: path, errno: error.code)
        }
        guard ftruncate(file.descriptor, length) == 0, Glibc.fsync(file.descriptor) == 0 else {
            let code = errno
            // Only what was made here is taken away again.
            _ = unsafe unlink(path)
            if code == EFBIG { throw .sizeTooLarge(path: path, bytes: bytes) }
            throw .cannotCreate(path: path, errno: code)
        }
        // The name is durable once its directory is. A directory that cannot be opened for this
        // (search permission only) leaves that to the file system.
        if case .success(let directory) = OpenFile.open(directory(of: path), flags: O_RDONLY) {
            _ = Glibc.fsync(directory.descriptor)
        }
    }

    private static func directory(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }
}
