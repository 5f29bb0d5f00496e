import PoolFormat
import Testing

@testable import PoolEngine

@Suite struct PoolTests {
    private func grant(
        _ world: PoolWorld, _ pool: Pool, copies: Int, columns: Int = 0, id: UInt32 = 0
    ) -> Result<GroupRecord, PoolError>? {
        world.run { _ throws(PoolError) in
            try await pool.grantGroup(
                lineage: Lineage(9), id: id, layout: copies == 1 ? .simple : .mirror2, columns: columns,
                unitBytes: 256 << 10)
        }
    }

    @Test func createdPoolOpensAgain() throws {
        let world = PoolWorld([1024, 1536, 2048])
        let created = try #require(world.create(0..<3)).get()
        #expect(created.configuration.version.sequence == 2)
        #expect(world.witness == created.configuration.version)
        world.powerCut(.dropAll)
        let opened = try #require(world.open()).get()
        #expect(opened.name == "tank")
        #expect(opened.configuration.version.sequence == 4)
        #expect(world.witness == opened.configuration.version)
        let status = opened.status()
        #expect(status.disks.map(\.state) == [.online, .online, .online])
        // 1 GiB less the tables holds three whole slabs, and so on.
        #expect(status.capacityBytes == UInt64(3 + 5 + 7) << 28)
        #expect(status.freeBytes == status.capacityBytes)
    }

