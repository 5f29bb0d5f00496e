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

    /// What is put together again after a kill is a stripe of which the log knows every block. One that
    /// was durable before has others, too, which then were zeros, and its parities would be made so.
    @Test func whatIsTrimmedOfADurableStripeMakesNothingOfItFresh() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("p", .parity1)])
        let space = try #require(pool.space(named: "p"))
        #expect(world.perform(.write, space, 0, 8 * 4096, data: 1) == .ok)
        #expect(world.perform(.flush, space, 0) == .ok)
        let trimmed = JournalRecord.values(
            firstBlock: 2, changes: [ValueChange(old: 7, new: BlockValue.unwritten)])
        var rewritten = RewrittenBlocks()
        rewritten.append(9, ValueChange(old: BlockValue.unwritten, new: 8))
        let entry = space.map[0].durable
        let rewrite = JournalRecord.rewrite(grain: 0, entry: entry, rewritten)
        let fresh = { (records: [JournalRecord]) in
            space.freshBlocks(records.map { RestartLog.Entry($0) }).map(\.block)
        }
        #expect(fresh([trimmed, rewrite]) == [])
        let written = JournalRecord.values(
            firstBlock: 2, changes: [ValueChange(old: BlockValue.unwritten, new: 7)])
        #expect(fresh([.map(grain: 0, entry: entry), written, rewrite]) == [2, 9])
    }

    /// A read of a few blocks is solved in little memory, a long one as a whole; either may begin
    /// anywhere, and cross from a column to the next.
    @Test(arguments: [3, 4, 6])
    func readsOfAnyLengthAreSolved(width: Int) throws {
        let world = PoolWorld(Array(repeating: 2048, count: width))
        let kind: ResiliencyKind = width > 3 ? .parity2 : .parity1
        let pool = try world.makePool([("p", kind)])
        let space = try #require(pool.space(named: "p"))
        for start in stride(from: UInt64(0), to: 256, by: 8) {
            let data = UInt8(start / 8) + 1
            #expect(world.perform(.write, space, start * 4096, 8 * 4096, data: data) == .ok)
        }
        #expect(world.perform(.flush, space, 0) == .ok)
        let expected = (0..<256).map { UInt8($0 / 8) + 1 }
        for lost in 0..<kind.tolerance { try world.lose(lost, pool) }
        for count in [1, 2, 7, 8, 9, 16, 31, 64, 150, 256] {
            for start in stride(from: 0, through: 256 - count, by: max(1, 37 - count / 8)) {
                let bytes = world.bytes(space, UInt64(start) * 4096, UInt32(count) * 4096)
                let found = bytes.map { bytes in (0..<count).map { bytes[$0 * 4096] } }
                #expect(found == Array(expected[start..<start + count]), "\(count) at \(start)")
                #expect(bytes.map { $0[count * 4096 - 1] } == expected[start + count - 1])
            }
        }
    }

    /// A group that is emptied may be that of a stripe which is being written: it is mapped there once
    /// that is done, and moved like the others.
    @Test func whatIsBeingWrittenIntoAGroupIsWaitedFor() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("p", .parity1)])
        let space = try #require(pool.space(named: "p"))
        var expected = ExpectedBlocks()
        expected.write(world, space, [0, 256])
        let free = space.groups.allocate()
        let target = try #require(free)
        let work = space.beginPlacedWork()
        let outcome = Outcome()
        world.engine.spawn { outcome.repair = await space.empty(0, .high) }
        for _ in 0..<500 where outcome.repair == nil { _ = world.step() }
        #expect(outcome.repair == nil && space.groups[0] != nil)
        space.groups.release(target)
        space.endPlacedWork(work)
        #expect(world.untilTrue { outcome.repair != nil })
        #expect(outcome.repair == .done && space.groups[0] == nil)
        expected.check(world, space)
    }

    private final class Outcome: @unchecked Sendable {
        var move: Space.Move?
        var repair: Space.RepairOutcome?
    }
}
