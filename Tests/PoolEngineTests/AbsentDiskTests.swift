import PoolFormat
import Testing

@testable import PoolEngine

/// Pools that are opened while disks are missing, older than they should be, or of another history.
@Suite struct AbsentDiskTests {
    private func closed(_ world: PoolWorld, _ pool: Pool) throws {
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        world.powerCut(.dropAll)
    }

    private func detachedFrom(_ result: Result<Pool, PoolError>?) -> [DiskNumber]? {
        guard case .detached(let missing, _) = result?.error else { return nil }
        return missing.map(\.number)
    }

    @Test func aMajorityOpensAndServes() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        world.powerCut(.dropAll)
        world.witness = nil
        for missing in [2, 1, 0] {
            let present = (0..<3).filter { $0 != missing }.map { world.member($0) }
            let opened = try #require(
                world.run { engine throws(PoolError) in
                    try await Pool.open(engine, members: present, witness: nil)
                }
            ).get()
            let number = DiskNumber(UInt16(missing + 1))
            let record = try #require(opened.configuration.disks.first { $0.number == number })
            #expect(record.state == .missing && record.leftAfterSequence > 0)
            #expect(!opened.configuration.voters.contains(number))
            #expect(opened.configuration.departures.map(\.disk) == [number])
            #expect(opened.status().disks[missing].state == .missing)
            let space = try #require(opened.space(named: "m"))
            #expect(space.readOnlyReason == nil)
            expected.check(world, space)
            expected.write(world, space, [3, 300, 700])
            expected.trim(world, space, 5..<6)
            expected.check(world, space)
            #expect(opened.audit().isEmpty)
            // Whole again for the next round.
            world.powerCut(.mixed)
            let whole = try #require(world.open()).get()
            #expect(world.untilCaughtUp(whole))
            expected.check(world, whole.space(named: "m"))
            #expect(whole.audit().isEmpty)
            try closed(world, whole)
        }
    }

    /// One of two is no majority: the witness decides.
    @Test func aWitnessOfTheNewestOpensAndNoneDoesNot() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        world.powerCut(.dropAll)
        let newest = try #require(world.witness)
        world.witness = nil
        #expect(detachedFrom(world.open(0..<1)) == [DiskNumber(2)])
        world.restart()
        world.witness = newest
        world.witness?.sequence += 1
        guard case .witnessNewer = world.open(0..<1)?.error else {
            Issue.record("opened behind the witness")
            return
        }
        world.restart()
        world.witness = newest
        let opened = try #require(world.open(0..<1)).get()
        let space = try #require(opened.space(named: "m"))
        expected.check(world, space)
        expected.write(world, space, 10..<30)
        expected.check(world, space)
    }

    @Test func whatIsDetachedIsNotTouched() throws {
        let world = PoolWorld([1024, 1024])
        _ = try world.makePool([("m", .mirror2)])
        world.powerCut(.dropAll)
        world.witness = nil
        let before = world.disks[0].writes.count
        #expect(detachedFrom(world.open(0..<1)) == [DiskNumber(2)])
        #expect(world.disks[0].writes.count == before)
        world.restart()
        #expect(try #require(world.open()).get().configuration.departures.isEmpty)
    }

    /// What lies on the missing disk is EIO, whichever it is; the rest works, metadata too.
    @Test(arguments: [0, 1, 2]) func aSimpleSpaceServesWhatIsHere(missing: Int) throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("s", .simple)])
        var space = try #require(pool.space(named: "s"))
        var expected = ExpectedBlocks()
        // Of each unit of 256 KiB one block: three disks in turn.
        expected.write(world, space, stride(from: 0, to: 3 * 256, by: 64))
        try closed(world, pool)
        let present = (0..<3).filter { $0 != missing }.map { world.member($0) }
        let witness = world.witness
        let opened = try #require(
            world.run { engine throws(PoolError) in
                try await Pool.open(engine, members: present, witness: witness)
            }
        ).get()
        space = try #require(opened.space(named: "s"))
        var lost: [UInt64] = []
        for (block, value) in expected.values {
            let bytes = world.bytes(space, block * 4096, 4096)
            #expect(bytes == nil || bytes == Array(repeating: value, count: 4096))
            if bytes == nil { lost.append(block) }
        }
        #expect(lost.count == 4)
        for block in lost {
            #expect(world.perform(.write, space, block * 4096, 4096, data: 99) == .ioError)
        }
        let kept = expected.values.keys.filter { !lost.contains($0) }.sorted()
        expected.write(world, space, kept)
        // Regions are cleaned and pages checkpointed as ever.
        #expect(world.untilTrue { space.regions.marked.isEmpty })
        #expect(space.readOnlyReason == nil)
        try closed(world, opened)
        // With the disk back all of it is there.
        let whole = try #require(world.open()).get()
        expected.check(world, whole.space(named: "s"))
        expected.write(world, try #require(whole.space(named: "s")), lost)
        #expect(whole.audit().isEmpty)
    }

    /// The same, and the disk comes back while the space serves.
    @Test(arguments: [SpaceFlags(), .noChecksums])
    func aSimpleSpaceFindsItsDiskAgain(flags: SpaceFlags) throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try #require(world.create(0..<3)).get()
        let parameters = Pool.SpaceParameters(
            name: "s", sizeBytes: 1 << 30, resiliency: .simple, flags: flags)
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(parameters) }
        ).get()
        var expected = ExpectedBlocks()
        expected.write(
            world, try #require(pool.space(named: "s")), stride(from: 0, to: 3 * 256, by: 64))
        try closed(world, pool)
        let opened = try #require(world.open(0..<2)).get()
        let space = try #require(opened.space(named: "s"))
        var refused: [UInt64] = []
        for block in expected.values.keys.sorted()
        where world.perform(.write, space, block * 4096, 4096, data: 77) == .ioError {
            refused.append(block)
        }
        #expect(refused.count == 4)
        let taken = expected.values.keys.filter { !refused.contains($0) }.sorted()
        expected.write(world, space, taken)
        #expect(world.bringBack(2, opened) == nil)
        #expect(world.untilTrue { space.departed.disks.isEmpty })
        #expect(space.counters.lostBlocks == 0)
        expected.check(world, space)
        expected.write(world, space, refused)
        expected.check(world, space)
    }

    // MARK: - disks from an older time

    /// A copy made before the disk left shows nothing as new as what it had then.
    @Test func aDiskFromBeforeItLeftIsNotTaken() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        let space = try #require(pool.space(named: "m"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<20)
        let old = world.disks[1].copy()
        // It goes on as a member, and leaves later.
        for _ in 0..<2 {
            try #require(
                world.run { _ throws(PoolError) in
                    try await pool.changeConfiguration { $0.nextLineage += 1 }
                }
            ).get()
        }
        expected.write(world, space, 10..<30)
        try world.lose(1, pool)
        expected.write(world, space, 20..<40)
        world.disks[1] = old
        #expect(world.bringBack(1, pool) == .olderTime(path: "/disks/1"))
        #expect(pool.configuration.disks[1].state == .failed)
        expected.write(world, space, 25..<26)
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        #expect(opened.status().disks[1].device == nil)
        #expect(opened.configuration.disks[1].state == .failed)
        #expect(!opened.configuration.voters.contains(DiskNumber(2)))
        expected.check(world, opened.space(named: "m"))
    }

    /// A disk that never left, and was put back to an older state while nobody looked.
    @Test func aDiskThatNeverLeftAndShowsAnOldConfigurationIsMissing() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        let old = (0..<3).map { world.disks[$0].copy() }
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.changeConfiguration { $0.nextLineage += 1 }
            }
        ).get()
        try closed(world, pool)
        let again = try #require(world.open()).get()
        expected.write(world, try #require(again.space(named: "m")), 10..<40)
        try closed(world, again)
        let holding = again.configuration.spaces[0].root.map(\.disk)
        let index = Int(holding[0].rawValue) - 1
        world.disks[index] = old[index]
        let opened = try #require(world.open()).get()
        #expect(opened.configuration.disks[index].state == .failed)
        #expect(opened.configuration.departures.map(\.disk) == [holding[0]])
        #expect(opened.status().disks[index].device == nil)
        let space = try #require(opened.space(named: "m"))
        expected.check(world, space)
        expected.write(world, space, 0..<5)
        #expect(world.bringBack(index, opened) == .olderTime(path: "/disks/\(index)"))
        expected.check(world, space)
    }

    // MARK: - histories

    private func openAlone(_ world: PoolWorld, _ index: Int) throws -> Pool {
        let members = [world.member(index)]
        return try #require(
            world.run { engine throws(PoolError) in
                try await Pool.open(engine, members: members, witness: nil, startsHistory: true)
            }
        ).get()
    }

    @Test func aNewHistoryTakesNoDiskOfTheOldOne() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        try closed(world, pool)
        world.witness = nil
        let alone = try openAlone(world, 0)
        #expect(alone.configuration.version.poolEpoch == pool.configuration.version.poolEpoch + 1)
        let space = try #require(alone.space(named: "m"))
        expected.check(world, space)
        expected.write(world, space, 10..<30)
        #expect(world.bringBack(1, alone) == .otherHistory(path: "/disks/1"))
        expected.check(world, space)
        try closed(world, alone)
        let opened = try #require(world.open()).get()
        #expect(opened.configuration.disks.map(\.state) == [.online, .missing])
        #expect(opened.status().disks[1].device == nil)
        expected.check(world, opened.space(named: "m"))
    }

    /// Each of two disks was opened alone: one of the two histories goes on, as it was.
    @Test(arguments: [0, 1]) func twoNewHistoriesNeverMerge(longer: Int) throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var before = ExpectedBlocks()
        before.write(world, try #require(pool.space(named: "m")), 0..<20)
        try closed(world, pool)
        var histories: [ExpectedBlocks] = []
        for index in 0..<2 {
            world.witness = nil
            let alone = try openAlone(world, index)
            var expected = before
            if index == 1 { expected.write(world, try #require(alone.space(named: "m")), [50]) }
            expected.write(world, try #require(alone.space(named: "m")), 5..<15)
            for _ in 0..<(index == longer ? 2 : 0) {
                try #require(
                    world.run { _ throws(PoolError) in
                        try await alone.changeConfiguration { $0.nextLineage += 1 }
                    }
                ).get()
            }
            histories.append(expected)
            try closed(world, alone)
        }
        world.witness = nil
        let opened = try #require(world.open()).get()
        let states = opened.configuration.disks.map(\.state)
        #expect(states[longer] == .online && states[1 - longer] != .online)
        #expect(opened.status().disks[1 - longer].device == nil)
        histories[longer].check(world, opened.space(named: "m"))
        #expect(world.bringBack(1 - longer, opened) != nil)
        _ = world.untilTrue { false }
        histories[longer].check(world, opened.space(named: "m"))
    }
}
