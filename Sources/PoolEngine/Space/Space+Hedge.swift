import PoolFormat

/// Reads that take much longer than reads do: another copy is asked, too, and who answers first
/// has answered.
///
/// 1. The other copy is read into another buffer, because the slow device may write into the
///    request's own whenever it likes. The client gets that buffer, and the first goes back to the
///    arena when the last leg has ended.
/// 2. The request holds its range until it is answered, so both copies hold the same.
/// 3. The record stays until its last leg has ended: legs name it.
extension Engine {
    /// A read that may be hedged has been sent.
    func watchReads() {
        guard !isWatchingReads else { return }
        isWatchingReads = true
        spawn { [self] in
            while !isStopped {
                fire(readWatch, atNs: nowNs &+ limits.hedgeAfterNs / 2)
                await readWatch.wait()
                if isStopped || !hedgeLateReads() { break }
            }
            isWatchingReads = false
        }
    }

    /// - Returns: whether there are reads to be looked at again.
    private func hedgeLateReads() -> Bool {
        let limitNs = readLatency.limitNs(limits)
        var isAnyWaiting = false
        for index in 0..<requests.capacity {
            let request = RequestIndex(UInt32(index))
            let sentNs = requests[request].sentNs
            guard sentNs > 0 else { continue }
            isAnyWaiting = true
            guard requests[request].hedge == 0, nowNs >= sentNs, nowNs - sentNs >= limitNs else {
                continue
            }
            spaces[Int(requests[request].space)]?.hedge(request)
        }
        return isAnyWaiting
    }
}

extension Space {
    /// A copy none of whose disks in a range is away, from the grain's own on; one on a disk that
    /// keeps reads only where there is no other. nil: there is none, and each block has to be looked
    /// for by itself.
    func readableCopy(
        _ request: RequestIndex, _ entry: GrainMap.Entry, other than: Int? = nil
    ) -> Int? {
        let preferred = nextReadCopy(table[request].grain)
        if departed.isEmpty, engine.readLatency.isNoneLate(nowNs: engine.nowNs), than == nil {
            return preferred
        }
        let blocks = table[request].blocks
        let current = (0..<copies).map { (preferred + $0) % copies }
            .filter { $0 != than && isCurrent(entry, copy: $0, blocks: blocks) }
        return current.first { !isLate(entry, copy: $0, blocks: blocks) } ?? current.first
    }

    private func isLate(_ entry: GrainMap.Entry, copy: Int, blocks: Range<Int>) -> Bool {
        var isLate = false
        forEachDevice(entry, copy: copy, blocks: blocks) { device in
            if engine.readLatency.isLate(device, nowNs: engine.nowNs) { isLate = true }
        }
        return isLate
    }

    private func forEachDevice(
        _ entry: GrainMap.Entry, copy: Int, blocks: Range<Int>, _ body: (DeviceIndex) -> Void
    ) {
        groups.forEachRun(
            entry, copy: copy, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { base, _, _ in body(base.device) }
    }

    /// Its legs are on their way.
    func noteSent(_ request: RequestIndex) {
        guard copies > 1 else { return }
        table[request].sentNs = max(engine.nowNs, 1)
        engine.watchReads()
    }

    /// Its legs have ended.
    func noteAnswered(_ request: RequestIndex) {
        guard table[request].sentNs > 0 else { return }
        let sentNs = table[request].sentNs
        let tookNs = engine.nowNs > sentNs ? engine.nowNs - sentNs : 0
        engine.readLatency.note(tookNs, percent: engine.limits.hedgePercent)
        (table[request].sentNs, table[request].hedge) = (0, 0)
    }

    /// Asks another copy, where there is one and a buffer for it.
    fileprivate func hedge(_ request: RequestIndex) {
        guard table[request].state == .transferring, table[request].kind == .read,
            table[request].parent == .none
        else { return }
        let entry = map[table[request].grain]
        let slow = Int(table[request].copy)
        forEachDevice(entry, copy: slow, blocks: table[request].blocks) { device in
            engine.readLatency.noteLate(device, nowNs: engine.nowNs, engine.limits)
        }
        guard let copy = readableCopy(request, entry, other: slow), engine.readLatency.hasCredit,
            let buffer = arena.takeAnother(like: table[request].bufferOffset)
        else { return }
        engine.readLatency.takeCredit()
        engine.hedges = engine.hedges == .max ? 1 : engine.hedges + 1
        table[request].hedge = engine.hedges
        let hedge = engine.hedges
        background { space in
            await space.readElsewhere(request, hedge, entry, copy: copy, buffer)
        }
    }

    private func readElsewhere(
        _ request: RequestIndex, _ hedge: UInt32, _ entry: GrainMap.Entry, copy: Int,
        _ buffer: Int
    ) async {
        if engine.isStopped { return }
        // It may have been answered before this began.
        guard table[request].hedge == hedge else { return arena.give(buffer) }
        counters.hedgedReads += 1
        let record = table[request]
        let values = (0..<Int(record.blockCount)).map { table.value(request, $0) }
        let start = arena.start(of: record.bufferOffset)
        let target = buffer + record.bufferOffset - start
        let io = IOBatch(engine)
        groups.forEachRun(
            entry, copy: copy, offsetBytes: record.blocks.lowerBound * Units.blockBytes,
            lengthBytes: record.blocks.count * Units.blockBytes
        ) { base, position, bytes in
            io.read(base.device, at: base.offsetBytes, bytes: bytes, into: target + position)
        }
        let isRead = await io.run()
        if engine.isStopped { return }
        let first =
            record.grain * UInt64(Units.blocksPerGrain) + UInt64(record.firstBlock)
        guard table[request].hedge == hedge, isRead, allMatch(values, firstBlock: first, at: target)
        else { return giveBack(buffer) }
        // What lies before it is there from earlier requests of the same buffer.
        if start < record.bufferOffset {
            unsafe arena.bytes(buffer, target - buffer).copyMemory(
                from: UnsafeRawBufferPointer(arena.bytes(start, target - buffer)))
        }
        // Where every copy was late once, the one that has just answered is to be read.
        forEachDevice(entry, copy: copy, blocks: record.blocks) { engine.readLatency.forget($0) }
        // How long its own copy takes is not known: what it waited would only make the next wait more.
        (table[request].sentNs, table[request].hedge) = (0, 0)
        engine.locks.leave(request, runnable: &engine.runnable)
        table[request].state = .lingering
        engine.replies.append(SpaceReply(cookie: record.cookie, status: .ok, movedTo: buffer))
    }

    /// The last leg of a read that was answered without it has ended.
    func endLingering(_ request: RequestIndex) {
        giveBack(arena.start(of: table[request].bufferOffset))
        table.give(request)
        inFlight -= 1
        if inFlight == 0 { idle.fire() }
    }

    private func giveBack(_ buffer: Int) {
        arena.give(buffer)
        arena.hasReturns = true
    }
}
