import PoolFormat

/// What lies on disks that are given up gets copies elsewhere: pieces of metadata first, then the
/// grains, moved into slab groups that lack no disk.
///
/// A piece, each step complete before the next:
///
/// 1. A place on another disk is granted, durably.
/// 2. With no checkpoint under way: the piece is copied there whole, and flushed. From here on
///    checkpoints go to the old places and to the new.
/// 3. The record that names the new places is durable. Checkpoints go to these only.
/// 4. Old places on disks that serve are freed.
///
/// The journal and the directory's own pieces are named by the root: they are copied with neither a
/// commit nor a checkpoint under way, and a root of the next sequence is flushed before either goes
/// on. Of the journal that is what replay needs, merged from its copies, and of the root what is in
/// effect. A new place of the root itself is in the configuration before the root is written anew.
///
/// A crash in between finds the old places, which have everything, or the new, which have too; what
/// nobody claims is freed by the next opening. Grains are moved as `Space+Evacuate.swift` says.
extension Space {
    /// How far a repair of a space has come.
    struct RepairProgress: Hashable, Sendable {
        var doneBytes: UInt64 = 0
        var totalBytes: UInt64 = 0
    }

    enum RepairOutcome: Sendable {
        case done
        /// There is no room, or no disk, for what has to be copied.
        case noRoom
        /// The space closes, cannot write, or something cannot be read.
        case failed

        func and(_ other: RepairOutcome) -> RepairOutcome {
            self == .failed || other == .done ? self : other
        }
    }

    /// Copies that its metadata should have.
    var mostCopies: Int { max(2, resiliency.tolerance + 1) }

    private func wantedCopies(_ plan: RepairPlan) -> Int { min(mostCopies, plan.serving) }

    /// Whether something of it lies on one of the disks, or has fewer copies than it could.
    func needsRepair(_ plan: RepairPlan) -> Bool {
        if readOnlyReason != nil || isClosing { return false }
        let lacks = lacksRedundancy(plan)
        if lacks { repairProgress = RepairProgress(totalBytes: bytesToRepair(plan)) }
        return lacks
    }

    func lacksRedundancy(_ plan: RepairPlan) -> Bool {
        groups.records.contains { isDegraded($0, plan) }
            || allPieceCopies.contains { needsCopies($0, plan) }
            || cache.pieceNumbers.contains { piece in
                cache.bases(ofPiece: piece).contains { plan.givenUp.contains($0.disk) }
            }
    }

    /// What the slabs that are lacking hold.
    private func bytesToRepair(_ plan: RepairPlan) -> UInt64 {
        groups.records.reduce(0) { sum, record in
            guard isDegraded(record, plan), let group = groups[record.id] else { return sum }
            let slabs = record.slabs.count { isLacking($0, plan) }
            return sum + UInt64(slabs * group.shape.bytesPerSlab(grains: group.usedCount))
        }
    }

    private func isDegraded(_ record: GroupRecord, _ plan: RepairPlan) -> Bool {
        // With fewer disks than copies nothing would be gained, and what is there be lost.
        plan.serving >= resiliency.leastDisks
            && record.slabs.contains { isLacking($0, plan) }
    }

    private var allPieceCopies: [[SlabGroups.Base]] {
        [rootCopies] + journal.pieces + pieces.names.map { pieces.copies(of: $0) }
    }

    private func needsCopies(_ copies: [SlabGroups.Base], _ plan: RepairPlan) -> Bool {
        copies.count < wantedCopies(plan)
            || plan.serving >= mostCopies && copies.contains { plan.givenUp.contains($0.disk) }
    }

    func repair(_ plan: RepairPlan) async -> RepairOutcome {
        guard await beginRepairing() else { return .failed }
        defer { endRepairing() }
        repairProgress = RepairProgress(totalBytes: bytesToRepair(plan))
        for page in overlay.pageNumbers { try? await loadValues(page: page) }
        // What cannot be read of the one keeps nothing of the other from having its copies.
        let metadata = await repairMetadata(plan)
        let isCacheEmptied = await emptyCache(on: plan.givenUp)
        let data = await repairData(plan)
        return metadata.and(data).and(isCacheEmptied ? .done : .failed)
    }

