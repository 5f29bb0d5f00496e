import PoolFormat

/// A write that found no room in the pool, and waits for some outside: it holds no range, no
/// record of the table, and nothing waits for it but its client.
///
///     no room ─► parked ──► readmitted, when slabs or grains came back ─► done, or parked again
///                   └─────► ENOSPC, when its time is over
///
/// 1. Parked writes are bounded in number, bytes and time; beyond that a write fails at once.
/// 2. A FLUSH waits for completed writes, and so for none of these.
/// 3. The time begins when a write is parked first, and goes on while it is tried again.
struct ParkedWrite {
    /// `write`, or `zero` for a write-zeroes that keeps its range mapped.
    var kind: RequestKind
    var isFUA: Bool
    var offsetBytes: UInt64
    var lengthBytes: UInt32
    var bufferOffset: Int
    var cookie: UInt64
    /// Of a part of a write-zeroes: the whole.
    var parent: RequestIndex
    var deadlineNs: UInt64
}

extension Space {
    /// Writes that wait for room.
    public var waitingWrites: Int { parked.count }

    /// Has every space of the pool asked to give back at once what it can. False: none has
    /// anything.
    func askForRoom() async -> Bool {
        // A stopped engine gives nothing back.
        let answer = try? await atHome { pool async throws(PoolError) in
            try await pool.reclaim()
        }
        return answer ?? false
    }

    /// Ends requests that could not be given what they needed, or parks those that lack room.
    ///
    /// - Parameters:
    ///   - isReclaiming: some space is giving back what it can.
    ///   - returns: `roomReturns` before the room was asked for. What has come back since was not
    ///     there for the asking, and has woken nobody.
    func turnAway(
        _ waiters: inout [RequestIndex], _ status: RequestStatus, isReclaiming: Bool,
        since returns: UInt64
    ) {
        guard status == .noSpace, !isClosing, readOnlyReason == nil else {
            return fail(&waiters, status)
        }
        let requests = waiters
        waiters.removeAll(keepingCapacity: true)
        guard !requests.isEmpty else { return }
        for request in requests { parkForRoom(request, isReclaiming: isReclaiming) }
        if roomReturns != returns { retryParked() }
    }

    /// - Parameter isReclaiming: some space is giving back what it can: worth a short wait even
    ///   where writes are not to wait for the pool to grow.
    private func parkForRoom(_ request: RequestIndex, isReclaiming: Bool) {
        let limits = engine.limits
        let record = table[request]
        var deadline = record.parkDeadlineNs
        if deadline == 0 {
            deadline = engine.nowNs &+ (whenFull == .wait ? limits.parkNs : limits.reclaimNs)
        }
        let bytes = parked.reduce(Int(record.lengthBytes)) { $0 + Int($1.lengthBytes) }
        guard record.kind == .write || record.kind == .zero, engine.nowNs < deadline,
            whenFull == .wait || isReclaiming, parked.count < limits.parkedWrites,
            bytes <= limits.parkedBytes
        else { return finish(request, .noSpace) }
        parked.append(
            ParkedWrite(
                kind: record.kind, isFUA: record.isFUA, offsetBytes: record.offsetBytes,
                lengthBytes: record.lengthBytes, bufferOffset: record.bufferOffset,
                cookie: record.cookie, parent: record.parent, deadlineNs: deadline))
        engine.locks.leave(request, runnable: &engine.runnable)
        giveScratch(request)
        returnSlots(request)
        table.give(request)
        if !isWatchingParked {
            isWatchingParked = true
            background { await $0.watchParked() }
        }
        parkedChanged.fire()
    }

    /// There may be room now.
    func retryParked() {
        roomReturns &+= 1
        guard !parked.isEmpty else { return }
        isParkedRetryWanted = true
        parkedChanged.fire()
    }

    /// Runs for as long as writes are parked.
    private func watchParked() async {
        while !parked.isEmpty, !engine.isStopped {
            expireParked()
            if isParkedRetryWanted { readmitParked() }
            guard var deadline = parked.map(\.deadlineNs).min() else { break }
            // The table was full: it will not be for long.
            if isParkedRetryWanted { deadline = engine.nowNs &+ 1_000_000 }
            engine.fire(parkedChanged, atNs: deadline)
            await parkedChanged.wait()
        }
        isWatchingParked = false
    }

    private func expireParked() {
        let expired = parked.filter { $0.deadlineNs <= engine.nowNs }
        guard !expired.isEmpty else { return }
        parked.removeAll { $0.deadlineNs <= engine.nowNs }
        for write in expired { answer(write, .noSpace) }
    }

    /// Lets them in again, in the order they came.
    private func readmitParked() {
        isParkedRetryWanted = false
        let waiting = parked
        parked.removeAll()
        for (position, write) in waiting.enumerated() {
            guard table.hasOwnRoom else {
                parked.append(contentsOf: waiting[position...])
                isParkedRetryWanted = true
                return
            }
            let index = table.take()
            table[index].space = handle.index
            table[index].kind = write.kind
            table[index].isFUA = write.isFUA
            table[index].bufferOffset = write.bufferOffset
            table[index].cookie = write.cookie
            table[index].parent = write.parent
            table[index].parkDeadlineNs = write.deadlineNs
            if !Mutant.isActive(.parkedStripeShared) { setExclusive(index) }
            setRange(index, write.offsetBytes, write.lengthBytes)
            write.kind == .write ? enterWrite(index) : enter(index)
        }
    }

    /// Ends every parked write: the space closes, or takes no more writes.
    func failParked(_ status: RequestStatus) {
        let failed = parked
        parked.removeAll()
        for write in failed { answer(write, status) }
        parkedChanged.fire()
    }

    private func answer(_ write: ParkedWrite, _ status: RequestStatus) {
        guard write.parent == .none else { return childEnded(write.parent, status) }
        engine.replies.append(SpaceReply(cookie: write.cookie, status: status))
        inFlight -= 1
        if inFlight == 0 { idle.fire() }
    }
}

extension Pool {
    /// Asks every space to give back at once what it can. False: none has anything.
    func reclaim() async throws(PoolError) -> Bool {
        var isReclaiming = false
        for shard in 0..<engine.shardCount {
            let asked = spaces.filter { $0.shard == shard }
            guard !asked.isEmpty else { continue }
            let answers = try await engine.on(shard) { _ in
                asked.map { space in
                    let reclaims = space.canReclaim
                    if reclaims { space.reclaim() }
                    return reclaims
                }
            }
            if answers.contains(true) { isReclaiming = true }
        }
        return isReclaiming
    }

    /// Slabs came back, or disks were added, or nobody has anything more to give back.
    func roomMayHaveReturned() {
        wantSupervision()
        for space in spaces { engine.post(to: space.shard) { _ in space.retryParked() } }
    }
}
