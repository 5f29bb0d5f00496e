import PoolFormat

/// Writes to simple and mirror spaces: whole blocks, in place, to all copies at once.
///
/// Why a crash at any point is safe: over durably UNWRITTEN blocks nothing that lands is readable
/// before its record is durable; over anything else the region is durably dirty, so recovery makes
/// the copies equal and accepts either value.
extension Space {
    func prepareWrite(_ request: RequestIndex) {
        if isParity { return prepareStripeWrite(request) }
        guard readOnlyReason == nil else { return finish(request, .ioError) }
        // Until a departure is durable nothing may be done without the disk.
        guard departing.isEmpty else { return park(request, on: &departureWaiters) }
        guard isSettled(request), hasRoom(request),
            let frame = valuesFrame(request, forWrite: true),
            let entry = mappedGrain(request, values: frame),
            isFilled(request, entry, frame), isMarked(request, values: frame)
        else { return }
        startWrite(request, entry, frame)
    }

    private func startWrite(_ request: RequestIndex, _ entry: GrainMap.Entry, _ frame: Int32) {
        if groups.isReplacing(entry), groups.replacement(of: entry.group)?.isGated ?? false {
            return park(request, on: &replacementWaiters)
        }
        let isNoted = noteMissed(
            entry, grain: table[request].grain, blocks: table[request].blocks,
            isMarked: table[request].isOverwrite)
        guard isNoted else { return finish(request, .ioError) }
        table[request].state = .transferring
        table[request].isAtDevices = true
        table[request].frame = frame
        frames[frame].pins += 1
        let region = DirtyRegions.region(ofGrain: table[request].grain)
        regions[region].writesInFlight += 1
        reservedBlocks += Int(table[request].blockCount)
        unflushedLog.reserve(loggedBytes(request))
        computeValues(request)
        if table[request].isOverwrite, regions[region].freshCoveredBy > completedCommits {
            logIntent(request, frame)
        }
        sendLegs(request, entry, .write, copies: 0...(copies - 1))
    }

    /// Now, while the bytes are hot in the cache.
    func computeValues(_ request: RequestIndex) {
        let first =
            table[request].grain * UInt64(Units.blocksPerGrain) + UInt64(table[request].firstBlock)
        for position in 0..<Int(table[request].blockCount) {
            let offset = table[request].bufferOffset + position * Units.blockBytes
            table.setValue(
                request, position,
                hasChecksums ? blockValue(offset, first + UInt64(position)) : BlockValue.present)
        }
    }

    /// Sends the request's blocks to, or reads them from, a range of copies. A leg that is left out
    /// because its disk is away keeps its number.
    func sendLegs(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ kind: DeviceOperation.Kind,
        copies: ClosedRange<Int>
    ) {
        var leg = 0
        var sent: UInt16 = 0
        forEachLeg(request, entry, kind, copies) { base, position, bytes in
            defer { leg += 1 }
            guard kind == .read || departed.takesData(base) else { return }
            sent += 1
            engine.operations.append(
                DeviceOperation(
                    kind: kind, device: base.device, token: Token.make(request: request, leg: leg),
                    offsetBytes: base.offsetBytes, lengthBytes: UInt64(bytes),
                    bufferOffset: table[request].bufferOffset + position))
        }
        table[request].legsOutstanding = sent
    }

    /// Of a request to the cache, those of its slots. A slab that is to replace one of the group's takes
    /// every write; its legs are the last.
    @inline(__always)
    func forEachLeg(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ kind: DeviceOperation.Kind,
        _ copies: ClosedRange<Int>,
        _ body: (SlabGroups.Base, _ position: Int, _ bytes: Int) -> Void
    ) {
        if table[request].isCached { return forEachSlotLeg(request, copies, body) }
        let offset = Int(table[request].firstBlock) * Units.blockBytes
        let length = Int(table[request].blockCount) * Units.blockBytes
        for copy in copies {
            groups.forEachRun(
                entry, copy: copy, offsetBytes: offset, lengthBytes: length, body)
        }
        if kind == .write, groups.isReplacing(entry), !Mutant.isActive(.replacingLacksWrites) {
            groups.forEachReplacingRun(entry, offsetBytes: offset, lengthBytes: length, body)
        }
    }

    private func copyCount(_ request: RequestIndex) -> Int {
        table[request].isCached ? cache.copies : copies
    }

    /// A leg failed: counts it against its disk.
    func noteFailedLeg(_ request: RequestIndex, leg: Int) {
        let isRead = table[request].kind == .read
        if Mutant.isActive(.ignoreFailedWrite), !isRead { return }
        table[request].deviceFailed = true
        guard table[request].state == .transferring else { return }
        let copy = Int(table[request].copy)
        var position = 0
        forEachLeg(
            request, map[table[request].grain], isRead ? .read : .write,
            isRead ? copy...copy : 0...(copyCount(request) - 1)
        ) { base, _, _ in
            if position == leg {
                isRead
                    ? noteReadError(base.device)
                    : table[request].failedDevices.insert(base.device)
            }
            position += 1
        }
    }

