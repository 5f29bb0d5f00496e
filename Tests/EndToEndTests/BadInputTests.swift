import Foundation
import Testing

/// A refusal: status 1, `error:` and `hint:` lines, nothing on the standard output.
func expectRefused(
    _ finished: Finished, _ what: String, sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(finished.status == 1, "\(what): \(finished.everything)", sourceLocation: sourceLocation)
    let lines = finished.errors.split(separator: "\n")
    #expect(
        lines.contains { $0.hasPrefix("error: ") && $0.count > 10 },
        "\(what) has no error line: \(finished.everything)", sourceLocation: sourceLocation)
    #expect(
        lines.contains { $0.hasPrefix("hint: ") && $0.count > 10 },
        "\(what) has no hint: \(finished.everything)", sourceLocation: sourceLocation)
}

extension EndToEnd {
    /// What people mistype, and disks that are not what they seem. Nothing may change.
    @Suite struct BadInput {
        /// Refused by the daemon or by poolctl: `DISK` is a disk of the pool, `NEW` a missing file,
        /// `FOREIGN` a file with something else on it, `SMALL` one below 1 GiB, `FOLDER` a folder.
        static let refused: [[String]] = [
            ["pool", "status", "nosuch"],
            ["disk", "ls", "nosuch"],
            ["pool", "create", "demo", "NEW", "--create-size", "2G"],
            ["pool", "create", "other", "NEW"],
            ["pool", "create", "other", "NEW", "--create-size", "512M"],
            ["pool", "create", "other", "NEW", "NEW", "--create-size", "2G"],
            ["pool", "create", "other", "DISK"],
            ["pool", "create", "other", "DISK", "NEW", "--create-size", "2G"],
            ["pool", "create", "other", "FOREIGN"],
            ["pool", "create", "other", "SMALL"],
            ["pool", "create", "other", "FOLDER"],
            ["pool", "create", "other", "/dev/null"],
            ["pool", "create", "other", "NEW/below", "--create-size", "2G"],
            ["pool", "create", "a/b", "NEW", "--create-size", "2G"],
            ["pool", "create", "..", "NEW", "--create-size", "2G"],
            ["pool", "create", String(repeating: "n", count: 65), "NEW", "--create-size", "2G"],
            ["pool", "add", "nosuch", "NEW", "--create-size", "2G"],
            ["pool", "add", "demo", "DISK"],
            ["pool", "add", "demo", "FOREIGN"],
            ["pool", "import", "NEW"],
            ["pool", "import", "FOREIGN"],
            ["pool", "import", "DISK"],
            ["pool", "export", "nosuch"],
            ["pool", "destroy", "demo"],
            ["pool", "destroy", "nosuch", "--yes"],
            ["space", "create", "nosuch/x", "--size", "1G", "--resiliency", "mirror2"],
            ["space", "create", "demo/files", "--size", "1G", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size", "1000001", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size", "0", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size=1G", "--resiliency=parity1", "--columns", "2"],
            ["space", "create", "demo/x", "--size=1G", "--resiliency=mirror3", "--columns", "2"],
            ["pool", "scrub", "nosuch"],
            ["pool", "scrub", "demo", "--pause"],
            ["pool", "repair", "nosuch"],
            ["pool", "rebalance", "nosuch"],
            ["disk", "offline", "demo", "disk9"],
            ["disk", "retire", "demo", "disk9"],
            ["disk", "replace", "demo", "disk9", "NEW", "--create-size", "2G"],
            ["disk", "replace", "demo", "disk1", "NEW"],
            ["space", "create", "demo/a b", "--size", "1G", "--resiliency", "simple"],
            ["space", "create", "demo/..", "--size", "1G", "--resiliency", "simple"],
            ["space", "create", "demo/x", "--size=1G", "--resiliency=mirror2", "--columns", "9"],
            ["space", "status", "demo/nosuch"],
            ["space", "destroy", "demo/files"],
            ["space", "destroy", "demo/nosuch", "--yes"],
            ["pool", "get", "nosuch"],
            ["pool", "set", "nosuch", "compaction=off"],
            ["pool", "set", "demo", "nosuch=1"],
            ["pool", "set", "demo", "compaction"],
            ["pool", "set", "demo", "=off"],
            ["pool", "set", "demo", "compaction=maybe"],
            ["pool", "set", "demo", "compaction=off", "compaction=on"],
            ["pool", "set", "demo", "compaction=off", "nosuch=1"],
            ["pool", "set", "demo", "compaction=off", "thresholds=3,2,1"],
            ["pool", "set", "demo", "thresholds="],
            ["pool", "set", "demo", "thresholds=,,"],
            ["pool", "set", "demo", "thresholds=70"],
            ["pool", "set", "demo", "thresholds=70,85,95,99"],
            ["pool", "set", "demo", "thresholds=70,70,95"],
            ["pool", "set", "demo", "thresholds=0,85,95"],
            ["pool", "set", "demo", "thresholds=70,85,101"],
            ["pool", "set", "demo", "thresholds=70,85,99999999999999999999"],
            ["pool", "set", "demo", "thresholds=-1,85,95"],
            ["disk", "set", "nosuch", "disk1", "rack=r"],
            ["disk", "set", "demo", "disk9", "rack=r"],
            ["disk", "set", "demo", "NEW", "rack=r"],
            ["disk", "set", "demo", "00000000-0000-0000-0000-000000000000", "rack=r"],
            ["disk", "set", "demo", "disk1", "rack"],
            ["disk", "set", "demo", "disk1", "colour=red"],
            ["disk", "set", "demo", "disk1", "media=tape"],
            ["disk", "set", "demo", "disk1", "media="],
            ["disk", "set", "demo", "disk1", "rack=a", "rack=b"],
            ["disk", "set", "demo", "disk1", "rack=a", "media=tape"],
            ["disk", "set", "demo", "disk1", "rack=a/b"],
            ["disk", "set", "demo", "disk1", "rack=a b"],
            ["disk", "set", "demo", "disk1", "rack=" + String(repeating: "r", count: 65)],
            ["space", "set", "nosuch/files", "when_full=enospc"],
            ["space", "set", "demo/nosuch", "when_full=enospc"],
            ["space", "set", "demo/files", "when_full"],
            ["space", "set", "demo/files", "when_full=later"],
            ["space", "set", "demo/files", "size=2G"],
            ["space", "set", "demo/files", "name="],
            ["space", "set", "demo/files", "name=../x"],
            ["space", "set", "demo/files", "name=other", "when_full=enospc"],
            ["space", "set", "demo/files", "when_full=enospc", "nosuch=1"],
            ["space", "resize", "nosuch/files", "2G"],
            ["space", "resize", "demo/nosuch", "2G"],
            ["space", "resize", "demo/files", "1000001"],
            ["space", "resize", "demo/files", "0"],
            ["space", "resize", "demo/files", "512M"],
            ["space", "resize", "demo/files", "8388607T"],
            ["explain", "nosuch/files"],
            ["explain", "demo/nosuch"],
        ]

        /// Wrong as they stand, whatever the pools are: status 64, or 1 where the daemon says it.
        static let usage: [[String]] = [
            ["frobnicate"],
            ["pool", "create"],
            ["pool", "frobnicate", "demo"],
            ["pool", "status", "demo", "--frobnicate"],
            ["space", "create", "demo/x"],
            ["space", "create", "demo/x", "--size", "1G"],
            ["space", "create", "demo/x", "--size", "banana", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size", "-1", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size", "99999999999T", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size", "1.5G", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size", "1G", "--resiliency", "raid5"],
            ["space", "create", "demo", "--size", "1G", "--resiliency", "mirror2"],
            ["space", "create", "demo/", "--size", "1G", "--resiliency", "mirror2"],
            ["space", "create", "demo/x/y", "--size", "1G", "--resiliency", "mirror2"],
            ["space", "create", "demo/x", "--size=1G", "--resiliency=mirror2", "--columns", "0"],
            ["space", "status", "demo"],
            ["space", "status", ""],
            [],
            ["pool"],
            ["pool", "status", "demo", "extra"],
            ["pool", "get"],
            ["pool", "set", "demo"],
            ["disk", "set", "demo", "disk1"],
            ["space", "set", "demo/files"],
            ["space", "set", "demo", "when_full=wait"],
            ["space", "resize", "demo/files"],
            ["space", "resize", "demo/files", "banana"],
            ["space", "resize", "demo/files", "2G", "3G"],
            ["explain"],
            ["explain", "demo"],
            ["explain", "demo/files", "demo/other"],
        ]

        /// Verbs of later versions, and one that never was: named as unknown, whatever follows.
        static let unknownVerbs: [[String]] = [
            ["pin", "ls", "demo/files"],
            ["tier", "status", "demo/files"], ["node", "ls"], ["owner", "ls"],
            ["space", "frobnicate", "--wait", "demo/files"],
        ]

        @Test func refusalsChangeNothing() throws {
            try withSpace { machine in
                try machine.makeSpace("demo/other", size: "1G", resiliency: "simple")
                let world = try BadWorld(machine)
                let before = try world.snapshot()
                for arguments in Self.refused {
                    let finished = try machine.poolctl(world.fill(in: arguments))
                    let what = "poolctl \(arguments.joined(separator: " "))"
                    expectRefused(finished, what)
                    #expect(try world.snapshot() == before, "\(what) changed something")
                }
                for arguments in Self.usage {
                    let finished = try machine.poolctl(world.fill(in: arguments))
                    let what = "poolctl \(arguments.joined(separator: " "))"
                    #expect([1, 64].contains(finished.status), "\(what): \(finished.everything)")
                    #expect(!finished.errors.isEmpty, "\(what) says nothing")
                    #expect(try world.snapshot() == before, "\(what) changed something")
                }
            }
        }

        @Test func unknownVerbsAreNamed() throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            for arguments in Self.unknownVerbs {
                let finished = try machine.poolctl(arguments)
                #expect(finished.status == 64, "\(arguments): \(finished.everything)")
                let verb = ["pool", "disk", "space"].contains(arguments[0])
                    ? "\(arguments[0]) \(arguments[1])" : arguments[0]
                #expect(finished.errors.contains("error: there is no verb '\(verb)'"))
                #expect(finished.errors.contains("hint: "))
            }
        }

