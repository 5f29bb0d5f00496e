import PoolFormat

/// A space's size changes, and what a fixed space has granted to it from the start.
///
/// Order, each step durable before the next:
///
///     grow     what the new addresses need at once (dirty pieces; a fixed space's slab groups)
///              ─► the configuration has the new size ─► requests may reach it
///     shrink   requests are refused past the new end ─► everything past it is unmapped, clean,
///              checkpointed and its pieces given back ─► no batch that replay would read speaks
///              of it ─► the configuration has the new size
///
/// A crash before the configuration leaves the old size: with more granted to it than it needs,
/// or with less metadata, for addresses that hold nothing.
extension Space {
    private static func grains(_ sizeBytes: UInt64) -> Int {
        Int(sizeBytes / UInt64(Units.grainBytes))
    }

    // MARK: - growing

    func prepareToGrow(to sizeBytes: UInt64) async throws(PoolError) {
        let regionsPerPiece = DirtyPage.regionsPerPage * MetadataPage.pagesPerPiece
        let regions = (Self.grains(sizeBytes) - 1) / Units.grainsPerRegion + 1
        for first in stride(from: 0, to: regions, by: regionsPerPiece) {
            let page = UInt32(DirtyPage.place(ofRegion: UInt64(first)).page)
            try await ensurePiece(.dirty, page: page)
            if isRedundant { try await ensurePiece(.missed, page: page) }
        }
        if isFixed { try await grantGrains(Self.grains(sizeBytes)) }
        guard await commit() else { throw engine.isStopped ? .stopped : .ioError }
    }

    /// The configuration in effect has the new size.
    func grow(to sizeBytes: UInt64) {
        map.resize(grainCount: Self.grains(sizeBytes))
        regions.resize(grainCount: Self.grains(sizeBytes))
        pageFrames.grow(
            to: (Self.grains(sizeBytes) + ChecksumPage.grainsPerPage - 1)
                / ChecksumPage.grainsPerPage)
        self.sizeBytes = sizeBytes
    }

    // MARK: - shrinking

    /// Refuses requests past the new end and forgets everything there.
    ///
    /// - Throws: ``PoolError/shrinkRefused(name:mappedBytes:)``; the size is the old one then.
    func prepareToShrink(to sizeBytes: UInt64, name: String) async throws(PoolError) {
        let before = self.sizeBytes
        self.sizeBytes = sizeBytes
        isShrinking = true
        defer { isShrinking = false }
        do throws(PoolError) {
            // What was on its way when the end moved.
            while inFlight > 0, !engine.isStopped { await idle.wait() }
            let mapped = (Self.grains(sizeBytes)..<map.grainCount).count {
                map[UInt64($0)].isMapped
            }
            guard mapped == 0 else {
                throw .shrinkRefused(
                    name: name, mappedBytes: UInt64(mapped) * UInt64(Units.grainBytes))
            }
            // Who moves one that is unmapped by now sees that, and gives up.
            while moving.keys.contains(where: { $0 >= Self.grains(sizeBytes) }) {
                guard !engine.isStopped else { throw .stopped }
                await nap(ns: 1_000_000)
            }
            try await forgetTail(fromGrain: Self.grains(sizeBytes))
        } catch {
            self.sizeBytes = before
            throw error
        }
    }

