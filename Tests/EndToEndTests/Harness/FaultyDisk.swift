import Foundation
import Glibc
import Testing

/// A disk that fails, lags, hangs and vanishes when it is told to: a sparse file behind nbdkit's
/// filters, mounted as a file by nbdfuse. What it holds stays with its file, whatever happens to
/// the two processes; both end with the value.
final class FaultyDisk {
    enum Requests: CaseIterable {
        case reads
        /// Trims and zeroing as well. A flush still succeeds: the filter lets it through.
        case writes
    }

    /// What the pool is given.
    var path: String { folder + "/disk" }

    private let scratch: Scratch
    private let name: String
    private var folder: String
    private var mounts = 0
    private var server: Process?
    private var mount: Process?

    init(_ name: String, size: UInt64, scratch: Scratch) throws {
        self.scratch = scratch
        self.name = name
        folder = scratch.path(name)
        let medium = try writable(scratch.path(name + ".medium"))
        try medium.truncate(atOffset: size)
        try medium.close()
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: false)
        try plugIn()
    }

    deinit { unplug() }

    // MARK: what it does to its user

    func fail(_ requests: Requests, _ isFailing: Bool = true) throws {
        let switches = switchPath(requests)
        if isFailing {
            try writable(switches).close()
        } else {
            try FileManager.default.removeItem(atPath: switches)
        }
    }

    /// As slow as this, from about now on.
    func lag(bitsPerSecond: String) throws {
        let next = scratch.path(name + ".rate.next")
        try bitsPerSecond.write(toFile: next, atomically: false, encoding: .utf8)
        try succeed("mv", [next, scratch.path(name + ".rate")])
    }

    /// No answer any more, to anything, until ``goOn()``.
    func hang() throws { try signal(SIGSTOP) }

    func goOn() throws { try signal(SIGCONT) }

    private func signal(_ number: Int32) throws {
        guard let server, server.isRunning else { throw HarnessError("\(name) is not plugged in") }
        kill(server.processIdentifier, number)
    }

    /// Every request fails from here on, flushes included, and the file is gone once nobody has it
    /// open any more.
    func unplug() {
        end(&server, SIGKILL)
        // Whoever has it open keeps a dead mount; the path is free at once.
        _ = try? run("fusermount3", ["-uz", folder])
        end(&mount, SIGTERM)
    }

    /// - Parameter delay: how long each read and write takes from now on, in nbdkit's notation.
    func plugIn(delay: String = "0") throws {
        mounts += 1
        let socket = scratch.path("\(name).\(mounts)")
        let files = Requests.allCases.flatMap { requests in
            switch requests {
            case .reads: ["error-pread-rate=100%", "error-pread-file=\(switchPath(.reads))"]
            case .writes:
                ["pwrite", "trim", "zero"].flatMap {
                    ["error-\($0)-rate=100%", "error-\($0)-file=\(switchPath(.writes))"]
                }
            }
        }
        server = try start(
            "nbdkit",
            ["-f", "-t", "16", "-U", socket, "--filter=error", "--filter=rate", "--filter=delay"]
                + ["file", scratch.path(name + ".medium")] + files
                + ["rate-file=\(scratch.path(name + ".rate"))", "rdelay=\(delay)"]
                + ["wdelay=\(delay)"],
            until: socket)
        mount = try start("nbdfuse", [path, "nbd+unix:///?socket=\(socket)"], until: path)
    }

    private func switchPath(_ requests: Requests) -> String {
        switch requests {
        case .reads: scratch.path(name + ".reads-fail")
        case .writes: scratch.path(name + ".writes-fail")
        }
    }

    // MARK: the two processes

    private func start(
        _ program: String, _ arguments: [String], until path: String
    ) throws -> Process {
        let log = scratch.path("\(name).\(program).log")
        let process = Process()
        process.executableURL = URL(fileURLWithPath: try Tool.path(of: program))
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        let output = try writable(log)
        defer { try? output.close() }
        process.standardOutput = output
        process.standardError = output
        try process.runUnmasked()
        let isUp = eventually(within: 30) {
            FileManager.default.fileExists(atPath: path) || !process.isRunning
        }
        guard isUp, process.isRunning else {
            throw HarnessError("\(program) of \(name) did not come up:\n\(read(log))")
        }
        return process
    }

    private func end(_ process: inout Process?, _ number: Int32) {
        guard let running = process else { return }
        process = nil
        kill(running.processIdentifier, number)
        // A process that is stopped, or waits for one that is, ends by nothing else.
        let deadline = Date().addingTimeInterval(10)
        while running.isRunning, Date() < deadline { usleep(10_000) }
        if running.isRunning { kill(running.processIdentifier, SIGKILL) }
        running.waitUntilExit()
    }
}

/// Skips a test, by name, where disks of this kind cannot be had.
func needsFaultyDisks() -> ConditionTrait {
    let programs = ["nbdkit", "nbdfuse", "fusermount3"]
    let missing =
        programs.filter { !Tool.isInstalled($0) }
        + (FileManager.default.fileExists(atPath: "/dev/fuse") ? [] : ["/dev/fuse"])
        + (Tool.hasLibnbd ? [] : ["python3-libnbd"])
    return .enabled(if: missing.isEmpty, "missing: \(missing)")
}
