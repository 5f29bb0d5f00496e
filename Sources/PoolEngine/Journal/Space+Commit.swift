import PoolFormat

/// The group commit: everything that changed since the last one becomes durable together.
///
/// Order, each step complete before the next:
///
/// 1. *Capture*, at one instant: every completed write, trim and grant; every FLUSH and FUA that
///    waits. What comes later belongs to the next commit, whose device flushes are submitted later.
/// 2. Where a block leaves UNWRITTEN, or lies in the cache: flush the devices with captured data. A
///    record that makes bytes readable is written only behind those bytes.
/// 3. Where a disk has left: record what it lacks. Then write the journal's batches to every copy.
/// 4. Flush the devices with captured data and those of the journal. Where a disk fails, it leaves:
///    the others go on, once that is durable and what it lacks is recorded (`Space+Departures.swift`).
/// 5. *Confirm*: reply to the captured, free what was unmapped, let writes go on.
///
/// Why a crash is safe. Before 4 has ended nothing was acknowledged as durable, and any prefix of
/// the batches may be found: each holds absolute values, so each prefix is a state between the last
/// commit and this one. After 4 all of it is found, on every copy.
extension Space {
    func waitForCommit(_ request: RequestIndex) {
        flushWaiters.append(request)
        wantCommit()
    }

    func wantCommit() {
        isCommitWanted = true
        commitWanted.fire()
    }

    /// Only marks and grants need to be durable soon: writes wait for them.
    func wantMarks() {
        isMarkWanted = true
        commitWanted.fire()
    }

    /// Everything acknowledged before this call becomes durable. False: it could not, or the space
    /// has ended and commits no more.
    func commit() async -> Bool {
        let wanted = startedCommits + 1
        wantCommit()
        while completedCommits < wanted {
            if readOnlyReason != nil || engine.isStopped || hasEnded { return false }
            await commitCompleted.wait()
        }
        return true
    }

    /// Runs for as long as the space is open, one commit at a time.
    func commitLoop() async {
        while !engine.isStopped {
            if readOnlyReason != nil { failFlushes() }
            guard isCommitWanted || isMarkWanted else {
                if hasEnded { return }
                await commitWanted.wait()
                continue
            }
            if readOnlyReason != nil {
                (isCommitWanted, isMarkWanted) = (false, false)
                continue
            }
            let bytes = pending.journalBytes + freshMissedBytes + Units.blockBytes
            guard journal.hasRoom(bytes: bytes) else {
                // Checkpointing needs no room: it makes some.
                wantCheckpoint()
                await checkpointed.wait()
                continue
            }
            await commitLock.acquire(engine)
            let onlyMarks = !isCommitWanted
            (isCommitWanted, isMarkWanted) = (false, false)
            await onlyMarks ? commitMarks() : commitAll()
            commitLock.release()
        }
    }

    private func failFlushes() {
        let failed = flushWaiters
        flushWaiters.removeAll(keepingCapacity: true)
        for request in failed { reply(request, .ioError) }
        commitCompleted.fire()
    }

    // MARK: - one commit

    private func commitAll() async {
        addCleans()
        let values = capture()
        startedCommits += 1
        let departuresBefore = departuresNoted
        let devices = unflushedDevices
        unflushedDevices = DeviceSet()
        swap(&flushWaiters, &capturedWaiters)

        if Mutant.isActive(.discardEarly) { await discard(committing.freed) }
        if Mutant.isActive(.acknowledgeBeforeFlush) { confirmWaiters() }
        var isDurable = true
        if values.makesReadable && !Mutant.isActive(.recordBeforeData) {
            isDurable = await flush(devices)
        }
        // In front of the records that make it readable: a disk that has just left lacks it.
        if isDurable { isDurable = await captureLateMissed() }
        if isDurable { isDurable = await writeAndFlush(values, data: devices) }
        if isDurable { isDurable = await recordLateMissed() }
        guard isDurable else { return failCommit() }
        // What the disks that left have taken with them is known only now.
        let isLost = departuresNoted != departuresBefore && !isCommitCovered
        confirm()
        completedCommits = startedCommits
        confirmWaiters(isLost ? .ioError : .ok)
        commitCompleted.fire()
    }

