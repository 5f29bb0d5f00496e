import Foundation
import Glibc
import Testing

/// A redundant space, on just as many disks as it has columns and copies: each disk has a part of
/// everything.
enum Redundancy: String, CustomTestStringConvertible {
    case mirror2, mirror3, parity1, parity2

    static let mirrors = [Redundancy.mirror2, .mirror3]

    var diskCount: Int {
        switch self {
        case .mirror2: 2
        case .mirror3, .parity1: 3
        case .parity2: 4
        }
    }

    /// Disks that may be lost at once.
    var tolerance: Int {
        switch self {
        case .mirror2, .parity1: 1
        case .mirror3, .parity2: 2
        }
    }

    /// What is said of it without one disk.
    var healthWithoutOne: String { tolerance == 1 ? "no-redundancy" : "degraded" }

    var disks: [String] { (1...diskCount).map { "disk\($0)" } }
    var testDescription: String { rawValue }

    /// `one` is away, in this state.
    func sentence(_ one: String, _ state: String) -> String {
        "\(one) \(state): one more loss is \(tolerance == 1 ? "fatal" : "safe")"
    }
}

extension EndToEnd {
    /// Promises 3 to 5 over files that come to harm behind the daemon's back, under a load that
    /// checks every read; at the end of each, all is read without as many disks as may be lost.
    @Suite struct DiskFaults {
        static let sizeBytes = 2 << 30

        @Test(needsLibnbd(), arguments: Redundancy.mirrors + [.parity2])
        func aDiskThatIsCutShortLeavesAndIsTakenBack(kind: Redundancy) throws {
            try withLoad(kind) { machine, load, paths in
                try resize(paths[0], to: 64 << 20)
                try machine.waitUntil("disk1", is: "failed")
                try machine.expectHealth(
                    kind.healthWithoutOne, because: kind.sentence("disk1", "has failed"),
                    action: "bring back \(paths[0])")
                try load.say("check")
                try machine.looks()
                let refused = try machine.poolctl(["disk", "online", "demo", "disk1"])
                expectRefused(refused, "a disk of which most is gone")
                #expect(refused.errors.contains("MiB, it had 2 GiB when it was"), "\(refused.errors)")

                // As large as before; where it was cut off there are holes.
                try resize(paths[0], to: Self.sizeBytes)
                try machine.control("disk", "online", "demo", "disk1")
                try machine.waitUntilHealthy()
                try scrub(machine)
                try machine.pullAllThatMayGo(kind, load)
            }
        }

        /// Somebody restores an earlier copy of a disk's file, in its place.
        @Test(needsLibnbd(), arguments: [Redundancy.mirror3])
        func aDiskFromAnOlderTimeIsRefused(kind: Redundancy) throws {
            try withLoad(kind) { machine, load, paths in
                let away = try Scratch(name: "away")
                let (older, newer) = (away.path("older"), paths[0] + ".newer")
                try machine.control("disk", "offline", "demo", "disk1")
                try succeed("cp", ["--sparse=always", paths[0], older])
                try machine.control("disk", "online", "demo", "disk1")
                try machine.waitUntilHealthy()

                // It serves on under another name, and is found there.
                try move(paths[0], newer)
                try load.say("check")
                try machine.control("disk", "offline", "demo", "disk1")
                try machine.control("disk", "online", "demo", "disk1")
                #expect(try machine.disk("disk1")["path"] == .text(newer))
                try machine.control("disk", "offline", "demo", "disk1")
                try move(newer, away.path("newer"))
                try move(older, paths[0])
                for _ in 0..<2 {
                    let refused = try machine.poolctl(["disk", "online", "demo", paths[0]])
                    expectRefused(refused, "a disk from an older time")
                    #expect(refused.errors.contains("\(paths[0]) holds an older state of its disk"))
                    try machine.waitUntil("disk1", is: "offline", within: 5)
                    try machine.expectHealth(
                        kind.healthWithoutOne, because: kind.sentence("disk1", "is offline"),
                        action: "poolctl disk online demo disk1")
                    // A daemon that finds it when it starts takes it for no better.
                    try load.say("pause")
                    machine.kill9()
                    try machine.start()
                    try load.say("check")
                }
                try FileManager.default.removeItem(atPath: paths[0])
                try move(away.path("newer"), paths[0])
                try machine.control("disk", "online", "demo", "disk1")
                try machine.pullAllThatMayGo(kind, load)
            }
        }

        /// The same while the daemon is down, and nothing but data has changed since the copy was
        /// made: as if the disk had lost all that was written to it in the meantime.
        @Test(needsLibnbd(), arguments: [Redundancy.mirror2])
        func aDiskThatLostAllItsLatestWrites(kind: Redundancy) throws {
            try withLoad(kind) { machine, load, paths in
                try load.say("pause")
                let older = machine.scratch.path("older")
                try succeed("cp", ["--sparse=always", paths[0], older])
                for _ in 0..<3 {
                    try load.say("check")
                    usleep(700_000)
                }
                try load.say("pause")
                // After a crash dirty regions are made equal, whatever they hold; not after this.
                #expect(machine.terminate() == 0)
                try FileManager.default.removeItem(atPath: paths[0])
                try move(older, paths[0])
                try machine.start()
                try load.say("check")
                try scrub(machine)
                #expect(try machine.errors("checksum", of: "disk1") > 0)
                #expect(try machine.errors("checksum", of: "disk2") == 0)
                try machine.pullAllThatMayGo(kind, load, restarting: true)
            }
        }