    func finishWrite(_ request: RequestIndex) {
        guard !table[request].deviceFailed else { return loseCopy(request) }
        let grain = table[request].grain
        let region = DirtyRegions.region(ofGrain: grain)
        let frame = table[request].frame
        leaveDevices(request)
        regions[region].coveredBy = startedCommits + 1
        regions[region].lastWriteNs = engine.nowNs
        forEachLeg(request, map[grain], .write, 0...(copies - 1)) { base, _, _ in
            if departed.takesData(base) { unflushedDevices.insert(base.device) }
        }
        takeValues(request, frame)
        tellRoomWaiters()
        finish(request, .ok)
    }

    /// What a write had reserved is pending now, or nothing had to be recorded and there is room.
    func tellRoomWaiters() {
        if !roomWaiters.isEmpty { pending.isEmpty ? wake(&roomWaiters) : wantCommit() }
    }

    private func leaveDevices(_ request: RequestIndex) {
        table[request].isAtDevices = false
        frames[table[request].frame].pins -= 1
        engine.frameReleased.fire()
        regions[DirtyRegions.region(ofGrain: table[request].grain)].writesInFlight -= 1
        reservedBlocks -= Int(table[request].blockCount)
        unflushedLog.unreserve(loggedBytes(request))
    }

    func takeValues(_ request: RequestIndex, _ frame: Int32) {
        let grain = table[request].grain
        let first = Int(table[request].firstBlock)
        var isChanged = hasChecksums
        var isFresh = false
        runChanges.removeAll(keepingCapacity: true)
        for position in 0..<Int(table[request].blockCount) {
            let new = table.value(request, position)
            let old = changeValue(grain, first + position, new, frame)
            runChanges.append(ValueChange(old: old, new: new))
            isChanged = isChanged || old != new
            isFresh = isFresh || old == BlockValue.unwritten
        }
        if isFresh {
            regions[DirtyRegions.region(ofGrain: grain)].freshCoveredBy = startedCommits + 1
        }
        guard isChanged else { return }
        unflushedLog.add(
            values: runChanges, firstBlock: grain * UInt64(Units.blocksPerGrain) + UInt64(first))
    }

    /// It may overwrite a block whose first value is not durable: should the process end, the block
    /// may hold either.
    private func logIntent(_ request: RequestIndex, _ frame: Int32) {
        guard hasChecksums, unflushedLog.isThere, !Mutant.isActive(.forgetIntents) else { return }
        let image = unsafe PageImage(frames.image(frame))
        let grain = table[request].grain
        let first = Int(table[request].firstBlock)
        runChanges.removeAll(keepingCapacity: true)
        for position in 0..<Int(table[request].blockCount) {
            let old = ChecksumPage.value(image, grain: grain, block: first + position)
            runChanges.append(ValueChange(old: old, new: table.value(request, position)))
        }
        unflushedLog.add(
            values: runChanges, firstBlock: grain * UInt64(Units.blocksPerGrain) + UInt64(first),
            isIntent: true)
    }

    /// Every value change goes through here: the durable value is remembered until the new one is.
    ///
    /// - Returns: the value it had.
    @discardableResult
    func changeValue(_ grain: UInt64, _ block: Int, _ value: UInt32, _ frame: Int32) -> UInt32 {
        let image = unsafe PageImage(frames.image(frame))
        let before = ChecksumPage.value(image, grain: grain, block: block)
        // Without checksums an overwrite changes nothing that has to be recorded.
        guard before != value || hasChecksums else { return before }
        let key = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
        if pending.blocks.insert(key, old: UInt64(before)) {
            frames[frame].unflushed += 1
        }
        ChecksumPage.setValue(image, grain: grain, block: block, value)
        frames.markDirty(frame, since: firstUnwrittenSequence)
        return before
    }

    /// A copy did not take the write: its disk leaves, durably, and only then is it told how the
    /// write has ended: well, where each of its blocks has a copy that serves.
    private func loseCopy(_ request: RequestIndex) {
        table[request].state = .detour
        let devices = table[request].failedDevices
        background { space in
            await space.failDevices(devices, during: "write")
            space.judge(request, await space.departuresAreDurable())
        }
    }

