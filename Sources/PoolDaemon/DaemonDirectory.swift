import Foundation
import PoolControl
import PoolFormat

/// DIR: where a daemon keeps its state and sockets, and the lock that makes it the only one there.
///
///     DIR/lock               held for as long as the daemon lives; decides who may be here
///     DIR/control.sock       the control protocol
///     DIR/nbd.sock           NBD, unless another address was asked for
///     DIR/pools.json         the pools this daemon knows, and where their disks were
///     DIR/restart/UUID.N     what a space had not flushed when the daemon was killed
///     DIR/witness/UUID       the newest configuration version of a pool
final class DaemonDirectory: Sendable {
    let path: String
    private let lock: Int32

    var controlSocket: String { path + "/" + ControlProtocol.socketName }
    var nbdSocket: String { path + "/nbd.sock" }
    var knownPools: String { path + "/pools.json" }
    var witnessFolder: String { path + "/witness" }
    var restartFolder: String { path + "/restart" }

    /// Makes the folder where it is missing and takes its lock.
    ///
    /// - Throws: ``ControlFailure``, where another daemon has it too.
    init(path: String) throws(ControlFailure) {
        guard path.utf8.count <= ControlProtocol.maximumDirectoryBytes else {
            throw ControlFailure(
                .invalid, "the path of --dir is too long for its sockets",
                hint: "use one of at most \(ControlProtocol.maximumDirectoryBytes) bytes")
        }
        self.path = path
        try Self.makeFolder(path)
        try Self.makeFolder(path + "/witness")
        try Self.makeFolder(path + "/restart")
        lock = unsafe open(path + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o640)
        guard lock >= 0 else { throw DurableFile.systemFailure("cannot open \(path)/lock") }
        // A daemon that was just killed may take a moment to be gone.
        var attempts = 20
        while flock(lock, LOCK_EX | LOCK_NB) != 0 {
            attempts -= 1
            guard attempts > 0, errno == EWOULDBLOCK || errno == EINTR else {
                let code = errno
                guard code == EWOULDBLOCK || code == EINTR else {
                    throw DurableFile.systemFailure("cannot lock \(path)/lock", code)
                }
                throw ControlFailure(
                    .refused, "another poold is running at \(path)",
                    hint: "stop it, or use another --dir")
            }
            usleep(50_000)
        }
    }

    deinit { close(lock) }

    /// Lets another daemon in: everything here is written and nothing listens any more.
    func unlock() { _ = flock(lock, LOCK_UN) }

    private static func makeFolder(_ path: String) throws(ControlFailure) {
        var made = ""
        for part in path.split(separator: "/") {
            made += "/" + part
            guard unsafe mkdir(made, 0o750) == 0 || errno == EEXIST || errno == EROFS else {
                throw DurableFile.systemFailure("cannot make the folder \(made)")
            }
        }
        var status = stat()
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw ControlFailure(
                .invalid, "\(path) is not a folder", hint: "use another --dir")
        }
    }

    func witnessFile(_ pool: PoolUUID) -> String { "\(witnessFolder)/\(UUIDText.format(pool))" }
}

/// Pool and disk identities as people see them: 8-4-4-4-12 hexadecimal digits.
public enum UUIDText {
    public static func format(_ uuid: PoolUUID) -> String {
        let digits = [uuid.high, uuid.low]
            .map { String($0, radix: 16) }
            .map { String(repeating: "0", count: 16 - $0.count) + $0 }
            .joined()
        var text = ""
        for (index, digit) in digits.enumerated() {
            if [8, 12, 16, 20].contains(index) { text += "-" }
            text.append(digit)
        }
        return text
    }

    /// nil for anything but 32 hexadecimal digits in their five groups.
    public static func parse(_ text: String) -> PoolUUID? {
        let groups = text.split(separator: "-", omittingEmptySubsequences: false)
        guard groups.map(\.utf8.count) == [8, 4, 4, 4, 12] else { return nil }
        let digits = groups.joined()
        // The radix parser would take a sign.
        guard digits.utf8.count == 32, digits.allSatisfy(\.isHexDigit) else { return nil }
        guard let high = UInt64(digits.prefix(16), radix: 16),
            let low = UInt64(digits.suffix(16), radix: 16)
        else { return nil }
        return PoolUUID(high: high, low: low)
    }

    /// A new identity: 122 random bits, marked as RFC 9562 version 4.
    public static func random() -> PoolUUID {
        var generator = SystemRandomNumberGenerator()
        let high = generator.next() as UInt64
        let low = generator.next() as UInt64
        return PoolUUID(
            high: high & ~0xF000 | 0x4000, low: low & ~(3 << 62) | 2 << 62)
    }
}
