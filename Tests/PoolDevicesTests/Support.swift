import Glibc
import PoolDevices
import PoolEngine
import Synchronization

/// A directory that goes away with everything in it.
final class TemporaryDirectory {
    let path: String

    init(in parent: String) {
        var template = Array("\(parent)/poold-devices-XXXXXX".utf8CString)
        let made = unsafe template.withUnsafeMutableBufferPointer { bytes in
            unsafe mkdtemp(bytes.baseAddress!) != nil
        }
        precondition(made, "cannot make a directory in \(parent)")
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { _ = run("/bin/rm", ["-rf", path]) }

    /// Where tests keep their files: a disk's file system, and memory where there is some.
    static let parents: [String] = ["/tmp", "/dev/shm"].filter { unsafe access($0, W_OK) == 0 }
}

/// Starts a program; its descriptors are this process's standard ones.
func spawn(_ program: String, _ arguments: [String]) -> pid_t? {
    var vector: [UnsafeMutablePointer<CChar>?] = unsafe ([program] + arguments).map {
        unsafe strdup($0)
    }
    unsafe vector.append(nil)
    defer { unsafe vector.forEach { unsafe free($0) } }
    var child: pid_t = 0
    let result = unsafe posix_spawn(&child, program, nil, nil, &vector, environ)
    return result == 0 ? child : nil
}

/// Runs a program to its end: its exit status, or nil where it could not start or was killed.
func run(_ program: String, _ arguments: [String]) -> Int32? {
    guard let child = spawn(program, arguments) else { return nil }
    return wait(for: child)
}

func wait(for child: pid_t) -> Int32? {
    var status: Int32 = 0
    while unsafe waitpid(child, &status, 0) < 0 {
        guard errno == EINTR else { return nil }
    }
    return status & 0x7F == 0 ? (status >> 8) & 0xFF : nil
}

/// A value that several threads use.
final class Shared<Value: Sendable>: Sendable {
    private let value: Mutex<Value>
    init(_ value: Value) { self.value = Mutex(value) }
    func withLock<Result: Sendable>(_ body: (inout Value) -> Result) -> Result {
        value.withLock { body(&$0) }
    }
}

/// What was logged, by whatever thread.
final class LogLines: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { lines.withLock { $0 } }
    func append(_ line: String) { lines.withLock { $0.append(line) } }
}

/// Whether a shell finds this program.
func hasProgram(_ name: String) -> Bool {
    run("/bin/sh", ["-c", "command -v \(name) >/dev/null 2>&1"]) == 0
}

/// A ring with a driver on it, on the calling thread.
final class Bench {
    let arena = BufferArena(counts: [64, 16, 8, 4])
    let ring: Ring
    let driver: DeviceDriver
    let logged = LogLines()
    var nowNs: UInt64 = 1_000_000_000

    init(
        _ engine: DiskEngine = .ioUring, options: Ring.Options = Ring.Options(), capacity: Int = 64
    ) throws {
        let logged = logged
        var options = options
        options.engine = engine
        ring = try Ring(arena: arena, options: options) { logged.append($0) }
        driver = DeviceDriver(ring: ring, capacity: capacity) { logged.append($0) }
    }

    /// Runs until nothing is in flight; statuses by token.
    func finish() -> [UInt32: DeviceStatus] {
        var statuses: [UInt32: DeviceStatus] = [:]
        var turns = 0
        while driver.inFlightCount > 0 && turns < 100_000 {
            ring.submitAndWait(timeoutNs: 1_000_000_000)
            ring.forEachCompletion { userData, result, _ in
                guard RingUserData.kind(userData) == .disk else { return }
                driver.handle(userData: userData, result: result, nowNs: nowNs)
            }
            turns += 1
        }
        for completion in driver.completions {
            precondition(statuses[completion.token] == nil, "a token completed twice")
            statuses[completion.token] = completion.status
        }
        driver.completions.removeAll()
        return statuses
    }

    func run(_ operation: DeviceOperation) -> DeviceStatus? {
        driver.submit([operation], nowNs: nowNs)
        return finish()[operation.token]
    }

