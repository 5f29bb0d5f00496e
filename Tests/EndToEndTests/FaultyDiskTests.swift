import Foundation
import Testing

extension EndToEnd {
    /// Disks that answer with errors, late, or not at all any more, and come back: as the daemon
    /// sees them, under a load that checks every read; at the end of each, every copy is read alone.
    @Suite struct FaultyDisks {
        @Test(needsFaultyDisks(), arguments: [Redundancy.mirror2])
        func whatOneCannotReadAnotherCan(kind: Redundancy) throws {
            try withFaultyDisk(kind) { machine, load, faulty in
                try faulty.fail(.reads)
                try load.say("check")
                let disk = try machine.disk("disk1")
                #expect(disk["state"] == .text("online"))
                #expect(disk["reason"]?.asText?.contains("read errors") == true, "\(disk)")
                #expect(try machine.errors("read", of: "disk1") > 0)
                #expect(try machine.errors("write", of: "disk1") == 0)
                #expect(try machine.errors("read", of: "disk2") == 0)
                try machine.looks()
                // Nor does a daemon that starts depend on it.
                try load.say("pause")
                machine.kill9()
                try machine.start()
                try load.say("check")
                try faulty.fail(.reads, false)
                try machine.comesBack("disk1")
                try machine.control("pool", "scrub", "demo", "--wait")
                try machine.pullAllThatMayGo(kind, load, restarting: true)
            }
        }

        @Test(needsFaultyDisks(), arguments: [Redundancy.mirror3])
        func aDiskThatFailsWritesLeavesAndComesBackByItself(kind: Redundancy) throws {
            try withFaultyDisk(kind) { machine, load, faulty in
                try faulty.fail(.writes)
                try machine.waitUntil("disk1", is: "failed")
                #expect(try machine.errors("write", of: "disk1") > 0)
                #expect(try machine.disk("disk1")["reason"]?.asText?.contains("it failed") == true)
                try machine.expectHealth(
                    kind.healthWithoutOne, because: kind.sentence("disk1", "has failed"),
                    action: "bring back \(faulty.path)")
                try machine.looks()
                try load.say("pause")
                // Its leaving is durable: whoever opens it next does not believe it, though it can
                // be read.
                machine.kill9()
                try machine.start()
                try load.say("check")
                try machine.waitUntil("disk1", is: "failed", within: 5)
                let refused = try machine.poolctl(["disk", "online", "demo", "disk1"])
                expectRefused(refused, "a disk that fails writes")
                try load.say("check")
                // From here on nobody does anything about it.
                try faulty.fail(.writes, false)
                try machine.waitUntilHealthy(within: 60)
                try machine.pullAllThatMayGo(kind, load)
            }
        }

        @Test(needsFaultyDisks(), arguments: Redundancy.mirrors)
        func aDiskThatVanishesAndComesBackSlower(kind: Redundancy) throws {
            try withFaultyDisk(kind) { machine, load, faulty in
                faulty.unplug()
                try machine.waitUntil("disk1", is: "failed")
                try load.say("check")
                let refused = try machine.poolctl(["disk", "online", "demo", "disk1"])
                expectRefused(refused, "a disk that is not there")
                #expect(refused.errors.contains("was not found"), "\(refused.errors)")
                try machine.looks()
                try faulty.plugIn(delay: "5ms")
                try machine.control("disk", "online", "demo", "disk1")
                try machine.pullAllThatMayGo(kind, load)
            }
        }

        /// Slow is not broken: everything waits for it, nothing fails.
        @Test(needsFaultyDisks()) func aDiskThatLagsStays() throws {
            try withFaultyDisk(.mirror2) { machine, load, faulty in
                try faulty.lag(bitsPerSecond: "64M")
                usleep(1_000_000)
                try load.say("check")
                try faulty.lag(bitsPerSecond: "64G")
                let disks = try machine.disks(of: .mirror2)
                #expect(disks.allSatisfy { $0["state"] == .text("online") })
                #expect(disks.allSatisfy { $0["errors"] == disks[0]["errors"] }, "\(disks)")
                let space = try machine.json("space", "status", "demo/files")
                #expect(space["health"] == .text("healthy") && space["reason"] == .text(""))
                try machine.pullAllThatMayGo(.mirror2, load)
            }
        }

