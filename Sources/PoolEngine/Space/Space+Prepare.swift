import PoolFormat

/// What a request needs before it may go to the devices. Each function answers "go on", or parks
/// the request and starts whatever will wake it; then everything is checked again from the top.
extension Space {
    /// The grain is the same on all copies: it was not left dirty by a crash, or is settled.
    func isSettled(_ request: RequestIndex) -> Bool {
        let grain = table[request].grain
        guard regions.needsSettling(grain), map[grain].isMapped else { return true }
        table[request].state = .parked
        if settling[grain] == nil {
            beginSettling(grain)
            background { await $0.settle(grain: grain) }
        }
        settling[grain]?.waiters.append(request)
        return false
    }

    /// Writes are allowed, and what this one will leave to be made durable is within the bounds.
    func hasRoom(_ request: RequestIndex) -> Bool {
        // A stripe that is written anew may take all of its grain out of the cache.
        let isStripe = isParity && !table[request].isCached
        let blocks = isStripe ? Units.blocksPerGrain : Int(table[request].blockCount)
        let bound = engine.limits.unflushedBlocks
        let unflushed =
            pending.blocks.count + 2 * pending.grains.count + freshMissed.count + reservedBlocks
            + blocks
        let log = unflushedLog.room(bytes: RestartLog.mapEntryBytes + 2 * loggedBytes(request))
        let isAnyPending = !pending.isEmpty || !freshMissed.isEmpty
        if unflushed * 2 > bound || log.isTight, isAnyPending { wantCommit() }
        guard unflushed > bound || isJournalTight || !log.fits else { return true }
        // Woken by a commit that changed something, or a checkpoint. What the writes in flight
        // have reserved becomes pending when they finish, and is committed then.
        if isJournalTight { wantCheckpoint() }
        park(request, on: &roomWaiters)
        return false
    }

    /// What the request's values take in the log.
    func loggedBytes(_ request: RequestIndex) -> Int {
        let blocks = Int(table[request].blockCount)
        if table[request].isCached {
            return RestartLog.cachedEntriesBytes(
                runs: min(blocks, Self.mostSlotRuns), blocks: blocks)
        }
        // What lies in the cache of a grain that is written anew is among its blocks.
        return isParity
            ? RestartLog.rewriteEntryBytes(blocks: Units.blocksPerGrain)
            : RestartLog.valuesEntryBytes(blocks: blocks)
    }

    /// The frame with the values of the request's grain; nil: it is parked until that is in memory.
    ///
    /// - Parameter forWrite: grants the metadata pieces where there are none yet.
    func valuesFrame(_ request: RequestIndex, forWrite: Bool) -> Int32? {
        let page = ChecksumPage.index(ofGrain: table[request].grain)
        let frame = pageFrames[Int(page)]
        if frame >= 0, !frames[frame].isLoading {
            frames[frame].recentlyUsed = true
            return frame
        }
        table[request].state = .parked
        if pageWaiters[page] == nil {
            pageWaiters[page] = [request]
            background { await $0.fetchValues(page: page, forWrite: forWrite) }
        } else {
            pageWaiters[page]?.append(request)
        }
        return nil
    }

    /// Brings a checksum page into memory and wakes whoever waits for it.
    private func fetchValues(page: UInt32, forWrite: Bool) async {
        var status = RequestStatus.ok
        let returns = roomReturns
        do throws(PoolError) {
            if forWrite { try await ensureValuePieces(page: page) }
            try await loadValues(page: page)
        } catch {
            status = error.requestStatus
        }
        let isReclaiming = status == .noSpace ? await askForRoom() : false
        var waiters = pageWaiters.removeValue(forKey: page) ?? []
        guard status == .ok else {
            return turnAway(&waiters, status, isReclaiming: isReclaiming, since: returns)
        }
        // At once, before another page may take the frame.
        for request in waiters { advance(request) }
        engine.frameReleased.fire()
    }

