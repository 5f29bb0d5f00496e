import ArgumentParser
import Foundation
import PoolControl

/// The command line of poold. Exit status: 0 done, 1 refused or failed, 64 usage.
@main
struct Poolctl: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "poolctl",
        abstract: "Make, inspect and take apart storage pools and spaces.",
        discussion: """
            Sizes take K, M, G and T (powers of two). A space is named POOL/SPACE; its NBD export \
            has the same name.
            """,
        version: "poolctl \(ControlProtocol.programVersion)",
        subcommands: [
            PoolCommand.self, DiskCommand.self, SpaceCommand.self, ExplainCommand.self,
        ])

    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        do {
            try Verbs.check(arguments)
            var command = try parseAsRoot(arguments)
            try command.run()
        } catch let failure as ControlFailure {
            report(failure, arguments)
            exit(withError: ExitCode(1))
        } catch let usage as UsageFailure {
            report(usage.failure, arguments)
            exit(withError: ExitCode(64))
        } catch {
            guard exitCode(for: error) != .success else { exit(withError: error) }
            let (what, hint) = usageError(error)
            report(ControlFailure(.invalid, what, hint: hint), arguments)
            exit(withError: ExitCode(exitCode(for: error).rawValue))
        }
    }

    /// A parser's error in our two lines: what is wrong, and how the command is written.
    static func usageError(_ error: any Error) -> (what: String, hint: String) {
        let what = message(for: error).split(separator: "\n").first.map(String.init)
        let usage = fullMessage(for: error).split(separator: "\n")
            .map { $0.trimmingCharacters(in: .whitespaces) }
        let see = usage.first { $0.hasPrefix("See '") }
        let form = usage.first { $0.hasPrefix("Usage: ") }
        return (
            NameRules.printableLine(what ?? "the command line cannot be read"),
            see.map { "s\($0.dropFirst(1))".replacing(" for more information.", with: "") }
                ?? form ?? "see 'poolctl --help'"
        )
    }

    /// Two lines on the standard error, and with --json the object that says the same.
    private static func report(_ failure: ControlFailure, _ arguments: [String]) {
        if arguments.contains("--json"),
            let json = try? ControlJSON.encode(FailureMessage(failure), pretty: true)
        {
            FileHandle.standardOutput.write(json + Data("\n".utf8))
        }
        let lines = "error: \(failure.what)\nhint: \(failure.hint)\n"
        FileHandle.standardError.write(Data(lines.utf8))
    }
}

/// What every verb takes.
struct CommonOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Where the daemon keeps its state and sockets.", valueName: "dir"))
    var dir = ControlProtocol.defaultDirectory

    @Flag(help: "Print one JSON object.")
    var json = false

    var client: ControlClient { ControlClient(directory: Paths.absolute(dir)) }

    /// Prints a message as JSON, or as `text` puts it for people.
    func show<M: ControlMessage>(_ message: M, as text: (M) -> String) throws {
        if json {
            print(String(decoding: try ControlJSON.encode(message, pretty: true), as: UTF8.self))
        } else {
            print(text(message))
        }
    }
}

enum Paths {
    /// A disk as the daemon takes it: a name or a uuid as it is, and what is neither as a path.
    static func disk(_ text: String) -> String {
        let digits = text.dropFirst(4)
        if text.hasPrefix("disk"), !digits.isEmpty, digits.allSatisfy({ ("0"..."9").contains($0) }) {
            return text
        }
        return UUID(uuidString: text) != nil ? text : absolute(text)
    }

    /// `path` seen from the working directory. Symbolic links and `..` stay: only the kernel knows
    /// what they mean.
    static func absolute(_ path: String) -> String {
        let full =
            path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
        let parts = full.split(separator: "/").filter { $0 != "." }
        return "/" + parts.joined(separator: "/")
    }
}

/// A size option: `8G`, `512M`, `4096`.
struct Size: ExpressibleByArgument, Hashable {
    var bytes: UInt64

    init(parsing text: String) throws {
        do throws(SizeText.ParseError) {
            bytes = try SizeText.parse(text)
        } catch {
            throw ValidationError("\(error): \(error.hint)")
        }
    }

    init?(argument: String) {
        guard let size = try? Size(parsing: argument) else { return nil }
        self = size
    }
}

// Every word of the interface is read, and the daemon refuses by name what it does not have yet;
// help and completion offer only what works.
extension Resiliency: ExpressibleByArgument {}

extension Provisioning: ExpressibleByArgument {}

extension WhenFullPolicy: ExpressibleByArgument {}
