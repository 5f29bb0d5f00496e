import PoolFormat

/// Incremental checkpoints: pages that changed since their last one, the oldest change first, so
/// that the journal's oldest batches are needed no more.
///
/// Order, each step complete before the next:
///
/// 1. *Image*, at one instant: the page as it is durably, up to the confirmed batch. A value or map
///    entry that is not durable is replaced by the one that is. The page carries that batch's
///    number; replay applies only later ones.
/// 2. Write it into the slot that is not its newer one, on every copy.
/// 3. Flush. Only now is the slot the newer one.
/// 4. Retire the batches below the oldest change that no flushed page holds.
///
/// A crash before 3 leaves the older slot and the batches it needs; after 3, either is right.
extension Space {
    /// New changes wait: the rest of the journal is for what makes room.
    var isJournalTight: Bool { journal.usedBlocks * 2 > journal.blockCount }

    func wantCheckpoint() {
        isCheckpointWanted = true
        checkpointWanted.fire()
    }

    /// Runs for as long as the space is open.
    func checkpointLoop() async {
        while !engine.isStopped {
            guard isCheckpointWanted else {
                if hasEnded { return }
                await checkpointWanted.wait()
                continue
            }
            isCheckpointWanted = false
            await checkpointUntilSmall()
        }
    }

    private func checkpointUntilSmall() async {
        while !engine.isStopped, readOnlyReason == nil, hasMuchToCheckpoint {
            let step = await checkpointStep(limit: engine.limits.checkpointPages)
            checkpointed.fire()
            if !isJournalTight { wake(&roomWaiters) }
            if step.written > 0 { continue }
            // What is left has changes under way: they have to be durable first.
            guard step.skipped > 0, await commit() else { break }
        }
        checkpointed.fire()
    }

    /// Above `many` frames checkpoints begin, and go on down to `some`: not much lower, for what is
    /// written early is the more likely to be written again. A page that is written while a disk is
    /// away has to be copied to it, so then as few are as can be: what changes again until the disk
    /// is back is written once, and to all.
    var dirtyFrameBounds: (some: Int, many: Int) {
        let many = departed.disks.isEmpty ? frames.capacity / 2 : frames.capacity * 7 / 8
        return (many - frames.capacity / 16, many)
    }

    private var isJournalLong: Bool { journal.usedBlocks * 8 > journal.blockCount }

    private var hasMuchToCheckpoint: Bool {
        isJournalLong || frames.dirtyCount > dirtyFrameBounds.some
            || (engine.framesWanted > 0 && frames.dirtyCount > 0)
    }

    /// Everything is in its page, the journal is empty. For a clean end.
    func checkpointAll() async -> Bool {
        while pieces.dirtyCount > 0 || hasDirtyFrames {
            guard !engine.isStopped, readOnlyReason == nil else { return false }
            // A grain that is still being settled may have given a block another value: until that
            // is durable its page stays dirty, however often it is written.
            if !pending.isEmpty, await !commit() { return false }
            let step = await checkpointStep(limit: engine.limits.checkpointPages)
            checkpointed.fire()
            // Neither written nor skipped: another step has written them meanwhile.
            if step.written == 0, step.skipped > 0 {
                guard await commit() else { return false }
            }
        }
        return true
    }

    private var hasDirtyFrames: Bool {
        (0..<Int32(frames.capacity)).contains {
            frames[$0].space == handle.index && frames[$0].dirtySince != 0
        }
    }

    // MARK: - one step

    private struct Candidate {
        var kind: PieceKind
        var page: UInt32
        var since: UInt64
        /// It is to be copied to a disk that is away, whether it is written now or not.
        var isMissed = false
        /// For a checksum page.
        var frame: Int32 = -1
    }

    /// Writes the pages with the oldest changes: with those, the journal gets shorter. Where it is
    /// frames that are wanted, and a disk is away, the pages first that it has to be given anyway.
    ///
    /// - Returns: pages written, and pages passed over because of changes under way.
    private func checkpointStep(limit: Int) async -> (written: Int, skipped: Int) {
        await checkpointLock.acquire(engine)
        defer { checkpointLock.release() }
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        let confirmed = journal.confirmedSequence
        var skipped = 0
        var written: [Candidate] = []
        for candidate in candidates() where written.count < limit {
            let offset = buffer + written.count * Units.blockBytes
            guard image(candidate, at: offset, confirmed: confirmed) else {
                skipped += 1
                continue
            }
            written.append(candidate)
        }
        guard !written.isEmpty else {
            retire()
            return (0, skipped)
        }
        guard await write(written, from: buffer) else { return (0, 0) }
        for candidate in written { settleSlot(candidate) }
        engine.frameReleased.fire()
        counters.checkpointedPages += UInt64(written.count)
        retire()
        return (written.count, skipped)
    }

