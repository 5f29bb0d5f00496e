import PoolFormat
import Testing

@testable import PoolEngine

/// One process with several engines: a pool at home on one, its spaces on all of them.
@Suite struct ShardTests {
    private static func parameters(_ name: String) -> Pool.SpaceParameters {
        Pool.SpaceParameters(name: name, sizeBytes: 1 << 30, resiliency: .mirror2)
    }

    /// The first space is on shard 0, the second on shard 1, which is the pool's home.
    private func twoSpaces(_ world: PoolWorld) throws -> Pool {
        let pool = try #require(world.create(world.disks.indices)).get()
        for name in ["far", "near"] {
            try #require(
                world.run { _ throws(PoolError) in
                    _ = try await pool.createSpace(Self.parameters(name))
                }
            ).get()
        }
        return pool
    }

    private func space(_ pool: Pool, _ name: String) throws -> Space {
        try #require(pool.space(named: name))
    }

    @Test func spacesAreSpreadAndServeFromTheirShard() throws {
        let world = PoolWorld([2048, 2048], shards: 2)
        var pool = try twoSpaces(world)
        #expect(pool.engine.shard == 1)
        for round in UInt8(1)...3 {
            let spaces = [try space(pool, "far"), try space(pool, "near")]
            #expect(spaces.map(\.engine.shard) == [0, 1])
            #expect(pool.status().spaces.map(\.shard) == [0, 1])
            for space in spaces {
                let value = round &* 16 &+ UInt8(space.engine.shard)
                #expect(world.perform(.write, space, 0, 65_536, data: value) == .ok)
                #expect(world.perform(.flush, space, 0) == .ok)
            }
            world.powerCut(.dropAll)
            pool = try #require(world.open()).get()
            for name in ["far", "near"] {
                let space = try space(pool, name)
                let value = round &* 16 &+ UInt8(space.engine.shard)
                #expect(world.bytes(space, 4096, 512) == Array(repeating: value, count: 512))
            }
        }
        #expect(world.engines.map { $0.spaces.compactMap { $0 }.count } == [1, 1])
    }

    @Test func statusAsksTheOtherShards() throws {
        let world = PoolWorld([2048, 2048], shards: 2)
        let pool = try twoSpaces(world)
        let far = try space(pool, "far")
        #expect(world.perform(.write, far, 0, 4096) == .ok)
        #expect(pool.status().spaces[0].mappedBytes == 0)
        try #require(world.run { _ throws(PoolError) in await pool.refreshStatus() }).get()
        #expect(pool.status().spaces[0].mappedBytes == 1 << 20)
    }

    /// Whoever sees it, every shard knows before the write it hit is answered.
    @Test(arguments: ["far", "near"]) func failureReachesEveryShard(name: String) throws {
        let world = PoolWorld([2048, 2048, 2048], shards: 2)
        let pool = try twoSpaces(world)
        let spaces = [try space(pool, "far"), try space(pool, "near")]
        for space in spaces {
            #expect(world.perform(.write, space, 0, 4096, flags: .fua) == .ok)
        }
        let hit = try space(pool, name)
        let group = try #require(hit.groupRecords.first)
        let lost = try #require(group.slabs.first).address.disk
        let device = try #require(pool.disk(lost)).device
        world.disks[Int(device.rawValue)].isBroken = true
        #expect(world.perform(.write, hit, 0, 4096, data: 7) == .ok)
        for space in spaces where pool.disk(lost)?.holds(space.lineage) == true {
            let departure = pool.configuration.departures.first { $0.lineage == space.lineage }
            #expect(departure?.disk == lost)
        }
        try #require(world.run { _ throws(PoolError) in await pool.recordFailures() }).get()
        for engine in world.engines { #expect(engine.failedDevices.contains(device)) }
        for space in spaces where pool.disk(lost)?.holds(space.lineage) == true {
            #expect(space.readOnlyReason == nil && space.departing.isEmpty)
            #expect(space.departed.index(of: lost) != nil)
            let old: UInt8 = space === hit ? 7 : 0
            #expect(world.bytes(space, 0, 4096) == Array(repeating: old, count: 4096))
            #expect(world.perform(.write, space, 0, 4096, flags: .fua, data: 9) == .ok)
            #expect(world.bytes(space, 0, 4096) == Array(repeating: 9, count: 4096))
        }
        #expect(pool.configuration.disks.contains { $0.state == .failed })
        #expect(pool.status().disks.contains { $0.errors.write > 0 })
    }

    /// A device index that was a failed disk's is another disk's after the next opening.
    @Test func openingTellsEveryShardWhatServes() throws {
        let world = PoolWorld([2048, 2048], shards: 2)
        _ = try #require(world.create(0..<2)).get()
        world.restart()
        for engine in world.engines {
            engine.failedDevices.insert(DeviceIndex(0))
            engine.discardRefused.remove(DeviceIndex(1))
        }
        _ = try #require(world.open()).get()
        for engine in world.engines {
            #expect(engine.failedDevices.isEmpty)
            #expect(engine.discardRefused.contains(DeviceIndex(1)))
        }
    }

    @Test func closingAndDestroyingReachTheSpace() throws {
        let world = PoolWorld([2048, 2048], shards: 2)
        let pool = try twoSpaces(world)
        let far = try space(pool, "far")
        #expect(world.perform(.write, far, 0, 4096) == .ok)
        try #require(
            world.run { _ throws(PoolError) in try await pool.destroySpace("far") }
        ).get()
        #expect(world.perform(.read, far, 0, 4096) == .shutdown)
        #expect(world.engines[0].spaces.allSatisfy { $0 == nil })
        #expect(pool.engine.spacesPlaced == [0, 1])
        // The next one takes its place.
        try #require(
            world.run { _ throws(PoolError) in
                _ = try await pool.createSpace(Self.parameters("next"))
            }
        ).get()
        #expect(try space(pool, "next").engine.shard == 0)
        try #require(world.run { _ throws(PoolError) in try await pool.export() }).get()
        #expect(pool.engine.spacesPlaced == [0, 0])
        for engine in world.engines { #expect(engine.spaces.allSatisfy { $0 == nil }) }
    }

    /// What a space was granted from afar goes back, and its errors are counted at home.
    @Test func farSpaceGivesGroupsBack() throws {
        let world = PoolWorld([2048, 2048], shards: 2)
        let pool = try twoSpaces(world)
        let far = try space(pool, "far")
        #expect(world.perform(.write, far, 0, 1 << 20) == .ok)
        #expect(world.perform(.flush, far, 0) == .ok)
        let allocated = pool.status().allocatedBytes
        #expect(world.perform(.trim, far, 0, 1 << 20) == .ok)
        #expect(world.perform(.flush, far, 0) == .ok)
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        #expect(pool.status().allocatedBytes == allocated - UInt64(2) << 28)
    }

    @Test func aStoppedShardAnswersNothing() throws {
        let world = PoolWorld([2048, 2048], shards: 2)
        let answers: @Sendable (Engine, Int) async throws(PoolError) -> Int = {
            engine, shard throws(PoolError) in try await engine.on(shard) { $0.shard }
        }
        let answer = world.run { engine throws(PoolError) in try await answers(engine, 0) }
        #expect(try #require(answer).get() == 0)
        world.engines[0].stop()
        let refused = world.run { engine throws(PoolError) in try await answers(engine, 0) }
        #expect(refused?.error == .stopped)
        // At home it is a plain call.
        let own = world.run { engine throws(PoolError) in try await answers(engine, 1) }
        #expect(try #require(own).get() == 1)
    }

    /// The power goes between any two operations of two shards: what was flushed is there.
    @Test func powerCutsHitAllShardsAtOnce() throws {
        try PoolWorld.atEveryCut([2048, 2048], shards: 2) { world in
            let pool = try twoSpaces(world)
            let far = try space(pool, "far")
            #expect(world.perform(.write, far, 0, 4096, flags: .fua, data: 7) == .ok)
            return pool
        } change: { pool, _ throws(PoolError) in
            try await pool.destroySpace("near")
        } check: { world, _, cut, ended in
            let pool = try #require(world.open()).get()
            let far = try space(pool, "far")
            #expect(world.bytes(far, 0, 512) == Array(repeating: 7, count: 512), "cut \(cut)")
            #expect(pool.status().spaces.allSatisfy { $0.handle != nil }, "cut \(cut)")
            if ended { #expect(pool.status().spaces.map(\.name) == ["far"]) }
        }
    }
}