        @Test func hintsHelp() throws {
            try withSpace { machine in
                for (arguments, part) in [
                    (["pool", "status", "dmeo"], "'demo'"),
                    (["explain", "demo/flies"], "'demo/files'"),
                    (["disk", "set", "demo", "disk7", "rack=r"], "'disk"),
                    (["disk", "set", "demo", "demo-dsik1", "rack=r"], "'demo-disk1'"),
                    (["pool", "set", "demo", "threshold=1,2,3"], "'thresholds'"),
                    (["pool", "set", "demo", "nosuch=1"], "thresholds, compaction"),
                    (["space", "set", "demo/files", "whenfull=wait"], "'when_full'"),
                    (["pool", "stauts", "demo", "--json"], "'poolctl pool status'"),
                ] {
                    let finished = try machine.poolctl(arguments)
                    #expect(finished.errors.contains(part), "\(arguments): \(finished.errors)")
                }
                let near = try machine.poolctl(["space", "status", "demo/filse"])
                #expect(near.errors.contains("demo/files"), "\(near.errors)")
                let odd = try machine.poolctl([
                    "space", "create", "demo/x", "--size", "1000001", "--resiliency", "mirror2",
                ])
                // The next size that would do: one MiB.
                #expect(
                    odd.errors.contains("1M") || odd.errors.contains("1 M")
                        || odd.errors.contains("1048576"), "\(odd.errors)")
            }
        }

