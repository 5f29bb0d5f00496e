import PoolFormat
import Testing

@testable import PoolEngine

/// Disks that fail while the pool is in use.
@Suite struct PoolFailureTests {
    private func grant(
        _ world: PoolWorld, _ pool: Pool, copies: Int
    ) -> Result<GroupRecord, PoolError>? {
        world.run { _ throws(PoolError) in
            try await pool.grantGroup(
                lineage: Lineage(9), id: 0, layout: copies == 1 ? .simple : .mirror2, columns: 1,
                unitBytes: 256 << 10)
        }
    }

    @Test func grantGoesAroundADiskThatFails() throws {
        let world = PoolWorld([2048, 1024, 1024])
        let pool = try #require(world.create(0..<3)).get()
        world.disks[0].isBroken = true
        let group = try #require(grant(world, pool, copies: 2)).get()
        #expect(group.slabs.map(\.address.disk) == [DiskNumber(2), DiskNumber(3)])
        #expect(pool.configuration.disks.map(\.state) == [.failed, .online, .online])
        #expect(pool.configuration.voters == [DiskNumber(2), DiskNumber(3)])
        #expect(pool.status().disks[0].errors.write > 0)
        // The failed disk is stale and has no vote: present or not, the pool opens.
        world.disks[0].isBroken = false
        world.powerCut(.dropAll)
        world.witness = nil
        let without = try #require(world.open(1..<3)).get()
        #expect(without.status().disks.map(\.state) == [.failed, .online, .online])
        #expect(without.status().disks[0].device == nil)
        // Alone it is not the pool.
        world.restart()
        guard case .witnessNewer = world.open(0..<1)?.error else {
            Issue.record("a stale disk opened")
            return
        }
        world.witness = nil
        guard case .detached = world.open(0..<1)?.error else {
            Issue.record("a stale disk opened without a witness")
            return
        }
        // Among the others it serves again, and votes.
        world.restart()
        let opened = try #require(world.open()).get()
        #expect(opened.status().disks.map(\.state) == [.online, .online, .online])
        #expect(opened.configuration.version > without.configuration.version)
        #expect(Set(opened.configuration.voters) == Set((1...3).map { DiskNumber($0) }))
    }