    func fill(_ offset: Int, _ count: Int, _ value: UInt8) {
        let bytes = unsafe arena.bytes(offset, count)
        for index in 0..<count {
            unsafe bytes[index] = value &+ UInt8(truncatingIfNeeded: index / 512)
        }
    }

    func holds(_ offset: Int, _ count: Int, _ value: UInt8) -> Bool {
        let bytes = unsafe arena.bytes(offset, count)
        return (0..<count).allSatisfy {
            unsafe bytes[$0] == value &+ UInt8(truncatingIfNeeded: $0 / 512)
        }
    }
}

extension Ring {
    /// A small one, on the engine a test is about.
    convenience init(
        _ engine: DiskEngine, options: Options = Options(),
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) throws {
        var options = options
        options.engine = engine
        try self.init(arena: BufferArena(counts: [4, 1, 1, 1]), options: options, log: log)
    }

    /// A few turns in which nothing that waits should complete.
    func settle() -> [UInt64: Int32] {
        var results: [UInt64: Int32] = [:]
        for _ in 0..<4 {
            submitAndWait(timeoutNs: 2_000_000)
            forEachCompletion { userData, result, _ in results[userData] = result }
        }
        return results
    }

    /// Runs turns until `count` completions came, or ten seconds are over.
    func collect(_ count: Int) -> [UInt64: Int32] {
        var results: [UInt64: Int32] = [:]
        let start = monotonicNs()
        while results.count < count, monotonicNs() - start < 10_000_000_000 {
            submitAndWait(timeoutNs: 100_000_000)
            forEachCompletion { userData, result, _ in results[userData] = result }
        }
        return results
    }
}

func operation(
    _ kind: DeviceOperation.Kind, _ device: DeviceIndex = DeviceIndex(0), token: UInt32 = 1,
    at offsetBytes: UInt64 = 0, _ lengthBytes: UInt64 = 0, buffer: Int = 0
) -> DeviceOperation {
    DeviceOperation(
        kind: kind, device: device, token: token, offsetBytes: offsetBytes,
        lengthBytes: lengthBytes, bufferOffset: buffer)
}

/// A loop device over a file; detached when it goes.
final class LoopDevice {
    let path: String

    /// Tests that need one are skipped, visibly, where only root could make it.
    static let isAvailable =
        getuid() == 0 && PoolDevicesTests.run("/bin/sh", ["-c", "losetup -f >/dev/null 2>&1"]) == 0

    init?(file: String, sectorBytes: Int) {
        let listing = "\(file).loop"
        let command =
            "losetup --find --show --sector-size \(sectorBytes) '\(file)' > '\(listing)' 2>&1"
        guard PoolDevicesTests.run("/bin/sh", ["-c", command]) == 0,
            let text = try? DiskProbe(path: listing).head
        else { return nil }
        path = String(decoding: text.prefix { $0 != 0x0A }, as: UTF8.self)
    }

    deinit { _ = PoolDevicesTests.run("/bin/sh", ["-c", "losetup -d \(path)"]) }
}

// MARK: - sockets

/// SOCK_CLOEXEC: programs that other tests start meanwhile must not keep a socket open.
let streamSocket = Int32(SOCK_STREAM.rawValue) | O_CLOEXEC

private func address(_ path: String) -> sockaddr_un {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { bytes in
        for (index, byte) in path.utf8.enumerated() { unsafe bytes[index] = byte }
    }
    return address
}

func listen(at path: String, backlog: Int32 = 8) -> Int32? {
    let socket = Glibc.socket(AF_UNIX, streamSocket, 0)
    var address = address(path)
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let bound = unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe bind(socket, $0, length)
        }
    }
    return bound == 0 && Glibc.listen(socket, backlog) == 0 ? socket : nil
}

func connect(to path: String) -> Int32? {
    let socket = Glibc.socket(AF_UNIX, streamSocket, 0)
    var address = address(path)
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let connected = unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe Glibc.connect(socket, $0, length)
        }
    }
    return connected == 0 ? socket : nil
}
