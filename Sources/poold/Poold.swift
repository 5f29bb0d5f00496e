import ArgumentParser
import Foundation
import Logging
import PoolControl
import PoolDaemon

/// The daemon's program: reads options, runs a ``Daemon`` until a signal ends it.
@main
struct Poold: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "poold",
        abstract: "Serve storage pools: spaces over NBD, control over a Unix socket.",
        discussion: "Runs in the foreground and logs on stderr. Control it with poolctl.",
        version: "poold \(ControlProtocol.programVersion)")

    @Option(
        help: ArgumentHelp(
            "Where state and sockets live (default: \(ControlProtocol.defaultDirectory)).",
            valueName: "dir"))
    var dir: String?

    @Option(
        help: ArgumentHelp(
            "Serve NBD on unix:PATH or tcp:HOST:PORT; may be repeated (default: DIR/nbd.sock).",
            valueName: "address"))
    var nbd: [String] = []

    @Option(
        help: ArgumentHelp(
            "Read options from a file of 'long-option = value' lines; the command line wins.",
            valueName: "file"))
    var config: String?

    @Option(
        help: ArgumentHelp(
            "What disks and sockets run on: io_uring (default) or libaio.", valueName: "engine"))
    var engine: String?

    @Option(
        help: ArgumentHelp(
            "Threads that serve, each with some of the spaces (default: one a processor).",
            valueName: "n"))
    var shards: String?

    @Option(
        help: ArgumentHelp(
            "How long a disk may take to answer before its pool does without it (default: 30).",
            valueName: "seconds"))
    var diskTimeout: String?

    // Part of the interface; anything but what is here is refused.
    @Option(help: .hidden) var cluster: String?
    @Option(help: .hidden) var node: String?

    static let fileOptions = ["dir", "nbd", "engine", "shards", "disk-timeout", "cluster", "node"]

    static func main() {
        do {
            let command = try parse()
            try command.serve()
        } catch let failure as ControlFailure {
            report(failure.what, failure.hint)
            exit(withError: ExitCode(failure.kind == .invalid ? 64 : 1))
        } catch {
            guard exitCode(for: error) != .success else { exit(withError: error) }
            let what = message(for: error).split(separator: "\n").first.map(String.init)
            report(what ?? "the command line cannot be read", "see poold --help")
            exit(withError: ExitCode(64))
        }
    }

    private static func report(_ what: String, _ hint: String) {
        FileHandle.standardError.write(Data("error: \(what)\nhint: \(hint)\n".utf8))
    }

    private func options() throws(ControlFailure) -> DaemonOptions {
        var file: ConfigurationFile?
        if let config { file = try ConfigurationFile.load(config, options: Self.fileOptions) }
        let value = { (given: String?, name: String) in given ?? file?.values(name).last }
        if value(cluster, "cluster") != nil || value(node, "node") != nil {
            throw notInThisVersion("--cluster", "leave --cluster and --node out")
        }
        let directory = value(dir, "dir") ?? ControlProtocol.defaultDirectory
        let path = directory.hasPrefix("/")
            ? directory : FileManager.default.currentDirectoryPath + "/" + directory
        let parts = path.split(separator: "/").filter { $0 != "." }
        var addresses: [NBDAddress] = []
        for text in nbd.isEmpty ? file?.values("nbd") ?? [] : nbd {
            let address = try NBDAddress(absolute(text))
            if !addresses.contains(address) { addresses.append(address) }
        }
        var options = DaemonOptions(
            directory: "/" + parts.joined(separator: "/"), nbd: addresses)
        if let engine = value(engine, "engine") { try options.chooseEngine(engine) }
        if let shards = value(shards, "shards") { try options.chooseShards(shards) }
        if let seconds = value(diskTimeout, "disk-timeout") {
            try options.chooseDiskTimeout(seconds)
        }
        return options
    }

    private func absolute(_ address: String) -> String {
        guard address.hasPrefix("unix:"), !address.hasPrefix("unix:/"), address != "unix:" else {
            return address
        }
        return "unix:" + FileManager.default.currentDirectoryPath + "/" + address.dropFirst(5)
    }

    private func notInThisVersion(_ what: String, _ hint: String) -> ControlFailure {
        ControlFailure(
            .invalid, "\(NameRules.printable(what)) is not in this version", hint: hint)
    }

    private func serve() throws(ControlFailure) {
        let options = try options()
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        let logger = Logger(label: "poold")
        // Blocked before the first thread is made, so that no thread takes them: they are waited
        // for here.
        var ending = sigset_t()
        unsafe sigemptyset(&ending)
        unsafe sigaddset(&ending, SIGTERM)
        unsafe sigaddset(&ending, SIGINT)
        unsafe pthread_sigmask(SIG_BLOCK, &ending, nil)
        umask(0o027)
        let daemon = try Daemon(options, logger: logger)
        daemon.announce()
        var interval = timespec(tv_sec: 5, tv_nsec: 0)
        while unsafe sigtimedwait(&ending, nil, &interval) < 0 { daemon.lookAgain() }
        // A disk that hangs must not keep the daemon from ending: SIGALRM's default ends it.
        alarm(UInt32(2 * Daemon.stopSeconds))
        daemon.stop()
    }
}
