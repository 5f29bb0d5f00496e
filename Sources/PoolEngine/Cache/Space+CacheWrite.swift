import PoolFormat

/// Writes to a parity space by way of its write-back cache: a block goes to a slot that nothing durable
/// names, on as many disks as the space may lose and one more; later, with whatever else of its grain
/// lies in the cache, into a stripe (`Space+Destage.swift`).
///
/// Order, each step complete before the next:
///
/// 1. Slots are set aside for the request before it holds anything: what waits for slots keeps nobody
///    from making some free.
/// 2. Its own blocks are held; others may write to the rest of the grain. The grain is mapped, so that
///    there is a place for it in a stripe, whatever becomes of the pool's room.
/// 3. The blocks are written to every copy of their slots.
/// 4. At one instant the index names the slots, and the blocks have their new values. The slots where
///    they lay before are left.
/// 5. The commit flushes the slots, and then writes records that name them, with the values. Then
///    those that were left are free.
///
/// So a slot is never written over something that a crash may find named, and nothing has to be made
/// equal: a crash before 5 has ended finds each block where it lay, with the value it had, and after it
/// in its slot. What a stripe has in the place of a cached block is old, and counts in its row as the
/// bytes that they are, like a trimmed block's (`stripeValues`).
///
/// 1. A cached block has its value in its slot, on every copy whose disk counts.
/// 2. A grain with a cached block is mapped. Where nothing else was ever written to it its stripe is
///    none: no block of it has a value that lies there.
/// 3. A record says where the blocks that it names lie; a grain that is mapped or unmapped has none
///    in the cache.
extension Space {
    /// Whether smaller writes than a grain go to the cache.
    var cachesWrites: Bool {
        cache.pieceLimit > 0 && readOnlyReason == nil && !isClosing
            && engine.nowNs >= noCacheBeforeNs
    }

    /// Nothing can be made free now: writes go to their stripes for a while, or are refused there.
    func bypassCache() {
        noCacheBeforeNs = engine.nowNs &+ 1_000_000_000
        admitWrites()
    }

    /// Slots of a request lie in so few runs that its legs can be told apart.
    static var mostSlotRuns: Int { 64 }

    // MARK: - slots are set aside

    /// A write comes in: to the cache, or, as long as it is full, behind those that wait for that.
    func enterWrite(_ request: RequestIndex) {
        guard isParity, isForCache(request) else { return enter(request) }
        guard cacheQueue.isEmpty, setAside(request) else {
            table[request].state = .queued
            cacheQueue.append(request)
            wantCacheRoom()
            return
        }
        enter(request)
    }

    private func isForCache(_ request: RequestIndex) -> Bool {
        cachesWrites && Int(table[request].blockCount) < Units.blocksPerGrain
    }

    /// - Returns: false: there are not as many now.
    private func setAside(_ request: RequestIndex) -> Bool {
        guard cache.reserve(Int(table[request].blockCount)) else { return false }
        table[request].isCached = true
        table[request].isExclusive = false
        return true
    }

    /// Part of a block, which may go to the cache if that has room just now.
    func setAsideIfRoom(_ request: RequestIndex) {
        if isParity, isForCache(request), cacheQueue.isEmpty { _ = setAside(request) }
    }

    /// Slots are free, or there will be none: lets in whoever waited, in order of arrival.
    func admitWrites() {
        while let request = cacheQueue.first {
            if isForCache(request), !setAside(request) { break }
            cacheQueue.removeFirst()
            // Not now: whoever has made room is in the middle of something.
            guard engine.locks.enter(request) else { continue }
            table[request].state = .preparing
            engine.runnable.append(request)
        }
    }

    /// The request goes into a stripe after all, and holds the grain for that.
    func enterAlone(_ request: RequestIndex) {
        returnSlots(request)
        engine.locks.leave(request, runnable: &engine.runnable)
        // What surrounds it may be another's by then.
        giveScratch(request)
        table[request].isFilled = false
        table[request].isExclusive = !Mutant.isActive(.stripeShared)
        enter(request)
    }