        @Test func noDaemonIsSaidPlainly() throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            let finished = try machine.poolctl(["pool", "ls"])
            expectRefused(finished, "no daemon")
            #expect(finished.errors.contains("error: no poold at \(machine.directory)"))
            #expect(finished.errors.contains("poold --dir"), "the hint has the start line")
        }

        @Test func tooFewDisksForTheResiliency() throws {
            try withMachine { machine in
                try machine.makePool(disks: 1)
                let finished = try machine.poolctl([
                    "space", "create", "demo/x", "--size", "1G", "--resiliency", "mirror2",
                ])
                expectRefused(finished, "mirror2 on one disk")
                #expect(finished.errors.contains("2") && finished.errors.contains("1"))
            }
        }

        @Test(needs("mke2fs")) func foreignContentIsNamedAndKeptUntilForced() throws {
            try withMachine { machine in
                let disk = machine.scratch.path("foreign")
                try succeed("mke2fs", ["-q", "-t", "ext4", disk, "2G"])
                let before = try ends(of: disk)
                let finished = try machine.poolctl(["pool", "create", "other", disk])
                expectRefused(finished, "a file system on the disk")
                #expect(finished.errors.contains("ext"), "what was found: \(finished.errors)")
                #expect(finished.errors.contains("--force"), "\(finished.errors)")
                #expect(try ends(of: disk) == before)
                try machine.control("pool", "create", "other", disk, "--force")
            }
        }

        /// The first and the last MiB: where a pool writes when it takes a disk.
        private func ends(of disk: String) throws -> [Data?] {
            let handle = try #require(FileHandle(forReadingAtPath: disk))
            defer { try? handle.close() }
            let head = try handle.read(upToCount: 1 << 20)
            let size = try handle.seekToEnd()
            try handle.seek(toOffset: size - (1 << 20))
            return [head, try handle.read(upToCount: 1 << 20)]
        }

        @Test(needsLibnbd()) func spacesInUseAreNotDestroyed() throws {
            try withSpace { machine in
                let client = try AttachedClient(machine.socket, "demo/files")
                for arguments in [
                    ["space", "destroy", "demo/files", "--yes"],
                    ["pool", "destroy", "demo", "--yes"],
                    ["pool", "export", "demo"],
                    ["space", "set", "demo/files", "name=renamed"],
                    ["space", "resize", "demo/files", "512M", "--shrink"],
                ] {
                    expectRefused(try machine.poolctl(arguments), "\(arguments) in use")
                }
                let status = try machine.json("space", "status", "demo/files")
                #expect(status["connections"] == .integer(1))
                // What does not pull the ground from under it is done.
                try machine.control("space", "set", "demo/files", "when_full=enospc")
                try machine.control("space", "resize", "demo/files", "2G")
                client.detach()
                let free = try eventually(within: 10) {
                    try machine.poolctl(["space", "destroy", "demo/files", "--yes"]).status == 0
                }
                #expect(free)
            }
        }
    }
}