    /// Where the request's grain lies, mapped now if need be; nil: parked until there is room, or
    /// refused. The values page is in memory.
    func mappedGrain(_ request: RequestIndex, values frame: Int32) -> GrainMap.Entry? {
        let grain = table[request].grain
        let entry = map[grain]
        if entry.isMapped { return entry }
        guard let fresh = takeFreedEarly() ?? takeUnreserved() else {
            park(request, on: &grainWaiters)
            if !isGrowing {
                isGrowing = true
                background { await $0.grow() }
            }
            return nil
        }
        changeMap(grain, to: fresh)
        unflushedLog.add(.map(grain: grain, entry: fresh.durable))
        resetValues(grain, frame)
        return fresh
    }

    /// Not the last one, where that is kept for what is mapped.
    func takeUnreserved() -> GrainMap.Entry? {
        groups.freeGrains > relocationReserve ? groups.allocate() : nil
    }

    /// A grant, or what is given back.
    func addRecord(_ record: JournalRecord) {
        pending.records.append(record)
        unflushedLog.addOwn(record)
    }

    /// The mutant's alone: a grain that waits for the commit of its unmapping.
    private func takeFreedEarly() -> GrainMap.Entry? {
        Mutant.isActive(.reuseEarly) ? pending.freed.popLast() : nil
    }

    /// Every map change goes through here: the durable entry is remembered until the new one is.
    func changeMap(_ grain: UInt64, to entry: GrainMap.Entry) {
        _ = pending.grains.insert(grain, old: map[grain].rawValue)
        pending.moved.remove(grain)
        map[grain] = entry
        pieces.markDirty(.map, MapPage.index(ofGrain: grain), since: firstUnwrittenSequence)
    }

    /// The grain lies elsewhere, its blocks keep their values. One that was mapped afresh since the
    /// last commit still is, for whoever replays it.
    func changePlace(_ grain: UInt64, to entry: GrainMap.Entry) {
        if pending.grains.insert(grain, old: map[grain].rawValue) { pending.moved.insert(grain) }
        missMoved(grain)
        map[grain] = entry
        pieces.markDirty(.map, MapPage.index(ofGrain: grain), since: firstUnwrittenSequence)
    }

    /// A map record means 256 UNWRITTEN blocks: in memory as in replay.
    func resetValues(_ grain: UInt64, _ frame: Int32) {
        let image = unsafe PageImage(frames.image(frame))
        for block in 0..<Units.blocksPerGrain {
            ChecksumPage.setValue(image, grain: grain, block: block, BlockValue.unwritten)
        }
        frames.markDirty(frame, since: firstUnwrittenSequence)
    }

    /// The lowest batch number a change made now can end up in.
    var firstUnwrittenSequence: UInt64 { journal.confirmedSequence + 1 }

    /// The region of an overwrite is durably dirty; else the request is parked until it is.
    func isMarked(_ request: RequestIndex, values frame: Int32) -> Bool {
        table[request].isOverwrite = needsMarks && overwritesAnything(request, frame)
        guard table[request].isOverwrite else { return true }
        let region = DirtyRegions.region(ofGrain: table[request].grain)
        if Mutant.isActive(.forgetDirtyMark) { return true }
        switch regions[region].mark {
        case .dirty: return true
        case .clean:
            regions.setMark(region, .requested)
            pending.marks.append(region)
        case .cleaning: regions[region].isWantedAgain = true
        case .requested, .committing: break
        }
        wantMarks()
        park(request, on: &markWaiters)
        return false
    }

    /// Whether any touched block is, or may become, durably something else than UNWRITTEN.
    private func overwritesAnything(_ request: RequestIndex, _ frame: Int32) -> Bool {
        let image = unsafe PageImage(frames.image(frame))
        let grain = table[request].grain
        let first = grain * UInt64(Units.blocksPerGrain)
        for position in 0..<Int(table[request].blockCount) {
            let block = Int(table[request].firstBlock) + position
            let key = first + UInt64(block)
            let value = ChecksumPage.value(image, grain: grain, block: block)
            if value != BlockValue.unwritten || pending.blocks.old(key) != nil
                || committing.blocks.old(key) != nil
            {
                return true
            }
        }
        return false
    }
}
