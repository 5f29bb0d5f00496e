import PoolFormat
import Testing

@testable import PoolEngine

/// What an owner changes while the pool is in use: whole or not at all, and there after a restart.
@Suite struct PoolSettingsTests {
    private static let thresholds = PoolSettings.Thresholds(notice: 10, warning: 20, critical: 30)

    private func make(_ sizesMiB: [Int] = [1024, 1024]) throws -> (PoolWorld, Pool) {
        let world = PoolWorld(sizesMiB)
        let pool = try #require(world.create(world.disks.indices)).get()
        _ = try #require(
            world.run { _ throws(PoolError) in
                try await pool.createSpace(
                    .init(name: "data", sizeBytes: 1 << 30, resiliency: .mirror2))
            }
        ).get()
        return (world, pool)
    }

    @Test func settingsAreThereAfterARestart() throws {
        let (world, pool) = try make()
        #expect(pool.configuration.settings == PoolSettings())
        let made = try #require(pool.space(named: "data"))
        #expect(made.compacts && made.whenFull == .wait)
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.changeSettings { $0.chosenThresholds = Self.thresholds }
                try await pool.changeSettings { $0.chosenCompaction = false }
                try await pool.changeDisk(
                    DiskNumber(2), .init(mediaClass: .hdd, enclosure: "e", rack: "r"))
                try await pool.changeDisk(DiskNumber(2), .init(node: "n", rack: ""))
                try await pool.changeSpace("data", .init(name: "files", whenFull: .enospc))
            }
        ).get()
        #expect(!made.compacts && made.whenFull == .enospc)
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        let settings = opened.configuration.settings
        #expect(settings.thresholds == Self.thresholds && !settings.compaction)
        let disk = opened.configuration.disks[1]
        #expect(disk.mediaClass == .hdd)
        #expect([disk.enclosure, disk.node, disk.rack] == ["e", "n", ""])
        #expect(opened.configuration.disks[0].mediaClass == .ssd)
        let space = try #require(opened.space(named: "files"))
        #expect(opened.space(named: "data") == nil && space.lineage == Lineage(1))
        #expect(opened.status().spaces[0].whenFull == .enospc)
        #expect(!space.compacts && space.whenFull == .enospc)
    }

    @Test func aChangeIsThereOrNotWhereverItIsCut() throws {
        try PoolWorld.atEveryCut([1024, 1024]) { world in
            try #require(world.create(0..<2)).get()
        } change: { pool, _ throws(PoolError) in
            try await pool.changeSettings {
                $0.chosenThresholds = Self.thresholds
                $0.chosenCompaction = false
            }
        } check: { world, _, cut, ended in
            let settings = try #require(world.open()).get().configuration.settings
            let whole = PoolSettings(
                chosenThresholds: Self.thresholds, chosenCompaction: false)
            #expect(settings == whole || !ended && settings == PoolSettings(), "cut \(cut)")
        }
    }

    @Test func whatIsRefusedChangesNothing() throws {
        let (world, pool) = try make()
        _ = try #require(
            world.run { _ throws(PoolError) in
                try await pool.createSpace(
                    .init(name: "other", sizeBytes: 1 << 30, resiliency: .simple))
            }
        ).get()
        let before = pool.configuration
        let long = String(repeating: "x", count: 65)
        let refused: [(PoolError?, @Sendable () async throws(PoolError) -> Void)] = [
            (nil, { () async throws(PoolError) in
                try await pool.changeSettings {
                    $0.chosenThresholds = .init(notice: 90, warning: 80, critical: 95)
                }
            }),
            (nil, { () async throws(PoolError) in
                try await pool.changeDisk(DiskNumber(1), .init(mediaClass: .ssd, rack: long))
            }),
            (.diskUnknown(DiskNumber(9)), { () async throws(PoolError) in
                try await pool.changeDisk(DiskNumber(9), .init(rack: "r"))
            }),
            (.nameUnknown("none"), { () async throws(PoolError) in
                try await pool.changeSpace("none", .init(whenFull: .enospc))
            }),
            (.nameTaken("other"), { () async throws(PoolError) in
                try await pool.changeSpace("data", .init(name: "other", whenFull: .enospc))
            }),
            (.badSpaceName(long), { () async throws(PoolError) in
                try await pool.changeSpace("data", .init(name: long))
            }),
        ]
        for (index, (error, change)) in refused.enumerated() {
            let result = try #require(
                world.run { _ throws(PoolError) in try await change() })
            let thrown = try #require(result.error, "change \(index) was not refused")
            #expect(error == nil || thrown == error)
            #expect(pool.configuration == before, "change \(index)")
        }
        // Its own name is no clash.
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.changeSpace("data", .init(name: "data"))
            }
        ).get()
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        let closed = world.run { _ throws(PoolError) in try await pool.changeSettings { _ in } }
        #expect(closed?.error == .closed(pool: "tank"))
    }

    /// A write that waits for room, and a policy that changes meanwhile.
    @Test func aWriteThatWaitsHearsOfTheNewPolicy() throws {
        let world = PoolWorld([1024])
        let pool = try #require(world.create(0..<1)).get()
        _ = try #require(
            world.run { _ throws(PoolError) in
                try await pool.createSpace(
                    .init(name: "data", sizeBytes: 8 << 30, resiliency: .simple))
            }
        ).get()
        let space = try #require(pool.space(named: "data"))
        // Every slab, a grain each.
        while pool.disks[0].grantableSlabs > 0 {
            _ = try #require(
                world.run { _ throws(PoolError) in
                    try await pool.grantGroup(
                        lineage: Lineage(99), id: 0, layout: .simple, columns: 1,
                        unitBytes: 256 << 10)
                }
            ).get()
        }
        let waiting = world.submit(.write, space, 0, 4096, data: 7)
        // Anything that takes some turns; none of them lasts long.
        for _ in 0..<20 where space.waitingWrites == 0 {
            try #require(
                world.run { _ throws(PoolError) in try await pool.changeSettings { _ in } }
            ).get()
        }
        #expect(pool.status().spaces[0].waitingWrites == 1)
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.changeSpace("data", .init(whenFull: .enospc))
            }
        ).get()
        #expect(world.reply(waiting.cookie)?.status == .noSpace)
        #expect(world.nowNs < world.engine.limits.parkNs, "it waited until its time was over")
        #expect(pool.status().spaces[0].waitingWrites == 0)
    }

    @Test func grantsGoByTagsAndMediaAsTheyAreNow() throws {
        let world = PoolWorld([4096, 4096, 4096, 4096])
        let pool = try #require(world.create(0..<4)).get()
        func grant(_ id: UInt32) throws -> GroupRecord {
            try #require(
                world.run { _ throws(PoolError) in
                    try await pool.grantGroup(
                        lineage: Lineage(9), id: id, layout: .mirror2, columns: 1,
                        unitBytes: 256 << 10)
                }
            ).get()
        }
        let first = try grant(0)
        #expect(first.slabs.map(\.address.disk) == [DiskNumber(1), DiskNumber(2)])
        #expect(first.mediaClass == .ssd)
        try #require(
            world.run { _ throws(PoolError) in
                for number: UInt16 in 1...4 {
                    try await pool.changeDisk(
                        DiskNumber(number),
                        .init(mediaClass: .hdd, enclosure: number < 4 ? "left" : "right"))
                }
            }
        ).get()
        for id: UInt32 in 1...4 {
            let group = try grant(id)
            #expect(group.mediaClass == .hdd)
            #expect(group.slabs.contains { $0.address.disk == DiskNumber(4) }, "\(group.slabs)")
        }
    }
}
