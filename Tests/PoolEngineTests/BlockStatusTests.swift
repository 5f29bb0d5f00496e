import PoolFormat
import Testing

@testable import PoolEngine

/// Block status is exact: to the grain where nothing is mapped, to the block where something is.
@Suite struct BlockStatusTests {
    private static let grain = UInt64(Units.grainBytes)
    private static func hole(_ bytes: UInt64) -> SpaceExtent {
        SpaceExtent(lengthBytes: UInt32(bytes), isMapped: false, readsAsZeros: true)
    }
    private static func zeros(_ bytes: UInt64) -> SpaceExtent {
        SpaceExtent(lengthBytes: UInt32(bytes), isMapped: true, readsAsZeros: true)
    }
    private static func data(_ bytes: UInt64) -> SpaceExtent {
        SpaceExtent(lengthBytes: UInt32(bytes), isMapped: true, readsAsZeros: false)
    }

    private func world(_ resiliency: ResiliencyKind) throws -> (PoolWorld, Space) {
        let world = PoolWorld([2048, 2048])
        let pool = try #require(world.create(0..<2)).get()
        let parameters = Pool.SpaceParameters(
            name: "s", sizeBytes: 8 << 30, resiliency: resiliency)
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(parameters) }
        ).get()
        return (world, try #require(pool.space(named: "s")))
    }

    @Test func anEmptySpaceIsOneHoleHoweverLongTheRange() throws {
        let (world, space) = try world(.simple)
        #expect(world.extents(space, 0, .max - 511) == [Self.hole(1 << 32 - 512)])
        #expect(world.extents(space, 512, 1024) == [Self.hole(1024)])
        let end = space.sizeBytes - 4096
        #expect(world.extents(space, end, 4096) == [Self.hole(4096)])
    }

    @Test func writtenBlocksAreDataAndTheRestOfTheirGrainZeros() throws {
        let (world, space) = try world(.mirror2)
        // Six sectors across a block boundary: both blocks become data, whole.
        #expect(world.perform(.write, space, 3 * Self.grain + 6656, 3072, data: 7) == .ok)
        let expected = [
            Self.hole(3 * Self.grain), Self.zeros(4096), Self.data(8192),
            Self.zeros(Self.grain - 12288), Self.hole(2 * Self.grain),
        ]
        #expect(world.extents(space, 0, UInt32(6 * Self.grain)) == expected)
        // A range that begins and ends within blocks is told to the byte.
        #expect(
            world.extents(space, 3 * Self.grain + 3584, 1536)
                == [Self.zeros(512), Self.data(1024)])
        // The same after a crash that keeps what was flushed.
        #expect(world.perform(.flush, space, 0) == .ok)
        world.powerCut(.dropAll)
        let pool = try #require(world.open()).get()
        let again = try #require(pool.space(named: "s"))
        #expect(world.extents(again, 0, UInt32(6 * Self.grain)) == expected)
    }

    @Test func trimsAndZeroesAreToldAsWhatTheyLeave() throws {
        let (world, space) = try world(.simple)
        #expect(world.perform(.write, space, 0, UInt32(Self.grain), data: 1) == .ok)
        #expect(world.perform(.trim, space, 4096, 8192) == .ok)
        #expect(
            world.extents(space, 0, UInt32(Self.grain))
                == [Self.data(4096), Self.zeros(8192), Self.data(Self.grain - 12288)])
        #expect(world.perform(.trim, space, 0, UInt32(Self.grain)) == .ok)
        #expect(world.extents(space, 0, UInt32(Self.grain)) == [Self.hole(Self.grain)])
        #expect(
            world.perform(.writeZeroes, space, 0, UInt32(Self.grain), flags: .noHole) == .ok)
        #expect(world.extents(space, 0, UInt32(Self.grain)) == [Self.zeros(Self.grain)])
    }

    @Test func whatIsNoRangeIsRefused() throws {
        let (world, space) = try world(.simple)
        for (offset, length) in [
            (0, 0), (1, 512), (0, 100), (space.sizeBytes, 512), (space.sizeBytes - 512, 1024),
            (.max - 511, 1024),
        ] as [(UInt64, UInt32)] {
            #expect(world.perform(.blockStatus, space, offset, length) == .invalid)
        }
        // A cache request is one grain's.
        #expect(world.perform(.cache, space, Self.grain - 4096, 8192) == .invalid)
    }

    @Test func cachingBringsTheValuesIntoMemory() throws {
        let (world, space) = try world(.simple)
        #expect(world.perform(.write, space, 0, 4096, data: 1) == .ok)
        #expect(world.perform(.flush, space, 0) == .ok)
        world.powerCut(.keepAll)
        let pool = try #require(world.open()).get()
        let again = try #require(pool.space(named: "s"))
        // What replay had to apply is applied, and the page may be read from disk anew.
        while !again.overlay.pageNumbers.isEmpty { _ = world.perform(.flush, again, 0) }
        #expect(world.perform(.cache, again, 0, 4096) == .ok)
        let before = world.operationsDone
        #expect(world.perform(.blockStatus, again, 0, 4096) == .ok)
        #expect(world.operationsDone == before)
        #expect(world.perform(.cache, again, 100 * Self.grain, 4096) == .ok)
        #expect(world.operationsDone == before)
    }
}