        /// The disk's own abilities, without a daemon: while it hangs nobody gets an answer.
        @Test(needsFaultyDisks()) func aDiskThatHangsAnswersLater() throws {
            let scratch = try Scratch(name: "faulty")
            let faulty = try FaultyDisk("faulty", size: 1 << 20, scratch: scratch)
            let reader = Process()
            reader.executableURL = URL(fileURLWithPath: try Tool.path(of: "dd"))
            reader.arguments = ["if=" + faulty.path, "iflag=direct", "bs=4k", "count=1"]
            reader.standardOutput = FileHandle.nullDevice
            reader.standardError = FileHandle.nullDevice
            try faulty.hang()
            try reader.runUnmasked()
            usleep(300_000)
            #expect(reader.isRunning)
            try faulty.goOn()
            reader.waitUntilExit()
            #expect(reader.terminationStatus == 0)
            try faulty.fail(.reads)
            #expect(try run("dd", reader.arguments ?? []).status == 1)
        }

        /// The pool does without it, and when it answers again it catches up.
        @Test(needsFaultyDisks(), arguments: [Redundancy.mirror2])
        func aDiskThatHangsIsDoneWithout(kind: Redundancy) throws {
            try withFaultyDisk(kind, patience: 2) { machine, load, faulty in
                try faulty.hang()
                defer { try? faulty.goOn() }
                try load.say("check")
                try machine.waitUntil("disk1", is: "failed", within: 30)
                let disk = try machine.disk("disk1")
                #expect(disk["reason"] == .text("it failed to answer"), "\(disk)")
                try machine.expectHealth(
                    kind.healthWithoutOne, because: kind.sentence("disk1", "has failed"),
                    action: "bring back \(faulty.path)")
                try machine.looks()
                let refused = try machine.poolctl(["disk", "online", "demo", "disk1"])
                expectRefused(refused, "a disk that hangs")
                try faulty.goOn()
                try machine.waitUntilHealthy(within: 90)
                // Whoever starts meanwhile does not wait for it either.
                try load.say("pause")
                #expect(machine.terminate() == 0)
                try faulty.hang()
                try machine.start(["--disk-timeout", "2"])
                try load.say("check")
                try machine.looks()
                try faulty.goOn()
                try machine.waitUntilHealthy(within: 90)
                try machine.pullAllThatMayGo(kind, load)
            }
        }

        private func withFaultyDisk(
            _ kind: Redundancy, patience: Int = 30,
            _ body: (Machine, Load, FaultyDisk) throws -> Void
        ) throws {
            let scratch = try Scratch(name: "faulty")
            // It outlives the daemon, which has it open.
            let faulty = try FaultyDisk("faulty", size: 2 << 30, scratch: scratch)
            try withMachine(["--disk-timeout", "\(patience)"]) { machine in
                let others = (2...kind.diskCount).map { machine.scratch.path("demo-disk\($0)") }
                for path in others {
                    let file = try writable(path)
                    try file.truncate(atOffset: 2 << 30)
                    try file.close()
                }
                let created = try machine.poolctl(["pool", "create", "demo", faulty.path] + others)
                try #require(created.status == 0, "\(created.everything)\n\(machine.log)")
                try machine.makeSpace("demo/files", size: "1G", resiliency: kind.rawValue)
                let load = try Load(machine, "demo/files")
                usleep(500_000)
                try load.say("check")
                try body(machine, load, faulty)
                try load.say("stop")
            }
            withExtendedLifetime(faulty) {}
        }
    }
}
