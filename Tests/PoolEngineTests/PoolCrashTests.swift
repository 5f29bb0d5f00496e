import PoolFormat
import Testing

@testable import PoolEngine

/// Power cuts at every device operation of a slow path, with nothing, everything and a mixture of
/// what was not flushed kept.
@Suite struct PoolCrashTests {
    @Test func createIsAllOrNothing() throws {
        try PoolWorld.atEveryCut([1024, 1024]) { world in
            world.allMembers
        } change: { members, engine throws(PoolError) in
            _ = try await Pool.create(
                engine, name: "tank", uuid: PoolWorld.uuid, members: members)
        } check: { world, _, cut, ended in
            switch try #require(world.open()) {
            case .success(let pool):
                #expect(pool.status().disks.count == 2)
                #expect(pool.status().allocatedBytes == 0)
            case .failure(let error):
                #expect(!ended, "cut \(cut): \(error)")
                switch error {
                case .noLabel, .creationUnfinished, .badLabel: break
                default: Issue.record("cut \(cut): \(error)")
                }
                // With only a part of the disks it is no pool either.
                let alone = world.open(0..<1)?.error
                switch alone {
                case .noLabel, .creationUnfinished, .badLabel: break
                default: Issue.record("cut \(cut): \(String(describing: alone))")
                }
                world.witness = nil
                #expect(world.create(0..<2)?.error == nil)
            }
        }
    }

    @Test func addedDiskIsThereOrNot() throws {
        try PoolWorld.atEveryCut([1024, 1024, 1024]) { world in
            (try #require(world.create(0..<2)).get(), world.members(2..<3))
        } change: { state, _ throws(PoolError) in
            try await state.0.addDisks(state.1)
        } check: { world, _, cut, ended in
            // A disk without a label cannot be offered: then the others are the pool.
            let everyone = world.open()
            let pool: Pool
            switch everyone {
            case .success(let opened): pool = opened
            case .failure(.noLabel), .failure(.badLabel):
                #expect(!ended)
                pool = try #require(world.open(0..<2)).get()
            default:
                Issue.record("cut \(cut): \(String(describing: everyone))")
                return
            }
            let count = pool.status().disks.count
            #expect(count == 3 || !ended && count == 2)
            #expect(pool.status().allocatedBytes == 0)
            // Once decided it stays decided.
            world.powerCut(.dropAll)
            let again = try #require(world.open(0..<count)).get()
            #expect(again.status().disks.count == count)
        }
    }

    /// A space the configuration names, without anything behind it: its grants are kept.
    private func pretendSpace(_ world: PoolWorld, _ pool: Pool) throws -> Lineage {
        let lineage = Lineage(pool.configuration.nextLineage)
        try #require(
            world.run { _ throws(PoolError) in
                try await pool.changeConfiguration { next in
                    next.nextLineage += 1
                    next.spaces.append(
                        SpaceRecord(
                            lineage: lineage, name: "pretend", sizeBytes: 1 << 30,
                            resiliency: .mirror2, copies: 2, columns: 0,
                            interleaveBytes: 256 << 10, flags: [], whenFull: .wait,
                            readOnlyReason: "", ssdTierBytes: 0, ssdResiliency: 0,
                            writeCacheBytes: 0, root: [], currentCopies: 0, owner: ""))
                }
            }
        ).get()
        return lineage
    }

    private struct Granted: Sendable {
        var pool: Pool
        var lineage: Lineage
        var groups: [GroupRecord]
        var pieces: [DirectoryEntry]
    }

    private func granted(_ world: PoolWorld) throws -> Granted {
        let pool = try #require(world.create(0..<2)).get()
        let lineage = try pretendSpace(world, pool)
        return try #require(
            world.run { _ throws(PoolError) in
                var groups: [GroupRecord] = []
                // So many that the next ones stand in another sector of the table's page.
                for id in UInt32(0)..<14 {
                    groups.append(
                        try await pool.grantGroup(
                            lineage: lineage, id: id, layout: .mirror2, columns: 1,
                            unitBytes: 256 << 10))
                }
                let pieces = try await pool.grantPieces(
                    lineage: lineage, kind: .map, firstIndex: 0, count: 2,
                    disks: [DiskNumber(1), DiskNumber(2)])
                return Granted(pool: pool, lineage: lineage, groups: groups, pieces: pieces)
            }
        ).get()
    }

    @Test func grantsSurviveAndOthersAreUntouched() throws {
        try PoolWorld.atEveryCut([6144, 6144], prepare: granted) { state, _ throws(PoolError) in
            _ = try await state.pool.grantGroup(
                lineage: state.lineage, id: 14, layout: .mirror2, columns: 1,
                unitBytes: 256 << 10)
            _ = try await state.pool.grantPieces(
                lineage: state.lineage, kind: .map, firstIndex: 2, count: 254,
                disks: [DiskNumber(1), DiskNumber(2)])
        } check: { world, state, cut, ended in
            let pool = try #require(world.open()).get()
            let bytes = pool.allocatedByLineage()[state.lineage] ?? 0
            if ended { #expect(bytes == UInt64(30) << 28 + UInt64(512) << 20) }
            // What was granted before is claimed, what the cut left in between goes.
            try #require(
                world.run { _ throws(PoolError) in
                    try await pool.reconcile(
                        lineage: state.lineage, groups: state.groups,
                        pieces: state.pieces.flatMap(\.copies))
                }
            ).get()
            let kept = pool.allocatedByLineage()[state.lineage]
            #expect(kept == UInt64(28) << 28 + UInt64(4) << 20, "cut \(cut)")
            #expect(pool.status().allocatedBytes == UInt64(30) << 28, "cut \(cut)")
        }
    }

    @Test func releasesAreDoneOrNot() throws {
        try PoolWorld.atEveryCut([6144, 6144], prepare: granted) { state, _ throws(PoolError) in
            for group in state.groups.suffix(2) {
                try await state.pool.releaseGroup(group, lineage: state.lineage)
            }
            try await state.pool.releasePieces(
                state.pieces.flatMap(\.copies), of: state.lineage)
        } check: { world, state, cut, ended in
            let pool = try #require(world.open()).get()
            if ended { #expect(pool.status().allocatedBytes == UInt64(24) << 28) }
            try #require(
                world.run { _ throws(PoolError) in
                    try await pool.reconcile(lineage: state.lineage, groups: [], pieces: [])
                }
            ).get()
            #expect(pool.status().allocatedBytes == 0, "cut \(cut)")
        }
    }

    @Test func destroyedPoolsStayDestroyed() throws {
        try PoolWorld.atEveryCut([1024, 1024]) { world in
            try #require(world.create(0..<2)).get()
        } change: { pool, _ throws(PoolError) in
            try await pool.destroy()
        } check: { world, _, cut, ended in
            switch world.open()?.error {
            case nil: #expect(!ended, "cut \(cut)")
            case .destroyed:
                // The opening has finished the job.
                guard case .noLabel = world.open()?.error else {
                    Issue.record("cut \(cut): labels are left")
                    return
                }
            case .noLabel, .badLabel: break
            case let error: Issue.record("cut \(cut): \(String(describing: error))")
            }
        }
    }

    /// An opening that is cut again and again still comes to the same end.
    @Test func openingsMayBeCut() throws {
        try PoolWorld.atEveryCut([6144, 6144]) { world in
            let state = try granted(world)
            // The space goes, what it had is still granted.
            try #require(
                world.run { _ throws(PoolError) in
                    try await state.pool.changeConfiguration { $0.spaces = [] }
                }
            ).get()
            world.powerCut(.dropAll)
            return (world.allMembers, world.witness)
        } change: { state, engine throws(PoolError) in
            _ = try await Pool.open(engine, members: state.0, witness: state.1)
        } check: { world, _, cut, _ in
            let pool = try #require(world.open()).get()
            #expect(pool.status().allocatedBytes == 0, "cut \(cut)")
        }
    }

    @Test func configurationsAreNeverTorn() throws {
        try PoolWorld.atEveryCut([1024, 1024, 1024]) { world in
            let pool = try #require(world.create(0..<3)).get()
            _ = try pretendSpace(world, pool)
            return pool
        } change: { pool, _ throws(PoolError) in
            try await pool.changeConfiguration { $0.spaces[0].name = "second" }
            try await pool.changeConfiguration { $0.spaces[0].name = "third" }
        } check: { world, _, cut, ended in
            let before = world.witness
            let pool = try #require(world.open()).get()
            let name = try #require(pool.configuration.spaces.first).name
            #expect(["pretend", "second", "third"].contains(name))
            if ended { #expect(name == "third") }
            if before?.sequence == 4 { #expect(name != "pretend", "cut \(cut)") }
            // What one opening found the next one finds.
            world.powerCut(.keepAll)
            #expect(try #require(world.open()).get().configuration.spaces.first?.name == name)
        }
    }

    /// The first change of an opening leaves whole what it replaces, though every sector differs.
    @Test func openingNeverTearsTheConfiguration() throws {
        try PoolWorld.atEveryCut([1024, 1024]) { world in
            let pool = try #require(world.create(0..<2)).get()
            try #require(
                world.run { _ throws(PoolError) in
                    try await pool.changeConfiguration { next in
                        for index in next.disks.indices {
                            next.disks[index].pathHint = String(repeating: "p", count: 77)
                        }
                        next.departures = (1...150).map {
                            Departure(
                                disk: DiskNumber(1), lineage: Lineage($0 &* 0x0101_0101_0101),
                                generation: $0)
                        }
                    }
                }
            ).get()
            world.powerCut(.dropAll)
            return (world.allMembers, world.witness)
        } change: { state, engine throws(PoolError) in
            _ = try await Pool.open(engine, members: state.0, witness: state.1)
        } check: { world, _, cut, _ in
            #expect(world.open()?.error == nil, "cut \(cut)")
        }
    }
}