    @Test func failureInTheMiddleOfAChangeIsPartOfIt() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try #require(world.create(0..<2)).get()
        world.disks[1].isBroken = true
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.changeConfiguration { $0.nextLineage = 40 }
            }
        ).get()
        #expect(pool.configuration.nextLineage == 40)
        #expect(pool.configuration.disks.map(\.state) == [.online, .failed])
        #expect(world.witness == pool.configuration.version)
        #expect(!pool.hasLostQuorum)
    }

    @Test func withoutWitnessAMajorityIsNeeded() throws {
        let world = PoolWorld([1024, 1024, 1024])
        let pool = try #require(world.create(0..<3)).get()
        world.witnessAnswers = false
        world.disks[2].isBroken = true
        let change = {
            world.run { _ throws(PoolError) in
                try await pool.changeConfiguration { $0.nextLineage += 1 }
            }
        }
        try #require(change()).get()
        #expect(pool.configuration.voters.count == 2)
        // One of two is no majority.
        world.disks[1].isBroken = true
        #expect(change()?.error == .noQuorum(pool: "tank"))
        #expect(pool.hasLostQuorum)
        let grown = world.run { _ throws(PoolError) in try await pool.destroySpace("none") }
        #expect(grown?.error == .nameUnknown("none"))
    }

    @Test func failureIsRecordedOnce() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try #require(world.create(0..<2)).get()
        let before = pool.configuration.version.sequence
        for _ in 0..<3 {
            try #require(
                world.run { _ throws(PoolError) in
                    await pool.deviceFailed(DeviceIndex(1), during: "a write")
                    await pool.deviceFailed(DeviceIndex(9), during: "a device of nobody")
                }
            ).get()
        }
        #expect(pool.configuration.version.sequence == before + 1)
        #expect(pool.status().disks[1].failure == "a write")
    }

    @Test func lastDiskTakesThePoolWithIt() throws {
        let world = PoolWorld([1024])
        let pool = try #require(world.create(0..<1)).get()
        world.disks[0].isBroken = true
        #expect(grant(world, pool, copies: 1)?.error != nil)
        #expect(pool.hasLostQuorum)
    }

    @Test func diskThatFailsWhileItJoinsDoesNotJoin() throws {
        // Broken from the first write, or only once the configuration names it.
        for breaksAfter in [0, 30, 34, 36, 38, 40, 42, 44] {
            let world = PoolWorld([1024, 1024])
            let pool = try #require(world.create(0..<1)).get()
            let members = world.members(1..<2)
            world.disks[1].writesUntilBroken = breaksAfter
            let result = world.run { _ throws(PoolError) in try await pool.addDisks(members) }
            let count = pool.configuration.disks.count
            #expect(count == (result?.error == nil ? 2 : 1), "broken after \(breaksAfter)")
            #expect(pool.configuration.voters.contains(DiskNumber(1)))
            #expect(!pool.hasLostQuorum)
        }
    }

    @Test func unreadableSectorsAreBypassed() throws {
        let world = PoolWorld([1024, 1024])
        _ = try #require(world.create(0..<2)).get()
        world.restart()
        // The label's head, a fence slot, a configuration slot, the blank slot of a table page.
        world.disks[0].unreadable = [0, 128 << 10, 2 << 20, (3 << 20) + 4096]
        let pool = try #require(world.open()).get()
        #expect(pool.status().disks[0].errors.read > 0)
    }

    /// Any few damaged sectors: the pool opens as it was, or says which disk is damaged.
    @Test func rotNeverTrapsAndNeverChangesThePool() throws {
        var seed: UInt64 = 42
        func random(_ bound: UInt64) -> UInt64 {
            seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (seed >> 33) % bound
        }
        var opened = 0
        for round in 0..<60 {
            let world = PoolWorld([1024, 1024], seed: UInt64(round))
            let pool = try #require(world.create(0..<2)).get()
            _ = try #require(
                world.run { _ throws(PoolError) in
                    try await pool.createSpace(
                        Pool.SpaceParameters(
                            name: "a", sizeBytes: 1 << 30, resiliency: .mirror2))
                }
            ).get()
            world.powerCut(.dropAll)
            for _ in 0...random(3) {
                let disk = world.disks[Int(random(2))]
                // Labels, fences, configurations, slab table, and the first metadata slab.
                let block = [0, 16, 32, 256, 512, 768, 769, 1024, 1025][Int(random(9))]
                disk.corrupt(UInt64(block) * 4096 + random(200))
            }
            switch try #require(world.open()) {
            case .success(let again):
                opened += 1
                #expect(again.configuration.disks.count == 2)
                #expect(again.configuration.spaces.map(\.name) == ["a"], "round \(round)")
            case .failure(let error):
                switch error {
                case .damaged, .badLabel, .noLabel, .noConfiguration, .witnessNewer: break
                default: Issue.record("round \(round): \(error)")
                }
            }
        }
        #expect(opened > 10)
    }

    /// A simple space whose metadata is damaged on one disk, which fails in the middle of mending
    /// that: the other has it, too, and the space opens to be read.
    @Test(arguments: [true, false]) func aSimpleSpaceOpensWithoutADiskThatFailsMeanwhile(
        inRoot: Bool
    ) throws {
        var refusals = 0
        for breaksAfter in 0..<200 {
            let world = PoolWorld([1024, 1024, 1024])
            let pool = try world.makePool([("s", .simple)], columns: 1)
            let space = try #require(pool.space(named: "s"))
            var expected = ExpectedBlocks()
            expected.write(world, space, 0..<9)
            let data = try #require(pool.groups(ofSpace: "s").first?.slabs.first?.address.disk)
            let root = try #require(space.rootCopies.first { $0.disk != data })
            let journal = try #require(space.journal.pieces[0].first { $0.disk == root.disk })
            let disk = world.disks[Int(root.disk.rawValue) - 1]
            let slot = SpaceRoot.slotOffset(Int(space.root.sequence % 2))
            world.powerCut(.keepAll)
            // The newest root, or every batch that there can be.
            if inRoot { disk.corrupt(root.offsetBytes + slot + 64) } else {
                for block in 0..<UInt64(Journal.blocksPerPiece) {
                    disk.corrupt(journal.offsetBytes + block * 4096 + 64)
                }
            }
            disk.writesUntilBroken = breaksAfter
            let opened = try #require(world.open()).get()
            let reason = try #require(opened.status().spaces.first?.reason)
            guard let again = opened.space(named: "s") else {
                Issue.record("it stays shut, its disk fails after \(breaksAfter) writes: \(reason)")
                return
            }
            expected.check(world, again)
            if !disk.isBroken { break }
            refusals += 1
            #expect(reason.contains("failed"))
            // With all disks it is what it was.
            world.restart()
            disk.plugIn()
            let whole = try #require(world.open()).get()
            expected.write(world, try #require(whole.space(named: "s")), 4..<12)
            expected.check(world, whole.space(named: "s"))
        }
        #expect((3..<200).contains(refusals))
    }

    /// A FLUSH of a simple space fails with its disk's, and stays failed; the status names what was
    /// written since the last good one, and that is all that is lost.
    @Test(arguments: [1, 2]) func aSimpleSpaceNamesWhatAFlushMayHaveLost(shards: Int) throws {
        let world = PoolWorld([2048, 2048], shards: shards)
        let pool = try world.makePool([("s", .simple)], columns: 1)
        let space = try #require(pool.space(named: "s"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<8)
        expected.write(world, space, 600..<602)
        func write(_ block: UInt64) -> RequestStatus? {
            world.perform(.write, space, block * 4096, 4096, data: 251)
        }
        for block in [3, 4, 5, 601] as [UInt64] { #expect(write(block) == .ok) }
        func status() throws -> Pool.SpaceStatus {
            try #require(world.run { _ throws(PoolError) in await pool.refreshStatus() }).get()
            return try #require(pool.status().spaces.first)
        }
        let before = try status()
        #expect(before.reason.isEmpty && before.doubtful.isEmpty)
        let data = try #require(pool.groups(ofSpace: "s").first?.slabs.first?.address.disk)
        let disk = world.disks[Int(data.rawValue) - 1]
        disk.flushesUntilBroken = 0
        for _ in 0..<2 { #expect(world.perform(.flush, space, 0) == .ioError) }
        #expect(write(7) == .ioError)
        #expect(world.perform(.write, space, 0, 4096, flags: .fua, data: 251) == .ioError)
        let after = try status()
        #expect(after.reason.contains("failed") && after.lostDisks == [data])
        let lost: [Range<UInt64>] = [12_288..<24_576, 2_461_696..<2_465_792]
        #expect(after.doubtful == lost)
        for block in [0, 1, 2, 6, 7, 600] as [UInt64] {
            let value = try #require(expected.values[block])
            #expect(world.bytes(space, block * 4096, 4096) == Array(repeating: value, count: 4096))
        }
        // With its disk it is what the last good flush left.
        world.powerCut(.dropAll)
        disk.plugIn()
        let opened = try #require(world.open()).get()
        let again = try #require(opened.status().spaces.first)
        #expect(again.reason.isEmpty && again.doubtful.isEmpty)
        expected.check(world, opened.space(named: "s"))
        expected.write(world, try #require(opened.space(named: "s")), 2..<6)
    }

    @Test func generationsAreReservedBeforeTheyRunOut() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try #require(world.create(0..<2)).get()
        pool.nextGeneration = pool.generationLimit - 3
        let before = pool.configuration.nextGeneration
        let group = try #require(grant(world, pool, copies: 2)).get()
        #expect(group.slabs[0].generation == before - 3)
        #expect(pool.configuration.nextGeneration == before + Pool.generationReserve)
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        #expect(opened.nextGeneration > group.slabs[0].generation)
    }
}
