import Foundation
import Glibc
import Testing

/// The root of all tests that start daemons: one after the other, they share two cores.
@Suite(.serialized) enum EndToEnd {}

/// One poold in a folder of its own, and poolctl to talk to it.
final class Machine {
    let scratch: Scratch
    let name: String
    private(set) var process: Process?

    /// - Parameter scratch: shared when two daemons have to reach the same disk files.
    init(name: String = "poold", scratch: Scratch) {
        self.name = name
        self.scratch = scratch
    }

    deinit { kill9() }

    var directory: String { scratch.path(name) }
    var socket: String { directory + "/nbd.sock" }
    var log: String { read(directory + ".log") }
    var processIdentifier: pid_t? { process?.processIdentifier }

    func uri(_ export: String) -> String { "nbd+unix:///\(export)?socket=\(socket)" }

    // MARK: the daemon

    /// Starts it and returns without waiting for it.
    func launch(_ arguments: [String] = []) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: try Tool.path(of: "poold"))
        // POOLD_ENGINE=libaio has the same tests say the same of the other engine.
        let engine = ProcessInfo.processInfo.environment["POOLD_ENGINE"]
        process.arguments =
            ["--dir", directory] + (engine.map { ["--engine", $0] } ?? []) + arguments
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        process.standardError = try appendable(directory + ".log")
        try process.runUnmasked()
        self.process = process
        // Should the tests themselves be killed, whoever started them finds the id here.
        let record = directory + "-id"
        try FileManager.default.createDirectory(
            atPath: record, withIntermediateDirectories: true)
        try String(process.processIdentifier).write(
            toFile: record + "/poold.pid", atomically: true, encoding: .utf8)
    }

    /// Starts it and waits until it answers.
    func start(_ arguments: [String] = []) throws {
        try launch(arguments)
        for _ in 0..<600 {
            if try poolctl(["pool", "ls"]).status == 0 { return }
            guard let process, process.isRunning else { break }
            usleep(50_000)
        }
        throw HarnessError("poold did not come up:\n\(log.suffix(4000))")
    }

    func kill9() {
        guard let process, process.isRunning else { return }
        kill(process.processIdentifier, SIGKILL)
        _ = waitForEnd(seconds: 30)
    }

    /// SIGTERM. Returns its exit status, or nil when it did not end within `seconds`.
    func terminate(seconds: Double = 15) -> Int32? {
        guard let process, process.isRunning else { return process?.terminationStatus }
        kill(process.processIdentifier, SIGTERM)
        return waitForEnd(seconds: seconds)
    }

    /// Its exit status (the negated signal when one ended it), or nil when it still runs.
    func waitForEnd(seconds: Double) -> Int32? {
        guard let process else { return nil }
        let deadline = Date().addingTimeInterval(seconds)
        while process.isRunning {
            guard Date() < deadline else { return nil }
            usleep(10_000)
        }
        return process.terminationReason == .exit
            ? process.terminationStatus : -process.terminationStatus
    }

    // MARK: poolctl

    func poolctl(_ arguments: [String]) throws -> Finished {
        try run("poolctl", arguments + ["--dir", directory], timeout: 60)
    }

    /// poolctl that has to succeed.
    @discardableResult
    func control(
        _ arguments: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> String {
        let finished = try poolctl(arguments)
        try #require(
            finished.status == 0,
            "poolctl \(arguments): \(finished.everything)\n\(log.suffix(2000))",
            sourceLocation: sourceLocation)
        return finished.output
    }

    /// poolctl with --json that has to succeed and to print one object with a version.
    func json(
        _ arguments: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> JSON {
        let finished = try poolctl(arguments + ["--json"])
        try #require(
            finished.status == 0, "poolctl \(arguments): \(finished.everything)",
            sourceLocation: sourceLocation)
        let parsed = try JSONDecoder().decode(JSON.self, from: Data(finished.output.utf8))
        try #require(parsed["version"] != nil, "no version in \(finished.output)")
        return parsed
    }

    /// Makes a pool of `count` new sparse disks. Returns their paths.
    @discardableResult
    func makePool(_ pool: String = "demo", disks count: Int = 4, size: String = "4G") throws
        -> [String]
    {
        let disks = (1...count).map { scratch.path("\(pool)-disk\($0)") }
        let finished = try poolctl(["pool", "create", pool] + disks + ["--create-size", size])
        try #require(finished.status == 0, "pool create: \(finished.everything)\n\(log)")
        return disks
    }

    func makeSpace(_ space: String, size: String, resiliency: String = "mirror2") throws {
        try control("space", "create", space, "--size", size, "--resiliency", resiliency)
    }
}

/// Runs `body` with a started daemon, then stops it: a clean stop is part of every test.
func withMachine(_ arguments: [String] = [], _ body: (Machine) throws -> Void) throws {
    let machine = Machine(scratch: try Scratch(name: "e2e"))
    try machine.start(arguments)
    try body(machine)
    if machine.process?.isRunning == true {
        let status = machine.terminate()
        #expect(status == 0, "SIGTERM did not end it cleanly:\n\(machine.log.suffix(4000))")
    }
}

/// Likewise, with a pool of four disks and one space `demo/files` in it.
func withSpace(
    size: String = "1G", resiliency: String = "mirror2", _ body: (Machine) throws -> Void
) throws {
    try withMachine { machine in
        try machine.makePool()
        try machine.makeSpace("demo/files", size: size, resiliency: resiliency)
        try body(machine)
    }
}

/// Asks again until `condition` holds or `seconds` have passed.
func eventually(within seconds: Double, _ condition: () throws -> Bool) rethrows -> Bool {
    let deadline = Date().addingTimeInterval(seconds)
    while true {
        if try condition() { return true }
        guard Date() < deadline else { return false }
        usleep(100_000)
    }
}

private func appendable(_ path: String) throws -> FileHandle {
    if !FileManager.default.fileExists(atPath: path) { return try writable(path) }
    guard let handle = FileHandle(forWritingAtPath: path) else {
        throw HarnessError("cannot write \(path)")
    }
    try handle.seekToEnd()
    return handle
}
