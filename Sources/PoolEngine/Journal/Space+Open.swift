import PoolFormat

/// Makes a space, opens it after a clean end or a crash, closes it.
///
/// Opening, each step complete before the next (the pool has flushed every disk and fenced older
/// epochs before the first):
///
/// 1. The root, the newest valid slot of any copy, names the journal's and the directory's pieces.
/// 2. The journal's copies are merged and flushed (``JournalScan``).
/// 3. Directory, group, map and dirty pages are read, and the batches newer than each page applied.
///    Values stay in the journal until their page is needed (``ReplayOverlay``).
/// 4. What a killed process had acknowledged is committed (`Space+Restart.swift`).
/// 5. The pool frees what this space was granted and does not claim.
/// 6. The first batch of the new epoch is durable.
/// 7. Requests are served; a grain of a dirty region is made equal on all copies before its first.
extension Space {
    // MARK: - making

    /// Writes an empty space's metadata, flushed, before the configuration names it.
    ///
    /// - Returns: the copies of its root piece.
    static func format(
        _ pool: Pool, lineage: Lineage, disks: [DiskNumber]
    ) async throws(PoolError) -> [PieceAddress] {
        let engine = pool.engine
        let journalPieces = engine.limits.journalPieces
        let root = try await pool.grantPieces(
            lineage: lineage, kind: .root, firstIndex: 0, count: 1, disks: disks)
        let journal = try await pool.grantPieces(
            lineage: lineage, kind: .journal, firstIndex: 0, count: journalPieces, disks: disks)
        let directory = try await pool.grantPieces(
            lineage: lineage, kind: .directory, firstIndex: 0, count: 1, disks: disks)
        guard let rootPiece = root.first, let directoryPiece = directory.first else {
            throw .noMetadataSpace
        }
        func bases(_ entry: DirectoryEntry) -> [SlabGroups.Base] {
            pool.places.bases(of: entry.copies)
        }
        try await wipe(pool, (root + journal).flatMap(bases))
        try await writeEmptyPages(
            pool, engine, kind: .directory, piece: 0, lineage: lineage, epoch: 0,
            bases: bases(directoryPiece))
        try await writeFirstBatch(pool, lineage: lineage, bases: bases(journal[0]))
        let content = SpaceRoot(
            lineage: lineage, epoch: 0, sequence: 1, journal: journal.map(\.copies),
            directory: [directoryPiece.copies])
        try await writeRoot(pool, engine, content, bases: bases(rootPiece))
        return rootPiece.copies
    }

    /// Of the root and the journal little is written at first; what an older pool with the same numbers
    /// has left in the rest would be taken for newer.
    private static func wipe(
        _ pool: Pool, _ bases: [SlabGroups.Base]
    ) async throws(PoolError) {
        if Mutant.isActive(.keepOlderPool) { return }
        let engine = pool.engine
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        unsafe engine.arena.bytes(buffer, Units.pieceBytes)
            .initializeMemory(as: UInt8.self, repeating: 0)
        try await writeFlushed(
            pool, engine, bytes: Units.pieceBytes, from: buffer, to: bases, at: 0)
    }

    /// So that a journal without a batch is always a damaged one.
    private static func writeFirstBatch(
        _ pool: Pool, lineage: Lineage, bases: [SlabGroups.Base]
    ) async throws(PoolError) {
        let engine = pool.engine
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        var writer = unsafe BatchWriter(engine.arena.bytes(buffer, Units.blockBytes))
        precondition(writer.append(.activation(epoch: 0)))
        let (bytes, _) = writer.finish(
            BatchHeader(
                lineage: lineage, epoch: 0, sequence: 1, previousChecksum: 0,
                confirmedSequence: 0, tailSequence: 1, tailBlock: 0, recordBytes: 0,
                recordCount: 0))
        try await writeFlushed(pool, engine, bytes: bytes, from: buffer, to: bases, at: 0)
    }

    private static func writeRoot(
        _ pool: Pool, _ engine: Engine, _ root: SpaceRoot, bases: [SlabGroups.Base]
    ) async throws(PoolError) {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        do throws(FormatError) {
            try unsafe root.encode(into: engine.arena.bytes(buffer, SpaceRoot.slotBytes))
        } catch {
            throw .configurationRefused(error)
        }
        let slot = Int(root.sequence % 2)
        try await writeFlushed(
            pool, engine, bytes: SpaceRoot.slotBytes, from: buffer, to: bases,
            at: SpaceRoot.slotOffset(slot))
    }

