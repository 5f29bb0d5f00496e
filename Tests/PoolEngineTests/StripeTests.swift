import PoolFormat
import Testing

@testable import PoolEngine

/// Stripes of parity, at moments that are too narrow for a simulator to meet.
@Suite struct StripeTests {
    /// A move has written a stripe without a disk, and has to wait before the map may name it. By then
    /// the disk is back, and lacks nothing that was known.
    @Test func aStripeThatMovedWithoutADiskIsNotTakenForWhole() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("p", .parity1)])
        let space = try #require(pool.space(named: "p"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<8)
        let before = space.map[0]
        // Not the one that all of it is read from.
        let away = Int(space.groups.base(before, column: 1).disk.rawValue) - 1
        try world.lose(away, pool)
        let outcome = Outcome()
        world.engine.spawn {
            outcome.move = await space.move(0, outOf: before.group, holdsRange: false, { true })
        }
        #expect(world.untilTrue { space.moving[0] != nil })
        let held = try #require(world.run { _ throws(PoolError) in await space.hold(0) { true } })
            .get()
        // What it has read is written and flushed: it waits for the range.
        #expect(world.untilTrue { space.placedWork.isEmpty })
        #expect(outcome.move == nil)
        #expect(world.bringBack(away, pool) == nil)
        #expect(world.untilCaughtUp(pool))
        space.letGo(try #require(held))
        #expect(world.untilTrue { outcome.move != nil })
        expected.check(world, space)
        // Each column in turn is solved from the others.
        for index in 0..<3 {
            try world.lose(index, pool)
            expected.check(world, space)
            #expect(world.bringBack(index, pool, opening: index + 2) == nil)
            #expect(world.untilCaughtUp(pool))
        }
    }

    private final class Outcome: @unchecked Sendable { var move: Space.Move? }
}
