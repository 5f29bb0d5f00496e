import PoolFormat
import Testing

@testable import PoolEngine

/// Spaces that change their size, fixed spaces, and metadata that describes nothing any more.
@Suite struct ResizeTests {
    private static let grain = UInt64(Units.grainBytes)

    private func makeSpace(
        _ world: PoolWorld, _ pool: Pool, _ name: String = "s", grains: UInt64,
        flags: SpaceFlags = [], _ resiliency: ResiliencyKind = .simple
    ) throws -> Space {
        let parameters = Pool.SpaceParameters(
            name: name, sizeBytes: grains * Self.grain, resiliency: resiliency, columns: 1,
            flags: flags, whenFull: .enospc)
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(parameters) }
        ).get()
        return try #require(pool.space(named: name))
    }

    private func resize(
        _ world: PoolWorld, _ pool: Pool, grains: UInt64, shrink: Bool = false
    ) -> PoolError? {
        world.run { _ throws(PoolError) in
            try await pool.resizeSpace(
                "s", sizeBytes: grains * Self.grain, allowShrink: shrink)
        }?.error
    }

    private func holds(_ world: PoolWorld, _ space: Space, _ grain: UInt64, _ data: UInt8) -> Bool {
        world.bytes(space, grain * Self.grain, 4096) == Array(repeating: data, count: 4096)
    }

    // MARK: - sizes

    @Test func aSpaceGrowsWhileItIsUsed() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try #require(world.create(0..<2)).get()
        let space = try makeSpace(world, pool, grains: 100, .mirror2)
        #expect(world.perform(.write, space, 99 * Self.grain, 4096, data: 1) == .ok)
        #expect(world.perform(.write, space, 100 * Self.grain, 4096, data: 2) == .invalid)
        let under = world.submit(.write, space, 98 * Self.grain, 4096, flags: .fua, data: 3)
        #expect(resize(world, pool, grains: 70_000) == nil)
        #expect(world.reply(under.cookie)?.status == .ok)
        #expect(pool.status().spaces.first?.sizeBytes == 70_000 * Self.grain)
        #expect(world.perform(.write, space, 69_999 * Self.grain, 4096, flags: .fua, data: 2) == .ok)
        #expect(
            world.perform(.write, space, 69_999 * Self.grain + 8192, 4096, data: 9) == .ok)
        world.powerCut(.dropAll)
        let again = try #require(world.open()?.get().space(named: "s"))
        #expect(holds(world, again, 69_999, 2) && holds(world, again, 98, 3))
        #expect(again.sizeBytes == 70_000 * Self.grain)
    }

    @Test func aSpaceShrinksOverAnUnmappedTailOnly() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try #require(world.create(0..<2)).get()
        let space = try makeSpace(world, pool, grains: 60_000, .mirror2)
        #expect(world.perform(.write, space, 5 * Self.grain, 4096, data: 1) == .ok)
        #expect(world.perform(.write, space, 59_999 * Self.grain, 4096, data: 2) == .ok)
        // An overwrite leaves its region dirty.
        #expect(world.perform(.write, space, 59_999 * Self.grain, 4096, flags: .fua, data: 3) == .ok)
        #expect(resize(world, pool, grains: 1000) == .shrinkNotAsked(name: "s"))
        #expect(
            resize(world, pool, grains: 1000, shrink: true)
                == .shrinkRefused(name: "s", mappedBytes: Self.grain))
        #expect(holds(world, space, 59_999, 3))
        #expect(world.perform(.trim, space, 59_999 * Self.grain, UInt32(Self.grain)) == .ok)
        #expect(resize(world, pool, grains: 1000, shrink: true) == nil)
        #expect(world.perform(.read, space, 1000 * Self.grain, 4096) == .invalid)
        #expect(holds(world, space, 5, 1))
        world.powerCut(.mixed)
        let reopened = try #require(world.open()).get()
        let again = try #require(reopened.space(named: "s"))
        #expect(again.sizeBytes == 1000 * Self.grain && holds(world, again, 5, 1))
        // What was cut off reads as zeros when it comes back, and can be used.
        #expect(resize(world, reopened, grains: 60_000) == nil)
        #expect(holds(world, again, 59_999, 0))
        #expect(world.perform(.write, again, 59_999 * Self.grain, 4096, flags: .fua, data: 4) == .ok)
        world.powerCut(.dropAll)
        let last = try #require(world.open()?.get().space(named: "s"))
        #expect(holds(world, last, 59_999, 4))
    }

    @Test func sizesThatCannotBeAreRefused() throws {
        let world = PoolWorld([2048])
        let pool = try #require(world.create(0..<1)).get()
        _ = try makeSpace(world, pool, grains: 100)
        for (bytes, error) in [
            (0, PoolError.sizeNotWhole(bytes: 0, next: Self.grain)),
            (Self.grain + 1, .sizeNotWhole(bytes: Self.grain + 1, next: 2 * Self.grain)),
            (.max, .sizeTooLarge(bytes: .max, limit: Units.maximumSpaceBytes)),
        ] {
            let found = world.run { _ throws(PoolError) in
                try await pool.resizeSpace("s", sizeBytes: bytes, allowShrink: true)
            }?.error
            #expect(found == error)
        }
        let unknown = world.run { _ throws(PoolError) in
            try await pool.resizeSpace("t", sizeBytes: 1 << 20, allowShrink: true)
        }?.error
        #expect(unknown == .nameUnknown("t"))
    }

    @Test(arguments: [false, true])
    func aResizeIsDoneOrNotAtEveryCut(_ grows: Bool) throws {
        try PoolWorld.atEveryCut([2048, 2048], every: 7) { world in
            let pool = try #require(world.create(0..<2)).get()
            let space = try makeSpace(world, pool, grains: grows ? 100 : 60_000, .mirror2)
            #expect(world.perform(.write, space, 7 * Self.grain, 4096, flags: .fua, data: 7) == .ok)
            if !grows {
                let end = 59_999 * Self.grain
                #expect(world.perform(.write, space, end, 4096, data: 8) == .ok)
                #expect(world.perform(.write, space, end, 4096, flags: .fua, data: 9) == .ok)
                #expect(
                    world.perform(.trim, space, end, UInt32(Self.grain), flags: .fua) == .ok)
            }
            return pool
        } change: { pool, _ throws(PoolError) in
            try await pool.resizeSpace(
                "s", sizeBytes: (grows ? 60_000 : 100) * Self.grain, allowShrink: !grows)
        } check: { world, _, _, ended in
            let pool = try #require(world.open()).get()
            let space = try #require(pool.space(named: "s"))
            let sizes = [100 * Self.grain, 60_000 * Self.grain]
            #expect(ended ? space.sizeBytes == sizes[grows ? 1 : 0] : sizes.contains(space.sizeBytes))
            #expect(holds(world, space, 7, 7))
            let last = space.sizeBytes / Self.grain - 1
            if last > 100 { #expect(holds(world, space, last, 0)) }
            #expect(world.perform(.write, space, last * Self.grain, 4096, flags: .fua) == .ok)
            #expect(pool.audit() == [])
        }
    }

    // MARK: - fixed

    @Test func aFixedSpaceHasItsRoomFromTheStart() throws {
        let world = PoolWorld([4096])
        let pool = try #require(world.create(0..<1)).get()
        let before = world.operationsDone
        let space = try makeSpace(world, pool, grains: 2048, flags: .fixed)
        // Whatever its size: tables and metadata, no grain of data.
        #expect(world.operationsDone - before < 200)
        #expect(space.mappedBytes == 0 && space.groupRecords.count == 8)
        #expect(try #require(pool.status().spaces.first).allocatedBytes >= 2048 * Self.grain)
        // A thin one takes all that is left, and the fixed one does not notice.
        let thin = try makeSpace(world, pool, "thin", grains: 1 << 20)
        var grain: UInt64 = 0
        while world.perform(.write, thin, grain * Self.grain, 4096, data: 1) == .ok { grain += 1 }
        #expect(grain >= 256)
        for grain in stride(from: UInt64(0), to: 2048, by: 1) {
            #expect(world.perform(.write, space, grain * Self.grain, 4096, data: 2) == .ok)
        }
        // A trim keeps the room for the space, and block status says so.
        #expect(world.perform(.trim, space, 0, UInt32(Self.grain)) == .ok)
        #expect(world.perform(.write, thin, grain * Self.grain, 4096, data: 1) == .noSpace)
        #expect(
            world.extents(space, 0, UInt32(Self.grain))
                == [SpaceExtent(
                    lengthBytes: UInt32(Self.grain), isMapped: true, readsAsZeros: true)])
        #expect(world.perform(.write, space, 0, 4096, data: 3) == .ok)
        #expect(pool.audit() == [])
    }

    @Test func aFixedSpaceThatDoesNotFitIsNotMade() throws {
        let world = PoolWorld([4096])
        let pool = try #require(world.create(0..<1)).get()
        let made = world.run { _ throws(PoolError) in
            try await pool.createSpace(
                Pool.SpaceParameters(
                    name: "s", sizeBytes: 4096 * Self.grain, resiliency: .simple, flags: .fixed))
        }
        #expect(made?.error == .noSpace)
        #expect(pool.status().allocatedBytes == 0 && pool.status().spaces.isEmpty)
        // Nor does one grow further than there is room.
        let space = try makeSpace(world, pool, grains: 1024, flags: .fixed)
        #expect(resize(world, pool, grains: 4096) == .noSpace)
        #expect(space.groupRecords.count == 4)
        #expect(resize(world, pool, grains: 2048) == nil)
        #expect(space.groupRecords.count == 8)
        #expect(pool.audit() == [])
    }

    @Test func aFixedSpaceIsWholeOrGoneAtEveryCut() throws {
        try PoolWorld.atEveryCut([2048]) { world in
            try #require(world.create(0..<1)).get()
        } change: { pool, _ throws(PoolError) in
            try await pool.createSpace(
                Pool.SpaceParameters(
                    name: "s", sizeBytes: 1024 * Self.grain, resiliency: .simple, columns: 1,
                    flags: .fixed))
        } check: { world, _, _, ended in
            let pool = try #require(world.open()).get()
            world.finishUnderWay()
            let space = pool.space(named: "s")
            #expect(!ended || space != nil)
            if let space { #expect(space.groupRecords.count == 4) }
            #expect(pool.audit() == [])
        }
    }

    // MARK: - metadata

    @Test func metadataOfTrimmedAddressesGoesBack() throws {
        let world = PoolWorld([4096])
        let pool = try #require(world.create(0..<1)).get()
        let space = try makeSpace(world, pool, grains: 1 << 20)
        #expect(world.perform(.write, space, 0, 4096, data: 1) == .ok)
        world.finishUnderWay()
        let before = try #require(pool.status().spaces.first).allocatedBytes
        // One grain in each of twenty checksum pieces.
        for piece in UInt64(1)...20 {
            #expect(world.perform(.write, space, piece * 384 * Self.grain, 4096, data: 2) == .ok)
        }
        #expect(world.perform(.flush, space, 0) == .ok)
        #expect(try #require(pool.status().spaces.first).allocatedBytes >= before + 20 << 20)
        for piece in UInt64(1)...20 {
            #expect(
                world.perform(.trim, space, piece * 384 * Self.grain, UInt32(Self.grain)) == .ok)
        }
        #expect(world.perform(.flush, space, 0) == .ok)
        let end = world.nowNs + 30_000_000_000
        while world.nowNs < end, world.step() {}
        #expect(try #require(pool.status().spaces.first).allocatedBytes == before)
        #expect(pool.audit() == [])
        // The same addresses again, before and after a crash.
        #expect(world.perform(.write, space, 384 * Self.grain, 4096, flags: .fua, data: 3) == .ok)
        world.powerCut(.dropAll)
        let again = try #require(world.open()).get()
        let reopened = try #require(again.space(named: "s"))
        #expect(holds(world, reopened, 0, 1) && holds(world, reopened, 384, 3))
        #expect(holds(world, reopened, 768, 0))
        #expect(again.audit() == [])
    }
}