    /// One repair or move of a group at a time, in order of arrival.
    ///
    /// - Returns: false: the space closes, or cannot write.
    func beginRepairing() async -> Bool {
        await repairLock.acquire(engine)
        isRepairing = mayRepair
        if !isRepairing { repairLock.release() }
        return isRepairing
    }

    func endRepairing() {
        isRepairing = false
        repairLock.release()
        idle.fire()
    }

    var mayRepair: Bool {
        !isClosing && !hasEnded && !engine.isStopped && readOnlyReason == nil
    }

    // MARK: - metadata

    private func repairMetadata(_ plan: RepairPlan) async -> RepairOutcome {
        var outcome = await attempt { space throws(PoolError) in try await space.repairRoot(plan) }
        outcome = outcome.and(
            await attempt { space throws(PoolError) in try await space.repairFixedPieces(plan) })
        for kind in PieceDirectory.pagedKinds where kind != .directory {
            for index in 0..<UInt32(pieces.pieceCount(kind)) {
                outcome = outcome.and(
                    await attempt { space throws(PoolError) in
                        try await space.repairPiece(kind, index, plan)
                    })
            }
        }
        return outcome
    }

    private func attempt(
        _ body: (Space) async throws(PoolError) -> Void
    ) async -> RepairOutcome {
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        do throws(PoolError) {
            try await body(self)
            return .done
        } catch {
            return error.isShortOfSpace ? .noRoom : .failed
        }
    }

    /// The copies to keep, and how many are to be added.
    private func divide(
        _ copies: [PieceAddress], _ plan: RepairPlan
    ) -> (kept: [PieceAddress], added: Int) {
        let kept = copies.filter { !plan.givenUp.contains($0.disk) }
        return (kept, max(0, wantedCopies(plan) - kept.count))
    }

    /// Places for more copies of a piece, on disks that have none; fewer where there are no more.
    private func grantCopies(
        _ kind: PieceKind, _ index: UInt32, count: Int, beside kept: [PieceAddress],
        _ plan: RepairPlan
    ) async throws(PoolError) -> [PieceAddress] {
        assert(claimsChanging > 0, "a disk that comes back would be freed of it")
        guard count > 0 else { return [] }
        let lineage = self.lineage
        let avoided = plan.givenUp.union(kept.map(\.disk))
        let granted = try await atHome { pool async throws(PoolError) in
            let copies = try await pool.grantPieceCopies(
                lineage: lineage, kind: kind, index: index, count: count, avoiding: avoided)
            return (copies: copies, places: pool.places)
        }
        places = granted.places
        return granted.copies
    }

    /// Refuses places of which fewer would count than do now: a disk that is being made equal has
    /// nothing that could be read, until it is. What was granted for it is given back.
    private func requireAsMany(
        _ before: [PieceAddress], _ after: [PieceAddress], _ added: [PieceAddress]
    ) async throws(PoolError) {
        let counting = { (copies: [PieceAddress]) in
            copies.count { self.departed.index(of: $0.disk) == nil }
        }
        if counting(after) >= counting(before) { return }
        await giveBack(added)
        throw after.count < before.count ? .noMetadataSpace : failure
    }

