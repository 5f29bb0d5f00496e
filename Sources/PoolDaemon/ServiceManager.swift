import Glibc

/// Tells a service manager how the daemon fares: sd_notify(3)'s protocol, a datagram to the socket
/// that NOTIFY_SOCKET names. Without that variable nothing happens.
enum ServiceManager {
    static func ready(status: String) { send("READY=1\nSTATUS=\(status)\n") }
    static func stopping() { send("STOPPING=1\n") }

    private static func send(_ message: String) {
        guard let name = unsafe getenv("NOTIFY_SOCKET") else { return }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard let length = fill(&address, unsafe String(cString: name)) else { return }
        let socket = socket(
            AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { return }
        defer { close(socket) }
        let bytes = Array(message.utf8)
        // Nobody waits for the outcome: a manager that is gone is no reason to fail.
        _ = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe sendto(
                    socket, bytes, bytes.count, Int32(MSG_NOSIGNAL), generic, length)
            }
        }
    }

    /// Puts `name` into the address: a path, or, after an `@`, an abstract name, whose first byte
    /// is zero and which ends with the length and not with a zero (unix(7)).
    private static func fill(_ address: inout sockaddr_un, _ name: String) -> socklen_t? {
        var bytes = Array(name.utf8)
        let isAbstract = bytes.first == UInt8(ascii: "@")
        if isAbstract { bytes[0] = 0 }
        guard isAbstract || bytes.first == UInt8(ascii: "/") else { return nil }
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard bytes.count < room else { return nil }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { path in
            unsafe path.copyBytes(from: bytes)
        }
        let start = MemoryLayout<sockaddr_un>.size - room
        return socklen_t(start + bytes.count + (isAbstract ? 0 : 1))
    }
}
