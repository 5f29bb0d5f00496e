import PoolFormat
import Testing

@testable import PoolEngine

/// Spaces as the pool sees them: named, activated, given back.
@Suite struct PoolSpaceTests {
    private static let parameters = Pool.SpaceParameters(
        name: "data", sizeBytes: 1 << 30, resiliency: .mirror2)

    private func withSpace(_ world: PoolWorld) throws -> Pool {
        let pool = try #require(world.create(world.disks.indices)).get()
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(Self.parameters) }
        ).get()
        return pool
    }

    @Test(arguments: [1, 2]) func spaceOpensAtAHigherEpochEachTime(shards: Int) throws {
        let world = PoolWorld([1024, 1024], shards: shards)
        let pool = try withSpace(world)
        let space = try #require(pool.space(named: "data"))
        #expect(space.lineage == Lineage(1) && space.epoch == 1)
        #expect(pool.space(named: "other") == nil)
        let status = try #require(pool.status().spaces.first)
        #expect(status.handle == space.handle && status.reason == "" && status.epoch == 1)
        // Metadata only: a pool's worth of nothing.
        #expect(status.mappedBytes == 0)
        #expect(status.allocatedBytes > 0 && status.allocatedBytes <= 2 * 16 << 20)
        let taken = world.run { _ throws(PoolError) in
            try await pool.createSpace(Self.parameters)
        }
        #expect(taken?.error == .nameTaken("data"))
        for epoch in UInt64(2)...4 {
            world.powerCut(.mixed)
            let opened = try #require(world.open()).get()
            #expect(opened.space(named: "data")?.epoch == epoch)
            #expect(opened.status().spaces.first?.reason == "")
        }
    }

    @Test(arguments: [1, 2]) func destroyedSpaceGivesEverythingBack(shards: Int) throws {
        let world = PoolWorld([1024, 1024], shards: shards)
        let pool = try withSpace(world)
        #expect(pool.status().allocatedBytes > 0)
        try #require(
            world.run { _ throws(PoolError) in try await pool.destroySpace("data") }
        ).get()
        #expect(pool.status().allocatedBytes == 0 && pool.status().spaces.isEmpty)
        // The name may come back, the lineage does not.
        let again = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(Self.parameters) }
        ).get()
        #expect(again == Lineage(2))
    }

    /// Whatever is granted carries a lineage that the configuration has reserved.
    private func checkLineages(_ world: PoolWorld, _ cut: Int) throws {
        let members = world.allMembers
        let (highest, next) = try #require(
            world.run { engine throws(PoolError) in
                let found = try await Pool.readMembers(engine, members)
                let configuration = try Pool.choose(found, nil).configuration
                let pool = Pool(engine, configuration: configuration)
                var highest: UInt64 = 0
                for member in found {
                    let disk = member.makeDisk(configuration)
                    try await pool.loadTables(disk)
                    for slab in disk.metadataSlabs {
                        for entry in slab.table.entries where !entry.isFree {
                            highest = max(highest, entry.lineage.rawValue)
                        }
                    }
                }
                return (highest, configuration.nextLineage)
            }
        ).get()
        #expect(highest < next, "cut \(cut)")
    }

    @Test(arguments: [1, 2]) func spaceIsThereOrNot(shards: Int) throws {
        try PoolWorld.atEveryCut([1024, 1024], shards: shards) { world in
            try #require(world.create(0..<2)).get()
        } change: { pool, _ throws(PoolError) in
            try await pool.createSpace(Self.parameters)
        } check: { world, _, cut, ended in
            try checkLineages(world, cut)
            let pool = try #require(world.open()).get()
            let status = pool.status()
            #expect(!ended || status.spaces.count == 1)
            #expect(status.spaces.allSatisfy { $0.handle != nil }, "cut \(cut): \(status)")
            #expect((status.allocatedBytes == 0) == status.spaces.isEmpty, "cut \(cut)")
            // Whatever was left behind carries a lineage that is never used again.
            if status.spaces.isEmpty {
                let made = try #require(
                    world.run { _ throws(PoolError) in
                        try await pool.createSpace(Self.parameters)
                    }
                ).get()
                #expect(pool.space(named: "data")?.lineage == made)
            }
        }
    }

    @Test(arguments: [1, 2]) func destroyIsDoneOrNot(shards: Int) throws {
        try PoolWorld.atEveryCut([1024, 1024], shards: shards) { world in
            try withSpace(world)
        } change: { pool, _ throws(PoolError) in
            try await pool.destroySpace("data")
        } check: { world, _, cut, ended in
            let status = try #require(world.open()).get().status()
            #expect(!ended || status.spaces.isEmpty)
            #expect(status.spaces.allSatisfy { $0.handle != nil }, "cut \(cut): \(status)")
            #expect((status.allocatedBytes == 0) == status.spaces.isEmpty, "cut \(cut)")
        }
    }

    @Test(arguments: [1, 2]) func openingWithASpaceMayBeCut(shards: Int) throws {
        try PoolWorld.atEveryCut([1024, 1024], shards: shards) { world in
            _ = try withSpace(world)
            world.powerCut(.dropAll)
            return (world.allMembers, world.witness)
        } change: { state, engine throws(PoolError) in
            _ = try await Pool.open(engine, members: state.0, witness: state.1)
        } check: { world, _, cut, _ in
            let pool = try #require(world.open()).get()
            #expect(pool.status().spaces.map(\.reason) == [""], "cut \(cut)")
            #expect(try #require(pool.space(named: "data")).epoch >= 2)
        }
    }

    private func fail(_ world: PoolWorld, _ pool: Pool, _ index: Int) throws {
        world.disks[index].isBroken = true
        let device = DeviceIndex(UInt16(index))
        try #require(
            world.run { _ throws(PoolError) in
                await pool.deviceFailed(device, during: "during a write")
            }
        ).get()
        try #require(world.run { _ throws(PoolError) in await pool.refreshStatus() }).get()
    }

    @Test(arguments: [1, 2]) func mirrorServesWithoutADiskThatFailed(shards: Int) throws {
        let world = PoolWorld([1024, 1024], shards: shards)
        let pool = try withSpace(world)
        var expected = ExpectedBlocks()
        let space = try #require(pool.space(named: "data"))
        expected.write(world, space, 0..<4)
        try fail(world, pool, 1)
        let status = try #require(pool.status().spaces.first)
        #expect(status.reason == "" && status.lostDisks == [DiskNumber(2)])
        #expect(space.readOnlyReason == nil && pool.configuration.spaces[0].flags.isEmpty)
        let departure = try #require(pool.configuration.departures.first)
        #expect(departure.disk == DiskNumber(2) && departure.lineage == space.lineage)
        #expect(pool.configuration.departures.count == 1)
        expected.write(world, space, 2..<6)
        expected.check(world, space)
        // With the disk there again it catches up, and serves alone.
        world.disks[1].isBroken = false
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        expected.check(world, opened.space(named: "data"))
        #expect(world.untilCaughtUp(opened))
        world.disks[0].unplug()
        expected.check(world, opened.space(named: "data"))
    }

    @Test(arguments: [1, 2]) func failedDiskMakesASimpleSpaceReadOnly(shards: Int) throws {
        let world = PoolWorld([1024, 1024], shards: shards)
        let pool = try #require(world.create(world.disks.indices)).get()
        var parameters = Self.parameters
        parameters.resiliency = .simple
        let made = parameters
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(made) }
        ).get()
        try fail(world, pool, 1)
        let status = try #require(pool.status().spaces.first)
        #expect(status.reason == "disk2 failed during a write")
        #expect(status.lostDisks == [DiskNumber(2)])
        #expect(pool.space(named: "data")?.readOnlyReason == status.reason)
        #expect(pool.configuration.spaces[0].flags.contains(.readOnly))
        #expect(pool.configuration.departures.isEmpty)
        // It stays so over a restart without the disk, and ends with all disks here.
        world.powerCut(.dropAll)
        let opened = try #require(world.open(0..<1)).get()
        #expect(opened.space(named: "data")?.readOnlyReason == status.reason)
        world.disks[1].isBroken = false
        world.powerCut(.dropAll)
        let whole = try #require(world.open()).get()
        #expect(whole.space(named: "data")?.readOnlyReason == nil)
        #expect(whole.status().spaces.first?.reason == "")
    }

    @Test func closingIsCleanAndFinal() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try withSpace(world)
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        #expect(pool.space(named: "data") == nil)
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        #expect(opened.space(named: "data") != nil)
        try #require(world.run { _ throws(PoolError) in try await opened.export() }).get()
        world.powerCut(.dropAll)
        world.witness = nil
        #expect(try #require(world.open()).get().space(named: "data") != nil)
    }
}
