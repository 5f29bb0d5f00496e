import PoolFormat

/// What is not needed any more goes back: grains to the space, slab groups to the pool.
///
/// Order, each step durable before the next: nothing names the grain (its unmapping, or its move,
/// is committed) ─► it is discarded ─► it may be handed out again. Of a group without a grain in
/// use: out of the free list ─► its removal is committed ─► its slabs are free in their tables.
extension Space {
    /// Gives unmapped grains back. Nothing durable names them, and their readers left before they
    /// were unmapped: a trim, like the end of a move, holds the range alone.
    func release(_ freed: [GrainMap.Entry]) async {
        defer {
            releasesUnderWay -= 1
            released.fire()
        }
        lastReleaseNs = engine.nowNs
        skippedGroups.removeAll(keepingCapacity: true)
        for start in stride(from: 0, to: freed.count, by: 256) {
            let some = freed[start..<min(start + 256, freed.count)]
            await discard(some)
            if engine.isStopped { return }
            for entry in some { groups.release(entry) }
            wake(&grainWaiters)
        }
        await releaseEmptyGroups()
        retryParked()
        compactionWanted.fire()
    }

    /// A refused discard costs nothing but the space it would have given back.
    func discard(_ freed: some Sequence<GrainMap.Entry>) async {
        let work = beginPlacedWork()
        defer { endPlacedWork(work) }
        let io = IOBatch(engine)
        for entry in freed { addDiscards(io, entry) }
        _ = await io.run()
        engine.discardRefused.formUnion(io.devices(with: .unsupported))
    }

    private func addDiscards(_ io: IOBatch, _ entry: GrainMap.Entry) {
        groups.forEachPlace(entry) { base, bytes in
            if departed.takesData(base), !engine.discardRefused.contains(base.device) {
                io.discard(base.device, at: base.offsetBytes, bytes: UInt64(bytes))
            }
        }
    }

    /// Slab groups without a mapped grain go back to the pool: out of the free list, then the
    /// record durable, then the slab tables.
    func releaseEmptyGroups() async {
        guard !isGrowing, grainWaiters.isEmpty, readOnlyReason == nil, !isFixed else { return }
        let removed = groups.removeEmpty()
        guard !removed.isEmpty else { return }
        for group in removed {
            addRecord(.groupRemoved(id: group.id))
            pieces.markDirty(
                .group, GroupPage.index(ofGroup: group.id), since: firstUnwrittenSequence)
        }
        if !Mutant.isActive(.groupFreedEarly) { guard await commit() else { return } }
        departed.hasHoles = groups.hasHoles
        if Mutant.isActive(.groupLeaks) { return }
        // A slab that could not be given back is found unclaimed when the space is next opened.
        await release(removed)
    }

    func release(_ groups: [GroupRecord]) async {
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        let lineage = self.lineage
        for group in groups {
            try? await atHome { pool async throws(PoolError) in
                try await pool.releaseGroup(group, lineage: lineage)
            }
        }
    }

    // MARK: - metadata

    static func checksumPiece(ofGrain grain: UInt64) -> UInt32 {
        ChecksumPage.index(ofGrain: grain) / UInt32(MetadataPage.pagesPerPiece)
    }

    /// Gives back the checksum pieces none of whose grains is mapped any more.
    func releaseEmptiedPieces() async {
        let emptied = emptiedPieces.sorted()
        emptiedPieces.removeAll(keepingCapacity: true)
        await releasePieces(emptied.map { (.checksum, $0) })
    }

    /// Order: nobody uses the piece, and nothing in it is needed ─► the place in the directory is
    /// free, durably ─► its piece is free in its tables. A crash in between leaves a piece that
    /// nobody claims, which the next opening frees. Pieces that are in use after all stay.
    func releasePieces(_ candidates: [(kind: PieceKind, index: UInt32)]) async {
        guard !candidates.isEmpty else { return }
        // Unmappings under way still need their old values, and no piece is granted meanwhile.
        await grantLock.acquire(engine)
        defer { grantLock.release() }
        guard !engine.isStopped, readOnlyReason == nil else { return }
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        if !pending.grains.isEmpty || !committing.grains.isEmpty {
            guard await commit() else { return }
        }
        // No checkpoint is writing one of their pages.
        await checkpointLock.acquire(engine)
        var given: [PieceAddress] = []
        for (kind, index) in candidates {
            guard let piece = pieces.piece(kind, index), isUnused(kind, index) else { continue }
            forgetPages(kind, index)
            pieces.remove(kind, index)
            addRecord(.pieceReleased(slot: piece.slot))
            pieces.markDirty(
                .directory, UInt32(DirectoryPage.place(ofSlot: piece.slot).page),
                since: firstUnwrittenSequence)
            given += piece.entry.copies
        }
        checkpointLock.release()
        guard !given.isEmpty, await commit() else { return }
        // Those that could not be given back are found unclaimed when the space is next opened.
        let (lineage, released) = (lineage, given)
        try? await atHome { pool async throws(PoolError) in
            try await pool.releasePieces(released, of: lineage)
            pool.roomMayHaveReturned()
        }
    }

    /// No grain that the piece describes is mapped, or about to be.
    private func isUnused(_ kind: PieceKind, _ index: UInt32) -> Bool {
        if kind == .cache { return !cache.has(piece: index) }
        let pages = pages(ofPiece: index)
        let perPage: UInt64
        switch kind {
        case .map: perPage = UInt64(MapPage.entriesPerPage)
        case .checksum: perPage = UInt64(ChecksumPage.grainsPerPage)
        case .root, .journal, .directory, .group, .dirty, .missed, .pins, .heat, .cache, .cacheIndex:
            return false
        }
        let first = UInt64(pages.lowerBound) * perPage
        let end = min(UInt64(pages.upperBound) * perPage, UInt64(map.grainCount))
        for grain in first..<max(first, end) {
            let isUnderWay =
                pending.grains.old(grain) != nil || committing.grains.old(grain) != nil
            if map[grain].isMapped || isUnderWay || moving[grain] != nil { return false }
        }
        guard kind == .checksum else {
            // A map page that is behind would bring its grains back.
            return pages.allSatisfy { pieces.dirtySince(.map, $0) == nil }
        }
        for page in pages where Int(page) < pageFrames.count {
            // Whoever waits for the page is about to map one of its grains.
            if pageWaiters[page] != nil { return false }
            let frame = pageFrames[Int(page)]
            guard frame >= 0 else { continue }
            let state = frames[frame]
            if state.isLoading || state.pins > 0 || state.unflushed > 0 { return false }
        }
        return true
    }

    private func pages(ofPiece index: UInt32) -> Range<UInt32> {
        let count = UInt32(MetadataPage.pagesPerPiece)
        return index * count..<(index + 1) * count
    }

    private func forgetPages(_ kind: PieceKind, _ index: UInt32) {
        if kind == .cache { return }
        for page in pages(ofPiece: index) {
            pieces.markClean(kind, page)
            guard kind == .checksum, Int(page) < pageFrames.count else { continue }
            overlay.forget(page: page)
            let frame = pageFrames[Int(page)]
            if frame >= 0 {
                pageFrames[Int(page)] = -1
                frames.give(frame)
            }
        }
        engine.frameReleased.fire()
    }
}