    private func repairPiece(
        _ kind: PieceKind, _ index: UInt32, _ plan: RepairPlan
    ) async throws(PoolError) {
        guard mayRepair else { throw failure }
        guard let piece = pieces.piece(kind, index), needsCopies(piece.bases, plan) else {
            return
        }
        guard await mendPages(kind, index, piece.bases) else { throw failure }
        let (kept, count) = divide(piece.entry.copies, plan)
        let added = try await grantCopies(kind, index, count: count, beside: kept, plan)
        guard !added.isEmpty || kept.count < piece.entry.copies.count, !(kept + added).isEmpty
        else { return }
        try await requireAsMany(piece.entry.copies, kept + added, added)
        await grantLock.acquire(engine)
        defer { grantLock.release() }
        await checkpointLock.acquire(engine)
        let isCopied = await copyPiece(piece.bases, to: places.bases(of: added))
        guard isCopied, var entry = pieces.piece(kind, index)?.entry, entry == piece.entry else {
            // It describes nothing any more, and has been given back: that is as good.
            let isGone = isCopied && pieces.piece(kind, index)?.entry != piece.entry
            checkpointLock.release()
            await giveBack(added)
            if isGone { return }
            throw failure
        }
        entry.copies = kept + added
        // Pages go to the old ones, too, until it is durable that they do not count.
        pieces.replace(kind, index, entry, bases: places.bases(of: piece.entry.copies + added))
        addRecord(.pieceGranted(slot: piece.slot, entry))
        pieces.markDirty(
            .directory, UInt32(DirectoryPage.place(ofSlot: piece.slot).page),
            since: firstUnwrittenSequence)
        checkpointLock.release()
        if Mutant.isActive(.pieceFreedEarly) {
            await giveBack(piece.entry.copies.filter { !entry.copies.contains($0) })
        }
        guard await commit() else { throw failure }
        pieces.replace(kind, index, entry, bases: places.bases(of: entry.copies))
        await giveBack(piece.entry.copies.filter { !entry.copies.contains($0) })
    }

    /// A copy may be damaged where another is right: before one is copied its pages are.
    private func mendPages(
        _ kind: PieceKind, _ index: UInt32, _ copies: [SlabGroups.Base]
    ) async -> Bool {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        let isRead = await readPiece(copies, into: buffer)
        let first = index * UInt32(MetadataPage.pagesPerPiece)
        let doubtful = (0..<UInt32(MetadataPage.pagesPerPiece)).filter { page in
            let offset = buffer + Int(page) * 2 * Units.blockBytes
            return !isRead || !inspectPair(kind, first + page, offset).isBeyondDoubt
        }
        engine.scratch.give(buffer)
        for page in doubtful {
            guard await scrubPage(kind, first + page) else { return mayRepair }
        }
        return mayRepair
    }

    private func giveBack(_ copies: [PieceAddress]) async {
        guard !copies.isEmpty else { return }
        // Those that could not be given back are found unclaimed when the space is next opened.
        let lineage = lineage
        try? await atHome { pool async throws(PoolError) in
            try await pool.releasePieces(copies, of: lineage)
        }
    }

    /// Copies a piece from whichever of its copies are current to new places, flushed.
    private func copyPiece(_ copies: [SlabGroups.Base], to targets: [SlabGroups.Base]) async -> Bool {
        guard !targets.isEmpty else { return true }
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        guard await readPiece(copies, into: buffer) else { return false }
        return await writePiece(from: buffer, to: targets)
    }

    /// Writes a piece to new places, flushed.
    private func writePiece(from buffer: Int, to targets: [SlabGroups.Base]) async -> Bool {
        let io = IOBatch(engine)
        var devices = DeviceSet()
        for target in targets {
            io.write(
                target.device, at: target.offsetBytes, bytes: Units.pieceBytes, from: buffer)
            devices.insert(target.device)
        }
        if await !io.run() {
            await failDevices(io.devices(with: .ioError), during: "repair")
            return false
        }
        if Mutant.isActive(.pieceUnflushed) { return true }
        return await flush(devices) && devices.isDisjoint(with: engine.failedDevices)
    }

    /// A buffer of a piece's size, all zero.
    private func takeBlankPiece() async -> Int {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        unsafe engine.arena.bytes(buffer, Units.pieceBytes)
            .initializeMemory(as: UInt8.self, repeating: 0)
        return buffer
    }