/// The files that the bad-input tests point at, and everything that must not change.
private struct BadWorld {
    let machine: Machine
    let foreign: String

    init(_ machine: Machine) throws {
        self.machine = machine
        foreign = machine.scratch.path("foreign")
        let handle = try writable(foreign)
        // A FAT boot sector's signature and text: somebody's data.
        try handle.write(contentsOf: Data("somebody's letters, do not lose".utf8))
        try handle.seek(toOffset: 510)
        try handle.write(contentsOf: Data([0x55, 0xAA]))
        try handle.truncate(atOffset: 2 << 30)
        try handle.close()
        let small = try writable(machine.scratch.path("small"))
        try small.truncate(atOffset: 512 << 20)
        try small.close()
        try FileManager.default.createDirectory(
            atPath: machine.scratch.path("folder"), withIntermediateDirectories: true)
    }

    func fill(in arguments: [String]) -> [String] {
        arguments.map { argument in
            switch argument {
            case "DISK": machine.scratch.path("demo-disk1")
            case "NEW": machine.scratch.path("new")
            case "NEW/below": machine.scratch.path("new/below")
            case "FOREIGN": foreign
            case "SMALL": machine.scratch.path("small")
            case "FOLDER": machine.scratch.path("folder")
            default: argument
            }
        }
    }

    /// Pools, spaces, disks, the files around them and what the foreign file holds.
    func snapshot() throws -> [String] {
        let files = try FileManager.default.contentsOfDirectory(atPath: machine.scratch.folder)
        let letters = FileHandle(forReadingAtPath: foreign)
        defer { try? letters?.close() }
        // Disks and spaces are in it. A forecast depends on the time, too.
        let pools = try machine.control("pool", "ls", "--json").split(separator: "\n")
            .filter { !$0.contains("seconds_to_full") }
        return [
            pools.joined(separator: "\n"),
            try machine.control("pool", "get", "demo", "--json"),
            files.sorted().joined(separator: " "),
            String(decoding: try letters?.read(upToCount: 4096) ?? Data(), as: UTF8.self),
        ]
    }
}

/// A client that is attached and does nothing, until it is told to go or goes away.
private final class AttachedClient {
    private let process = Process()
    private let orders = Pipe()

    init(_ socket: String, _ export: String) throws {
        let script = """
            import nbd, sys
            handle = nbd.NBD()
            handle.set_export_name(sys.argv[2])
            handle.connect_unix(sys.argv[1])
            print("attached", flush=True)
            sys.stdin.read()
            handle.shutdown()
            """
        let answers = Pipe()
        process.executableURL = URL(fileURLWithPath: Tool.python)
        process.arguments = ["-c", script, socket, export]
        process.standardInput = orders
        process.standardOutput = answers
        try process.runUnmasked()
        let answer = String(decoding: answers.fileHandleForReading.availableData, as: UTF8.self)
        guard answer.hasPrefix("attached") else { throw HarnessError("the client said \(answer)") }
    }

    func detach() {
        try? orders.fileHandleForWriting.close()
        process.waitUntilExit()
    }

    deinit { detach() }
}
