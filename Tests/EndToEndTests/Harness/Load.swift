import Foundation
import Glibc
import Testing

/// A space kept busy by another process, which knows what every sector has to hold: see
/// `tools/clients/load.py`. It ends with the value.
final class Load {
    let export: String
    private let scratch: Scratch
    private let process: Process
    private let words: Int32
    private var answered = 0

    /// - Parameter export: a space of the machine that nothing was written to.
    init(_ machine: Machine, _ export: String) throws {
        self.export = export
        scratch = try Scratch(name: "load")
        let environment = ProcessInfo.processInfo.environment
        let seed = environment["POOLD_TEST_SEED"] ?? String(UInt32.random(in: 0...UInt32.max))
        process = Process()
        process.executableURL = URL(fileURLWithPath: Tool.python)
        process.arguments = [
            Tool.clients + "/load.py", "--socket", machine.socket, "--export", export,
            "--seed", seed,
        ]
        // Not a pipe: a word to one that has failed and ended must not end the tests.
        var ends: [Int32] = [0, 0]
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | O_CLOEXEC, 0, &ends) == 0
        else { throw HarnessError("no socket for the load") }
        words = ends[0]
        let theirs = FileHandle(fileDescriptor: ends[1], closeOnDealloc: true)
        process.standardInput = theirs
        process.standardOutput = try writable(scratch.path("answers"))
        process.standardError = try writable(scratch.path("errors"))
        try process.runUnmasked()
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        close(words)
    }

    /// Says a word and waits for the answer, which has to be `ok`.
    func say(_ word: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let answer = ask(word)
        try #require(
            answer.hasPrefix("ok "),
            "\(export), told to \(word): \(answer)\n\(read(scratch.path("errors")))",
            sourceLocation: sourceLocation)
    }

    /// Says a word. Returns the answer, whatever it is.
    func ask(_ word: String) -> String {
        let bytes = Array((word + "\n").utf8)
        _ = unsafe send(words, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        _ = eventually(within: 120) { answers.count > answered || !process.isRunning }
        let answer = answers.dropFirst(answered).last ?? "nothing"
        answered = answers.count
        return String(answer)
    }

    private var answers: [Substring] {
        read(scratch.path("answers")).split(separator: "\n")
    }
}