    /// What one copy cannot give, another does.
    private func readPiece(_ copies: [SlabGroups.Base], into buffer: Int) async -> Bool {
        var lacking = Array(0..<Units.pieceBytes / Units.blockBytes)
        for source in copies where departed.isCurrent(source) {
            // As few reads as can be, and where one of them fails block by block.
            for runs in [Self.runs(of: lacking), lacking.map { $0..<$0 + 1 }] {
                let io = IOBatch(engine)
                for run in runs {
                    let offset = run.lowerBound * Units.blockBytes
                    io.read(
                        source.device, at: source.offsetBytes + UInt64(offset),
                        bytes: run.count * Units.blockBytes, into: buffer + offset)
                }
                if await io.run() { return true }
                if engine.isStopped { return false }
                noteReadError(source.device)
                lacking = zip(runs, io.statuses).filter { $0.1 != .ok }.flatMap { Array($0.0) }
            }
        }
        return false
    }

    /// The root's own place: the configuration names it.
    private func repairRoot(_ plan: RepairPlan) async throws(PoolError) {
        guard needsCopies(rootCopies, plan) else { return }
        let before = rootAddresses
        let (kept, count) = divide(before, plan)
        let added = try await grantCopies(.root, 0, count: count, beside: kept, plan)
        guard !added.isEmpty || kept.count < before.count, !(kept + added).isEmpty else { return }
        try await requireAsMany(before, kept + added, added)
        guard await writeRootPiece(to: places.bases(of: added)) else {
            await giveBack(added)
            throw failure
        }
        let (lineage, copies) = (lineage, kept + added)
        try await atHome { pool async throws(PoolError) in
            try await pool.changeRoot(of: lineage, to: copies)
        }
        rootAddresses = copies
        rootCopies = places.bases(of: copies)
        await giveBack(before.filter { !copies.contains($0) })
    }

    /// What is known of it is written, rather than what one of its copies says.
    private func writeRootPiece(to targets: [SlabGroups.Base]) async -> Bool {
        guard !targets.isEmpty else { return true }
        let buffer = await takeBlankPiece()
        defer { engine.scratch.give(buffer) }
        let slot = buffer + Int(SpaceRoot.slotOffset(Int(root.sequence % 2)))
        do throws(FormatError) {
            try unsafe root.encode(into: engine.arena.bytes(slot, SpaceRoot.slotBytes))
        } catch {
            return false
        }
        return await writePiece(from: buffer, to: targets)
    }

    /// The journal, and the directory's own pieces: the root names them.
    private func repairFixedPieces(_ plan: RepairPlan) async throws(PoolError) {
        let lists = root.journal + root.directory
        let needs = lists.contains { needsCopies(places.bases(of: $0), plan) }
        guard needs else { return }
        for (index, copies) in root.directory.enumerated() {
            guard await mendPages(.directory, UInt32(index), places.bases(of: copies)) else {
                throw failure
            }
        }
        var next = root
        next.epoch = epoch
        next.sequence += 1
        var added: [PieceAddress] = []
        do throws(PoolError) {
            for index in root.journal.indices {
                let (kept, count) = divide(root.journal[index], plan)
                let more = try await grantCopies(
                    .journal, UInt32(index), count: count, beside: kept, plan)
                next.journal[index] = kept + more
                added += more
            }
            for index in root.directory.indices {
                let (kept, count) = divide(root.directory[index], plan)
                let more = try await grantCopies(
                    .directory, UInt32(index), count: count, beside: kept, plan)
                next.directory[index] = kept + more
                added += more
            }
        } catch {
            await giveBack(added)
            throw error
        }
        guard next.journal != root.journal || next.directory != root.directory,
            (next.journal + next.directory).allSatisfy({ !$0.isEmpty })
        else { return }
        for (before, after) in zip(root.journal + root.directory, next.journal + next.directory) {
            try await requireAsMany(before, after, added)
        }
        try await switchRoot(to: next, added)
    }