    private func candidates() -> [Candidate] {
        var all: [Candidate] = []
        for kind in PieceDirectory.pagedKinds where kind != .checksum {
            all += pieces.dirtyPages(kind).map {
                Candidate(kind: kind, page: $0.page, since: $0.since)
            }
        }
        for frame in 0..<Int32(frames.capacity) {
            let state = frames[frame]
            if state.space == handle.index, state.dirtySince != 0, !state.isLoading {
                all.append(
                    Candidate(
                        kind: .checksum, page: state.page, since: state.dirtySince, frame: frame))
            }
        }
        if !departed.disks.isEmpty, !isJournalLong {
            for position in all.indices { all[position].isMissed = isMissed(all[position]) }
        }
        return all.sorted {
            if $0.isMissed != $1.isMissed { return $0.isMissed }
            return ($0.since, $0.kind.rawValue, $0.page) < ($1.since, $1.kind.rawValue, $1.page)
        }
    }

    /// None with changes that are not durable: it would stay dirty, and be written again and again.
    private func isMissed(_ candidate: Candidate) -> Bool {
        guard candidate.frame >= 0, frames[candidate.frame].unflushed == 0 else { return false }
        return departed.disks.contains {
            $0.phase == .away && $0.missedPages.contains(candidate.kind, page: candidate.page)
        }
    }

    /// Makes the durable image of a page. From here on it counts as clean but for later changes;
    /// `retire` is not called before it is flushed. False: it cannot be told apart from changes
    /// under way.
    private func image(_ candidate: Candidate, at offset: Int, confirmed: UInt64) -> Bool {
        let page = unsafe PageImage(engine.arena.bytes(offset, Units.blockBytes))
        switch candidate.kind {
        case .checksum:
            guard imageValues(candidate, page) else { return false }
            frames[candidate.frame].pins += 1
            frames.markClean(candidate.frame)
            if frames[candidate.frame].unflushed > 0 {
                frames.markDirty(candidate.frame, since: confirmed + 1)
            }
        case .map:
            page.zero()
            pieces.markClean(.map, candidate.page)
            if imageMap(candidate.page, page) {
                pieces.markDirty(.map, candidate.page, since: confirmed + 1)
            }
        case .dirty:
            page.zero()
            imageDirty(candidate.page, page)
            pieces.markClean(.dirty, candidate.page)
        case .missed:
            // Its records are grants in this: with some under way, what is durable cannot be told.
            if hasGrantsUnderWay { return false }
            page.zero()
            imageMissed(candidate.page, page)
            pieces.markClean(.missed, candidate.page)
        case .group:
            if hasGrantsUnderWay { return false }
            page.zero()
            imageGroups(candidate.page, page)
            pieces.markClean(.group, candidate.page)
        case .directory:
            if hasGrantsUnderWay { return false }
            page.zero()
            imageDirectory(candidate.page, page)
            pieces.markClean(.directory, candidate.page)
        case .cacheIndex:
            page.zero()
            cache.forEachDurable(inPiece: candidate.page) { slot, block in
                CachePage.setBlock(in: page, slot: slot, block)
            }
            pieces.markClean(.cacheIndex, candidate.page)
        case .root, .journal, .pins, .heat, .cache:
            preconditionFailure("no page of this kind is ever dirty")
        }
        MetadataPage.seal(
            page, kind: candidate.kind, lineage: lineage, epoch: epoch,
            index: UInt64(candidate.page), sequence: confirmed)
        return true
    }

    private func imageValues(_ candidate: Candidate, _ page: PageImage) -> Bool {
        let first = UInt64(candidate.page) * UInt64(ChecksumPage.grainsPerPage)
        let grains = first..<first + UInt64(ChecksumPage.grainsPerPage)
        // A map change resets a grain's values: what they were durably is not known any more.
        for grain in grains
        where pending.grains.old(grain) != nil || committing.grains.old(grain) != nil {
            return false
        }
        unsafe page.buffer.copyMemory(
            from: UnsafeRawBufferPointer(frames.image(candidate.frame)))
        if frames[candidate.frame].unflushed == 0 || Mutant.isActive(.checkpointFromMemory) {
            return true
        }
        for grain in grains {
            for block in 0..<Units.blocksPerGrain {
                let key = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
                if let old = committing.blocks.old(key) ?? pending.blocks.old(key) {
                    ChecksumPage.setValue(page, grain: grain, block: block, UInt32(old))
                }
            }
        }
        return true
    }

    /// - Returns: whether a change under way was left out.
    private func imageMap(_ index: UInt32, _ page: PageImage) -> Bool {
        let first = UInt64(index) * UInt64(MapPage.entriesPerPage)
        var leftOut = false
        for position in 0..<MapPage.entriesPerPage {
            let grain = first + UInt64(position)
            guard grain < UInt64(map.grainCount) else { break }
            var entry = map[grain]
            if let old = committing.grains.old(grain) ?? pending.grains.old(grain) {
                entry = GrainMap.Entry(rawValue: old)
                leftOut = true
            }
            if entry.isMapped { MapPage.setEntry(in: page, at: position, entry.durable) }
        }
        return leftOut
    }

    private func imageDirty(_ index: UInt32, _ page: PageImage) {
        for region in regions.marked where regions.isDurablyDirty(region) {
            let place = DirtyPage.place(ofRegion: region)
            if place.page == UInt64(index) {
                DirtyPage.set(in: page, region: place.region, dirty: true)
            }
        }
    }