    /// What was set aside for a request that has not taken it.
    func returnSlots(_ request: RequestIndex) {
        guard table[request].isCached, !table[request].hasSlots else { return }
        table[request].isCached = false
        cache.unreserve(Int(table[request].blockCount))
        if !cacheQueue.isEmpty { admitWrites() }
    }

    // MARK: - the write

    func prepareCachedWrite(_ request: RequestIndex) {
        guard readOnlyReason == nil else { return finish(request, .ioError) }
        guard departing.isEmpty else { return park(request, on: &departureWaiters) }
        guard hasRoom(request), let frame = valuesFrame(request, forWrite: true),
            let entry = mappedGrain(request, values: frame), isFilled(request, entry, frame)
        else { return }
        guard takeSlots(request) else { return enterAlone(request) }
        table[request].state = .transferring
        table[request].isAtDevices = true
        table[request].frame = frame
        frames[frame].pins += 1
        reservedBlocks += Int(table[request].blockCount)
        unflushedLog.reserve(loggedBytes(request))
        cachedWrites.begun += 1
        table[request].cacheRound = cacheRound
        computeValues(request)
        sendLegs(request, entry, .write, copies: 0...(cache.copies - 1))
    }

    private func takeSlots(_ request: RequestIndex) -> Bool {
        let count = Int(table[request].blockCount)
        var position = 0
        let note = { [self] (run: Range<UInt32>) in
            for slot in run {
                table.setSlot(request, position, slot)
                position += 1
            }
        }
        // Where disks are away, slots that lack no copy first.
        let isTaken =
            departed.isEmpty
            ? cache.take(count, runs: Self.mostSlotRuns, note)
            : cache.take(count, runs: Self.mostSlotRuns, where: isWhole, note)
                || cache.take(count, runs: Self.mostSlotRuns, where: isCovered, note)
        guard isTaken else { return false }
        cache.unreserve(count)
        table[request].hasSlots = true
        return true
    }

    /// Cuts the request into runs of blocks that lie side by side in a piece.
    func forEachSlotLeg(
        _ request: RequestIndex, _ copies: ClosedRange<Int>,
        _ body: (SlabGroups.Base, _ position: Int, _ bytes: Int) -> Void
    ) {
        for copy in copies {
            forEachSlotRun(request) { positions in
                body(
                    cache.base(table.slot(request, positions.lowerBound), copy: copy),
                    positions.lowerBound * Units.blockBytes, positions.count * Units.blockBytes)
            }
        }
    }

    private func forEachSlotRun(_ request: RequestIndex, _ body: (Range<Int>) -> Void) {
        let count = Int(table[request].blockCount)
        var start = 0
        while start < count {
            let slot = table.slot(request, start)
            var end = start + 1
            while end < count,
                WriteCache.isNext(table.slot(request, end), behind: slot, by: end - start)
            { end += 1 }
            body(start..<end)
            start = end
        }
    }

    func finishCachedWrite(_ request: RequestIndex) {
        if table[request].deviceFailed || !departed.isEmpty && !isCovered(request) {
            return loseSlots(request)
        }
        let (grain, frame) = (table[request].grain, table[request].frame)
        leaveCachedWrite(request)
        forEachSlotLeg(request, 0...(cache.copies - 1)) { base, _, _ in
            if departed.takesData(base) { unflushedDevices.insert(base.device) }
        }
        let first = grain * UInt64(Units.blocksPerGrain)
        for (position, block) in table[request].blocks.enumerated() {
            let number = first + UInt64(block)
            if let before = cache.put(number, in: table.slot(request, position)) {
                leave(slot: before)
            }
        }
        takeCachedValues(request, frame)
        tellRoomWaiters()
        wantDestage()
        finish(request, .ok)
    }

    private func leaveCachedWrite(_ request: RequestIndex) {
        table[request].isAtDevices = false
        frames[table[request].frame].pins -= 1
        engine.frameReleased.fire()
        reservedBlocks -= Int(table[request].blockCount)
        unflushedLog.unreserve(loggedBytes(request))
        endCachedWrite(request)
    }

    private func endCachedWrite(_ request: RequestIndex) {
        if table[request].cacheRound == cacheRound {
            cachedWrites.begun -= 1
        } else {
            cachedWrites.before -= 1
            if cachedWrites.before == 0 { cachedWritesEnded.fire() }
        }
    }