    private func switchRoot(
        to next: SpaceRoot, _ added: [PieceAddress]
    ) async throws(PoolError) {
        let before = root
        await commitLock.acquire(engine)
        await checkpointLock.acquire(engine)
        var (isTried, isSwitched) = (false, false)
        if mayRepair, await copyFixed(from: before, to: next) {
            isTried = true
            isSwitched = await writeRoot(next)
        }
        if isSwitched {
            root = next
            journal.replacePieces(next.journal.map { places.bases(of: $0) })
            pieces.replaceRootDirectory(next.directory.map { places.bases(of: $0) })
        }
        checkpointLock.release()
        commitLock.release()
        guard isSwitched else {
            // A root whose write has failed may be durable all the same: what it names stays granted,
            // and the next opening frees it if that is not so.
            if !isTried { await giveBack(added) }
            throw failure
        }
        let claimed = Set(next.journal.joined()).union(next.directory.joined())
        await giveBack((before.journal + before.directory).joined().filter { !claimed.contains($0) })
    }

    private func copyFixed(from before: SpaceRoot, to next: SpaceRoot) async -> Bool {
        func added(_ old: [PieceAddress], _ new: [PieceAddress]) -> [SlabGroups.Base] {
            places.bases(of: new.filter { !old.contains($0) })
        }
        for (old, new) in zip(before.directory, next.directory) {
            guard await copyPiece(places.bases(of: old), to: added(old, new)) else { return false }
        }
        return await copyJournal(
            before.journal.map { places.bases(of: $0).filter(departed.isCurrent) },
            to: zip(before.journal, next.journal).map(added))
    }

    /// The batches that replay needs, each from whichever copy has it: none may be the only one that
    /// does, and be given up.
    private func copyJournal(
        _ copies: [[SlabGroups.Base]], to targets: [[SlabGroups.Base]]
    ) async -> Bool {
        guard targets.contains(where: { !$0.isEmpty }) else { return true }
        let chain: [JournalScan.Batch]
        do throws(PoolError) {
            let scan = try await Self.scanJournal(pool, engine, lineage: lineage, pieces: copies)
            guard case .chain(let found) = scan.chain(), let head = found.last,
                head.checksum == journal.previousChecksum
            else { return false }
            try await Self.mergeJournal(pool, engine, pieces: copies, chain: found)
            chain = found
        } catch {
            return false
        }
        for (index, targets) in targets.enumerated() where !targets.isEmpty {
            let buffer = await takeBlankPiece()
            defer { engine.scratch.give(buffer) }
            for batch in chain where batch.firstBlock / Journal.blocksPerPiece == index {
                let offset = batch.firstBlock % Journal.blocksPerPiece * Units.blockBytes
                unsafe engine.arena.bytes(buffer + offset, batch.bytes.count)
                    .copyBytes(from: batch.bytes)
            }
            guard await writePiece(from: buffer, to: targets) else { return false }
        }
        return true
    }

    private func writeRoot(_ next: SpaceRoot) async -> Bool {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        do throws(FormatError) {
            try unsafe next.encode(into: engine.arena.bytes(buffer, SpaceRoot.slotBytes))
        } catch {
            return false
        }
        let io = IOBatch(engine)
        var devices = DeviceSet()
        for base in rootCopies where departed.takesPages(base) {
            let slot = SpaceRoot.slotOffset(Int(next.sequence % 2))
            io.write(
                base.device, at: base.offsetBytes + slot, bytes: SpaceRoot.slotBytes, from: buffer)
            devices.insert(base.device)
        }
        if await !io.run(), await !goOn(without: io, during: "repair") { return false }
        if Mutant.isActive(.rootUnflushed) { return true }
        return await flush(devices)
    }

    // MARK: - data