    private func imageMissed(_ index: UInt32, _ page: PageImage) {
        for region in missedRegions {
            let place = DirtyPage.place(ofRegion: region)
            if place.page == UInt64(index) {
                DirtyPage.set(in: page, region: place.region, dirty: true)
            }
        }
    }

    /// A page of one number has one content: with grants in it that are not durable, two images of
    /// the same number would differ, and nothing would tell the newer.
    private var hasGrantsUnderWay: Bool {
        !pending.records.isEmpty || !committing.records.isEmpty
    }

    private func imageGroups(_ index: UInt32, _ page: PageImage) {
        for position in 0..<GroupPage.recordsPerPage {
            let id = index * UInt32(GroupPage.recordsPerPage) + UInt32(position)
            // A record that is here was validated when it was granted or read.
            do throws(FormatError) {
                try GroupPage.setRecord(in: page, at: position, groups[id]?.record)
            } catch {
                preconditionFailure(error.description)
            }
        }
    }

    private func imageDirectory(_ index: UInt32, _ page: PageImage) {
        for position in 0..<DirectoryPage.entriesPerPage {
            let slot = index * UInt32(DirectoryPage.entriesPerPage) + UInt32(position)
            if let entry = pieces.entry(inSlot: slot) {
                DirectoryPage.setEntry(in: page, at: position, entry)
            }
        }
    }

    private func write(_ pages: [Candidate], from buffer: Int) async -> Bool {
        let pageWrite = beginPageWrite(
            pages.map { PageSlot($0.kind, page: $0.page, slot: 1 - newerSlot($0)) })
        defer { endPageWrite(pageWrite) }
        let io = IOBatch(engine)
        var devices = DeviceSet()
        for (position, candidate) in pages.enumerated() {
            let slot = 1 - newerSlot(candidate)
            for base in pieces.addresses(candidate.kind, page: candidate.page, slot: slot)
            where departed.takesPages(base) {
                io.write(
                    base.device, at: base.offsetBytes, bytes: Units.blockBytes,
                    from: buffer + position * Units.blockBytes)
                devices.insert(base.device)
            }
        }
        if Mutant.isActive(.retireEarly) { retire() }
        if await !io.run(), await !goOn(without: io, during: "checkpoint") { return false }
        return await flush(devices)
    }

    private func newerSlot(_ candidate: Candidate) -> Int {
        candidate.frame >= 0
            ? Int(frames[candidate.frame].slot)
            : pieces.newerSlot(candidate.kind, candidate.page)
    }

    private func settleSlot(_ candidate: Candidate) {
        let slot = 1 - newerSlot(candidate)
        if candidate.frame >= 0 {
            frames[candidate.frame].slot = UInt8(slot)
            frames[candidate.frame].pins -= 1
        } else {
            pieces.setNewerSlot(candidate.kind, candidate.page, slot)
        }
    }

    /// Frees the batches that no page and no commit under way needs.
    private func retire() {
        var oldest = journal.confirmedSequence + 1
        if let dirty = pieces.oldestDirty { oldest = min(oldest, dirty) }
        if let replayed = overlay.oldest { oldest = min(oldest, replayed) }
        for frame in 0..<Int32(frames.capacity) {
            let state = frames[frame]
            if state.space == handle.index, state.dirtySince != 0 {
                oldest = min(oldest, state.dirtySince)
            }
        }
        journal.retire(below: oldest)
    }
}

/// What the journal holds for checksum pages that are not in memory since the space was opened.
struct ReplayOverlay {
    enum Change {
        /// A map record: the grain's 256 blocks are UNWRITTEN.
        case reset(grain: UInt64)
        case value(block: UInt64, UInt32)
    }

    private var pages: [UInt32: [(sequence: UInt64, change: Change)]] = [:]

    mutating func add(_ change: Change, page: UInt32, sequence: UInt64) {
        pages[page, default: []].append((sequence, change))
    }

    /// Nothing of the page is needed any more.
    mutating func forget(page: UInt32) { pages[page] = nil }

    func has(page: UInt32) -> Bool { pages[page] != nil }

    /// The oldest batch with a change that is only here.
    var oldest: UInt64? { pages.values.compactMap { $0.first?.sequence }.min() }
    var pageNumbers: [UInt32] { pages.keys.sorted() }

    /// Brings a page up to date; from here on the frame is what keeps the journal.
    mutating func apply(page: UInt32, pageSequence: UInt64, frames: PageFrames, _ frame: Int32) {
        guard let changes = pages.removeValue(forKey: page) else { return }
        let image = unsafe PageImage(frames.image(frame))
        for (sequence, change) in changes where sequence > pageSequence {
            switch change {
            case .reset(let grain):
                for block in 0..<Units.blocksPerGrain {
                    ChecksumPage.setValue(image, grain: grain, block: block, BlockValue.unwritten)
                }
            case .value(let block, let value):
                let grain = block / UInt64(Units.blocksPerGrain)
                ChecksumPage.setValue(
                    image, grain: grain, block: Int(block % UInt64(Units.blocksPerGrain)), value)
            }
            frames.markDirty(frame, since: sequence)
        }
    }
}