    private func judge(_ request: RequestIndex, _ goesOn: Bool) {
        if engine.isStopped { return table[request].isAtDevices = false }
        let (grain, blocks) = (table[request].grain, table[request].blocks)
        let region = DirtyRegions.region(ofGrain: grain)
        // The disk lacks it, whenever it was that it left; nothing but this may say so.
        if isRedundant { lateMissed.insert(region) }
        let isTaken =
            isRedundant
            ? noteMissed(map[grain], grain: grain, blocks: blocks, isMarked: false)
            : isSpared(table[request].failedDevices)
        if goesOn, isTaken {
            table[request].deviceFailed = false
            table[request].failedDevices = DeviceSet()
            return finishWrite(request)
        }
        // Nobody knows what its blocks hold now.
        leaveDevices(request)
        wake(&roomWaiters)
        regions[region].isSuspect = true
        groups.lack(map[grain])
        finish(request, .ioError)
    }

    /// Has disks that failed leave; returns once their departure is durable, or cannot be.
    func failDevices(_ devices: DeviceSet, during what: String) async {
        if engine.isStopped { return }
        await pool.devicesFailed(devices, during: what, from: engine)
        if engine.isStopped || readOnlyReason != nil { return }
        let isBorne = isRedundant ? devices.isSubset(of: engine.failedDevices) : isSpared(devices)
        if !isBorne {
            becomeReadOnly("a disk failed during a \(what)")
        }
    }

    // MARK: - edges of unaligned writes

    /// The blocks at an unaligned write's edges hold what they held before, outside the payload.
    func isFilled(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ frame: Int32
    ) -> Bool {
        let hasHead = table[request].headIsPartial
        let hasTail = table[request].tailIsPartial
        if table[request].isFilled || !(hasHead || hasTail) { return true }
        let last = Int(table[request].blockCount) - 1
        let readsHead = hasHead && edgeValue(request, 0, frame) != BlockValue.unwritten
        let readsTail =
            hasTail && !(hasHead && last == 0)
            && edgeValue(request, last, frame) != BlockValue.unwritten
        if readsHead, table[request].headScratch < 0 {
            guard let page = engine.scratch.takePage(orPark: request) else {
                table[request].state = .parked
                return false
            }
            table[request].headScratch = page
        }
        if readsTail, table[request].tailScratch < 0 {
            guard let page = engine.scratch.takePage(orPark: request) else {
                table[request].state = .parked
                return false
            }
            table[request].tailScratch = page
        }
        guard readsHead || readsTail else {
            mergeEdges(request)
            table[request].isFilled = true
            return true
        }
        table[request].state = .detour
        // Now, not when the slow path begins: it begins later.
        frames[frame].pins += 1
        background { await $0.fillEdges(request, entry, frame) }
        return false
    }

    private func edgeValue(_ request: RequestIndex, _ position: Int, _ frame: Int32) -> UInt32 {
        ChecksumPage.value(
            unsafe PageImage(frames.image(frame)), grain: table[request].grain,
            block: Int(table[request].firstBlock) + position)
    }

    /// Reads and verifies the edge blocks, whose frame the caller pinned, then goes back to `prepare`.
    private func fillEdges(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ frame: Int32
    ) async {
        let grain = table[request].grain
        let first = Int(table[request].firstBlock)
        let last = Int(table[request].blockCount) - 1
        var isRight = true
        if table[request].headScratch >= 0 {
            isRight = await readBlock(
                grain, entry, first, value: edgeValue(request, 0, frame),
                into: table[request].headScratch)
        }
        if table[request].tailScratch >= 0, isRight {
            isRight = await readBlock(
                grain, entry, first + last, value: edgeValue(request, last, frame),
                into: table[request].tailScratch)
        }
        frames[frame].pins -= 1
        engine.frameReleased.fire()
        guard isRight else { return finish(request, .ioError) }
        mergeEdges(request)
        giveScratch(request)
        table[request].isFilled = true
        table[request].state = .parked
        engine.runnable.append(request)
    }

    /// Puts what surrounds the payload into its first and last block: the scratch page's bytes
    /// where there is one, else zeros.
    private func mergeEdges(_ request: RequestIndex) {
        let head = Int(table[request].offsetBytes % 4096)
        let buffer = table[request].bufferOffset
        if head > 0 {
            fill(buffer, head, from: table[request].headScratch, at: 0)
        }
        let end = head + Int(table[request].lengthBytes)
        let tail = (4096 - end % 4096) % 4096
        if tail > 0 {
            let isSameBlock = table[request].blockCount == 1
            let scratch = isSameBlock && head > 0
                ? table[request].headScratch : table[request].tailScratch
            fill(buffer + end, tail, from: scratch, at: 4096 - tail)
        }
    }

    private func fill(_ target: Int, _ count: Int, from scratch: Int, at offset: Int) {
        let bytes = unsafe engine.arena.bytes(target, count)
        if scratch >= 0 {
            unsafe bytes.copyMemory(
                from: UnsafeRawBufferPointer(engine.arena.bytes(scratch + offset, count)))
        } else {
            unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
        }
    }
}