    private func forgetTail(fromGrain end: Int) async throws(PoolError) {
        let regionsLeft = DirtyRegions.count(grainCount: end)
        // Nothing is mapped there, so nothing is to be settled, or suspect, any more.
        for region in regions.marked where region >= regionsLeft {
            regions[region].isCrashed = false
            regions[region].isSuspect = false
        }
        // A commit records as clean what one before it has covered.
        repeat {
            guard await commit() else { throw failure }
        } while regions.marked.contains { $0 >= regionsLeft }
        guard await checkpointAll() else { throw failure }
        let lastPages: [(kind: PieceKind, page: UInt32)] = [
            (.map, MapPage.index(ofGrain: UInt64(end - 1))),
            (.checksum, ChecksumPage.index(ofGrain: UInt64(end - 1))),
        ]
        var behind: [(kind: PieceKind, index: UInt32)] = []
        for (kind, page) in lastPages {
            let first = page / UInt32(MetadataPage.pagesPerPiece) + 1
            for index in first..<max(first, UInt32(pieces.pieceCount(kind))) {
                behind.append((kind, index))
            }
        }
        await releasePieces(behind)
        guard behind.allSatisfy({ pieces.piece($0.kind, $0.index) == nil }) else { throw failure }
        if Mutant.isActive(.shrinkKeepsRecords) { return }
        // The journal's newest batch names the oldest that is needed: only batches from here on.
        let needed = journal.nextSequence
        while journal.tail.sequence < needed {
            guard await checkpointAll() else { throw failure }
            pending.records.append(.activation(epoch: epoch))
            guard await commit() else { throw failure }
            guard await checkpointAll() else { throw failure }
        }
        pending.records.append(.activation(epoch: epoch))
        guard await commit() else { throw failure }
    }

    var failure: PoolError { engine.isStopped ? .stopped : .ioError }

    /// The configuration in effect has the new size.
    func shrink(to sizeBytes: UInt64) {
        map.resize(grainCount: Self.grains(sizeBytes))
        regions.resize(grainCount: Self.grains(sizeBytes))
        self.sizeBytes = sizeBytes
    }

    // MARK: - fixed

    /// Grants slab groups until there are as many grains as addresses: all or none of what lacks.
    func grantGrains(_ count: Int) async throws(PoolError) {
        await groupLock.acquire(engine)
        defer { groupLock.release() }
        var added: [GroupRecord] = []
        do throws(PoolError) {
            while groups.grainCount < count + relocationReserve {
                if engine.isStopped { throw .stopped }
                added += try await grantSome(
                    grains: count + relocationReserve - groups.grainCount)
                guard await commit() else { throw failure }
            }
        } catch {
            if error == .stopped { throw error }
            await giveBack(added)
            throw error
        }
    }

    /// As many groups as one commit takes, durable in their tables, and then claimed.
    private func grantSome(grains: Int) async throws(PoolError) -> [GroupRecord] {
        // No group has fewer grains than a slab: more ids would only ask for pages nobody needs.
        let most = (grains + Units.grainsPerSlab - 1) / Units.grainsPerSlab
        let limit = max(1, min(most, 1024, journal.blockCount * Units.blockBytes / 8 / 1200))
        let ids = groups.nextIDs(limit)
        for page in Set(ids.map(GroupPage.index)).sorted() {
            try await ensurePiece(.group, page: page)
        }
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        let (lineage, layout) = (lineage, resiliency)
        let (columns, unitBytes) = (columns, interleaveBytes)
        let granted = try await atHome { pool async throws(PoolError) in
            let records = try await pool.grantGroups(
                lineage: lineage, ids: ids, grains: grains, layout: layout, columns: columns,
                unitBytes: unitBytes)
            return (records: records, places: pool.places)
        }
        places = granted.places
        guard !granted.records.contains(where: isLost) else {
            await release(granted.records)
            throw .ioError
        }
        for record in granted.records {
            adopt(record)
            addRecord(.groupAdded(record))
            pieces.markDirty(
                .group, GroupPage.index(ofGroup: record.id), since: firstUnwrittenSequence)
        }
        return granted.records
    }

    private func giveBack(_ added: [GroupRecord]) async {
        let removed = groups.removeEmpty(Set(added.map(\.id)))
        for group in removed {
            addRecord(.groupRemoved(id: group.id))
            pieces.markDirty(
                .group, GroupPage.index(ofGroup: group.id), since: firstUnwrittenSequence)
        }
        guard await commit() else { return }
        // A slab that could not be given back is found unclaimed when the space is next opened.
        await release(removed)
    }

    /// A fixed space whose making, or growing, a crash cut short.
    func completeFixed() async {
        guard isFixed, groups.grainCount < map.grainCount + relocationReserve else { return }
        // Without the room it is as thin as what lacks.
        try? await grantGrains(map.grainCount)
    }
}
