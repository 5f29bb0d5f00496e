import Foundation
import Testing

extension EndToEnd {
    /// What people choose while everything runs: it takes effect, is shown, and outlives a crash.
    @Suite struct Settings {
        /// Each verb as it works, in an order in which it does. `DISK` is one of the pool's, `NEW` a
        /// file that is made.
        static let verbs: [[String]] = [
            ["pool", "create", "demo", "NEW1", "NEW2", "NEW3", "NEW4", "--create-size", "1G"],
            ["space", "create", "demo/files", "--size", "1G", "--resiliency", "mirror2"],
            ["pool", "ls"], ["pool", "status"], ["pool", "status", "demo"], ["pool", "get", "demo"],
            ["pool", "set", "demo", "thresholds=1,2,3", "compaction=off"], ["disk", "ls", "demo"],
            ["disk", "set", "demo", "disk1", "media=ssd", "enclosure=e", "node=n", "rack=r"],
            ["space", "ls"], ["space", "status", "demo/files"],
            ["space", "set", "demo/files", "when_full=enospc"],
            ["space", "set", "demo/files", "name=files"], ["explain", "demo/files"],
            ["pool", "add", "demo", "NEW5", "--create-size", "1G"],
            ["space", "resize", "demo/files", "2G"], ["space", "destroy", "demo/files", "--yes"],
            ["pool", "export", "demo"], ["pool", "import", "NEW1"],
            ["pool", "destroy", "demo", "--yes"],
        ]

        private static func fill(_ arguments: [String], _ machine: Machine) -> [String] {
            arguments.map { $0.hasPrefix("NEW") ? machine.scratch.path($0.lowercased()) : $0 }
        }

        @Test(arguments: [false, true]) func everyVerbFitsItsReader(isJSON: Bool) throws {
            try withMachine { machine in
                for arguments in Self.verbs {
                    let finished = try machine.poolctl(
                        Self.fill(arguments, machine) + (isJSON ? ["--json"] : []))
                    #expect(finished.status == 0, "\(arguments): \(finished.everything)")
                    #expect(finished.errors.isEmpty, "\(arguments): \(finished.errors)")
                    if isJSON {
                        let object = try JSONDecoder().decode(
                            JSON.self, from: Data(finished.output.utf8))
                        #expect(object["version"] == .integer(1), "\(arguments)")
                    } else {
                        let lines = finished.output.split(separator: "\n")
                        #expect(!lines.isEmpty && lines.allSatisfy { $0.count <= 80 })
                    }
                }
            }
        }

        @Test func everyVerbSaysThatThereIsNoDaemon() throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            for arguments in Self.verbs {
                let finished = try machine.poolctl(Self.fill(arguments, machine))
                expectRefused(finished, "\(arguments)")
                #expect(finished.errors.contains("no poold at"), "\(finished.errors)")
            }
        }

        @Test func refusalsAreObjectsToo() throws {
            try withMachine { machine in
                for arguments in [["pool", "status", "nosuch"], ["pool", "scrub", "nosuch"]] {
                    let finished = try machine.poolctl(arguments + ["--json"])
                    let object = try JSONDecoder().decode(
                        JSON.self, from: Data(finished.output.utf8))
                    #expect(object["version"] == .integer(1))
                    #expect(object["error"]?.keys == ["what", "hint", "kind"])
                    #expect(finished.errors.contains("error: "))
                }
            }
        }

        @Test func versionsAreTold() throws {
            for program in ["poolctl", "poold"] {
                let version = try succeed(program, ["--version"])
                #expect(version.hasPrefix("\(program) ") && version.contains("."))
            }
        }