    /// A commit of the marks alone: no data has to be flushed for them.
    private func commitMarks() async {
        swap(&pending.marks, &committing.marks)
        for region in committing.marks { regions.setMark(region, .committing) }
        guard await writeAndFlush(CapturedValues(), data: DeviceSet()) else { return failCommit() }
        confirm()
    }

    /// Block and map values at the instant of capture, in the order of `committing`'s keys.
    private struct CapturedValues {
        var blocks: [UInt32] = []
        /// Where each lies in the cache, or `nowhere`; empty: none does.
        var slots: [UInt32] = []
        var grains: [GrainMap.Entry] = []
        /// A block leaves UNWRITTEN, or lies in the cache.
        var makesReadable = false
        /// Of grains that lie in another stripe, the blocks that have new values there.
        var rewritten: [UInt64: RewrittenBlocks] = [:]

        static let nowhere = UInt32.max

        func slot(at position: Int) -> UInt32 { slots.isEmpty ? Self.nowhere : slots[position] }

        /// A block lies where one record says it of it and of those before it: outside the cache, or so
        /// many slots behind the first.
        func isRun(from first: UInt32, at position: Int, _ count: Int) -> Bool {
            let slot = slot(at: position)
            guard slot != Self.nowhere, first != Self.nowhere else { return slot == first }
            return WriteCache.isNext(slot, behind: first, by: count)
        }
    }

    private func capture() -> CapturedValues {
        precondition(committing.isEmpty && committing.freed.isEmpty)
        swap(&pending, &committing)
        pendingMissed.removeAll()
        unflushedLog.capture()
        for region in committing.marks { regions.setMark(region, .committing) }
        var values = CapturedValues()
        values.blocks.reserveCapacity(committing.blocks.keys.count)
        for key in committing.blocks.keys {
            guard key != PendingTable.removed else {
                values.blocks.append(0)
                continue
            }
            let value = currentValue(ofBlock: key)
            if value != BlockValue.unwritten,
                committing.blocks.old(key) == UInt64(BlockValue.unwritten)
            {
                values.makesReadable = true
            }
            values.blocks.append(value)
        }
        values.grains = committing.grains.keys.map { map[$0] }
        captureSlots(&values)
        if isParity {
            for grain in committing.moved { values.rewritten[grain] = rewrittenBlocks(grain) }
        }
        return values
    }

    private func captureSlots(_ values: inout CapturedValues) {
        if cache.isEmpty { return }
        for key in committing.blocks.keys {
            let slot = key == PendingTable.removed ? nil : cache.slot(ofBlock: key)
            values.slots.append(slot ?? CapturedValues.nowhere)
            guard let slot else { continue }
            committing.cachedSlots.append(slot)
            if !Mutant.isActive(.slotUnflushed) { values.makesReadable = true }
        }
    }

    private func rewrittenBlocks(_ grain: UInt64) -> RewrittenBlocks {
        var rewritten = RewrittenBlocks()
        let first = grain * UInt64(Units.blocksPerGrain)
        for block in 0..<Units.blocksPerGrain {
            let key = first + UInt64(block)
            // What has come to the cache since lies there, not in the new place.
            guard let old = committing.blocks.old(key), cache.slot(ofBlock: key) == nil else {
                continue
            }
            let change = ValueChange(old: UInt32(old), new: currentValue(ofBlock: key))
            rewritten.append(block, change)
        }
        return rewritten
    }

    private func currentValue(ofBlock key: UInt64) -> UInt32 {
        let grain = key / UInt64(Units.blocksPerGrain)
        let frame = pageFrames[Int(ChecksumPage.index(ofGrain: grain))]
        return ChecksumPage.value(
            unsafe PageImage(frames.image(frame)), grain: grain,
            block: Int(key % UInt64(Units.blocksPerGrain)))
    }

