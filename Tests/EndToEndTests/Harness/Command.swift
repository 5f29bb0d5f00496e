import Foundation
import Glibc
import Testing

/// What a program said and how it ended.
struct Finished {
    var status: Int32
    var output: String
    var errors: String

    /// Everything it said, for a failure's comment.
    var everything: String { "status \(status)\n\(output)\n\(errors)" }
}

struct HarnessError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Runs a program to its end. Its output goes through files, so no pipe can fill up and block it.
///
/// - Parameter timeout: seconds after which it is ended and the test fails.
/// - Parameter grace: seconds it has between SIGTERM and SIGKILL then, to clean up after itself.
@discardableResult
func run(
    _ program: String, _ arguments: [String], in folder: String? = nil, timeout: Double = 120,
    grace: Double = 0
) throws -> Finished {
    let captured = try Scratch(name: "command")
    let outputPath = captured.path("stdout")
    let errorsPath = captured.path("stderr")
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try Tool.path(of: program))
    process.arguments = arguments
    if let folder { process.currentDirectoryURL = URL(fileURLWithPath: folder) }
    process.standardInput = FileHandle.nullDevice
    let (output, errors) = (try writable(outputPath), try writable(errorsPath))
    // Foundation keeps them otherwise, and beyond 1,024 descriptors it no longer sees children end.
    defer {
        try? output.close()
        try? errors.close()
    }
    process.standardOutput = output
    process.standardError = errors
    let ended = DispatchSemaphore(value: 0)
    process.terminationHandler = { _ in ended.signal() }
    try process.runUnmasked()
    if ended.wait(timeout: .now() + timeout) == .timedOut {
        if grace > 0 { kill(process.processIdentifier, SIGTERM) }
        if grace == 0 || ended.wait(timeout: .now() + grace) == .timedOut {
            kill(process.processIdentifier, SIGKILL)
            ended.wait()
        }
        let said = read(outputPath) + read(errorsPath)
        throw HarnessError("\(program) \(arguments) did not end within \(timeout) s\n\(said)")
    }
    return Finished(
        status: process.terminationStatus, output: read(outputPath), errors: read(errorsPath))
}

extension Process {
    /// Starts it with no signal blocked. Tests run on threads of a pool that blocks signals, and a
    /// child inherits that: SIGTERM would never reach it.
    func runUnmasked() throws {
        var none = sigset_t()
        var before = sigset_t()
        // Both sets are locals that outlive the calls.
        unsafe sigemptyset(&none)
        unsafe pthread_sigmask(SIG_SETMASK, &none, &before)
        defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }
        try run()
    }
}

/// Runs a program that has to succeed.
@discardableResult
func succeed(
    _ program: String, _ arguments: [String], timeout: Double = 120,
    sourceLocation: SourceLocation = #_sourceLocation
) throws -> String {
    let finished = try run(program, arguments, timeout: timeout)
    try #require(
        finished.status == 0, "\(program) \(arguments): \(finished.everything)",
        sourceLocation: sourceLocation)
    return finished.output
}

func writable(_ path: String) throws -> FileHandle {
    guard FileManager.default.createFile(atPath: path, contents: nil),
        let handle = FileHandle(forWritingAtPath: path)
    else { throw HarnessError("cannot write \(path)") }
    return handle
}

func read(_ path: String) -> String {
    guard let bytes = FileManager.default.contents(atPath: path) else { return "" }
    return String(decoding: bytes, as: UTF8.self)
}

/// Where programs are found: those under test beside the tests, clients on the PATH.
enum Tool {
    static let underTest: Set<String> = ["poold", "poolctl", "poolsim"]

    /// Debian's own: it is the one that has libnbd's bindings.
    static let python = "/usr/bin/python3"

    static func path(of program: String) throws -> String {
        if program.hasPrefix("/") { return program }
        if underTest.contains(program) { return builtPrograms + "/" + program }
        guard let found = search(program) else { throw HarnessError("\(program) is not installed") }
        return found
    }

    static func isInstalled(_ program: String) -> Bool { search(program) != nil }

    /// Whether libnbd's Python bindings are there.
    static let hasLibnbd: Bool = {
        let asked = try? run(python, ["-c", "import nbd"])
        return asked?.status == 0
    }()

    /// The folder of poold and poolctl: the build folder this test binary lies in, or
    /// POOLD_BIN_DIR.
    static let builtPrograms: String = {
        if let folder = ProcessInfo.processInfo.environment["POOLD_BIN_DIR"] { return folder }
        let here = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return URL(fileURLWithPath: here ?? CommandLine.arguments[0])
            .deletingLastPathComponent().path
    }()

    /// The repository's own scripts.
    static let tools: String = {
        var folder = URL(fileURLWithPath: #filePath)
        for _ in 0..<4 { folder.deleteLastPathComponent() }
        return folder.appendingPathComponent("tools").path
    }()

    /// Those of them that are clients.
    static let clients = tools + "/clients"

    private static func search(_ program: String) -> String? {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
        let folders = path.split(separator: ":").map(String.init) + ["/usr/sbin", "/sbin"]
        return folders.map { $0 + "/" + program }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }
}

/// Skips a test, by name, where a client it needs is not installed.
func needs(_ program: String) -> ConditionTrait {
    .enabled(if: Tool.isInstalled(program), "\(program) is not installed")
}

func needsLibnbd() -> ConditionTrait {
    .enabled(if: Tool.hasLibnbd, "python3-libnbd is not installed")
}

/// A folder that goes away with the value, below POOLD_TEST_SCRATCH or TMPDIR or /var/tmp.
final class Scratch {
    let folder: String

    init(name: String) throws {
        let environment = ProcessInfo.processInfo.environment
        let base = environment["POOLD_TEST_SCRATCH"] ?? environment["TMPDIR"] ?? "/var/tmp"
        // Short: a socket's path has to fit into 108 bytes.
        let unique = String(UInt64.random(in: 0...UInt64.max), radix: 36)
        folder = "\(base)/poold-\(name)-\(unique)"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func path(_ name: String) -> String { folder + "/" + name }
}
