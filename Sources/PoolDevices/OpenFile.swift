import Glibc

/// An owned file descriptor: closed when the last reference goes.
///
/// The lock of a disk belongs to the open file description, and every operation the kernel still
/// has under way holds that description too. So after a kill -9 the lock stays until the last write
/// has landed, and a successor that waits for the lock never sees a write arrive behind its back.
final class OpenFile: Sendable {
    let descriptor: Int32
    init(descriptor: Int32) { self.descriptor = descriptor }
    deinit { _ = close(descriptor) }

    /// Opens a path close-on-exec, or says which errno refused it.
    static func open(_ path: String, flags: Int32, mode: mode_t = 0) -> Result<OpenFile, Errno> {
        // A zero byte would silently name another file.
        guard !path.isEmpty, !path.utf8.contains(0) else { return .failure(Errno(code: ENOENT)) }
        while true {
            let descriptor = unsafe Glibc.open(path, flags | O_CLOEXEC, mode)
            if descriptor >= 0 { return .success(OpenFile(descriptor: descriptor)) }
            let code = errno
            if code != EINTR { return .failure(Errno(code: code)) }
        }
    }

    func status() -> Result<stat, Errno> {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { return .failure(Errno(code: errno)) }
        return .success(status)
    }
}

struct Errno: Error, Hashable {
    var code: Int32
}