    /// Regions that a finished commit has covered may be clean once this one is durable.
    private func addCleans() {
        // Looking at every dirty region costs too much to do it for each of many small commits.
        let isDue =
            engine.nowNs >= nextCleaningNs || regions.marked.count > engine.limits.dirtyRegions
        let isWanted = isClosing || isShrinking
        guard isDue || isWanted else { return }
        nextCleaningNs = engine.nowNs &+ engine.limits.cleanAfterNs / 16
        let regions = self.regions.cleanable(
            completedCommits: Mutant.isActive(.cleanEarly) ? .max : completedCommits,
            nowNs: engine.nowNs,
            idleNs: isWanted ? 0 : engine.limits.cleanAfterNs, bound: engine.limits.dirtyRegions)
        for region in regions {
            // In front of the clean, in the same batches: a crash finds the region in one of the two.
            if !departed.disks.isEmpty, !Mutant.isActive(.forgetMissedMark) { recordMissed(region) }
            self.regions.setMark(region, .cleaning)
            pending.cleans.append(region)
        }
    }

    private func writeAndFlush(_ values: CapturedValues, data: DeviceSet) async -> Bool {
        var devices = data
        if !committing.isEmpty {
            devices.formUnion(journal.devices)
            guard await writeBatches(values) else { return false }
        }
        return await flush(devices)
    }

    /// Flushes those of the devices that serve. One that fails leaves the space.
    ///
    /// - Returns: whether everything written is durable on all disks that have not left, and that
    ///   the others have left is durable too.
    func flush(_ devices: DeviceSet) async -> Bool {
        let io = IOBatch(engine)
        devices.forEach { if !isDoneWithout($0) { io.flush($0) } }
        if await !io.run(), !Mutant.isActive(.ignoreFailedFlush) {
            let failed = io.devices(with: .ioError)
            await failDevices(failed, during: "flush")
            if !isRedundant, !isSpared(failed) { return false }
        }
        return await departuresAreDurable()
    }

    private func isDoneWithout(_ device: DeviceIndex) -> Bool {
        guard engine.failedDevices.contains(device) else { return false }
        var only = DeviceSet()
        only.insert(device)
        return isRedundant || isSpared(only)
    }

    // MARK: - batches

    /// Encodes `committing` into as many batches as it takes and writes each to every copy.
    private func writeBatches(_ values: CapturedValues) async -> Bool {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        var cursor = CommitCursor()
        repeat {
            let bytes = unsafe engine.arena.bytes(
                buffer, Journal.batchBlocks * Units.blockBytes)
            var writer = unsafe BatchWriter(bytes)
            let isLast = encode(values, from: &cursor, into: &writer)
            guard await writeBatch(&writer, buffer: buffer) else { return false }
            if isLast { return true }
        } while true
    }

    func writeBatch(_ writer: inout BatchWriter, buffer: Int) async -> Bool {
        let blocks =
            (JournalBatch.headerBytes + writer.recordBytes + Units.blockBytes - 1)
            / Units.blockBytes
        let tail = journal.newTail(blocks: blocks)
        let (_, checksum) = writer.finish(
            BatchHeader(
                lineage: lineage, epoch: epoch, sequence: journal.nextSequence,
                previousChecksum: journal.previousChecksum,
                confirmedSequence: journal.confirmedSequence, tailSequence: tail.sequence,
                tailBlock: UInt32(tail.block),
                recordBytes: 0, recordCount: 0))
        let entry = journal.append(blocks: blocks, checksum: checksum)
        let io = IOBatch(engine)
        for base in journal.addresses(ofBlock: entry.firstBlock) where departed.takesJournal(base) {
            io.write(
                base.device, at: base.offsetBytes, bytes: blocks * Units.blockBytes, from: buffer)
        }
        if await io.run() { return true }
        return await goOn(without: io, during: "journal write")
    }