    private static func writeFlushed(
        _ pool: Pool, _ engine: Engine, bytes: Int, from buffer: Int, to bases: [SlabGroups.Base],
        at offset: UInt64
    ) async throws(PoolError) {
        let io = IOBatch(engine)
        for base in bases {
            io.write(base.device, at: base.offsetBytes + offset, bytes: bytes, from: buffer)
        }
        try await pool.runOrFail(io, during: "write of metadata")
        var devices = DeviceSet()
        for base in bases { devices.insert(base.device) }
        devices.forEach { io.flush($0) }
        try await pool.runOrFail(io, during: "flush of metadata")
    }

    // MARK: - opening

    /// On the shard of `engine`, which the space stays on.
    ///
    /// - Parameter departed: the disks it has to do without, those among them that are here again
    ///   as returning.
    static func open(
        _ pool: Pool, on engine: Engine, _ places: DiskPlaces, _ settings: PoolSettings,
        _ record: SpaceRecord, _ departed: DepartedDisks, epoch: UInt64
    ) async throws(PoolError) -> Space {
        let resolve = Resolver(places: places, lineage: record.lineage)
        // From its last disk nobody departs, also where that is not here.
        let isHere = { (base: SlabGroups.Base) in
            base.device != DiskPlaces.nowhere && departed.isCurrent(base)
        }
        let rootBases = try resolve.bases([record.root])[0].filter(isHere)
        guard !rootBases.isEmpty else {
            throw .claimRefused(
                lineage: record.lineage, what: "no copy of its root is here")
        }
        let root = try await readRoot(pool, engine, record, bases: rootBases)
        let journalPieces = try resolve.bases(root.journal)
        let current = journalPieces.map { copies in copies.filter(isHere) }
        guard current.allSatisfy({ !$0.isEmpty }) else {
            throw .claimRefused(
                lineage: record.lineage, what: "no disk that is here has its journal")
        }
        let scan = try await scanJournal(
            pool, engine, lineage: record.lineage, pieces: current)
        let chain: [JournalScan.Batch]
        switch scan.chain() {
        case .chain(let found): chain = found
        case .lost(let sequence):
            throw .claimRefused(
                lineage: record.lineage, what: "batch \(sequence) of its journal is lost")
        case .empty:
            throw .claimRefused(lineage: record.lineage, what: "its journal is empty")
        }
        try await mergeJournal(pool, engine, pieces: current, chain: chain)

        let space = Space(
            pool: pool, engine: engine, places: places, settings: settings, record: record,
            root: root, departed: departed, epoch: epoch,
            journal: Journal(resuming: chain, pieces: journalPieces),
            pieces: PieceDirectory(
                rootDirectory: try resolve.bases(root.directory),
                fixedPieces: 1 + root.journal.count))
        space.handle = engine.attach(space)
        do throws(PoolError) {
            try await space.recover(chain)
        } catch {
            await space.end()
            throw error
        }
        return space
    }

    /// The newest root; a copy that a crash left with an older one is given it.
    private static func readRoot(
        _ pool: Pool, _ engine: Engine, _ record: SpaceRecord, bases: [SlabGroups.Base]
    ) async throws(PoolError) -> SpaceRoot {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        let io = IOBatch(engine)
        var best: SpaceRoot?
        var found: [SpaceRoot?] = []
        var isRead = [false, false]
        for base in bases {
            found.append(nil)
            for slot in 0..<2 {
                io.read(
                    base.device, at: base.offsetBytes + SpaceRoot.slotOffset(slot),
                    bytes: SpaceRoot.slotBytes, into: buffer)
                guard await io.run() else {
                    if engine.isStopped { throw .stopped }
                    pool.noteReadError(base.device, from: engine)
                    continue
                }
                isRead[slot] = true
                let root = unsafe try? SpaceRoot.decode(
                    UnsafeRawBufferPointer(engine.arena.bytes(buffer, SpaceRoot.slotBytes)),
                    lineage: record.lineage)
                guard let root else { continue }
                if root.isNewer(than: found[found.count - 1]) { found[found.count - 1] = root }
                if root.isNewer(than: best) { best = root }
            }
        }
        // What no copy can give may be newer than what they do.
        guard let best, isRead == [true, true] else {
            throw .claimRefused(lineage: record.lineage, what: "no copy of its root is readable")
        }
        // What an older one names may be freed from here on.
        let behind = zip(bases, found).filter { best.isNewer(than: $0.1) }.map(\.0)
        if !behind.isEmpty, !Mutant.isActive(.keepOlderRoot) {
            try await writeRoot(pool, engine, best, bases: behind)
        }
        return best
    }

    /// Turns addresses that were read from a disk into places, refusing those that are none.
    struct Resolver {
        let places: DiskPlaces
        let lineage: Lineage

