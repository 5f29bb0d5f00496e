import PoolFormat

/// The pieces of a write-back cache: granted when they are needed, given back when they are empty.
///
/// The disks for a piece are SSDs if there are enough of them, else any, taken by turns; as many as the
/// space may lose and one more. A piece of which a disk is given up is not filled up again: nothing more
/// is written to it, and when everything that lies there has been destaged it goes back.
extension Space {
    /// Most pieces of a cache.
    static let cachePieceLimit = 4096
    /// Pieces that are granted at a time.
    private static var piecesAtOnce: Int { 4 }

    /// The configuration in effect says so: the cache grows when it is needed, and shrinks once what
    /// is too much of it is empty.
    func setCache(sizeBytes: UInt64) {
        let pieces = Int(sizeBytes / UInt64(Units.pieceBytes))
        cache.pieceLimit = hasChecksums && isParity ? min(pieces, Self.cachePieceLimit) : 0
        admitWrites()
        trimCache()
    }

    /// What is more than it may have is emptied.
    func trimCache() {
        let all = cache.pieceNumbers
        guard all.count > cache.pieceLimit else { return }
        for piece in all.dropFirst(cache.pieceLimit) { cache.close(piece: piece) }
        wantDestage()
        destageWanted.fire()
        background { await $0.releaseClosedPieces() }
    }

    // MARK: - more

    /// More pieces. Where there is no room for one, what waits goes to its stripes instead.
    func growCache() async {
        for _ in 0..<Self.piecesAtOnce {
            guard let piece = cache.nextPiece, !isClosing else { break }
            do throws(PoolError) {
                try await addCachePiece(piece)
            } catch {
                // Not asked for again at every write.
                if cache.openPieces == 0 { bypassCache() }
                break
            }
            admitWrites()
        }
        isGrowingCache = false
    }

    private func addCachePiece(_ piece: UInt32) async throws(PoolError) {
        let page = piece / UInt32(MetadataPage.pagesPerPiece) * UInt32(MetadataPage.pagesPerPiece)
        try await ensurePiece(.cacheIndex, page: page)
        await grantLock.acquire(engine)
        defer { grantLock.release() }
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        if engine.isStopped { throw .stopped }
        // One that is being given back has the number still.
        guard pieces.piece(.cache, piece) == nil else { throw .noMetadataSpace }
        guard let slot = pieces.freeSlot() else { throw .noMetadataSpace }
        let (lineage, copies) = (lineage, cache.copies)
        let granted = try await atHome { pool async throws(PoolError) in
            let entry = try await pool.grantCachePiece(
                lineage: lineage, index: piece, copies: copies)
            return (entry: entry, places: pool.places)
        }
        places = granted.places
        let entry = granted.entry
        let bases = places.bases(of: entry.copies)
        // A disk that has failed since may not have the grant.
        let io = IOBatch(engine)
        for base in bases { io.flush(base.device) }
        let isGranted = await io.run()
        guard isGranted, bases.count == copies,
            bases.allSatisfy({ departed.takesData($0) && !isLost($0) })
        else {
            try? await atHome { pool async throws(PoolError) in
                try await pool.releasePieces(entry.copies, of: lineage)
            }
            throw .noMetadataSpace
        }
        pieces.add(entry, slot: slot, bases: bases)
        pieces.markDirty(
            .directory, UInt32(DirectoryPage.place(ofSlot: slot).page),
            since: firstUnwrittenSequence)
        addRecord(.pieceGranted(slot: slot, entry))
        cache.add(piece: piece, bases: bases)
    }

    // MARK: - less

    /// Pieces that nothing is written to any more go back once they are empty.
    func releaseClosedPieces() async {
        guard !isReleasingCache else { return }
        isReleasingCache = true
        defer { isReleasingCache = false }
        while !cache.closedPieces.isEmpty, !engine.isStopped, !hasEnded, !isClosing,
            readOnlyReason == nil
        {
            wantDestage()
            destageWanted.fire()
            let empty = cache.closedPieces.filter { cache.isEmpty(piece: $0) }
            if empty.isEmpty {
                if !pending.freedSlots.isEmpty { wantCommit() }
                await nap(ns: 10_000_000)
                continue
            }
            for piece in empty { cache.remove(piece: piece) }
            await releasePieces(empty.map { (.cache, $0) })
            if !cacheQueue.isEmpty { wantCacheRoom() }
        }
    }

    /// Empties the pieces that have a copy on disks that are given up.
    ///
    /// - Returns: false: something of it cannot be destaged now.
    func emptyCache(on disks: Set<DiskNumber>) async -> Bool {
        // Their numbers may be others' by the time that they are gone.
        let leaving = { [self] in
            cache.pieceNumbers.filter { piece in
                cache.bases(ofPiece: piece).contains { disks.contains($0.disk) }
            }
        }
        for piece in leaving() { cache.close(piece: piece) }
        background { await $0.releaseClosedPieces() }
        // Writes that are on their way come in behind others.
        while !leaving().isEmpty {
            var isStuck = false
            for grain in Set(leaving().flatMap { cache.grains(inPiece: $0) }).sorted() {
                guard mayRepair else { return false }
                if await destage(grain: grain) != .done { isStuck = true }
            }
            guard mayRepair, !isStuck else { return false }
            await nap(ns: 10_000_000)
        }
        return true
    }

    // MARK: - a disk that has come back

    /// Destages whatever lies in pieces with a copy on a disk that has come back: it lacks what was
    /// written without it. The writes that began before are waited for; later ones go there, too. What
    /// nobody can give stays where it is: its readers are told by its value.
    func destageMissed(by number: DiskNumber, _ mayGoOn: () -> Bool) async -> Bool {
        if Mutant.isActive(.resyncSkipsCache) { return true }
        cachedWrites = (0, cachedWrites.begun + cachedWrites.before)
        cacheRound += 1
        while cachedWrites.before > 0, !engine.isStopped { await cachedWritesEnded.wait() }
        var grains: Set<UInt64> = []
        for piece in cache.pieceNumbers
        where cache.bases(ofPiece: piece).contains(where: { $0.disk == number }) {
            grains.formUnion(cache.grains(inPiece: piece))
        }
        for grain in grains.sorted() {
            guard mayGoOn() else { return false }
            guard await destage(grain: grain) != .failed else { return false }
        }
        return mayGoOn()
    }
}