    @Test func inspectTellsWhatIsThere() throws {
        let world = PoolWorld([1024, 1024])
        let device = world.member(0).device
        let inspect = {
            try #require(
                world.run { engine throws(PoolError) in try await Pool.inspect(engine, device) }
            ).get()
        }
        guard case .noLabel = try inspect() else {
            Issue.record("no label yet")
            return
        }
        _ = try #require(world.create(0..<2)).get()
        guard case .label(let label) = try inspect() else {
            Issue.record("labelled")
            return
        }
        #expect(label.poolName == "tank")
        #expect(label.diskNumber == DiskNumber(1))
        world.disks[0].corrupt(100)
        guard case .label = try inspect() else {
            Issue.record("the tail serves")
            return
        }
        world.disks[0].corrupt((1 << 30) - 4096 + 100)
        guard case .damagedLabel(let why) = try inspect() else {
            Issue.record("damaged")
            return
        }
        #expect(why.contains("damaged"))
        #expect(world.open()?.error == .badLabel(path: "/disks/0", why))
    }

    @Test func damagedCopiesAreRewrittenAtOpening() throws {
        let world = PoolWorld([1024, 1024])
        _ = try #require(world.create(0..<2)).get()
        world.restart()
        let places: [UInt64] = [0, 64 << 10, 1 << 20, 3 << 20]
        // One copy or slot of each structure: label, fences, configuration, slab table.
        for place in places { world.disks[0].corrupt(place + 70) }
        // The slab table's other slot was never written: that disk's table is lost, and the other
        // goes on without it.
        let without = try #require(world.open()).get()
        #expect(without.status().disks.map(\.state) == [.failed, .online])
        world.restart()
        world.disks[0].corrupt((3 << 20) + 70)
        let pool = try #require(world.open()).get()
        #expect(pool.status().disks.map(\.state) == [.online, .online])
        #expect(pool.status().disks.allSatisfy { $0.errors == DiskErrorCounters() })
        world.restart()
        // The head is right again: the tail may go.
        world.disks[0].corrupt((1 << 30) - 4096 + 70)
        _ = try #require(world.open()).get()
    }

    @Test func groupsTakeDistinctDisksAndSurviveARestart() throws {
        let world = PoolWorld([1024, 1024, 2048])
        let pool = try #require(world.create(0..<3)).get()
        var taken: Set<SlabAddress> = []
        var generations: Set<UInt64> = []
        var granted: [GroupRecord] = []
        while let group = try? #require(grant(world, pool, copies: 2)).get() {
            #expect(Set(group.slabs.map(\.address.disk)).count == group.slabs.count)
            for slab in group.slabs { #expect(taken.insert(slab.address).inserted) }
            #expect(generations.insert(group.slabs[0].generation).inserted)
            granted.append(group)
        }
        // 3 + 3 + 7 slabs, one of each disk kept for metadata: 2, 2 and 6 give four mirrors.
        #expect(granted.count == 4)
        #expect(grant(world, pool, copies: 2)?.error == .noSpace)
        world.powerCut(.dropAll)
        // No configuration has lineage 9: what it had is free again, and newer when granted again.
        let opened = try #require(world.open()).get()
        #expect(opened.status().allocatedBytes == 0)
        let again = try #require(grant(world, opened, copies: 2)).get()
        #expect(again.slabs[0].generation > generations.max() ?? 0)
    }

    @Test func releasedGroupsAreGrantedAgain() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try #require(world.create(0..<2)).get()
        let first = try #require(grant(world, pool, copies: 2)).get()
        _ = try #require(grant(world, pool, copies: 2)).get()
        #expect(grant(world, pool, copies: 2)?.error == .noSpace)
        try #require(
            world.run { _ throws(PoolError) in
                // Not its own: refused silently, as a stale claim is.
                try await pool.releaseGroup(first, lineage: Lineage(8))
            }
        ).get()
        #expect(grant(world, pool, copies: 2)?.error == .noSpace)
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.releaseGroup(first, lineage: Lineage(9))
            }
        ).get()
        let again = try #require(grant(world, pool, copies: 2)).get()
        #expect(again.slabs.map(\.address) == first.slabs.map(\.address))
        #expect(again.slabs[0].generation > first.slabs[0].generation)
    }

    @Test func fullPoolStillHasRoomForMetadata() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try #require(world.create(0..<2)).get()
        while try #require(grant(world, pool, copies: 1)).error == nil {}
        let pieces = try #require(
            world.run { _ throws(PoolError) in
                try await pool.grantPieces(
                    lineage: Lineage(9), kind: .map, firstIndex: 0, count: 255,
                    disks: [DiskNumber(1), DiskNumber(2)])
            }
        ).get()
        #expect(pieces.count == 255)
        let refused = world.run { _ throws(PoolError) in
            try await pool.grantPieces(
                lineage: Lineage(9), kind: .map, firstIndex: 255, count: 1,
                disks: [DiskNumber(1)])
        }
        #expect(refused?.error == .noMetadataSpace)
    }

    @Test func piecesLieOnDistinctDisksAndGoBack() throws {
        let world = PoolWorld([1024, 1024, 1024])
        let pool = try #require(world.create(0..<3)).get()
        #expect(pool.metadataDisks(copies: 2).count == 2)
        let entries = try #require(
            world.run { _ throws(PoolError) in
                try await pool.grantPieces(
                    lineage: Lineage(9), kind: .journal, firstIndex: 4, count: 3,
                    // A disk that is not there: another one stands in.
                    disks: [DiskNumber(2), DiskNumber(77)])
            }
        ).get()
        #expect(entries.map(\.index) == [4, 5, 6])
        var seen: Set<PieceAddress> = []
        for entry in entries {
            #expect(entry.kind == .journal)
            #expect(Set(entry.copies.map(\.disk)).count == 2)
            for copy in entry.copies {
                #expect(copy.piece > 0 && seen.insert(copy).inserted)
            }
        }
        #expect(pool.status().allocatedBytes == UInt64(2) << 28)
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.releasePieces(entries.flatMap(\.copies), of: Lineage(9))
            }
        ).get()
        // Empty metadata slabs went back to their disks.
        #expect(pool.status().allocatedBytes == 0)
    }

    @Test func reconcileFreesWhatNobodyClaims() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try #require(world.create(0..<2)).get()
        let kept = try #require(grant(world, pool, copies: 2, columns: 1, id: 0)).get()
        _ = try #require(grant(world, pool, copies: 2, columns: 1, id: 1)).get()
        let entries = try #require(
            world.run { _ throws(PoolError) in
                try await pool.grantPieces(
                    lineage: Lineage(9), kind: .map, firstIndex: 0, count: 2,
                    disks: [DiskNumber(1), DiskNumber(2)])
            }
        ).get()
        let reconcile = { (groups: [GroupRecord], pieces: [PieceAddress]) in
            world.run { _ throws(PoolError) in
                try await pool.reconcile(lineage: Lineage(9), groups: groups, pieces: pieces)
            }
        }
        try #require(reconcile([kept], entries[0].copies)).get()
        let allocated = pool.allocatedByLineage()[Lineage(9)]
        #expect(allocated == UInt64(2) << 28 + UInt64(2) << 20)
        // A claim without a grant is damage, never a grant.
        guard case .claimRefused = reconcile([kept], entries[1].copies)?.error else {
            Issue.record("a freed piece was claimed")
            return
        }
        var stale = kept
        stale.slabs[1].generation -= 1
        guard case .claimRefused = reconcile([stale], entries[0].copies)?.error else {
            Issue.record("a stale generation was claimed")
            return
        }
        var elsewhere = kept
        elsewhere.slabs[0].address = SlabAddress(disk: DiskNumber(99), slab: .max)
        guard case .claimRefused = reconcile([elsewhere], entries[0].copies)?.error else {
            Issue.record("a disk that is not there was claimed")
            return
        }
    }

    @Test func refusesWhatDoesNotFit() throws {
        let world = PoolWorld([1024, 1024, 512])
        #expect(
            world.create(0..<3)?.error
                == .diskTooSmall(path: "/disks/2", bytes: 512 << 20))
        #expect(world.create(0..<0)?.error == .noDisks)
        let pool = try #require(world.create(0..<2)).get()
        let twice = world.run { [member = world.member(1)] _ throws(PoolError) in
            try await pool.addDisks([member])
        }
        #expect(twice?.error == .diskTwice(path: "/disks/1"))
        let create = { (change: (inout Pool.SpaceParameters) -> Void) -> PoolError? in
            var parameters = Pool.SpaceParameters(
                name: "a", sizeBytes: 1 << 30, resiliency: .mirror2)
            change(&parameters)
            return world.run { [parameters] _ throws(PoolError) in
                try await pool.createSpace(parameters)
            }?.error
        }
        let few = PoolError.tooFewDisks(
            resiliency: .mirror2, columns: 2, needed: 4, present: 2)
        #expect(create { $0.columns = 2 } == few)
        let odd = PoolError.sizeNotWhole(bytes: 1_073_741_829, next: 1_074_790_400)
        #expect(create { $0.sizeBytes += 5 } == odd)
        #expect(create { $0.sizeBytes = 0 } == .sizeNotWhole(bytes: 0, next: 1 << 20))
        #expect(
            create { $0.sizeBytes = .max }
                == .sizeTooLarge(bytes: .max, limit: Units.maximumSpaceBytes))
        #expect(create { $0.name = "" } == .badSpaceName(""))
        let fewForParity = PoolError.tooFewDisks(
            resiliency: .parity1, columns: 3, needed: 3, present: 2)
        #expect(create { $0.resiliency = .parity1 } == fewForParity)
        #expect(
            create {
                $0.resiliency = .parity2
                $0.columns = 3
            } == .badColumns(columns: 3, allowed: 4...18))
        #expect(create { $0.interleaveBytes = 5000 } == .badInterleave(bytes: 5000))
        #expect(create { $0.columns = -1 } == .badColumns(columns: -1, allowed: 1...30))
        #expect(pool.configuration.spaces.isEmpty)
        let unknown = world.run { _ throws(PoolError) in try await pool.destroySpace("b") }
        #expect(unknown?.error == .nameUnknown("b"))
    }

    @Test func everyErrorSaysWhatAndWhatToDo() {
        let record = DiskRecord(
            number: DiskNumber(3), uuid: PoolUUID(high: 0, low: 0), sizeBytes: 0, mediaClass: .hdd,
            state: .online, enclosure: "", node: "", rack: "", pathHint: "/dev/x")
        let detached = PoolError.detached(missing: [record], reason: "disks are missing")
        #expect(detached.what == "disks are missing: disk3")
        #expect(detached.hint.hasPrefix("connect /dev/x; ") && detached.hint.contains("--force"))
        let few = PoolError.tooFewDisks(
            resiliency: .mirror2, columns: 1, needed: 2, present: 1)
        #expect(few.what == "mirror2 with 1 column needs 2 disks, 1 is present")
        #expect(few.hint.hasPrefix("add 1 more"))
        #expect(PoolError.noSpace.isShortOfSpace && !PoolError.stopped.isShortOfSpace)
    }

    @Test func missingDisksKeepThePoolDetached() throws {
        let world = PoolWorld([1024, 1024, 1024])
        _ = try #require(world.create(0..<3)).get()
        world.restart()
        let newest = world.witness
        // One of three is no majority, and nothing says that nobody knows better.
        world.witness = nil
        guard case .detached(let missing, _) = world.open(0..<1)?.error else {
            Issue.record("opened without a majority")
            return
        }
        #expect(missing.map(\.pathHint) == ["/disks/1", "/disks/2"])
        let members = world.members(0..<1)
        let examined = try #require(
            world.run { engine throws(PoolError) in
                try await Pool.examine(engine, members: members)
            }
        ).get()
        #expect(examined.missing == missing && !examined.configuration.exported)
        world.witness = newest
        world.witness?.sequence += 1
        guard case .witnessNewer = world.open()?.error else {
            Issue.record("opened behind the witness")
            return
        }
    }

    @Test func exportIsUndoneByOpening() throws {
        let world = PoolWorld([1024])
        let pool = try #require(world.create(0..<1)).get()
        try #require(world.run { _ throws(PoolError) in try await pool.export() }).get()
        #expect(pool.configuration.exported && pool.isClosed)
        let members = world.allMembers
        let late = world.run { _ throws(PoolError) in try await pool.addDisks(members) }
        #expect(late?.error == .closed(pool: "tank"))
        world.restart()
        world.witness = nil
        let opened = try #require(world.open()).get()
        #expect(!opened.configuration.exported)
    }

    @Test func disksOfTwoPoolsDoNotMix() throws {
        let world = PoolWorld([1024, 1024])
        _ = try #require(world.create(0..<1)).get()
        let other = world.members(1..<2)
        _ = try #require(
            world.run { engine throws(PoolError) in
                try await Pool.create(
                    engine, name: "other", uuid: PoolUUID(high: 5, low: 5), members: other)
            }
        ).get()
        #expect(world.open()?.error == .otherPool(path: "/disks/1", pool: "other"))
    }

    @Test func addedDisksHaveRoomForSpaces() throws {
        let world = PoolWorld([1024, 1024])
        let pool = try #require(world.create(0..<1)).get()
        #expect(grant(world, pool, copies: 2)?.error == .noSpace)
        let members = world.members(1..<2)
        try #require(
            world.run { _ throws(PoolError) in try await pool.addDisks(members) }
        ).get()
        _ = try #require(grant(world, pool, copies: 2)).get()
        world.powerCut(.dropAll)
        world.witness = nil
        guard case .detached = world.open(0..<1)?.error else {
            Issue.record("the added disk votes")
            return
        }
        #expect(try #require(world.open()).get().status().disks.count == 2)
    }
}
