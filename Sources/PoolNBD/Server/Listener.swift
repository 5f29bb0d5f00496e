import Glibc
import PoolDevices

/// Why a socket does not listen. One case per place that throws.
public enum ListenError: Error, Hashable, Sendable, CustomStringConvertible {
    /// A Unix socket's path has room for 107 bytes.
    case pathTooLong(String)
    /// Something that is not a socket is in the way.
    case notASocket(String)
    case unknownHost(String, String)
    case refused(String, errno: Int32)

    public var description: String {
        switch self {
        case .pathTooLong(let path): "the socket path \(path) is longer than 107 bytes"
        case .notASocket(let path): "\(path) exists and is not a socket"
        case .unknownHost(let host, let why): "no address for \(host): \(why)"
        case .refused(let address, let code):
            "cannot listen on \(address): \(unsafe String(cString: strerror(code)))"
        }
    }
}

/// A listening socket.
struct Listener {
    var file: RingFile
    /// Removed when the server ends; empty for TCP.
    var path: String
    var isAccepting = false
    /// Not before this time: after an error (out of descriptors) accepting pauses a little.
    var retryNs: UInt64 = 0
    /// Errors in a row: only the first is logged.
    var failures = 0

    static func unix(path: String) throws(ListenError) -> Listener {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw .pathTooLong(path)
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        try removeStale(path)
        let descriptor = try open(AF_UNIX, path)
        // Before bind: the socket never exists with more rights than it should have.
        fchmod(descriptor, 0o660)
        let length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let bound = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, length)
            }
        }
        try check(bound == 0 && Glibc.listen(descriptor, NBDLimits.backlog) == 0, descriptor, path)
        _ = unsafe chmod(path, 0o660)
        return Listener(file: RingFile(descriptor: descriptor), path: path)
    }

    static func tcp(host: String, port: UInt16) throws(ListenError) -> Listener {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        unsafe hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
        var found: UnsafeMutablePointer<addrinfo>?
        let result = unsafe getaddrinfo(host, String(port), &hints, &found)
        guard result == 0, let first = unsafe found else {
            throw .unknownHost(host, unsafe String(cString: gai_strerror(result)))
        }
        defer { unsafe freeaddrinfo(first) }
        let name = "\(host):\(port)"
        let descriptor = try open(unsafe first.pointee.ai_family, name)
        setOption(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
        let isListening =
            unsafe bind(
                descriptor, first.pointee.ai_addr, first.pointee.ai_addrlen) == 0
            && Glibc.listen(descriptor, NBDLimits.backlog) == 0
        try check(isListening, descriptor, name)
        return Listener(file: RingFile(descriptor: descriptor), path: "")
    }

    func close() {
        _ = Glibc.close(file.descriptor)
        if !path.isEmpty { unsafe _ = unlink(path) }
    }

    /// The port a TCP listener got; 0 for a Unix socket.
    var port: UInt16 {
        guard path.isEmpty else { return 0 }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = unsafe withUnsafeMutablePointer(to: &storage) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(file.descriptor, $0, &length)
            }
        }
        guard result == 0 else { return 0 }
        // The port stands at the same place in the addresses of both families.
        return unsafe withUnsafeBytes(of: &storage) { bytes in
            unsafe UInt16(bytes[2]) << 8 | UInt16(bytes[3])
        }
    }

    private static func removeStale(_ path: String) throws(ListenError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path) }
        unsafe _ = unlink(path)
    }

    private static func open(_ family: Int32, _ name: String) throws(ListenError) -> Int32 {
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = socket(family, kind, 0)
        guard descriptor >= 0 else { throw .refused(name, errno: errno) }
        return descriptor
    }

    private static func check(
        _ isGood: Bool, _ descriptor: Int32, _ name: String
    ) throws(ListenError) {
        guard !isGood else { return }
        let code = errno
        _ = Glibc.close(descriptor)
        throw .refused(name, errno: code)
    }
}

/// Sets an integer option. A refusal costs speed only, so it is not looked at.
func setOption(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
    var value = value
    _ = unsafe setsockopt(
        descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
}

/// Ends connections whose other side has vanished without a word; a live client's kernel answers.
/// Refusals cost that much only, so they are not looked at.
func keepAlive(_ socket: Int32) {
    setOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1)
    for (option, value) in [
        (TCP_KEEPIDLE, NBDLimits.keepAliveSeconds), (TCP_KEEPINTVL, 10), (TCP_KEEPCNT, 3),
    ] { setOption(socket, Int32(IPPROTO_TCP), option, value) }
}
