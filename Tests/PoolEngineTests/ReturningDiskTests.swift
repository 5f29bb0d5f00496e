import PoolFormat
import Testing

@testable import PoolEngine

/// Disks that leave an open pool and come back to it.
@Suite struct ReturningDiskTests {
    private static let first = DiskNumber(1)
    private static let second = DiskNumber(2)

    // MARK: - what is refused

    @Test func eachRefusalSaysWhyAndChangesNothing() throws {
        let world = PoolWorld([2048, 2048, 2048, 2048])
        let other = world.members(3..<4)
        _ = try #require(
            world.run { engine throws(PoolError) in
                try await Pool.create(
                    engine, name: "other", uuid: PoolUUID(high: 5, low: 5), members: other)
            }
        ).get()
        world.restart()
        let pool = try #require(world.create(0..<3)).get()
        let parameters = Pool.SpaceParameters(
            name: "m", sizeBytes: 1 << 30, resiliency: .mirror2)
        _ = try #require(
            world.run { _ throws(PoolError) in try await pool.createSpace(parameters) }
        ).get()
        let space = try #require(pool.space(named: "m"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<8)
        #expect(
            world.offer(world.member(1, opening: 1), as: 1, pool)
                == .diskServes(disk: "disk2 (/disks/1)"))
        #expect(
            world.offer(world.member(1, opening: 1), as: 8, pool) == .diskUnknown(DiskNumber(9)))
        try world.lose(1, pool)
        world.disks[1].plugIn()
        let before = pool.configuration
        let writes = world.disks.map(\.writes.count)
        let refusals: [(Pool.Member, PoolError)] = [
            (world.member(0, opening: 1), .otherDisk(path: "/disks/0")),
            (world.member(3, opening: 1), .otherPool(path: "/disks/3", pool: "other")),
        ]
        for (member, error) in refusals { #expect(world.offer(member, as: 1, pool) == error) }
        world.disks[1].flushesUntilBroken = 0
        #expect(
            world.offer(world.member(1, opening: 2), as: 1, pool)
                == .writeFailed(disk: "/disks/1", during: "while it was opened"))
        #expect(pool.configuration == before && world.disks.map(\.writes.count) == writes)
        expected.write(world, space, 4..<12)
        expected.check(world, space)
        // And it is the disk after all.
        #expect(world.bringBack(1, pool, opening: 3) == nil)
        #expect(world.untilCaughtUp(pool))
        expected.check(world, space)
        try #require(world.run { _ throws(PoolError) in try await pool.close() }).get()
        #expect(world.offer(world.member(1, opening: 4), as: 1, pool) == .closed(pool: "tank"))
    }

    @Test func aBlankDiskIsRefused() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try world.makePool([("m", .mirror2)])
        try world.lose(1, pool)
        world.disks[1] = MemoryDisk(sizeBytes: 1 << 30)
        #expect(world.bringBack(1, pool) == .noLabel(path: "/disks/1"))
        #expect(pool.configuration.disks[1].state == .failed)
    }

    /// After a crash it is known only in which regions a disk has missed something: what it has not
    /// missed there is right, and told so by its value.
    @Test(arguments: [false, true]) func whatWasNotMissedIsRead(hasMissedIt: Bool) throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<8)
        try world.lose(1, pool)
        expected.write(world, try #require(pool.space(named: "m")), hasMissedIt ? 3..<4 : 9..<10)
        world.powerCut(.keepAll)
        let opened = try #require(world.open(0..<1)).get()
        let space = try #require(opened.space(named: "m"))
        let slab = try #require(opened.groups(ofSpace: "m").first).slabs.map(\.address)
        let place = try #require(slab.first { $0.disk == Self.first })
        world.disks[0].unreadable = [space.places.base(place).offsetBytes + 3 * 4096]
        #expect(world.perform(.read, space, 3 * 4096, 4096) == .ioError)
        #expect(world.bringBack(1, opened) == nil)
        #expect(world.perform(.read, space, 3 * 4096, 4096) == (hasMissedIt ? .ioError : .ok))
        if hasMissedIt { world.disks[0].unreadable = [] }
        #expect(world.untilCaughtUp(opened))
        expected.check(world, space)
    }

    /// Granted before the disk left, a piece may be claimed only after it has come back.
    @Test(arguments: [1, 2]) func whatIsJustBeingGrantedIsNobodysOnlyAfterwards(shards: Int) throws {
        let world = PoolWorld([2048, 2048, 2048], shards: shards)
        let pool = try world.makePool([("m", .mirror2)])
        let space = try #require(pool.space(named: "m"))
        let (lineage, third) = (space.lineage, DiskNumber(3))
        let granted = try #require(
            world.run { _ throws(PoolError) in
                try await pool.grantPieceCopies(
                    lineage: lineage, kind: .checksum, index: 0, count: 1,
                    avoiding: [Self.first, Self.second])
            }
        ).get()
        let piece = try #require(granted.first)
        for isChanging in [true, false] {
            space.claimsChanging = isChanging ? 1 : 0
            try world.lose(2, pool)
            #expect(world.bringBack(2, pool, opening: isChanging ? 1 : 2) == nil)
            #expect(world.untilCaughtUp(pool))
            #expect((pool.disk(third)?.entry(of: piece)?.lineage == lineage) == isChanging)
        }
    }

    // MARK: - put offline

    private func putOffline(
        _ world: PoolWorld, _ pool: Pool, _ number: DiskNumber, force: Bool = false
    ) -> PoolError? {
        world.run { _ throws(PoolError) in try await pool.offlineDisk(number, force: force) }?.error
    }

    @Test(arguments: [1, 2]) func aDiskThatIsNotNeededGoesOffline(shards: Int) throws {
        let world = PoolWorld([2048, 2048], shards: shards)
        let pool = try world.makePool([("m", .mirror2)])
        let space = try #require(pool.space(named: "m"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<8)
        expected.write(world, space, 8..<10, flushed: false)
        #expect(putOffline(world, pool, DiskNumber(7)) == .diskUnknown(DiskNumber(7)))
        #expect(putOffline(world, pool, Self.second) == nil)
        #expect(pool.configuration.disks[1].state == .offline)
        #expect(pool.status().disks[1].state == .offline)
        #expect(pool.configuration.departures.map(\.disk) == [Self.second])
        let recorded = pool.configuration.version.sequence
        #expect(pool.configuration.departures.map(\.generation) == [recorded])
        // Once more is nothing; the other is needed now, and is the last.
        let version = pool.configuration.version
        #expect(putOffline(world, pool, Self.second) == nil)
        #expect(pool.configuration.version == version)
        #expect(
            putOffline(world, pool, Self.first)
                == .diskNeeded(disk: "disk1 (/disks/0)", space: "m"))
        #expect(
            putOffline(world, pool, Self.first, force: true)
                == .lastDisk(disk: "disk1 (/disks/0)"))
        expected.write(world, space, 5..<12)
        // It stays offline when the pool is opened with it.
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        #expect(opened.configuration.disks.map(\.state) == [.online, .offline])
        #expect(opened.configuration.departures.map(\.generation) == [recorded])
        #expect(opened.status().disks.map(\.state) == [.online, .offline])
        let again = try #require(opened.space(named: "m"))
        expected.check(world, again)
        expected.write(world, again, 3..<6)
        #expect(world.bringBack(1, opened) == nil)
        // Nobody is told that it counts before it does.
        #expect(opened.configuration.disks[1].state == .online)
        #expect(opened.status().disks.map(\.state) == [.online, .rebuilding])
        #expect(world.untilCaughtUp(opened))
        #expect(opened.status().disks.map(\.state) == [.online, .online])
        world.disks[0].unplug()
        expected.check(world, again)
    }

    @Test func aDiskThatASpaceNeedsGoesOnlyByForce() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2), ("s", .simple)])
        let simple = try #require(pool.space(named: "s"))
        var expected = ExpectedBlocks()
        expected.write(world, simple, stride(from: 0, to: 512, by: 64))
        #expect(
            putOffline(world, pool, Self.second)
                == .diskNeeded(disk: "disk2 (/disks/1)", space: "s"))
        #expect(pool.configuration.disks.map(\.state) == [.online, .online])
        #expect(putOffline(world, pool, Self.second, force: true) == nil)
        #expect(simple.readOnlyReason == "disk2 failed put offline")
        #expect(pool.space(named: "m")?.readOnlyReason == nil)
        // One that has failed may be put offline, too: it does not come back by itself.
        #expect(world.bringBack(1, pool) == nil)
        #expect(world.untilCaughtUp(pool))
        try world.lose(1, pool)
        #expect(putOffline(world, pool, Self.second) == nil)
        #expect(pool.configuration.disks[1].state == .offline)
        world.disks[1].plugIn()
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        #expect(opened.configuration.disks[1].state == .offline)
        #expect(world.bringBack(1, opened) == nil)
        #expect(world.untilTrue { opened.configuration.departures.isEmpty })
        expected.check(world, opened.space(named: "s"))
        world.powerCut(.dropAll)
        let whole = try #require(world.open()).get()
        expected.check(world, whole.space(named: "s"))
        #expect(whole.space(named: "s")?.readOnlyReason == nil)
    }

    // MARK: - coming back

    /// A blip costs what was missed, not what is there.
    @Test(arguments: [1, 2]) func onlyWhatWasMissedIsCopied(shards: Int) throws {
        let world = PoolWorld([2048, 2048], shards: shards)
        let pool = try world.makePool([("m", .mirror2)])
        let space = try #require(pool.space(named: "m"))
        var expected = ExpectedBlocks()
        expected.write(world, space, (0..<200).map { $0 * 97 })
        #expect(world.perform(.write, space, 100 << 20, 1 << 20, data: 3) == .ok)
        #expect(world.perform(.flush, space, 0) == .ok)
        try world.lose(1, pool)
        expected.write(world, space, [97, 970, 98])
        expected.trim(world, space, 194..<195)
        let start = world.disks[1].writes.count
        #expect(world.bringBack(1, pool) == nil)
        #expect(world.untilCaughtUp(pool))
        let group = try #require(space.groupRecords.first)
        let slab = try #require(group.slabs.first { $0.address.disk == Self.second })
        let offset = try #require(pool.disk(Self.second)).layout.slabOffset(slab.address.slab)
        let data = world.disks[1].writes[start...].filter {
            (offset..<offset + 256 << 20).contains($0.offset)
        }
        #expect(data.reduce(0) { $0 + $1.bytes } == 3 * 4096)
        #expect(space.counters.resyncedBlocks == 3)
        // Metadata is copied whole: its pieces, and little else.
        let pieces = space.claims(on: Self.second).pieces.count
        let all = world.disks[1].writes[start...].reduce(0) { $0 + $1.bytes }
        #expect(all < (pieces + 1) << 20)
        world.disks[0].unplug()
        expected.check(world, space)
        #expect(world.bytes(space, 100 << 20, 512) == Array(repeating: 3, count: 512))
    }

    /// The disk breaks again after every number of writes, or flushes, of its way back; whatever
    /// comes of that, nothing is lost, and it can come back once more.
    @Test(arguments: [false, true]) func itFailsAgainAnywhereOnItsWayBack(atFlush: Bool) throws {
        var survived = 0
        var broken = 0
        while true {
            let world = PoolWorld([1024, 1024], seed: UInt64(broken))
            let pool = try world.makePool([("m", .mirror2)])
            let space = try #require(pool.space(named: "m"))
            var expected = ExpectedBlocks()
            expected.write(world, space, [0, 1, 300, 600, 8000])
            try world.lose(1, pool)
            // In as many grains as make its way back long.
            expected.write(world, space, [1, 2, 301, 600, 900, 1200, 1500, 1800, 2100])
            world.disks[1].plugIn()
            if atFlush {
                world.disks[1].flushesUntilBroken = broken
            } else {
                world.disks[1].writesUntilBroken = broken
            }
            let error = world.offer(world.member(1, opening: 1), as: 1, pool)
            if error != nil { #expect(pool.configuration.disks[1].state != .online) }
            // Clients do not wait for it.
            expected.write(world, space, [2, 3])
            _ = world.untilTrue {
                world.disks[1].isBroken || error != nil || pool.configuration.departures.isEmpty
            }
            let isBroken = world.disks[1].isBroken
            if !isBroken { world.disks[1].plugIn() }
            expected.write(world, space, [4, 600])
            expected.check(world, space)
            #expect(space.readOnlyReason == nil, "broken after \(broken)")
            if isBroken {
                // Whether the pool knows yet or not.
                try world.lose(1, pool)
                expected.write(world, space, [5])
                if broken % 2 == 0 {
                    #expect(world.bringBack(1, pool, opening: 2) == nil, "after \(broken)")
                    #expect(world.untilCaughtUp(pool), "broken after \(broken)")
                    world.disks[0].unplug()
                    expected.check(world, space)
                } else {
                    // After a power cut as well.
                    world.disks[1].plugIn()
                    world.powerCut(.mixed)
                    let opened = try #require(world.open()).get()
                    #expect(world.untilCaughtUp(opened), "broken after \(broken)")
                    world.disks[0].unplug()
                    expected.check(world, opened.space(named: "m"))
                }
            } else {
                survived += 1
                world.disks[0].unplug()
                expected.check(world, space)
                break
            }
            broken += 1
        }
        #expect(survived == 1)
        #expect(broken > (atFlush ? 6 : 14))
    }

    @Test func mirrorOfThreeServesThroughTwoFailures() throws {
        let world = PoolWorld([1024, 1024, 1024])
        let pool = try world.makePool([("m", .mirror3)])
        let space = try #require(pool.space(named: "m"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<12)
        try world.lose(0, pool)
        expected.write(world, space, 8..<20)
        expected.write(world, space, 20..<22, flushed: false)
        try world.lose(2, pool)
        expected.check(world, space)
        expected.write(world, space, 16..<24)
        expected.trim(world, space, 3..<4)
        expected.check(world, space)
        #expect(Set(pool.configuration.departures.map(\.disk)) == [Self.first, DiskNumber(3)])
        // The one that is left opens with the witness's word.
        world.powerCut(.dropAll)
        let opened = try #require(world.open(1..<2)).get()
        let again = try #require(opened.space(named: "m"))
        expected.write(world, again, 1..<3)
        #expect(world.bringBack(2, opened) == nil)
        expected.write(world, again, 2..<5)
        #expect(world.untilTrue { opened.configuration.departures.map(\.disk) == [Self.first] })
        #expect(world.bringBack(0, opened) == nil)
        #expect(world.untilCaughtUp(opened))
        // Each of those that came back has it all.
        try world.lose(1, opened)
        try world.lose(0, opened)
        expected.check(world, again)
        #expect(world.bringBack(0, opened, opening: 2) == nil)
        #expect(world.untilCaughtUp(opened) == false)
        #expect(world.untilTrue { opened.configuration.departures.map(\.disk) == [Self.second] })
        try world.lose(2, opened)
        expected.check(world, again)
        #expect(opened.audit().isEmpty)
    }

    /// With one of two disks away, new places have one copy; with it back, what is new has two.
    @Test func whatIsNewWhileADiskIsAwayHasOneCopy() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        let space = try #require(pool.space(named: "m"))
        try world.lose(1, pool)
        var expected = ExpectedBlocks()
        expected.write(world, space, [0, 1, 500, 90_000])
        let group = try #require(space.groupRecords.first)
        #expect(group.slabs.map(\.address.disk) == [Self.first, .hole])
        let single = space.pieces.entries.filter { $0.copies.count == 1 }
        #expect(!single.isEmpty && single.allSatisfy { $0.copies[0].disk == Self.first })
        expected.check(world, space)
        #expect(pool.audit().isEmpty)
        world.powerCut(.dropAll)
        let opened = try #require(world.open(0..<1)).get()
        let again = try #require(opened.space(named: "m"))
        expected.check(world, again)
        expected.write(world, again, [2, 90_001])
        #expect(world.bringBack(1, opened) == nil)
        #expect(world.untilCaughtUp(opened))
        expected.check(world, again)
        expected.write(world, again, [0, 3])
        // What has one copy gets the other by itself.
        #expect(world.untilTrue { !opened.lacksRedundancy && opened.audit().isEmpty })
        #expect(putOffline(world, opened, Self.first) == nil)
        expected.check(world, again)
        #expect(world.bringBack(0, opened, opening: 2) == nil)
        #expect(world.untilCaughtUp(opened))
        world.powerCut(.mixed)
        let last = try #require(world.open()).get()
        #expect(last.audit().isEmpty)
        let whole = try #require(last.space(named: "m"))
        #expect(!whole.departed.hasHoles)
        expected.check(world, whole)
        expected.write(world, whole, [7, 501])
        expected.check(world, whole)
    }

    /// A disk leaves in the commit before the one that says that all was made equal: what it lacks is
    /// said again behind that, or a replay would take it back.
    @Test func whatADiskLacksSinceIsNotTakenBack() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        let space = try #require(pool.space(named: "m"))
        space.addRecord(.caughtUp)
        space.lateMissed.insert(5)
        _ = try #require(world.run { _ throws(PoolError) in await space.recordLateMissed() }).get()
        #expect(space.missedRegions.contains(5))
        #expect(Array(space.pending.records.suffix(2)) == [.caughtUp, .missed(region: 5)])
    }
}