        func bases(_ pieces: [[PieceAddress]]) throws(PoolError) -> [[SlabGroups.Base]] {
            var result: [[SlabGroups.Base]] = []
            for copies in pieces {
                for address in copies where !places.contains(address) {
                    throw .claimRefused(lineage: lineage, what: "it names a piece that does not exist")
                }
                result.append(places.bases(of: copies))
            }
            return result
        }
    }

    private func recover(_ chain: [JournalScan.Batch]) async throws(PoolError) {
        let left = findLeftBehind(chain)
        let next = journal.nextSequence
        var records = try decode(chain)
        let durableCount = records.count
        records += left?.records.map { (next, $0) } ?? []
        try await recoverDirectory(records)
        try await recoverGroups(records)
        try await recoverMap(records)
        try await recoverRegions(records)
        if let left {
            let committed = try await commitLeftBehind(left)
            records.replaceSubrange(durableCount..., with: committed.map { (next, $0) })
        }
        try await recoverCache(records)
        overlayValues(records)
        let (lineage, claimed, claimedPieces) = (lineage, groups.records, claimedPieceAddresses)
        try await atHome { pool async throws(PoolError) in
            try await pool.reconcile(lineage: lineage, groups: claimed, pieces: claimedPieces)
        }
        try await start()
    }

    /// The first batch of the epoch, then the background work.
    private func start() async throws(PoolError) {
        background { await $0.commitLoop() }
        background { await $0.checkpointLoop() }
        guard readOnlyReason == nil else { return }
        if !overlay.pageNumbers.isEmpty { background { await $0.drainOverlay() } }
        let dirtyPages = (regions.count + DirtyPage.regionsPerPage - 1) / DirtyPage.regionsPerPage
        for page in stride(from: 0, to: dirtyPages, by: MetadataPage.pagesPerPiece) {
            try await ensurePiece(.dirty, page: UInt32(page))
            if isRedundant { try await ensurePiece(.missed, page: UInt32(page)) }
        }
        pending.records.append(.activation(epoch: epoch))
        guard await commit() else { throw engine.isStopped ? .stopped : .ioError }
        background { await $0.maintain() }
        background { await $0.compactLoop() }
        if !cache.isEmpty { wantDestage() }
        // It may have become smaller before it ended.
        trimCache()
        if isFixed { background { await $0.completeFixed() } }
        if !regions.marked.isEmpty { background { await $0.settleCrashed() } }
        if departed.disks.isEmpty { forgetMissed() }
        for disk in departed.disks where disk.phase == .returning {
            let number = disk.number
            background { await $0.resync(number) }
        }
    }

    /// Lets the background work run out.
    private func end() async {
        hasEnded = true
        while backgroundTasks > 0, !engine.isStopped {
            commitWanted.fire()
            commitCompleted.fire()
            departureSettled.fire()
            checkpointWanted.fire()
            maintenance.fire()
            compactionWanted.fire()
            destageWanted.fire()
            await idle.wait()
        }
        // Slow paths of a stopped engine may still unwind, and let go of frames they have pinned.
        if engine.isStopped { return }
        engine.detach(handle)
        for frame in 0..<Int32(frames.capacity)
        where frames[frame].space == handle.index {
            frames.give(frame)
        }
        engine.frameReleased.fire()
    }

    // MARK: - closing

    /// Waits for what is under way, makes everything durable, leaves no region dirty and the
    /// journal needed no more. The handle is refused from the start.
    func close() async {
        isClosing = true
        failParked(.shutdown)
        admitWrites()
        compactionWanted.fire()
        compactionPause.fire()
        while inFlight > 0 || isCompacting || isRepairing, !engine.isStopped { await idle.wait() }
        await drainCache()
        // The second commit records as clean what the first has covered.
        if await commit(), await commit() {
            // What they freed: an emptied group goes back by a commit of its own.
            await releaseFreed()
            if await checkpointAll() { discardLog() }
        }
        await end()
    }
}

extension Journal {
    /// Goes on behind the head of a chain.
    init(resuming chain: [JournalScan.Batch], pieces: [[SlabGroups.Base]]) {
        var live: [Entry] = []
        var next = chain.first?.firstBlock ?? 0
        let blockCount = pieces.count * Self.blocksPerPiece
        for batch in chain {
            let skipped = (batch.firstBlock - next + blockCount) % blockCount
            live.append(
                Entry(
                    sequence: batch.header.sequence, firstBlock: batch.firstBlock,
                    blocks: batch.blocks, skipped: skipped))
            next = (batch.firstBlock + batch.blocks) % blockCount
        }
        self.init(
            pieces: pieces, nextSequence: (chain.last?.header.sequence ?? 0) + 1, nextBlock: next,
            previousChecksum: chain.last?.checksum ?? 0, live: live)
    }
}
