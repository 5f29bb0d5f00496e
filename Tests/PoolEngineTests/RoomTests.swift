import PoolFormat
import Testing

@testable import PoolEngine

/// A pool that fills up, and room that comes back.
@Suite struct RoomTests {
    private static let grain = UInt64(Units.grainBytes)
    private static let slab = UInt64(Units.slabBytes)

    private func makePool(_ world: PoolWorld) throws -> Pool {
        try #require(world.create(world.disks.indices)).get()
    }

    /// One column, so that a slab group has 256 grains.
    @discardableResult
    private func makeSpace(
        _ world: PoolWorld, _ pool: Pool, _ name: String, _ whenFull: WhenFull = .enospc,
        _ resiliency: ResiliencyKind = .simple
    ) throws -> Space {
        let parameters = Pool.SpaceParameters(
            name: name, sizeBytes: 64 << 30, resiliency: resiliency, columns: 1,
            whenFull: whenFull)
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(parameters) }
        ).get()
        return try #require(pool.space(named: name))
    }

    /// One block in each of the first grains.
    private func write(_ world: PoolWorld, _ space: Space, grains: Range<UInt64>) {
        for grain in grains {
            let data = UInt8(truncatingIfNeeded: grain % 251 + 1)
            #expect(world.perform(.write, space, grain * Self.grain, 4096, data: data) == .ok)
        }
    }

    private func check(
        _ world: PoolWorld, _ space: Space, grains: some Sequence<UInt64>
    ) {
        for grain in grains {
            let data = UInt8(truncatingIfNeeded: grain % 251 + 1)
            #expect(
                world.bytes(space, grain * Self.grain, 4096)
                    == Array(repeating: data, count: 4096))
        }
    }

    private func trim(_ world: PoolWorld, _ space: Space, grains: some Sequence<UInt64>) {
        for grain in grains {
            #expect(world.perform(.trim, space, grain * Self.grain, UInt32(Self.grain)) == .ok)
        }
        #expect(world.perform(.flush, space, 0) == .ok)
    }

    /// Lets simulated time pass, and whatever is due happen.
    private func pass(_ world: PoolWorld, _ space: Space, ns: UInt64) {
        let end = world.nowNs + ns
        while world.nowNs < end, world.step() {}
    }

    private func groups(_ pool: Pool) -> Int {
        pool.spaces.reduce(0) { $0 + $1.groupRecords.count }
    }

    // MARK: - compaction

    @Test(arguments: [ResiliencyKind.simple, .mirror2])
    func sparseGroupsAreEmptiedAndGoBack(_ resiliency: ResiliencyKind) throws {
        let world = PoolWorld([2048, 2048])
        let pool = try makePool(world)
        let space = try makeSpace(world, pool, "s", .enospc, resiliency)
        write(world, space, grains: 0..<768)
        #expect(groups(pool) == 3)
        trim(world, space, grains: stride(from: UInt64(1), to: 768, by: 3))
        trim(world, space, grains: stride(from: UInt64(2), to: 768, by: 3))
        pass(world, space, ns: 60_000_000_000)
        #expect(groups(pool) == 1)
        #expect(space.counters.movedGrains >= 160 && space.counters.movedGrains < 256)
        check(world, space, grains: stride(from: UInt64(0), to: 768, by: 3))
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        let again = try #require(opened.space(named: "s"))
        #expect(again.groupRecords.count == 1 && again.mappedBytes == 256 * Self.grain)
        check(world, again, grains: stride(from: UInt64(0), to: 768, by: 3))
    }

    @Test func aSpaceKeepsLessThanOneGroupOfFreeGrains() throws {
        let world = PoolWorld([4096])
        let pool = try makePool(world)
        let space = try makeSpace(world, pool, "s")
        write(world, space, grains: 0..<512)
        trim(world, space, grains: 0..<255)
        pass(world, space, ns: 60_000_000_000)
        // 257 grains need two groups.
        #expect(groups(pool) == 2 && space.counters.movedGrains == 0)
        trim(world, space, grains: 255..<256)
        pass(world, space, ns: 60_000_000_000)
        #expect(groups(pool) == 1)
        check(world, space, grains: 256..<512)
    }

    @Test func aWriteUnderWayMakesAMoveStale() throws {
        let world = PoolWorld([4096])
        let pool = try makePool(world)
        let space = try makeSpace(world, pool, "s")
        write(world, space, grains: 0..<512)
        trim(world, space, grains: 0..<128)
        trim(world, space, grains: 256..<448)
        // Every time a grain is being copied, somebody writes to it.
        var rewritten: Set<UInt64> = []
        let end = world.nowNs + 60_000_000_000
        while world.nowNs < end, world.step() {
            guard let grain = space.moving.keys.first, rewritten.insert(grain).inserted else {
                continue
            }
            #expect(
                world.perform(.write, space, grain * Self.grain + 8192, 4096, data: 255) == .ok)
        }
        #expect(groups(pool) == 1 && rewritten.count >= 64)
        check(world, space, grains: 128..<256)
        check(world, space, grains: 448..<512)
        for grain in rewritten {
            #expect(
                world.bytes(space, grain * Self.grain + 8192, 4096)
                    == Array(repeating: 255, count: 4096))
        }
    }

    @Test func aMoveIsSafeAtEveryCut() throws {
        try PoolWorld.atEveryCut([2048, 2048], every: 13) { world in
            let pool = try makePool(world)
            let space = try makeSpace(world, pool, "s", .enospc, .mirror2)
            write(world, space, grains: 0..<260)
            trim(world, space, grains: 0..<252)
            return space
        } change: { space, engine throws(PoolError) in
            space.reclaim()
            while !engine.isStopped, space.groupRecords.count > 1 { await space.released.wait() }
        } check: { world, _, _, ended in
            let pool = try #require(world.open()).get()
            let space = try #require(pool.space(named: "s"))
            #expect(!ended || space.groupRecords.count == 1)
            #expect(space.mappedBytes == 8 * Self.grain)
            check(world, space, grains: 252..<260)
            // Nothing was leaked: with the space goes all that was allocated.
            try #require(
                world.run { _ throws(PoolError) in try await pool.destroySpace("s") }
            ).get()
            #expect(pool.status().allocatedBytes == 0)
        }
    }

    // MARK: - a full pool

    /// A pool of one disk, full but for what metadata needs.
    private func full(_ whenFull: WhenFull) throws -> (PoolWorld, Pool, Space, grains: UInt64) {
        let world = PoolWorld([1536, 1536])
        let pool = try #require(world.create(0..<1)).get()
        let space = try makeSpace(world, pool, "s", .enospc)
        var grain: UInt64 = 0
        while world.perform(.write, space, grain * Self.grain, 4096, data: UInt8(grain % 251 + 1))
            == .ok
        {
            grain += 1
        }
        #expect(grain >= 256 && grain % 256 == 0)
        space.whenFull = whenFull
        return (world, pool, space, grain)
    }

    @Test func aFullPoolRefusesNewRoomAndNothingElse() throws {
        let (world, pool, space, grains) = try full(.enospc)
        #expect(world.perform(.write, space, grains * Self.grain, 4096, data: 9) == .noSpace)
        #expect(
            world.perform(.writeZeroes, space, grains * Self.grain, 4096, flags: .noHole)
                == .noSpace)
        #expect(world.perform(.write, space, 8192, 8192, flags: .fua, data: 7) == .ok)
        #expect(world.perform(.trim, space, 12288, 1024) == .ok)
        #expect(world.perform(.flush, space, 0) == .ok)
        #expect(pool.status().spaces.first?.reason == "")
        check(world, space, grains: 0..<grains)
        // One trimmed grain is room for one write, though nobody has flushed.
        #expect(world.perform(.trim, space, 0, UInt32(Self.grain)) == .ok)
        #expect(world.perform(.write, space, grains * Self.grain, 4096, data: 9) == .ok)
    }

    @Test func aParkedWriteHoldsNothingAndGoesOnWhenADiskComes() throws {
        let (world, pool, space, grains) = try full(.wait)
        let waiting = world.submit(.write, space, grains * Self.grain, 4096, flags: .fua, data: 9)
        let zeroes = world.submit(
            .writeZeroes, space, (grains + 1) * Self.grain + 512, 8192, flags: .noHole)
        // Its range, the flush, reads and other writes are free meanwhile.
        #expect(world.perform(.flush, space, 0) == .ok)
        #expect(
            world.bytes(space, grains * Self.grain, 4096) == Array(repeating: 0, count: 4096))
        #expect(world.perform(.write, space, 0, 4096, data: 1) == .ok)
        #expect(space.waitingWrites == 2 && world.peek(waiting.cookie) == nil)
        #expect(world.peek(zeroes.cookie) == nil)
        let disks = world.members(1..<2)
        try #require(
            world.run { _ throws(PoolError) in try await pool.addDisks(disks) }
        ).get()
        #expect(world.reply(waiting.cookie)?.status == .ok)
        #expect(world.reply(zeroes.cookie)?.status == .ok)
        #expect(space.waitingWrites == 0)
        world.powerCut(.dropAll)
        let again = try #require(world.open()?.get().space(named: "s"))
        #expect(
            world.bytes(again, grains * Self.grain, 4096) == Array(repeating: 9, count: 4096))
    }

    @Test func aParkedWriteGoesOnAfterATrimOrADestroyedSpace() throws {
        let (world, pool, space, grains) = try full(.wait)
        let first = world.submit(.write, space, grains * Self.grain, 4096, data: 9)
        #expect(world.perform(.flush, space, 0) == .ok)
        #expect(world.perform(.trim, space, 0, UInt32(Self.grain)) == .ok)
        #expect(world.reply(first.cookie)?.status == .ok)
        // Another space waits for the whole of the first.
        let other = try makeSpace(world, pool, "other", .wait)
        let second = world.submit(.write, other, 0, 4096, data: 8)
        world.finishUnderWay()
        #expect(other.waitingWrites == 1)
        try #require(
            world.run { _ throws(PoolError) in try await pool.destroySpace("s") }
        ).get()
        #expect(world.reply(second.cookie)?.status == .ok)
    }

    @Test func aParkedWriteFailsWhenItsTimeIsOver() throws {
        let (world, _, space, grains) = try full(.wait)
        let start = world.nowNs
        let waiting = world.submit(.write, space, grains * Self.grain, 4096, data: 9)
        #expect(world.reply(waiting.cookie)?.status == .noSpace)
        let waited = world.nowNs - start
        #expect(waited >= 60_000_000_000 && waited < 61_000_000_000)
        #expect(space.waitingWrites == 0)
    }

    @Test func parkedWritesAreBounded() throws {
        let (world, _, space, grains) = try full(.wait)
        let bound = world.engine.limits.parkedWrites
        for number in 0..<UInt64(bound) {
            let waiting = world.submit(
                .writeZeroes, space, (grains + number) * Self.grain, 4096, flags: .noHole)
            world.finishUnderWay()
            #expect(world.peek(waiting.cookie) == nil)
        }
        #expect(space.waitingWrites == bound)
        #expect(
            world.perform(.writeZeroes, space, 60 << 30, 4096, flags: .noHole) == .noSpace)
        // Closing tells them all, and leaves nothing behind.
        let pool = space.pool
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        #expect(space.waitingWrites == 0)
    }

    @Test func anotherSpaceGetsTheRoomThatTrimsLeaveScattered() throws {
        let (world, pool, space, grains) = try full(.enospc)
        trim(world, space, grains: stride(from: UInt64(0), to: grains, by: 2))
        // At once, without waiting for the compactor's own time.
        let other = try makeSpace(world, pool, "other")
        let start = world.nowNs
        #expect(world.perform(.write, other, 0, 4096, data: 8) == .ok)
        #expect(world.nowNs - start < 5_000_000_000)
        #expect(world.bytes(other, 0, 4096) == Array(repeating: 8, count: 4096))
        check(world, space, grains: stride(from: UInt64(1), to: grains, by: 2))
    }
}
