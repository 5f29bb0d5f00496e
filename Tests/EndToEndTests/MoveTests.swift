import Foundation
import Testing

extension EndToEnd {
    /// Pools that change hosts, and spaces that come and go.
    @Suite struct Moves {
        @Test(needs("nbdcopy"), needs("cmp")) func exportedPoolOpensElsewhere() throws {
            let scratch = try Scratch(name: "e2e")
            let first = Machine(name: "first", scratch: scratch)
            let second = Machine(name: "second", scratch: scratch)
            try first.start()
            try second.start()
            let disks = try first.makePool(disks: 3)
            try first.makeSpace("demo/files", size: "64M")
            let before = scratch.path("before")
            try writeImage(before, mebibytes: 64, seed: 6)
            try succeed("nbdcopy", ["--flush", before, first.uri("demo/files")])

            let held = try second.poolctl(["pool", "import"] + disks)
            expectRefused(held, "disks another daemon holds")
            try first.control("pool", "export", "demo")
            #expect(try first.json("pool", "ls")["pools"] == .list([]))
            #expect(try first.poolctl(["pool", "status", "demo"]).status == 1)

            let imported = try second.poolctl(["pool", "import"] + disks)
            #expect(imported.status == 0, "\(imported.everything)")
            let after = scratch.path("after")
            try succeed("nbdcopy", [second.uri("demo/files"), after])
            try succeed("cmp", [before, after])
            // It stays: the second daemon opens it at its next start by itself.
            #expect(second.terminate() == 0)
            try second.start()
            try succeed("nbdcopy", [second.uri("demo/files"), after])
            try succeed("cmp", [before, after])
            #expect(first.terminate() == 0)
            #expect(second.terminate() == 0)
        }

        @Test func importWithoutExportNeedsForce() throws {
            let scratch = try Scratch(name: "e2e")
            let first = Machine(name: "first", scratch: scratch)
            let second = Machine(name: "second", scratch: scratch)
            try first.start()
            let disks = try first.makePool(disks: 3)
            try first.makeSpace("demo/files", size: "64M")
            first.kill9()
            try second.start()
            expectRefused(try second.poolctl(["pool", "import"] + disks), "an unexported pool")
            let forced = try second.poolctl(["pool", "import"] + disks + ["--force"])
            #expect(forced.status == 0, "\(forced.everything)")
            // It stays: the next start needs no force.
            #expect(second.terminate() == 0)
            try second.start()
            #expect(try second.poolctl(["space", "status", "demo/files"]).status == 0)
            #expect(second.terminate() == 0)
            // The old host has it no more.
            try first.start()
            let old = try first.poolctl(["pool", "status", "demo"])
            #expect(old.output.contains("was not exported by the host that had it"), "\(old)")
            expectRefused(try first.poolctl(["space", "status", "demo/files"]), "a lost pool")
            #expect(first.terminate() == 0)
        }

        /// What one of three disks knows is opened by force; the two others know another history.
        @Test(needs("nbdcopy"), needs("cmp")) func importWithoutMostDisksNeedsForce() throws {
            let scratch = try Scratch(name: "e2e")
            let old = Machine(name: "old", scratch: scratch)
            let machine = Machine(name: "new", scratch: scratch)
            try old.start()
            let disks = try old.makePool(disks: 3)
            try old.makeSpace("demo/files", size: "64M", resiliency: "mirror3")
            let (before, after) = (scratch.path("before"), scratch.path("after"))
            try writeImage(before, mebibytes: 64, seed: 6)
            try succeed("nbdcopy", ["--flush", before, old.uri("demo/files")])
            #expect(old.terminate() == 0)
            let others = zip(disks, disks.indices.map { scratch.path("away/\($0)") }).dropFirst()
            try FileManager.default.createDirectory(
                atPath: scratch.path("away"), withIntermediateDirectories: true)
            for (disk, away) in others { try FileManager.default.moveItem(atPath: disk, toPath: away) }
            try machine.start()
            let refused = try machine.poolctl(["pool", "import", disks[0]])
            expectRefused(refused, "one disk of three")
            #expect(refused.errors.contains("--force"))
            try machine.control("pool", "import", disks[0], "--force")
            try succeed("nbdcopy", [machine.uri("demo/files"), after])
            try succeed("cmp", [before, after])
            for (disk, away) in others { try FileManager.default.moveItem(atPath: away, toPath: disk) }
            let online = try machine.poolctl(["disk", "online", "demo", "disk2"])
            expectRefused(online, "a disk of another history")
            #expect(online.errors.contains("disk replace"), "\(online.everything)")
            // As new disks they join again; the space is whole once both have.
            try machine.control("disk", "replace", "demo", "disk2", disks[1], "--force")
            try machine.control(
                "disk", "replace", "demo", "disk3", disks[2], "--force", "--wait")
            try machine.control("pool", "repair", "demo", "--wait")
            #expect(try machine.json("pool", "status", "demo")["health"] == .text("healthy"))
            try succeed("nbdcopy", [machine.uri("demo/files"), after])
            try succeed("cmp", [before, after])
            #expect(machine.terminate() == 0)
        }

        @Test(needs("qemu-io")) func destroyedSpaceIsGoneAndItsSuccessorIsEmpty() throws {
            try withSpace(size: "64M") { machine in
                try qemuIO(machine.uri("demo/files"), ["write -P 0x77 0 64M", "flush"])
                try machine.control("space", "destroy", "demo/files", "--yes")
                #expect(try machine.json("space", "ls")["spaces"] == .list([]))
                try machine.makeSpace("demo/files", size: "64M")
                try qemuIO(machine.uri("demo/files"), ["read -P 0 0 64M"])
            }
        }

        @Test func destroyedPoolGivesItsDisksBack() throws {
            try withMachine { machine in
                let disks = try machine.makePool()
                try machine.control("pool", "destroy", "demo", "--yes")
                let again = try machine.poolctl(["pool", "create", "other"] + disks)
                #expect(again.status == 0, "\(again.everything)")
            }
        }

        @Test(needs("qemu-io")) func addedDisksMakeRoom() throws {
            try withMachine { machine in
                try machine.makePool(disks: 2, size: "1G")
                let small = try machine.json("pool", "status", "demo")
                let added = machine.scratch.path("added")
                let finished = try machine.poolctl(
                    ["pool", "add", "demo", added, "--create-size", "4G"])
                #expect(finished.status == 0, "\(finished.everything)")
                let large = try machine.json("pool", "status", "demo")
                let before = try #require(small["capacity_bytes"]?.asInteger)
                let after = try #require(large["capacity_bytes"]?.asInteger)
                #expect(after >= before + (3 << 30))
                #expect(large["disks"]?.elements.count == 3)
            }
        }
    }
}
