import Glibc

/// Why a ring could not be made. One case per place that throws.
public enum RingError: Error, Sendable, Hashable, CustomStringConvertible {
    /// Every set of flags was refused, the bare one with this errno: EPERM or ENOSYS where io_uring
    /// is switched off, ENOMEM where its memory is not allowed.
    case setupRefused(errno: Int32)
    /// No room for the smallest AIO context: EAGAIN where `fs.aio-max-nr` is used up.
    case asyncContextRefused(errno: Int32)
    /// No descriptor left for epoll or its eventfd.
    case eventsRefused(errno: Int32)

    public var description: String {
        switch self {
        case .setupRefused(let code): "io_uring is not available: \(errnoText(code))"
        case .asyncContextRefused(let code):
            "Linux AIO is not available: \(errnoText(code))"
                + (code == EAGAIN ? " (raise sysctl fs.aio-max-nr)" : "")
        case .eventsRefused(let code): "epoll is not available: \(errnoText(code))"
        }
    }
}

/// The system's words for an errno.
func errnoText(_ code: Int32) -> String {
    var buffer = [CChar](repeating: 0, count: 128)
    // POSIX's strerror_r fills the buffer, GNU's may return a constant instead: only the buffer is
    // looked at, and a text that did not arrive is replaced by the number.
    _ = unsafe buffer.withUnsafeMutableBufferPointer {
        unsafe strerror_r(code, $0.baseAddress!, 127)
    }
    let bytes = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    return bytes.isEmpty ? "errno \(code)" : String(decoding: bytes, as: UTF8.self)
}