    /// A block does not lie there any more: once that is durable, the slot is free.
    func leave(slot: UInt32) {
        if Mutant.isActive(.slotFreedEarly), cache.isDurable(slot) {
            cache.setFree(slot)
            return admitWrites()
        }
        pending.freedSlots.append(slot)
    }

    /// A record of the log for each run.
    private func takeCachedValues(_ request: RequestIndex, _ frame: Int32) {
        let grain = table[request].grain
        let first = Int(table[request].firstBlock)
        forEachSlotRun(request) { positions in
            runChanges.removeAll(keepingCapacity: true)
            for position in positions {
                let new = table.value(request, position)
                let old = changeValue(grain, first + position, new, frame)
                runChanges.append(ValueChange(old: old, new: new))
            }
            unflushedLog.add(
                cached: runChanges,
                firstBlock: grain * UInt64(Units.blocksPerGrain)
                    + UInt64(first + positions.lowerBound),
                slot: table.slot(request, positions.lowerBound))
        }
    }

    // MARK: - a copy that fails

    /// A disk did not take the write: it leaves, durably, and only then is it told how the write has
    /// ended: well, where each of its slots has a copy that counts.
    private func loseSlots(_ request: RequestIndex) {
        table[request].state = .detour
        let devices = table[request].failedDevices
        background { space in
            await space.failDevices(devices, during: "write")
            let goesOn = await space.departuresAreDurable()
            if space.engine.isStopped { return space.table[request].isAtDevices = false }
            guard goesOn, space.isCovered(request) else { return space.giveUpSlots(request) }
            space.table[request].deviceFailed = false
            space.table[request].failedDevices = DeviceSet()
            space.finishCachedWrite(request)
        }
    }

    private func giveUpSlots(_ request: RequestIndex) {
        leaveCachedWrite(request)
        forEachSlot(of: request) { cache.setFree($0) }
        wake(&roomWaiters)
        finish(request, .ioError)
        admitWrites()
    }

    private func forEachSlot(of request: RequestIndex, _ body: (UInt32) -> Void) {
        for position in 0..<Int(table[request].blockCount) { body(table.slot(request, position)) }
    }

    private func isCovered(_ request: RequestIndex) -> Bool {
        var isCovered = true
        forEachSlot(of: request) { if !self.isCovered(slot: $0) { isCovered = false } }
        return isCovered
    }

    /// A copy of the slot counts.
    func isCovered(slot: UInt32) -> Bool {
        isCovered(cache.bases(ofPiece: slot / UInt32(WriteCache.slotsPerPiece)))
    }

    private func isCovered(_ copies: ArraySlice<SlabGroups.Base>) -> Bool {
        copies.contains { departed.isCurrent($0) }
    }

    private func isWhole(_ copies: ArraySlice<SlabGroups.Base>) -> Bool {
        copies.allSatisfy { departed.isCurrent($0) }
    }

    // MARK: - blocks that leave

    /// The block lies where its grain does.
    func uncache(block: UInt64) {
        guard let slot = cache.remove(block) else { return }
        leave(slot: slot)
        if destageFailures.isEmpty { return }
        let grain = block / UInt64(Units.blocksPerGrain)
        if !cache.has(grain: grain) { destageFailures[grain] = nil }
    }

    /// Nothing of the grain lies in the cache any more.
    func uncache(grain: UInt64) {
        for (block, _) in cache.slots(ofGrain: grain) {
            uncache(block: grain * UInt64(Units.blocksPerGrain) + UInt64(block))
        }
    }

    // MARK: - values of a stripe

    /// The values of what lies in a parity grain's own place: a block that is cached has none there.
    func stripeValues(_ grain: UInt64) -> [UInt32]? {
        valuesInMemory(grain).map { withoutCached($0, grain) }
    }

    /// Likewise, of values that are known.
    func withoutCached(_ values: [UInt32], _ grain: UInt64) -> [UInt32] {
        if !cache.has(grain: grain) || Mutant.isActive(.stripeBelievesCached) { return values }
        var values = values
        for (block, _) in cache.slots(ofGrain: grain) { values[block] = BlockValue.unwritten }
        return values
    }
}