        /// Where every disk has lost them there is nothing left to be right: the load has to notice,
        /// or it proves nothing.
        @Test(needsLibnbd()) func disksThatAllLostTheirLatestWritesAreFoundOut() throws {
            try withMachine { machine in
                let paths = try machine.makePool(disks: 2, size: "2G")
                try machine.makeSpace("demo/files", size: "1G")
                let load = try Load(machine, "demo/files")
                try load.say("pause")
                for path in paths { try succeed("cp", ["--sparse=always", path, path + ".older"]) }
                try load.say("check")
                usleep(300_000)
                try load.say("pause")
                #expect(machine.terminate() == 0)
                for path in paths {
                    try FileManager.default.removeItem(atPath: path)
                    try move(path + ".older", path)
                }
                try machine.start()
                let answer = load.ask("check")
                #expect(answer.contains("holds version"), "\(answer)")
            }
        }

        @Test(needsLibnbd(), arguments: Redundancy.mirrors + [.parity1])
        func whatRotsIsFoundAndRepaired(kind: Redundancy) throws {
            try withLoad(kind) { machine, load, paths in
                // At rest, so that only the scrub can find it.
                try load.say("pause")
                for (disk, path) in zip(kind.disks, paths) {
                    let before = try kind.disks.map { try machine.errors("checksum", of: $0) }
                    try spoil(path)
                    let found = try scrub(machine)
                    #expect(found > 0, "\(disk)")
                    let after = try kind.disks.map { try machine.errors("checksum", of: $0) }
                    let more = zip(after, before).map { $0 - $1 }
                    #expect(more.reduce(0, +) == found)
                    // Of a block that was never written nobody knows what it was: the parities, on
                    // other disks, are made to fit it.
                    let own = more[try #require(kind.disks.firstIndex(of: disk))]
                    #expect(kind == .parity1 ? own > 0 : own == found)
                    #expect(try machine.disk(disk)["reason"]?.asText?.contains("checksum") == true)
                    #expect(try scrub(machine) == 0, "what was repaired is found again")
                }
                // Under load; reads repair what they come across.
                try load.say("check")
                try spoil(paths[0])
                try load.say("check")
                try scrub(machine)
                try machine.waitUntilHealthy(within: 1)
                try machine.looks()
                try machine.pullAllThatMayGo(kind, load, restarting: true)
            }
        }

        @Test(needsLibnbd(), arguments: [Redundancy.mirror2])
        func aDiskThatGrewAndLostItsEnd(kind: Redundancy) throws {
            try withLoad(kind) { machine, load, paths in
                // Larger than it was: nothing changes, now or later.
                try resize(paths[0], to: 2 * Self.sizeBytes)
                try load.say("check")
                for _ in 0..<2 {
                    try machine.control("disk", "offline", "demo", "disk1")
                    try machine.control("disk", "online", "demo", "disk1")
                    try machine.waitUntilHealthy()
                    #expect(
                        try machine.disk("disk1")["size_bytes"] == .integer(Int64(Self.sizeBytes)))
                }
                // The end of it is cut off: a copy of its label lies there, and no data.
                try machine.control("disk", "offline", "demo", "disk1")
                try resize(paths[0], to: Self.sizeBytes - (64 << 20))
                let refused = try machine.poolctl(["disk", "online", "demo", "disk1"])
                expectRefused(refused, "a disk that lacks its end")
                #expect(refused.errors.contains("when it was labelled"), "\(refused.errors)")
                try load.say("pause")
                machine.kill9()
                try machine.start()
                try load.say("check")
                try resize(paths[0], to: Self.sizeBytes)
                try machine.control("disk", "online", "demo", "disk1")
                try machine.pullAllThatMayGo(kind, load)
            }
        }

        // MARK: - what is done

        private func withLoad(
            _ kind: Redundancy, _ body: (Machine, Load, [String]) throws -> Void
        ) throws {
            try withMachine { machine in
                let paths = try machine.makePool(disks: kind.diskCount, size: "2G")
                try machine.makeSpace("demo/files", size: "1G", resiliency: kind.rawValue)
                let load = try Load(machine, "demo/files")
                usleep(500_000)
                try load.say("check")
                try body(machine, load, paths)
                try load.say("stop")
            }
        }

        /// - Returns: how many blocks it has repaired.
        @discardableResult private func scrub(_ machine: Machine) throws -> Int64 {
            let ended = try machine.json("pool", "scrub", "demo", "--wait")["job"]
            #expect(ended?["state"] == .text("done") && ended?["lost_blocks"] == .integer(0))
            return try #require(ended?["repaired_blocks"]?.asInteger)
        }

        private func resize(_ path: String, to bytes: Int) throws {
            try #require(unsafe truncate(path, bytes) == 0)
        }

        private func move(_ path: String, _ other: String) throws {
            try FileManager.default.moveItem(atPath: path, toPath: other)
        }

        /// Garbage into a quarter of what the disk's slabs hold, past the page cache: else the kernel
        /// fails a flush of whoever writes past it at the same time.
        private func spoil(_ path: String) throws {
            let script = """
                import mmap, os, random, sys
                dice = random.Random(7)
                disk = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
                garbage = mmap.mmap(-1, 65536)
                at, spoilt = 16 << 20, 0
                while True:
                    try:
                        at = os.lseek(disk, at, os.SEEK_DATA) // 65536 * 65536
                    except OSError:
                        break
                    if at < (2 << 30) - (16 << 20) and dice.random() < 0.25:
                        garbage[:] = dice.randbytes(65536)
                        os.pwrite(disk, garbage, at)
                        spoilt += 1
                    at += 65536
                assert spoilt > 4, spoilt
                """
            try succeed(Tool.python, ["-c", script, path])
        }
    }
}
