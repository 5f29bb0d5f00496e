import PoolFormat
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

    /// While a grain is moved, a part at a time, a disk that is to have a copy of it comes back: what
    /// was copied before without it is not taken for copied.
    @Test(arguments: [4, 12, 30, 60]) func aDiskReturnsInTheMiddleOfAMove(steps: Int) throws {
        let grainBytes = UInt64(Units.grainBytes)
        let world = PoolWorld([2048, 2048, 2048, 2048])
        let pool = try #require(world.create(0..<4)).get()
        let parameters = Pool.SpaceParameters(
            name: "m", sizeBytes: 1 << 30, resiliency: .mirror2, columns: 1)
        try #require(
            world.run { _ throws(PoolError) in _ = try await pool.createSpace(parameters) }
        ).get()
        let space = try #require(pool.space(named: "m"))
        func write(_ grain: UInt64, _ bytes: UInt32, _ data: UInt8) {
            #expect(world.perform(.write, space, grain * grainBytes, bytes, data: data) == .ok)
        }
        // The first group is full, and the second has room for what it holds.
        for grain in 0..<UInt64(260) { write(grain, 4096, 1) }
        for grain in 1..<UInt64(248) {
            #expect(
                world.perform(.trim, space, grain * grainBytes, UInt32(grainBytes)) == .ok)
        }
        // The first of them are moved before it is known that clients are at work.
        let whole = UInt64(248)..<255
        for grain in whole { write(grain, UInt32(grainBytes), 2) }
        #expect(world.perform(.flush, space, 0) == .ok)
        let groups = pool.groups(ofSpace: "m")
        let from = try #require(groups.first).slabs.map(\.address.disk)
        let to = try #require(groups.last).slabs.map(\.address.disk)
        try #require(groups.count == 2 && Set(from).isDisjoint(with: to))
        let returning = Int(to[1].rawValue) - 1
        try world.lose(returning, pool)
        write(255, 4096, 3)
        _ = try job(world, pool) { pool throws(PoolError) in try await pool.retireDisk(from[0]) }
        // Clients are at work, so it is moved a part at a time.
        #expect(
            world.untilTrue {
                write(258, 4096, 4)
                return !space.moving.isEmpty
            })
        for _ in 0..<steps { #expect(world.step()) }
        #expect(world.bringBack(returning, pool) == nil)
        #expect(world.untilCaughtUp(pool))
        #expect(world.untilTrue { pool.groups(ofSpace: "m").count == 1 })
        // Only the one that has come back is asked.
        try world.lose(Int(to[0].rawValue) - 1, pool)
        for grain in whole {
            #expect(
                world.bytes(space, grain * grainBytes, UInt32(grainBytes))
                    == Array(repeating: 2, count: 1 << 20))
        }
    }

    /// A disk that is being retired and fails, or is away for a while, goes on being retired, over
    /// an opening of the pool, too.
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
        try world.lose(0, pool)
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
