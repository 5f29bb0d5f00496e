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
            #expect(second.terminate() == 0)
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
