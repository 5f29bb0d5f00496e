import PoolFormat
import Testing

@testable import PoolEngine

/// A parity space with a write-back cache, at moments that are too narrow for a simulator to meet.
@Suite struct CachedSpaceTests {
    private struct Cached {
        let world = PoolWorld([2048, 2048, 2048])
        let pool: Pool
        let space: Space

        init() throws {
            pool = try world.makePool([("p", .parity1)], cacheBytes: 4 << 20)
            space = try #require(pool.space(named: "p"))
        }

        func write(_ blocks: Range<UInt64>, data: UInt8) {
            let (first, count) = (blocks.lowerBound * 4096, UInt32(blocks.count * 4096))
            #expect(world.perform(.write, space, first, count, data: data) == .ok)
        }

        func flush() { #expect(world.perform(.flush, space, 0) == .ok) }

        func setCache(bytes: UInt64) throws {
            let change = Pool.SpaceChange(writeCacheBytes: bytes)
            let pool = pool
            try #require(
                world.run { _ throws(PoolError) in try await pool.changeSpace("p", change) }
            ).get()
        }

        func destage(_ grain: UInt64) -> Space.Destaged? {
            let space = space
            return try? world.run { _ throws(PoolError) in await space.destage(grain: grain) }?.get()
        }
    }

    /// What lets a read of two disks fail may pass: it takes nothing away that a later one finds.
    @Test func whatCannotBeReadForAWhileIsNotLost() throws {
        let cached = try Cached()
        cached.write(0..<4, data: 1)
        cached.flush()
        let slot = try #require(cached.space.cache.slot(ofBlock: 2))
        for copy in 0..<2 {
            let base = cached.space.cache.base(slot, copy: copy)
            cached.world.disks[Int(base.disk.rawValue) - 1].unreadable.insert(base.offsetBytes)
        }
        #expect(cached.destage(0) == .unreadable)
        #expect(cached.space.cache.slots(ofGrain: 0).count == 4)
        for disk in cached.world.disks { disk.unreadable.removeAll() }
        #expect(cached.destage(0) == .done)
        #expect(cached.space.cache.isEmpty)
        #expect(cached.world.bytes(cached.space, 0, 4 * 4096) == Array(repeating: 1, count: 4 * 4096))
    }

    /// An export leaves the cache empty, and the pool to whoever imports it.
    @Test func nothingLiesInTheCacheOfAPoolThatWasClosed() throws {
        let cached = try Cached()
        cached.write(0..<4, data: 1)
        cached.write(300..<301, data: 2)
        cached.flush()
        #expect(cached.space.cache.blockCount == 5)
        let pool = cached.pool
        try #require(
            cached.world.run { _ throws(PoolError) in try await pool.close() }
        ).get()
        let again = try #require(cached.world.open()).get()
        let space = try #require(again.space(named: "p"))
        #expect(space.cache.isEmpty && space.cache.pieceCount > 0)
        #expect(cached.world.bytes(space, 0, 4 * 4096) == Array(repeating: 1, count: 4 * 4096))
        #expect(cached.world.bytes(space, 300 * 4096, 4096) == Array(repeating: 2, count: 4096))
        #expect(again.audit() == [])
    }

    /// Larger, smaller, and none at all, with something in it.
    @Test func aCacheThatIsMadeSmallerGoesBack() throws {
        let cached = try Cached()
        cached.write(0..<200, data: 1)
        try cached.setCache(bytes: 1 << 20)
        let space = cached.space
        #expect(cached.world.untilTrue { space.cache.pieceCount == 1 })
        cached.write(100..<104, data: 2)
        #expect(space.cache.slot(ofBlock: 100) != nil)
        try cached.setCache(bytes: 0)
        #expect(cached.world.untilTrue { space.cache.pieceCount == 0 })
        #expect(space.pieces.pieceCount(.cache) > 0)
        #expect(cached.world.untilTrue { cached.pool.audit() == [] })
        cached.write(101..<102, data: 3)
        #expect(space.cache.isEmpty)
        let wanted = (0..<200).map { UInt8($0 == 101 ? 3 : (100..<104).contains($0) ? 2 : 1) }
        let found = cached.world.bytes(space, 0, 200 * 4096)
        #expect(found == wanted.flatMap { Array(repeating: $0, count: 4096) })
    }

    /// The same where the daemon ends before it has all gone back.
    @Test func aCacheThatWasMadeSmallerGoesBackAfterARestart() throws {
        let cached = try Cached()
        cached.write(0..<4, data: 1)
        cached.flush()
        try cached.setCache(bytes: 0)
        cached.world.restart()
        let pool = try #require(cached.world.open()).get()
        let space = try #require(pool.space(named: "p"))
        #expect(cached.world.untilTrue { space.cache.pieceCount == 0 && pool.audit() == [] })
        #expect(cached.world.bytes(space, 0, 4 * 4096) == Array(repeating: 1, count: 4 * 4096))
    }

    /// A fresh stripe that is not flushed is missed by a disk that leaves, though everything that was
    /// written to it lies in the cache by then: a crash may find the record of the stripe alone.
    @Test func whatIsCachedSinceIsMissedOfItsStripeAllTheSame() throws {
        let cached = try Cached()
        let space = cached.space
        space.cache.pieceLimit = 0
        cached.write(0..<4, data: 1)
        #expect(space.cache.isEmpty && space.pending.blocks.count == 4)
        space.cache.pieceLimit = 4
        cached.write(0..<4, data: 2)
        #expect(space.cache.blockCount == 4 && space.pending.blocks.count == 4)
        cached.world.disks[0].unplug()
        space.noteDeparting(DiskNumber(1), "a test")
        let index = try #require(space.departed.index(of: DiskNumber(1)))
        #expect(space.departed[index].missed.mask(ofGrain: 0) != nil)
    }
}