    private func repairData(_ plan: RepairPlan) async -> RepairOutcome {
        let victims = groups.records.filter { isDegraded($0, plan) }
        // Most at risk first: those with the fewest copies left.
        let ordered = victims.sorted { (risk($0, plan), $0.id) < (risk($1, plan), $1.id) }
        let round = DataRepair(
            engine, ordered.dropLast(Mutant.isActive(.retireForgetsGroup) ? 1 : 0).map(\.id))
        // Each writes to one disk: several keep all of them busy.
        round.workers = engine.limits.repairGroups
        for number in 0..<round.workers {
            background { await $0.repair(round, plan, isFirst: number == 0) }
        }
        while round.workers > 0, !engine.isStopped { await round.workerEnded.wait() }
        return engine.isStopped ? .failed : round.outcome
    }

    private func repair(_ round: DataRepair, _ plan: RepairPlan, isFirst: Bool) async {
        defer {
            round.workers -= 1
            round.workerEnded.fire()
        }
        while !round.victims.isEmpty, !engine.isStopped {
            guard mayRepair else { return round.outcome = .failed }
            // What clients write to a slab that is being filled they write once more.
            if !isFirst, plan.priority != .high, isBusy {
                await nap(ns: 20_000_000)
                continue
            }
            guard let victim = round.victims.popFirst() else { return }
            // One that has no room, or cannot be read to its end, keeps nothing from the others.
            round.outcome = round.outcome.and(await replaceSlabs(of: victim, plan))
        }
    }

    /// Every slab that the group lacks, or that is given up, gets a successor; where no disk has one
    /// for it, its grains are moved into groups that need none.
    private func replaceSlabs(of id: UInt32, _ plan: RepairPlan) async -> RepairOutcome {
        while let record = groups[id]?.record,
            let position = record.slabs.firstIndex(where: { isLacking($0, plan) })
        {
            guard mayRepair else { return .failed }
            let replaced = await replaceSlab(
                of: id, at: position, avoiding: plan.givenUp, plan.priority)
            switch replaced {
            case .done: continue
            case .noRoom, .unreadable:
                await emptyingLock.acquire(engine)
                let outcome = await empty(id, plan.priority)
                emptyingLock.release()
                // What cannot be read is no more readable beside another column.
                guard outcome == .noRoom, replaced == .noRoom else { return outcome }
                let shared = await replaceSlab(
                    of: id, at: position, avoiding: plan.givenUp, mayShare: true, plan.priority)
                guard shared == .done else { return .noRoom }
            case .failed: return .failed
            }
        }
        return .done
    }

    private func isLacking(_ slab: GroupSlab, _ plan: RepairPlan) -> Bool {
        slab.isHole && !Mutant.isActive(.forgetHoles) || plan.givenUp.contains(slab.address.disk)
    }

    /// Moves everything of a group into others; meanwhile it takes nothing.
    func empty(_ group: UInt32, _ priority: RepairPriority) async -> RepairOutcome {
        groups.startDraining(group, by: .repair)
        defer {
            groups.stopDraining(group, by: .repair)
            wake(&grainWaiters)
        }
        return await evacuate(group, priority)
    }

    /// The fewest copies that any column has left; of a stripe, one more than it can lose.
    private func risk(_ record: GroupRecord, _ plan: RepairPlan) -> Int {
        let isLeft = { [departed] (slab: GroupSlab) in
            !slab.isHole && !plan.givenUp.contains(slab.address.disk)
                && departed.index(of: slab.address.disk) == nil
        }
        if isParity { return record.slabs.count(where: isLeft) - Int(record.columns) + 1 }
        let counts = stride(from: 0, to: record.slabs.count, by: copies).map { first in
            record.slabs[first..<first + copies].count(where: isLeft)
        }
        return counts.min() ?? 0
    }
}

/// The groups of a space that a repair goes through, several at a time.
private final class DataRepair: @unchecked Sendable {
    /// The most at risk first.
    var victims: ArraySlice<UInt32>
    var outcome = Space.RepairOutcome.done
    var workers = 0
    let workerEnded: Signal

    init(_ engine: Engine, _ victims: [UInt32]) {
        self.victims = victims[...]
        workerEnded = Signal(engine)
    }
}
