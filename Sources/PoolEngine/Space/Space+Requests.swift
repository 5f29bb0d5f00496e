import PoolFormat

/// How requests come in, go on after a wait, and go out.
extension Space {
    // MARK: - requests come in

    func submit(_ request: SpaceRequest) {
        guard !isClosing, isValid(request) else {
            let status: RequestStatus = isClosing ? .shutdown : .invalid
            engine.replies.append(SpaceReply(cookie: request.cookie, status: status))
            return
        }
        inFlight += 1
        engine.lastRequestNs = engine.nowNs
        switch request.kind {
        case .flush:
            let index = take(.flush, request)
            table[index].state = .committing
            waitForCommit(index)
        case .read: enter(take(.read, request))
        case .write: enterWrite(take(.write, request))
        case .trim: enterRange(take(.trim, request))
        case .writeZeroes:
            enterRange(take(request.flags.contains(.noHole) ? .zero : .trim, request))
        case .blockStatus: submitBlockStatus(request)
        case .cache: enter(take(.cache, request))
        }
    }

    /// The bounds every later step relies on.
    private func isValid(_ request: SpaceRequest) -> Bool {
        if request.kind == .flush { return true }
        let length = UInt64(request.lengthBytes)
        let grain = UInt64(Units.grainBytes)
        return length > 0 && length % 512 == 0 && request.offsetBytes % 512 == 0
            && request.offsetBytes <= sizeBytes && length <= sizeBytes - request.offsetBytes
            && (request.kind == .blockStatus || request.offsetBytes % grain + length <= grain)
    }

    func take(_ kind: RequestKind, _ request: SpaceRequest) -> RequestIndex {
        let index = table.take()
        table[index].space = handle.index
        table[index].kind = kind
        table[index].isFUA = request.flags.contains(.fua)
        table[index].bufferOffset = request.bufferOffset
        table[index].cookie = request.cookie
        setExclusive(index)
        table[index].takenNs = engine.nowNs
        setRange(index, request.offsetBytes, request.lengthBytes)
        return index
    }

    func setExclusive(_ index: RequestIndex) {
        table[index].isExclusive =
            isParity && table[index].writes && !Mutant.isActive(.stripeShared)
    }

    func setRange(_ index: RequestIndex, _ offsetBytes: UInt64, _ lengthBytes: UInt32) {
        table[index].offsetBytes = offsetBytes
        table[index].lengthBytes = lengthBytes
        table[index].grain = offsetBytes / UInt64(Units.grainBytes)
        let within = Int(offsetBytes % UInt64(Units.grainBytes))
        let first = within / Units.blockBytes
        let end = (within + Int(lengthBytes) + Units.blockBytes - 1) / Units.blockBytes
        table[index].firstBlock = UInt16(first)
        table[index].blockCount = UInt16(end - first)
    }

    func enter(_ request: RequestIndex) {
        if engine.locks.enter(request) {
            table[request].state = .preparing
            prepare(request)
        } else {
            table[request].state = .queued
        }
    }

    /// Goes on with a request that was runnable: it came first in its range, or what it was parked
    /// for is there.
    func advance(_ request: RequestIndex) {
        switch table[request].state {
        case .preparing, .parked:
            table[request].state = .preparing
            prepare(request)
        case .queued, .transferring, .lingering, .detour, .committing:
            preconditionFailure("a request went on that waits for something else")
        }
    }

    private func prepare(_ request: RequestIndex) {
        if !moving.isEmpty, table[request].changesGrain, moving[table[request].grain] != nil {
            moving[table[request].grain] = !Mutant.isActive(.moveIgnoresWrites)
        }
        switch table[request].kind {
        case .read: prepareRead(request)
        case .write: prepareWrite(request)
        case .trim, .zero: prepareTrim(request)
        case .zeroEdge: prepareZeroEdge(request)
        case .blockStatus: prepareBlockStatus(request)
        case .cache: prepareCache(request)
        case .hold:
            table[request].state = .detour
            holdGranted.fire()
        case .flush: preconditionFailure("a flush has no range")
        }
    }

    func completeLeg(_ request: RequestIndex, leg: Int, _ status: DeviceStatus) {
        precondition(table[request].legsOutstanding > 0)
        if status != .ok { noteFailedLeg(request, leg: leg) }
        table[request].legsOutstanding -= 1
        guard table[request].legsOutstanding == 0 else { return }
        switch table[request].state {
        case .transferring:
            if table[request].kind == .read {
                finishRead(request)
            } else {
                table[request].isCached ? finishCachedWrite(request) : finishWrite(request)
            }
        case .lingering: endLingering(request)
        case .queued, .preparing, .parked, .detour, .committing:
            preconditionFailure("a leg of a request that has none")
        }
    }

    // MARK: - requests go out

    /// The range is done: lets those behind it go on, and waits for durability where asked.
    func finish(
        _ request: RequestIndex, _ status: RequestStatus, extent: SpaceExtent = SpaceExtent()
    ) {
        engine.locks.leave(request, runnable: &engine.runnable)
        giveScratch(request)
        returnSlots(request)
        if table[request].parent != .none {
            finishChild(request, status)
        } else if status == .ok && table[request].isFUA && table[request].writes {
            table[request].state = .committing
            waitForCommit(request)
        } else {
            reply(request, status, extent: extent)
        }
    }

    private func noteTook(_ request: RequestIndex) {
        switch table[request].kind {
        case .read, .write:
            engine.repairPace.note(tookNs: engine.nowNs &- table[request].takenNs)
        case .trim, .zero, .zeroEdge, .flush, .blockStatus, .cache, .hold: break
        }
    }

    func giveScratch(_ request: RequestIndex) {
        if table[request].headScratch >= 0 { engine.scratch.give(table[request].headScratch) }
        if table[request].tailScratch >= 0 { engine.scratch.give(table[request].tailScratch) }
        table[request].headScratch = -1
        table[request].tailScratch = -1
    }

    func reply(
        _ request: RequestIndex, _ status: RequestStatus, extent: SpaceExtent = SpaceExtent()
    ) {
        engine.replies.append(
            SpaceReply(cookie: table[request].cookie, status: status, extent: extent))
        if engine.repairPace.isWatching(nowNs: engine.nowNs) { noteTook(request) }
        table.give(request)
        inFlight -= 1
        if inFlight == 0 { idle.fire() }
    }

    // MARK: - parking

    func park(_ request: RequestIndex, on waiters: inout [RequestIndex]) {
        table[request].state = .parked
        waiters.append(request)
    }

    func wake(_ waiters: inout [RequestIndex]) {
        engine.runnable.append(contentsOf: waiters)
        waiters.removeAll(keepingCapacity: true)
    }

    /// Ends every request of a list with an error.
    func fail(_ waiters: inout [RequestIndex], _ status: RequestStatus) {
        let failed = waiters
        waiters.removeAll(keepingCapacity: true)
        for request in failed { finish(request, status) }
    }
}