    /// A write of metadata has failed somewhere: those disks leave.
    ///
    /// - Returns: whether the space goes on: some copy was written.
    func goOn(without io: IOBatch, during what: String) async -> Bool {
        await failDevices(io.devices(with: .ioError), during: what)
        return isRedundant ? await departuresAreDurable() && hasMetadata : false
    }

    /// How far the encoding of a commit has come.
    private struct CommitCursor {
        var records = 0
        var marks = 0
        var grains = 0
        var blocks = 0
        var stripes = 0
        var cleans = 0
    }

    /// Grants before what relies on them; map before values; cleans last. A stripe that takes a grain's
    /// place comes behind what has come to the cache since: any batch may be the last that a crash
    /// leaves, and without its slot such a block would be taken for what lies in the stripe.
    ///
    /// - Returns: whether everything is in; false: the batch is full.
    private func encode(
        _ values: CapturedValues, from cursor: inout CommitCursor, into writer: inout BatchWriter
    ) -> Bool {
        while cursor.records < committing.records.count {
            guard writer.append(committing.records[cursor.records]) else { return false }
            cursor.records += 1
        }
        while cursor.marks < committing.marks.count {
            guard writer.appendMark(region: committing.marks[cursor.marks]) else { return false }
            cursor.marks += 1
        }
        while cursor.grains < values.grains.count {
            let grain = committing.grains.keys[cursor.grains]
            let entry = values.grains[cursor.grains]
            if grain != PendingTable.removed, !isNewStripe(grain, entry) {
                guard encode(grain, entry, values, into: &writer) else { return false }
            }
            cursor.grains += 1
        }
        while cursor.blocks < values.blocks.count {
            guard encodeRun(values, &cursor, &writer) else { return false }
        }
        while isParity, cursor.stripes < values.grains.count {
            let grain = committing.grains.keys[cursor.stripes]
            let entry = values.grains[cursor.stripes]
            if grain != PendingTable.removed, isNewStripe(grain, entry) {
                guard encode(grain, entry, values, into: &writer) else { return false }
            }
            cursor.stripes += 1
        }
        while cursor.cleans < committing.cleans.count {
            guard writer.appendClean(region: committing.cleans[cursor.cleans]) else { return false }
            cursor.cleans += 1
        }
        return true
    }

    private func isNewStripe(_ grain: UInt64, _ entry: GrainMap.Entry) -> Bool {
        isParity && entry.isMapped && committing.moved.contains(grain)
    }

    private func encode(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ values: CapturedValues,
        into writer: inout BatchWriter
    ) -> Bool {
        guard entry.isMapped else { return writer.appendUnmap(grain: grain) }
        if let rewritten = values.rewritten[grain], rewritten.count > 0 {
            return writer.append(.rewrite(grain: grain, entry: entry.durable, rewritten))
        }
        return committing.moved.contains(grain) && !Mutant.isActive(.moveForgetsValues)
            ? writer.appendMove(grain: grain, entry: entry.durable)
            : writer.appendMap(grain: grain, entry: entry.durable)
    }

    /// One run of consecutive blocks of one grain.
    private func encodeRun(
        _ values: CapturedValues, _ cursor: inout CommitCursor, _ writer: inout BatchWriter
    ) -> Bool {
        let keys = committing.blocks.keys
        let first = keys[cursor.blocks]
        let slot = values.slot(at: cursor.blocks)
        let isInRewrite =
            slot == CapturedValues.nowhere && !values.rewritten.isEmpty
            && values.rewritten[first / UInt64(Units.blocksPerGrain)] != nil
        if first == PendingTable.removed || isInRewrite {
            cursor.blocks += 1
            return true
        }
        runChanges.removeAll(keepingCapacity: true)
        var at = cursor.blocks
        let grainBlocks = UInt64(Units.blocksPerGrain)
        while at < keys.count, keys[at] == first + UInt64(runChanges.count),
            keys[at] / grainBlocks == first / grainBlocks,
            values.isRun(from: slot, at: at, runChanges.count)
        {
            let old = committing.blocks.old(keys[at]) ?? 0
            runChanges.append(ValueChange(old: UInt32(old), new: values.blocks[at]))
            at += 1
        }
        let isIn = unsafe runChanges.withUnsafeBufferPointer {
            slot == CapturedValues.nowhere
                ? unsafe writer.appendValues(firstBlock: first, changes: $0)
                : unsafe writer.appendCached(firstBlock: first, slot: slot, changes: $0)
        }
        guard isIn else { return false }
        cursor.blocks = at
        return true
    }

