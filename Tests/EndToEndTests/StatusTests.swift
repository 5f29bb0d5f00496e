import Foundation
import Testing

extension EndToEnd {
    /// The JSON keys other programs rely on, and figures that follow what happened.
    @Suite struct Status {
        @Test func poolStatusHasItsKeys() throws {
            try withSpace { machine in
                let pool = try machine.json("pool", "status", "demo")
                let wanted: Set = [
                    "version", "name", "uuid", "health", "capacity_bytes", "allocated_bytes",
                    "free_bytes", "disks", "spaces", "jobs",
                ]
                #expect(wanted.subtracting(pool.keys) == [])
                #expect(pool["name"] == .text("demo"))
                #expect(pool["health"] == .text("healthy"))
                let disks = try #require(pool["disks"]).elements
                #expect(disks.count == 4)
                for disk in disks {
                    let keys: Set = [
                        "name", "path", "uuid", "media", "state", "size_bytes",
                        "allocated_bytes", "errors",
                    ]
                    #expect(keys.subtracting(disk.keys) == [])
                    #expect(disk["state"] == .text("online"))
                    #expect(disk["size_bytes"] == .integer(4 << 30))
                    #expect(disk["errors"]?.keys == ["read", "write", "checksum"])
                }
            }
        }

        @Test func spaceStatusHasItsKeys() throws {
            try withSpace(size: "1G") { machine in
                let space = try machine.json("space", "status", "demo/files")
                let wanted: Set = [
                    "version", "name", "size_bytes", "resiliency", "provisioning", "health",
                    "reason", "action", "allocated_bytes", "mapped_bytes", "columns",
                    "write_cache_bytes", "write_cache_dirty_bytes", "tiers", "connections",
                    "owner", "epoch",
                ]
                #expect(wanted.subtracting(space.keys) == [])
                #expect(space["size_bytes"] == .integer(1 << 30))
                #expect(space["resiliency"] == .text("mirror2"))
                #expect(space["provisioning"] == .text("thin"))
                #expect(space["mapped_bytes"] == .integer(0))
                #expect(space["write_cache_bytes"] == .integer(0))
                let allocated = try #require(space["allocated_bytes"]?.asInteger)
                #expect(allocated <= 2 * (16 << 20), "an empty thin space takes 16 MiB a copy")
            }
        }

        @Test(needs("qemu-io")) func figuresFollowWritesAndTrims() throws {
            try withSpace(size: "1G") { machine in
                let uri = machine.uri("demo/files")
                try qemuIO(uri, ["write -P 1 0 64M", "flush"])
                let full = try machine.json("space", "status", "demo/files")
                #expect(full["mapped_bytes"] == .integer(64 << 20))
                #expect(try #require(full["allocated_bytes"]?.asInteger) >= 2 * (64 << 20))
                try qemuIO(uri, ["discard 0 64M", "flush"])
                let empty = try eventually(within: 20) {
                    let status = try machine.json("space", "status", "demo/files")
                    return status["mapped_bytes"] == .integer(0)
                }
                #expect(empty, "20 s after a trim and a flush, grains are still mapped")
                try qemuIO(uri, ["read -P 0 0 64M"])
            }
        }

        @Test func listsStandUnderTheirPlural() throws {
            try withSpace { machine in
                let pools = try machine.json("pool", "ls")
                let spaces = try machine.json("space", "ls")
                let disks = try machine.json("disk", "ls", "demo")
                #expect(pools["pools"]?.elements.count == 1)
                #expect(spaces["spaces"]?.elements.count == 1)
                #expect(disks["disks"]?.elements.count == 4)
            }
        }

        /// A pool that fills up loses nothing, takes nothing offline, and resumes by itself.
        @Test(needs("qemu-io")) func fullPoolKeepsServing() throws {
            try withMachine { machine in
                try machine.makePool(disks: 2, size: "1G")
                try machine.control(
                    "space", "create", "demo/big", "--size", "8G", "--resiliency", "simple",
                    "--when-full", "enospc")
                let uri = machine.uri("demo/big")
                try qemuIO(uri, ["write -P 1 0 64M", "flush"])
                var filled = 64
                while filled < 4096 {
                    let finished = try run(
                        "qemu-io", ["-f", "raw", "-c", "write -P 2 \(filled)M 64M", uri])
                    if finished.status != 0 || finished.everything.contains("failed") {
                        #expect(finished.everything.contains("No space left on device"))
                        break
                    }
                    filled += 64
                }
                #expect(filled < 4096, "2 GiB of disks took \(filled) MiB")
                // Mapped addresses keep working, trims make room, writes resume.
                try qemuIO(uri, ["read -P 1 0 64M", "write -P 3 0 64M", "read -P 3 0 64M"])
                try qemuIO(uri, ["discard 64M 64M", "flush", "write -P 4 7G 16M", "flush"])
                try qemuIO(uri, ["read -P 4 7G 16M", "read -P 0 64M 64M"])
            }
        }
    }
}
