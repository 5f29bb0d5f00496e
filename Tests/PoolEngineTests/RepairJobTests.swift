import PoolFormat
import Synchronization
import Testing

@testable import PoolEngine

/// What jobs say when they have ended, and which of them a repair answers.
@Suite struct RepairJobTests {
    private func job(
        _ world: PoolWorld, _ pool: Pool,
        _ start: @escaping @Sendable (Pool) async throws(PoolError) -> UInt64
    ) throws -> UInt64 {
        try #require(world.run { _ throws(PoolError) in try await start(pool) }).get()
    }

    private func ended(_ world: PoolWorld, _ pool: Pool, _ id: UInt64) throws -> Pool.Job {
        let isOver = { pool.jobs.first { $0.id == id }?.state.isOver ?? true }
        #expect(world.untilTrue(isOver))
        return try #require(pool.jobs.first { $0.id == id })
    }

    /// A repair that leaves out what a disk has which is offline is not done.
    @Test func aRepairSaysWhatAnOfflineDiskKeepsBack() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        let used = try #require(pool.groups(ofSpace: "m").first?.slabs.first?.address.disk)
        try #require(
            world.run { _ throws(PoolError) in try await pool.offlineDisk(used, force: true) }
        ).get()
        expected.write(world, try #require(pool.space(named: "m")), 4..<9)
        let repair = try ended(world, pool, job(world, pool) { pool throws(PoolError) in
            try await pool.repair()
        })
        #expect(repair.state == .failed)
        #expect(repair.reason.contains("offline"))
        // To retire it is what was advised.
        let retirement = try ended(world, pool, job(world, pool) { pool throws(PoolError) in
            try await pool.retireDisk(used)
        })
        #expect(retirement.state == .done, "\(retirement.reason)")
        #expect(!pool.configuration.disks.contains { $0.number == used })
        let again = try ended(world, pool, job(world, pool) { pool throws(PoolError) in
            try await pool.repair()
        })
        #expect(again.state == .done, "\(again.reason)")
        expected.check(world, pool.space(named: "m"))
        #expect(pool.audit().isEmpty)
    }

    private final class Moving: Sendable {
        let outcome = Mutex<Space.RepairOutcome?>(nil)
        var isOver: Bool { outcome.withLock { $0 != nil } }
    }

    /// A mirror with two slab groups on four disks: the first full, and mostly trimmed since; the second
    /// has room for what is left of it. `whole` are grains of the first, full of twos.
    private struct TwoGroups {
        let world = PoolWorld([2048, 2048, 2048, 2048])
        let pool: Pool
        let space: Space
        let whole = UInt64(248)..<255
        let from: [DiskNumber]
        let to: [DiskNumber]

        init() throws {
            let (world, whole) = (self.world, self.whole)
            let pool = try #require(world.create(0..<4)).get()
            let parameters = Pool.SpaceParameters(
                name: "m", sizeBytes: 1 << 30, resiliency: .mirror2, columns: 1)
            try #require(
                world.run { _ throws(PoolError) in _ = try await pool.createSpace(parameters) }
            ).get()
            let space = try #require(pool.space(named: "m"))
            let grain = UInt64(Units.grainBytes)
            func perform(_ kind: SpaceRequest.Kind, _ number: UInt64, _ bytes: Int, _ data: UInt8) {
                #expect(
                    world.perform(kind, space, number * grain, UInt32(bytes), data: data) == .ok)
            }
            for number in 0..<UInt64(260) { perform(.write, number, 4096, 1) }
            for number in 0..<whole.lowerBound { perform(.trim, number, Units.grainBytes, 0) }
            for number in whole { perform(.write, number, Units.grainBytes, 2) }
            #expect(world.perform(.flush, space, 0) == .ok)
            let groups = pool.groups(ofSpace: "m").map { $0.slabs.map(\.address.disk) }
            try #require(groups.count == 2 && Set(groups[0]).isDisjoint(with: groups[1]))
            (self.pool, self.space, from, to) = (pool, space, groups[0], groups[1])
        }

        /// Begins to move everything out of the first.
        func beginMoving() -> Moving {
            let moving = Moving()
            space.background { space in
                guard await space.beginRepairing() else { return }
                let outcome = await space.empty(0, .normal)
                space.endRepairing()
                moving.outcome.withLock { $0 = outcome }
            }
            return moving
        }

        func lose(_ number: DiskNumber) throws { try world.lose(Int(number.rawValue) - 1, pool) }

        func bringBack(_ number: DiskNumber) -> PoolError? {
            world.bringBack(Int(number.rawValue) - 1, pool)
        }

        func checkWhole() {
            for number in whole {
                let bytes = world.bytes(
                    space, number * UInt64(Units.grainBytes), UInt32(Units.grainBytes))
                #expect(bytes == Array(repeating: 2, count: Units.grainBytes))
            }
        }
    }

    /// While a grain is moved, a part at a time, a disk that is to have a copy of it comes back: what
    /// was copied before without it is not taken for copied.
    @Test(arguments: [4, 12, 30, 60]) func aDiskReturnsInTheMiddleOfAMove(steps: Int) throws {
        let two = try TwoGroups()
        let (world, pool, space) = (two.world, two.pool, two.space)
        try two.lose(two.from[0])
        try two.lose(two.to[1])
        #expect(world.perform(.write, space, 255 << 20, 4096, data: 3) == .ok)
        _ = two.beginMoving()
        // Clients are at work, so it is moved a part at a time.
        let isMoving = world.untilTrue {
            _ = world.perform(.write, space, 258 << 20, 4096, data: 4)
            return !space.moving.isEmpty
        }
        #expect(isMoving)
        for _ in 0..<steps { #expect(world.step()) }
        #expect(two.bringBack(two.to[1]) == nil)
        #expect(world.untilCaughtUp(pool))
        #expect(world.untilTrue { pool.groups(ofSpace: "m").count == 1 })
        // Only the one that has come back is asked.
        try two.lose(two.to[0])
        two.checkWhole()
    }

    /// What has two copies is not moved to where only one would count: it waits for the disk that is
    /// away.
    @Test func aMoveLeavesNothingWithFewerCopies() throws {
        let two = try TwoGroups()
        let world = two.world
        try two.lose(two.to[1])
        let moving = two.beginMoving()
        #expect(world.untilTrue { moving.isOver })
        #expect(moving.outcome.withLock { $0 } == .failed)
        #expect(two.space.counters.movedGrains == 0)
        #expect(two.bringBack(two.to[1]) == nil)
        #expect(world.untilCaughtUp(two.pool))
        let again = two.beginMoving()
        #expect(world.untilTrue { again.isOver })
        #expect(again.outcome.withLock { $0 } == .done)
        #expect(two.pool.groups(ofSpace: "m").count == 1)
        try two.lose(two.to[0])
        two.checkWhole()
    }

    /// Where the only disk that could have a slab is away, a repair waits for it.
    @Test func aRepairWaitsForADiskThatIsBehind() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        let space = try #require(pool.space(named: "m"))
        expected.write(world, space, 0..<20)
        let on = try #require(pool.groups(ofSpace: "m").first?.slabs.map(\.address.disk))
        let spare = try #require((1...3).map { DiskNumber($0) }.first { !on.contains($0) })
        let retired = on[0]
        try world.lose(Int(spare.rawValue) - 1, pool)
        let id = try job(world, pool) { pool throws(PoolError) in
            try await pool.retireDisk(retired)
        }
        #expect(world.untilTrue { pool.jobs.first { $0.id == id }?.state == .blocked })
        #expect(pool.groups(ofSpace: "m").first?.slabs.map(\.address.disk) == on)
        #expect(world.bringBack(Int(spare.rawValue) - 1, pool) == nil)
        let retirement = try ended(world, pool, id)
        #expect(retirement.state == .done, "\(retirement.reason)")
        #expect(pool.groups(ofSpace: "m").first?.slabs.map(\.address.disk) == [spare, on[1]])
        try world.lose(Int(on[1].rawValue) - 1, pool)
        expected.check(world, pool.space(named: "m"))
    }

    /// A damaged copy of the root or of the journal, which nobody has read since it was written, is not
    /// what is left when the disk with the right one is retired.
    @Test func aRetiredDiskLeavesNothingToADamagedCopy() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        let space = try #require(pool.space(named: "m"))
        expected.write(world, space, 0..<20)
        let pieces = [space.rootCopies] + space.journal.pieces
        let (kept, retired) = (pieces[0][0].disk, pieces[0][1].disk)
        for copies in pieces {
            let copy = try #require(copies.first { $0.disk == kept })
            for block in 0..<UInt64(Units.pieceBytes / Units.blockBytes) {
                let offset = copy.offsetBytes + block * UInt64(Units.blockBytes)
                world.disks[Int(kept.rawValue) - 1].corrupt(offset + 100)
            }
        }
        let retirement = try ended(world, pool, job(world, pool) { pool throws(PoolError) in
            try await pool.retireDisk(retired)
        })
        #expect(retirement.state == .done, "\(retirement.reason)")
        expected.write(world, space, 8..<12)
        world.restart()
        let opened = try #require(world.open((0..<3).filter { $0 != Int(retired.rawValue) - 1 })).get()
        expected.check(world, opened.space(named: "m"))
    }

    /// Two groups that were granted without a disk get their copies at the same time: at every step
    /// until the last place that no disk has is no place of theirs, writes know that there are some.
    @Test(arguments: [600, 767] as [UInt64])
    func holesAreKnownForAsLongAsThereAreSome(grains: UInt64) throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)], on: 0..<2)
        let space = try #require(pool.space(named: "m"))
        try world.lose(1, pool)
        for number in 0..<grains {
            let offset = number * UInt64(Units.grainBytes)
            #expect(world.perform(.write, space, offset, 4096, data: 1) == .ok)
        }
        #expect(space.groups.hasHoles)
        let added = world.member(2)
        try #require(
            world.run { _ throws(PoolError) in
                _ = try await pool.addDisks([added])
            }
        ).get()
        #expect(world.untilTrue { space.groups.replacements.count == 2 })
        #expect(world.untilTrue { !space.groups.hasHoles || !space.departed.hasHoles })
        #expect(!space.groups.hasHoles, "a write would go to a place that no disk has")
        #expect(world.perform(.write, space, 4096, 4096, data: 2) == .ok)
    }

    /// What was trimmed, and nobody flushes, keeps no repair from its end.
    @Test func aRepairNeedsNoFlushOfATrim() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)])
        var expected = ExpectedBlocks()
        let space = try #require(pool.space(named: "m"))
        expected.write(world, space, 0..<20)
        let grain = UInt64(Units.grainBytes)
        #expect(world.perform(.write, space, 3 * grain, 4096, data: 7) == .ok)
        #expect(world.perform(.flush, space, 0) == .ok)
        #expect(world.perform(.trim, space, 3 * grain, UInt32(grain)) == .ok)
        let retired = try #require(pool.groups(ofSpace: "m").first?.slabs.first?.address.disk)
        let retirement = try ended(world, pool, job(world, pool) { pool throws(PoolError) in
            try await pool.retireDisk(retired)
        })
        #expect(retirement.state == .done, "\(retirement.reason)")
        expected.check(world, pool.space(named: "m"))
    }

    /// A pool of two full disks gets a third: no slab group fits, as each needs two disks, until slabs of
    /// others lie on it.
    @Test func aFullPoolUsesADiskThatIsAdded() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror2)], on: 0..<2)
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<40)
        func fill(_ prefix: String) -> Int {
            var made = 0
            while made < 20 {
                let parameters = Pool.SpaceParameters(
                    name: "\(prefix)\(made)", sizeBytes: 256 << 20, resiliency: .mirror2, columns: 1,
                    flags: .fixed)
                let result = world.run { _ throws(PoolError) in
                    _ = try await pool.createSpace(parameters)
                }
                guard case .success? = result else { break }
                made += 1
            }
            return made
        }
        #expect(fill("before") >= 4)
        let added = world.member(2)
        try #require(
            world.run { _ throws(PoolError) in
                _ = try await pool.addDisks([added])
            }
        ).get()
        #expect(fill("stuck") == 0)
        let rebalance = try ended(world, pool, job(world, pool) { pool throws(PoolError) in
            try await pool.rebalance()
        })
        #expect(rebalance.state == .done, "\(rebalance.reason)")
        let free = pool.disks.map(\.freeSlabs).sorted()
        #expect(free[2] - free[0] <= 1, "\(free)")
        #expect(fill("after") >= 2)
        expected.check(world, pool.space(named: "m"))
        world.restart()
        let opened = try #require(world.open(0..<3)).get()
        expected.check(world, opened.space(named: "m"))
        #expect(opened.audit().isEmpty, "\(opened.audit())")
    }

    /// A disk that the others are too few to do without stays, and its job says so.
    @Test(arguments: [ResiliencyKind.mirror3, .parity1, .parity2])
    func aDiskThatIsNeededCannotRetireYet(kind: ResiliencyKind) throws {
        let least = kind.leastDisks
        let world = PoolWorld(Array(repeating: 2048, count: least + 1))
        let pool = try world.makePool([("m", kind)], on: 0..<least)
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        let id = try job(world, pool) { pool throws(PoolError) in
            try await pool.retireDisk(DiskNumber(1))
        }
        #expect(world.untilTrue { pool.jobs.first { $0.id == id }?.state == .blocked })
        #expect(pool.jobs.first { $0.id == id }?.reason.contains("too few") == true)
        expected.check(world, pool.space(named: "m"))
        let spare = world.members(least..<least + 1)
        try #require(world.run { _ throws(PoolError) in try await pool.addDisks(spare) }).get()
        let retired = try ended(world, pool, id)
        #expect(retired.state == .done, "\(retired.reason)")
        expected.check(world, pool.space(named: "m"))
    }

    /// A disk that is being retired and fails, or is away for a while, goes on being retired, over
    /// an opening of the pool, too. It is never offline: that would not outlive the opening.
    @Test(arguments: [false, true]) func aFailingDiskStaysRetired(comesBack: Bool) throws {
        // Two are too few for what the retired one holds.
        let world = PoolWorld([2048, 2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror3)], on: 0..<3)
        var expected = ExpectedBlocks()
        expected.write(world, try #require(pool.space(named: "m")), 0..<20)
        let number = DiskNumber(1)
        func state(_ pool: Pool) -> DiskState? {
            pool.configuration.disks.first { $0.number == number }?.state
        }
        #expect(pool.groups(ofSpace: "m").contains { $0.slabs.contains { $0.address.disk == number } })
        let id = try job(world, pool) { pool throws(PoolError) in try await pool.retireDisk(number) }
        #expect(world.untilTrue { pool.jobs.first { $0.id == id }?.state == .blocked })
        func putOffline() -> PoolError? {
            world.run { _ throws(PoolError) in
                try await pool.offlineDisk(number, force: true)
            }?.error
        }
        let version = pool.configuration.version
        #expect(putOffline() == .diskRetired(disk: "disk1 (/disks/0)"))
        #expect(pool.configuration.version == version && pool.disk(number)?.serves == true)
        try world.lose(0, pool)
        #expect(putOffline() == .diskRetired(disk: "disk1 (/disks/0)"))
        #expect(state(pool) == .retired)
        #expect(!pool.configuration.voters.contains(number))
        expected.write(world, try #require(pool.space(named: "m")), 3..<7)
        if comesBack {
            #expect(world.bringBack(0, pool) == nil)
            #expect(state(pool) == .retired && pool.configuration.voters.contains(number))
            #expect(world.untilCaughtUp(pool))
        } else {
            world.disks[0].plugIn()
        }
        world.restart()
        let opened = try #require(world.open(0..<3)).get()
        #expect(state(opened) == .retired)
        #expect(world.untilCaughtUp(opened))
        expected.check(world, opened.space(named: "m"))
        // With a disk that has room it comes to its end.
        let spare = world.member(3)
        try #require(
            world.run { _ throws(PoolError) in
                try await opened.addDisks([spare])
            }
        ).get()
        #expect(world.untilTrue { state(opened) == nil })
        expected.check(world, opened.space(named: "m"))
        #expect(opened.audit().isEmpty)
    }
}