    // MARK: - afterwards

    /// Everything in `committing` is durable on every copy.
    private func confirm() {
        let first = firstUnwrittenSequence
        journal.confirmedSequence = journal.nextSequence - 1
        counters.commits += 1
        for key in committing.blocks.keys where key != PendingTable.removed {
            let page = ChecksumPage.index(ofGrain: key / UInt64(Units.blocksPerGrain))
            frames[pageFrames[Int(page)]].unflushed -= 1
        }
        confirmSlots(since: first)
        for region in committing.marks { markIsDurable(region, since: first) }
        for region in committing.cleans { cleanIsDurable(region, since: first) }
        if !committing.freed.isEmpty {
            let freed = committing.freed
            releasesUnderWay += 1
            background { await $0.release(freed) }
        }
        let isLogShorter = unflushedLog.confirm(sequence: journal.confirmedSequence)
        if !committing.isEmpty { engine.frameReleased.fire() }
        if isLogShorter || !committing.isEmpty, !isJournalTight { wake(&roomWaiters) }
        let hasFreed = !committing.freedSlots.isEmpty
        committing.removeAll()
        if hasFreed { admitWrites() }
        if journal.usedBlocks * 4 > journal.blockCount { wantCheckpoint() }
        if frames.dirtyCount > dirtyFrameBounds.many { wantCheckpoint() }
    }

    /// - Parameter first: the first batch of the commit that was just confirmed.
    private func confirmSlots(since first: UInt64) {
        for slot in committing.cachedSlots {
            cache.markDurable(slot)
            pieces.markDirty(.cacheIndex, slot / UInt32(WriteCache.slotsPerPiece), since: first)
        }
        for slot in committing.freedSlots {
            cache.setFree(slot)
            pieces.markDirty(.cacheIndex, slot / UInt32(WriteCache.slotsPerPiece), since: first)
        }
    }

    /// - Parameter first: the first batch of the commit that was just confirmed.
    private func markIsDurable(_ region: UInt64, since first: UInt64) {
        regions.setMark(region, .dirty)
        regions[region].lastWriteNs = engine.nowNs
        maintenance.fire()
        pieces.markDirty(.dirty, UInt32(DirtyPage.place(ofRegion: region).page), since: first)
        wake(&markWaiters)
    }

    private func cleanIsDurable(_ region: UInt64, since first: UInt64) {
        pieces.markDirty(.dirty, UInt32(DirtyPage.place(ofRegion: region).page), since: first)
        regions.setMark(region, .clean)
        guard regions[region].isWantedAgain else { return }
        regions[region].isWantedAgain = false
        regions.setMark(region, .requested)
        pending.marks.append(region)
        wantMarks()
    }

    private func confirmWaiters(_ status: RequestStatus = .ok) {
        let waiters = capturedWaiters
        capturedWaiters.removeAll(keepingCapacity: true)
        for request in waiters { reply(request, status) }
    }

    /// A disk failed: nothing of this commit is known to be durable, the space is read-only.
    private func failCommit() {
        let waiters = capturedWaiters
        capturedWaiters.removeAll(keepingCapacity: true)
        for request in waiters { reply(request, .ioError) }
        if readOnlyReason == nil, !engine.isStopped { becomeReadOnly("a commit failed") }
        commitCompleted.fire()
    }
}