        @Test func whatWasChosenOutlivesAKill() throws {
            try withSpace { machine in
                let disks = try machine.json("disk", "ls", "demo")["disks"]?.elements ?? []
                let uuid = try #require(disks[2]["uuid"]?.asText)
                try machine.control("pool", "set", "demo", "thresholds=10,20,30", "compaction=off")
                try machine.control("disk", "set", "demo", "disk1", "media=hdd", "enclosure=left")
                try machine.control(
                    "disk", "set", "demo", machine.scratch.path("demo-disk2"), "node=n1")
                try machine.control("disk", "set", "demo", uuid.uppercased(), "rack=r1", "media=ssd")
                try machine.control("space", "set", "demo/files", "name=renamed", "when_full=enospc")
                machine.kill9()
                try machine.start()
                let settings = try machine.json("pool", "get", "demo")["settings"]?.elements ?? []
                #expect(
                    settings.map { $0["key"]?.asText }
                        == ["thresholds", "compaction", "repair_delay", "repair_priority"])
                #expect(
                    settings.map { $0["value"]?.asText } == ["10,20,30", "off", "5m", "normal"])
                #expect(
                    settings.map { $0["default"]?.asText } == ["70,85,95", "on", "5m", "normal"])
                #expect(settings.allSatisfy { $0["meaning"]?.asText?.isEmpty == false })
                let after = try machine.json("disk", "ls", "demo")["disks"]?.elements ?? []
                #expect(after[0]["enclosure"] == .text("left") && after[0]["media"] == .text("hdd"))
                #expect(after[1]["node"] == .text("n1") && after[1]["rack"] == .text(""))
                #expect(after[2]["rack"] == .text("r1") && after[2]["media"] == .text("ssd"))
                let space = try machine.json("space", "status", "demo/renamed")
                #expect(space["when_full"] == .text("enospc"))
                expectRefused(try machine.poolctl(["space", "status", "demo/files"]), "old name")
                // Back to the defaults.
                try machine.control("pool", "set", "demo", "thresholds=default")
                try machine.control("disk", "set", "demo", "disk1", "enclosure=")
                let first = try machine.json("disk", "ls", "demo")["disks"]?.elements.first
                #expect(first?["enclosure"] == .text(""))
            }
        }

        @Test(needs("qemu-io")) func aSpaceGrowsAndShrinks() throws {
            try withSpace(size: "64M") { machine in
                let uri = machine.uri("demo/files")
                try qemuIO(uri, ["write -P 3 0 64M", "flush"])
                try machine.control("space", "resize", "demo/files", "128M")
                #expect(
                    try machine.json("space", "status", "demo/files")["size_bytes"]
                        == .integer(128 << 20))
                try qemuIO(uri, ["read -P 3 0 64M", "read -P 0 64M 64M", "write -P 4 127M 1M"])
                let plain = try machine.poolctl(["space", "resize", "demo/files", "64M"])
                expectRefused(plain, "smaller without --shrink")
                #expect(plain.errors.contains("--shrink"))
                let used = try machine.poolctl(["space", "resize", "demo/files", "64M", "--shrink"])
                expectRefused(used, "smaller than what it holds")
                try qemuIO(uri, ["read -P 4 127M 1M", "discard 64M 64M", "flush"])
                let isSmaller = try eventually(within: 20) {
                    try machine.poolctl(["space", "resize", "demo/files", "64M", "--shrink"])
                        .status == 0
                }
                #expect(isSmaller)
                machine.kill9()
                try machine.start()
                #expect(
                    try machine.json("space", "status", "demo/files")["size_bytes"]
                        == .integer(64 << 20))
                try qemuIO(uri, ["read -P 3 0 64M"])
                let past = try run("qemu-io", ["-f", "raw", "-c", "read 64M 4k", uri])
                #expect(past.everything.contains("failed") || past.status != 0)
            }
        }

        @Test func aFixedSpaceHasItsRoomFromTheStart() throws {
            try withMachine { machine in
                try machine.makePool(disks: 2, size: "2G")
                try machine.control(
                    "space", "create", "demo/fixed", "--size", "512M", "--resiliency", "mirror2",
                    "--provisioning", "fixed")
                let space = try machine.json("space", "status", "demo/fixed")
                #expect(space["provisioning"] == .text("fixed"))
                #expect(try #require(space["allocated_bytes"]?.asInteger) >= 2 * (512 << 20))
                let before = try machine.json("pool", "status", "demo")
                expectRefused(
                    try machine.poolctl([
                        "space", "create", "demo/more", "--size", "8G", "--resiliency", "mirror2",
                        "--provisioning", "fixed",
                    ]), "a fixed space without room")
                let after = try machine.json("pool", "status", "demo")
                #expect(after["spaces"]?.elements.count == 1)
                #expect(after["free_bytes"] == before["free_bytes"])
            }
        }

        @Test(needs("qemu-io")) func aRenamedSpaceHasItsDataUnderTheNewName() throws {
            try withSpace { machine in
                try qemuIO(machine.uri("demo/files"), ["write -P 9 0 4M", "flush"])
                try machine.control("space", "set", "demo/files", "name=renamed")
                try qemuIO(machine.uri("demo/renamed"), ["read -P 9 0 4M"])
                let old = try run(
                    "qemu-io", ["-f", "raw", "-c", "read 0 4k", machine.uri("demo/files")])
                #expect(old.status != 0, "the old name still serves")
            }
        }

        /// Two enclosures of two disks: each holds one copy of everything.
        @Test(needs("qemu-io")) func copiesGoToDistinctEnclosures() throws {
            try withMachine { machine in
                try machine.makePool(disks: 4, size: "2G")
                for (disk, tag) in [("disk1", "a"), ("disk2", "a"), ("disk3", "b"), ("disk4", "b")] {
                    try machine.control("disk", "set", "demo", disk, "enclosure=\(tag)")
                }
                try machine.makeSpace("demo/files", size: "4G")
                try qemuIO(machine.uri("demo/files"), ["write -P 1 0 600M", "flush"])
                let explained = try machine.json("explain", "demo/files")
                let groups = explained["groups"]?.elements ?? []
                #expect(!groups.isEmpty && groups.allSatisfy { $0["separated"] == .truth(true) })
                #expect(explained["repairs"]?.elements == [])
                let domains = explained["domains"]?.elements ?? []
                #expect(domains.map { $0["name"] } == [.text("enclosure a"), .text("enclosure b")])
                #expect(domains.allSatisfy { $0["safe_to_lose"] == .truth(true) })
                let disks = explained["disks"]?.elements ?? []
                #expect(disks.count == 4)
                #expect(disks.allSatisfy { $0["safe_to_pull"] == .truth(true) })
                // Said otherwise afterwards: what is there already is no longer kept apart.
                for disk in ["disk3", "disk4"] {
                    try machine.control("disk", "set", "demo", disk, "enclosure=a")
                }
                let status = try machine.json("space", "status", "demo/files")
                #expect(status["health"] == .text("healthy"))
                #expect(status["reason"]?.asText?.contains("one fault domain") == true)
                #expect(status["action"]?.asText?.contains("poolctl explain demo/files") == true)
                let mixed = try machine.json("explain", "demo/files")
                #expect(
                    mixed["groups"]?.elements.allSatisfy { $0["separated"] == .truth(false) } == true)
                #expect(mixed["domains"]?.elements.map { $0["safe_to_lose"] } == [.truth(false)])
            }
        }

        @Test(needs("qemu-io")) func aDiskWithTheOnlyCopyIsNotSafeToPull() throws {
            try withMachine { machine in
                try machine.makePool(disks: 3, size: "2G")
                try machine.control(
                    "space", "create", "demo/one", "--size", "1G", "--resiliency", "simple",
                    "--columns", "1")
                try qemuIO(machine.uri("demo/one"), ["write -P 1 0 1M", "flush"])
                let disks = try machine.json("explain", "demo/one")["disks"]?.elements ?? []
                #expect(disks.filter { $0["safe_to_pull"] == .truth(false) }.count == 1)
                #expect(disks.filter { $0["groups"] == .integer(1) }.count == 1)
            }
        }

        @Test(needs("qemu-io")) func thresholdsAreCrossedInBothDirections() throws {
            try withMachine { machine in
                // Seven slabs each; the space's metadata takes two of the fourteen.
                try machine.makePool(disks: 2, size: "2G")
                try machine.control("pool", "set", "demo", "thresholds=20,50,90")
                try machine.control(
                    "space", "create", "demo/big", "--size", "4G", "--resiliency", "simple",
                    "--columns", "1")
                func state() throws -> String {
                    try machine.json("pool", "status", "demo")["fill"]?.asText ?? ""
                }
                #expect(try state() == "ok")
                var seen = ["ok"]
                for step in 0..<5 {
                    try qemuIO(
                        machine.uri("demo/big"), ["write -P 1 \(step * 256)M 256M", "flush"])
                    if try state() != seen.last { seen.append(try state()) }
                }
                #expect(["ok", "notice", "warning"] == seen, "\(seen)")
                let pool = try machine.json("pool", "status", "demo")
                #expect(pool["health"] == .text("healthy"))
                #expect(pool["reason"]?.asText?.contains("% full") == true)
                #expect(pool["action"]?.asText?.contains("poolctl pool add demo") == true)
                #expect(pool.keys.contains("seconds_to_full"))
                try machine.control("space", "destroy", "demo/big", "--yes")
                #expect(try state() == "ok")
                let log = machine.log
                #expect(log.contains("notice from 20 %") && log.contains("warning from 50 %"))
                #expect(log.contains("warning no longer"))
            }
        }

        /// Writes that wait are seen, and a new disk lets them go on.
        @Test(needs("qemu-io")) func writesThatWaitForRoomAreSaidAndGoOn() throws {
            try withMachine { machine in
                try machine.makePool(disks: 1, size: "1G")
                try machine.makeSpace("demo/big", size: "4G", resiliency: "simple")
                let client = Process()
                client.executableURL = URL(fileURLWithPath: try Tool.path(of: "qemu-io"))
                // One after the other, so that what waits is within the bounds of waiting.
                let writes = (0..<110).flatMap { ["-c", "write -P 1 \($0 * 8)M 8M"] }
                client.arguments = ["-f", "raw"] + writes + [machine.uri("demo/big")]
                client.standardOutput = FileHandle.nullDevice
                client.standardError = FileHandle.nullDevice
                try client.runUnmasked()
                defer { if client.isRunning { kill(client.processIdentifier, SIGKILL) } }
                let isWaiting = try eventually(within: 40) {
                    let space = try machine.json("space", "status", "demo/big")
                    return space["waiting_writes"]?.asInteger ?? 0 > 0
                }
                #expect(isWaiting, "no write waits for room")
                let pool = try machine.json("pool", "status", "demo")
                #expect(pool["fill"] == .text("critical"))
                #expect(pool["reason"]?.asText?.contains("for room") == true)
                #expect(pool["health"] == .text("healthy"))
                try machine.control(
                    "pool", "add", "demo", machine.scratch.path("more"), "--create-size", "2G")
                client.waitUntilExit()
                #expect(client.terminationStatus == 0)
                let after = try machine.json("space", "status", "demo/big")
                #expect(after["waiting_writes"] == .integer(0) && after["reason"] == .text(""))
            }
        }

        /// A pool whose disks are gone, but for a minority: what looks still looks, what changes is refused and says why.
        @Test func aDetachedPoolRefusesChanges() throws {
            try withSpace { machine in
                #expect(machine.terminate() == 0)
                // Out of the folder: there they would be found under any name.
                let away = try Scratch(name: "away")
                let names = ["demo-disk2", "demo-disk3"]
                for name in names {
                    try FileManager.default.moveItem(
                        atPath: machine.scratch.path(name), toPath: away.path(name))
                }
                // Nobody but a majority knows then what is the newest.
                try FileManager.default.removeItem(atPath: machine.directory + "/witness")
                try machine.start()
                let looks = ["pool ls", "pool status", "pool status demo", "disk ls demo", "space ls"]
                for verb in looks {
                    let finished = try machine.poolctl(verb.split(separator: " ").map(String.init))
                    #expect(finished.status == 0, "\(verb): \(finished.everything)")
                    #expect(finished.output.split(separator: "\n").allSatisfy { $0.count <= 80 })
                    #expect(finished.output.contains("demo"), "\(verb): \(finished.output)")
                }
                for arguments in [
                    ["pool", "get", "demo"], ["pool", "set", "demo", "compaction=off"],
                    ["pool", "add", "demo", machine.scratch.path("new"), "--create-size", "1G"],
                    ["pool", "export", "demo"], ["disk", "set", "demo", "disk1", "rack=r"],
                    ["space", "create", "demo/x", "--size", "1G", "--resiliency", "simple"],
                    ["space", "status", "demo/files"], ["explain", "demo/files"],
                    ["space", "set", "demo/files", "when_full=enospc"],
                    ["space", "resize", "demo/files", "2G"],
                    ["space", "destroy", "demo/files", "--yes"],
                ] {
                    let finished = try machine.poolctl(arguments)
                    expectRefused(finished, "\(arguments)")
                    #expect(finished.errors.contains("detached"), "\(finished.errors)")
                    #expect(finished.errors.contains("demo-disk2"), "\(finished.errors)")
                }
                for name in names {
                    try FileManager.default.moveItem(
                        atPath: away.path(name), toPath: machine.scratch.path(name))
                }
                let isBack = try eventually(within: 30) {
                    try machine.json("pool", "status", "demo")["health"] == .text("healthy")
                }
                #expect(isBack)
                #expect(try machine.poolctl(["space", "status", "demo/files"]).status == 0)
            }
        }
    }
}
