import Foundation
import PoolControl

/// Small files that are whole and durable, or as they were before.
enum DurableFile {
    /// Replaces `path` with `bytes`.
    ///
    /// The order makes it crash-safe: the new bytes are flushed under another name before the
    /// rename, and the folder after it, so that on return the new content is what a power cut
    /// leaves, and at no time is there less than one whole version.
    ///
    /// - Throws: ``ControlFailure`` that names the step. The old content stays, unless it was the
    ///   last step that failed: then either may be there after a power cut.
    static func replace(
        _ path: String, with bytes: Data, mode: mode_t = 0o640
    ) throws(ControlFailure) {
        let temporary = path + ".tmp"
        try write(bytes, to: temporary, mode)
        guard unsafe rename(temporary, path) == 0 else {
            let failure = systemFailure("cannot rename \(temporary)")
            _ = unsafe unlink(temporary)
            throw failure
        }
        try syncFolder(of: path)
    }

    /// Removes `path` if it is there, durably.
    static func remove(_ path: String) throws(ControlFailure) {
        guard unsafe unlink(path) == 0 || errno == ENOENT else {
            throw systemFailure("cannot remove \(path)")
        }
        try syncFolder(of: path)
    }

    /// The content of a file of at most `limit` bytes; nil where there is none.
    static func read(_ path: String, limit: Int) throws(ControlFailure) -> Data? {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else {
            if errno == ENOENT { return nil }
            throw systemFailure("cannot read \(path)")
        }
        defer { close(file) }
        var content = Data()
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe chunk.withUnsafeMutableBytes { bytes in
                unsafe Glibc.read(file, bytes.baseAddress, bytes.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw systemFailure("cannot read \(path)") }
            guard count > 0 else { return content }
            content += chunk[..<count]
            guard content.count <= limit else {
                throw ControlFailure(
                    .failed, "\(path) is larger than \(limit) bytes",
                    hint: "it is not a file of poold's; move it away")
            }
        }
    }

    private static func write(
        _ bytes: Data, to path: String, _ mode: mode_t
    ) throws(ControlFailure) {
        let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        guard file >= 0 else { throw systemFailure("cannot create \(path)") }
        defer { close(file) }
        let content = [UInt8](bytes)
        var written = 0
        while written < content.count {
            let count = unsafe content[written...].withUnsafeBytes { rest in
                unsafe Glibc.write(file, rest.baseAddress, rest.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw systemFailure("cannot write \(path)") }
            written += count
        }
        guard fsync(file) == 0 else { throw systemFailure("cannot flush \(path)") }
    }

    private static func syncFolder(of path: String) throws(ControlFailure) {
        let folder = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        let file = unsafe open(folder.isEmpty ? "/" : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard file >= 0 else { throw systemFailure("cannot open \(folder)") }
        defer { close(file) }
        guard fsync(file) == 0 else { throw systemFailure("cannot flush \(folder)") }
    }

    /// A failed system call, told with errno's text.
    static func systemFailure(_ what: String, _ code: Int32 = errno) -> ControlFailure {
        let hint =
            switch code {
            case ENOSPC, EDQUOT: "make room on that file system"
            case EACCES, EPERM, EROFS: "give the daemon's user the right to do that"
            case EMFILE, ENFILE: "raise the limit of open files"
            default: "look at the path, and at the kernel's log"
            }
        return ControlFailure(.failed, "\(what): \(errorText(code))", hint: hint)
    }

    static func errorText(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }
}
