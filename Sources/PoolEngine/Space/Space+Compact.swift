import PoolFormat

/// Compaction: sparse slab groups are emptied into the free grains of the others, until the space
/// holds less than one group of them, and go back to the pool.
///
/// One grain's move, each step complete before the next:
///
/// 1. *Barrier*: its range is held alone for an instant, so no write is under way; the values of
///    its blocks are noted. From here on a write that comes makes the move stale.
/// 2. Copy: read and verified from one copy, written to every copy of a free grain elsewhere, and
///    flushed. Clients read and write the old place meanwhile.
/// 3. *Commit in memory*: its range is held alone again. Stale: the new place is given up, which
///    nothing names. Else the map changes; requests go to the new place from now on.
/// 4. The next commit writes the `move` record.
/// 5. Once that is durable the old place is discarded and free.
///
/// A crash before 4 has ended finds the old place, whole, with every write that was acknowledged as
/// durable: those that went to the new place are durable only behind the record. A crash after it
/// finds the new. A group that is being emptied hands out no grain; whether it was is not recorded:
/// what a crash leaves is a sparser group.
///
/// It takes no room from the pool, and none from its space that the clients could not have back:
/// when they run short, the group's grains are handed out again.
extension Space {
    enum Move {
        case moved
        /// It was written to, or lies elsewhere by now, or fewer of its copies would count for as long
        /// as some disk is away: to be looked at again.
        case stale
        /// It cannot be read, or settled.
        case failed
        /// There is nowhere to move to, or the space is closing.
        case stopped
    }

    /// Runs for as long as the space is open.
    func compactLoop() async {
        while !hasEnded, !engine.isStopped, readOnlyReason == nil {
            let wanted = reclaimsWanted
            if wanted > reclaimsServed, !isClosing {
                isCompacting = true
                await releaseFreed()
                endCompacting()
            }
            guard mayGoOn, let victim = nextVictim else {
                await rest(wanted)
                continue
            }
            // While nobody waits for room, the trims that come in a row are let come to their end.
            let due = lastReleaseNs &+ engine.limits.compactAfterNs
            if reclaimsServed == wanted, engine.nowNs < due {
                engine.fire(compactionWanted, atNs: due)
                await compactionWanted.wait()
                continue
            }
            isCompacting = true
            await drain(victim)
            endCompacting()
        }
        serveReclaims(upTo: reclaimsWanted)
    }

    /// Nothing to move. Metadata that describes nothing any more goes back too, once trims have
    /// come to their end, or at once when somebody waits.
    private func rest(_ wanted: UInt64) async {
        let due = lastReleaseNs &+ engine.limits.compactAfterNs
        let isDue = wanted > reclaimsServed || engine.nowNs >= due
        if isDue, !isClosing, !emptiedPieces.isEmpty {
            isCompacting = true
            await releaseEmptiedPieces()
            endCompacting()
        }
        serveReclaims(upTo: wanted)
        guard reclaimsWanted == wanted else { return }
        if !emptiedPieces.isEmpty, !isClosing, engine.nowNs < due {
            engine.fire(compactionWanted, atNs: due)
        }
        await compactionWanted.wait()
    }

    private func endCompacting() {
        isCompacting = false
        idle.fire()
    }

    private var nextVictim: UInt32? {
        groups.sparsest(excluding: unmovableGroups.union(skippedGroups))
    }

    /// Somebody waits for room, or it may be given back unasked. A fixed space keeps what it has.
    private var mayGoOn: Bool {
        !isClosing && !engine.isStopped && readOnlyReason == nil && !isFixed
            && (compacts || reclaimsServed < reclaimsWanted)
    }

    // MARK: - on demand

    /// Whether it has room that it could give back at once.
    var canReclaim: Bool {
        guard readOnlyReason == nil, !isClosing, !hasEnded else { return false }
        return !isFixed && (hasFreedGrains || isCompacting || nextVictim != nil)
    }

    var hasFreedGrains: Bool {
        !pending.freed.isEmpty || !committing.freed.isEmpty || releasesUnderWay > 0
    }

    func reclaim() {
        reclaimsWanted += 1
        compactionWanted.fire()
        compactionPause.fire()
    }

    private func serveReclaims(upTo wanted: UInt64) {
        guard reclaimsServed < wanted else { return }
        reclaimsServed = wanted
        let pool = self.pool
        engine.post(to: pool.engine.shard) { _ in pool.roomMayHaveReturned() }
    }

    /// What was unmapped and waits for a commit is free afterwards.
    func releaseFreed() async {
        if !pending.freed.isEmpty || !committing.freed.isEmpty { _ = await commit() }
        while releasesUnderWay > 0, !engine.isStopped { await released.wait() }
    }

    // MARK: - one group

    private func drain(_ victim: UInt32) async {
        groups.startDraining(victim, by: .compaction)
        var isEmptied = false
        // Twice without getting into anybody's way; what is written to all the time is copied with
        // its range held.
        for pass in 0..<3 where !isEmptied {
            guard let left = await moveGrains(outOf: victim, holdsRange: pass == 2) else { break }
            await releaseFreed()
            isEmptied = left == 0
        }
        await releaseFreed()
        await releaseEmptyGroups()
        if groups.isDraining(victim, by: .compaction) {
            skippedGroups.insert(victim)
            groups.stopDraining(victim, by: .compaction)
            wake(&grainWaiters)
        }
    }

    /// One pass over the map.
    ///
    /// - Returns: how many grains were left behind; nil: there is no point in going on.
    private func moveGrains(outOf victim: UInt32, holdsRange: Bool) async -> Int? {
        var left = 0
        var uncommitted = 0
        var next: Int? = 0
        while let start = next {
            let found = map.grains(
                inGroup: victim, from: start, limit: engine.limits.compactScan)
            next = found.next
            for grain in found.grains {
                guard mayGoOn, groups.isDraining(victim, by: .compaction) else { return nil }
                switch await move(
                    grain, outOf: victim, holdsRange: holdsRange, { self.mayGoOn })
                {
                case .moved:
                    counters.movedGrains += 1
                    uncommitted += 1
                case .stale: left += 1
                case .failed:
                    unmovableGroups.insert(victim)
                    return nil
                case .stopped: return nil
                }
                if uncommitted == engine.limits.compactBatch {
                    guard await commit() else { return nil }
                    uncommitted = 0
                }
                if reclaimsServed == reclaimsWanted {
                    await pause(ns: engine.limits.compactGrainNs)
                }
            }
            // A large map is looked through in slices, between which others have their turn.
            if next != nil { await pause(ns: 1) }
        }
        return left
    }

    /// A millisecond of waiting for what nobody announces.
    func nap(ns: UInt64 = 1_000_000) async {
        let woken = Signal(engine)
        engine.fire(woken, atNs: engine.nowNs &+ ns)
        await woken.wait()
    }

    private func pause(ns: UInt64) async {
        guard mayGoOn else { return }
        engine.fire(compactionPause, atNs: engine.nowNs &+ ns)
        await compactionPause.wait()
    }

    // MARK: - one grain

    /// - Parameter pace: it is copied in chunks, each when ``RepairPace`` says; nil: at once.
    func move(
        _ grain: UInt64, outOf victim: UInt32, holdsRange: Bool, pace: RepairPriority? = nil,
        _ mayGoOn: () -> Bool
    ) async -> Move {
        guard await isReadyToCopy(grain, mayGoOn) else { return mayGoOn() ? .failed : .stopped }
        guard var held = await hold(grain, mayGoOn) else { return .stopped }
        if cache.has(grain: grain) {
            letGo(held)
            // It lies elsewhere then.
            return await destage(grain: grain) == .unreadable ? .failed : mayGoOn() ? .stale : .stopped
        }
        let source = map[grain]
        guard source.isMapped, source.group == victim, moving[grain] == nil,
            let values = valuesInMemory(grain)
        else {
            letGo(held)
            return .stale
        }
        guard let target = takeUnreserved() else {
            letGo(held)
            return .stopped
        }
        guard currentCopies(target) >= currentCopies(source) else {
            giveUp(target)
            letGo(held)
            return .stale
        }
        defer { if !holdsRange { moving[grain] = nil } }
        if !holdsRange {
            moving[grain] = false
            letGo(held)
        }
        var written = Written(departuresBefore: departuresNoted)
        let work = beginPlacedWork()
        var outcome = await copy(
            grain, from: source, to: target, values, holdsRange: holdsRange, pace: pace, &written)
        endPlacedWork(work)
        if !holdsRange {
            guard let again = await hold(grain, mayGoOn) else {
                giveUp(target)
                return .stopped
            }
            held = again
            // Written to, or moved by somebody else: what was copied is of the old place.
            if isStale(grain, source), outcome == .moved { outcome = .stale }
        }
        if outcome == .moved,
            !isAccounted(written) || currentCopies(target) < currentCopies(source)
        {
            outcome = .stale
        }
        if outcome == .moved {
            isParity ? changeStripe(grain, to: target) : changePlace(grain, to: target)
            unflushedLog.addOwn(.move(grain: grain, entry: target.durable))
            pending.freed.append(source)
        } else {
            giveUp(target)
        }
        letGo(held)
        return outcome
    }

    /// A free grain that nothing names.
    private func giveUp(_ target: GrainMap.Entry) {
        guard groups[target.group] != nil else { return }
        groups.release(target)
        wake(&grainWaiters)
    }

    /// The fewest copies that count which any part of a grain in this place has: a move never leaves
    /// it fewer.
    private func currentCopies(_ entry: GrainMap.Entry) -> Int {
        if isParity { return spareColumns(entry) + 1 }
        if departed.isEmpty { return copies }
        var fewest = copies
        groups.forEachColumn(
            entry, offsetBytes: 0, lengthBytes: Units.grainBytes
        ) { bases, _, _ in
            fewest = min(fewest, bases.count { departed.isCurrent($0) })
        }
        return fewest
    }

    /// Where a copy has been written.
    struct Written {
        var departuresBefore: UInt64
        var devices = DeviceSet()
        /// Disks that were away, and lack some of it.
        var skipped: Set<DiskNumber> = []
    }

    /// Whoever lacks some of the copy is away, and told so by its move: not one that has come back in
    /// the middle of it, nor one that has left and may have lost what it had been given.
    func isAccounted(_ written: Written) -> Bool {
        departuresNoted == written.departuresBefore
            && written.skipped.allSatisfy { number in
                departed.index(of: number).map { departed[$0].phase == .away } ?? false
            }
    }

    /// The journal has room, the copies are equal, the values are in memory.
    func isReadyToCopy(_ grain: UInt64, _ mayGoOn: () -> Bool) async -> Bool {
        while isJournalTight {
            guard mayGoOn() else { return false }
            wantCheckpoint()
            await nap()
        }
        if regions.needsSettling(grain), map[grain].isMapped {
            guard mayGoOn() else { return false }
            await settleForBackground(grain, mayGoOn)
            if regions.needsSettling(grain), map[grain].isMapped { return false }
        }
        guard map[grain].isMapped else { return true }
        do throws(PoolError) {
            try await loadValues(page: ChecksumPage.index(ofGrain: grain))
            return true
        } catch {
            return false
        }
    }

    /// The values of a grain's 256 blocks; nil when their page has left memory again.
    func valuesInMemory(_ grain: UInt64) -> [UInt32]? {
        let frame = pageFrames[Int(ChecksumPage.index(ofGrain: grain))]
        guard frame >= 0, !frames[frame].isLoading else { return nil }
        let image = unsafe PageImage(frames.image(frame))
        return (0..<Units.blocksPerGrain).map {
            ChecksumPage.value(image, grain: grain, block: $0)
        }
    }

    /// Copied without its range held, it has been written to, or lies elsewhere by now.
    private func isStale(_ grain: UInt64, _ source: GrainMap.Entry) -> Bool {
        moving[grain] ?? false || map[grain] != source
    }

    private func copy(
        _ grain: UInt64, from source: GrainMap.Entry, to target: GrainMap.Entry,
        _ values: [UInt32], holdsRange: Bool, pace: RepairPriority?,
        _ written: inout Written
    ) async -> Move {
        if isParity {
            if let pace { await waitForTurn(bytes: Units.grainBytes, pace) }
            return await copyStripe(
                grain, from: source, to: target, values, holdsRange: holdsRange, &written)
        }
        let chunk =
            pace == nil ? values.count : engine.limits.repairChunkBytes / Units.blockBytes
        for first in stride(from: 0, to: values.count, by: chunk) {
            let blocks = first..<min(first + chunk, values.count)
            if let pace { await waitForTurn(bytes: blocks.count * Units.blockBytes, pace) }
            let outcome = await copy(
                grain, blocks, from: source, to: target, values, holdsRange: holdsRange, &written)
            guard outcome == .moved else { return outcome }
        }
        // Durable before anything says so: the log of a killed process is believed in this.
        if !Mutant.isActive(.moveBeforeData), await !flushTogether(written.devices) {
            return .stopped
        }
        return !holdsRange && isStale(grain, source) ? .stale : .moved
    }

    private func copy(
        _ grain: UInt64, _ blocks: Range<Int>, from source: GrainMap.Entry,
        to target: GrainMap.Entry, _ values: [UInt32], holdsRange: Bool,
        _ written: inout Written
    ) async -> Move {
        let buffer = await engine.scratch.take(bytes: blocks.count * Units.blockBytes)
        defer { engine.scratch.give(buffer) }
        // Its old place may be gone by now, and its group with it.
        if !holdsRange, isStale(grain, source) { return .stale }
        let outcome = await read(
            grain, blocks, source, values, into: buffer, holdsRange: holdsRange)
        guard outcome == .moved else { return outcome }
        if !holdsRange, groups[target.group] == nil { return .stale }
        let io = IOBatch(engine)
        for copy in 0..<copies {
            groups.forEachRun(
                target, copy: copy, offsetBytes: blocks.lowerBound * Units.blockBytes,
                lengthBytes: blocks.count * Units.blockBytes
            ) { base, position, bytes in
                guard departed.takesData(base) else {
                    if base.disk != .hole { written.skipped.insert(base.disk) }
                    return
                }
                io.write(base.device, at: base.offsetBytes, bytes: bytes, from: buffer + position)
                written.devices.insert(base.device)
            }
        }
        groups.forEachReplacingRun(
            target, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { base, position, bytes in
            guard departed.takesData(base) else { return }
            io.write(base.device, at: base.offsetBytes, bytes: bytes, from: buffer + position)
            written.devices.insert(base.device)
        }
        if await io.run() { return .moved }
        await failDevices(io.devices(with: .ioError), during: "move")
        return .stopped
    }

    /// Another stripe with the same blocks, flushed.
    private func copyStripe(
        _ grain: UInt64, from source: GrainMap.Entry, to target: GrainMap.Entry,
        _ values: [UInt32], holdsRange: Bool, _ written: inout Written
    ) async -> Move {
        let buffers = await engine.scratch.takeGrains(2)
        defer { buffers.forEach { engine.scratch.give($0) } }
        if !holdsRange, isStale(grain, source) { return .stale }
        unsafe arena.bytes(buffers[0], Units.grainBytes)
            .initializeMemory(as: UInt8.self, repeating: 0)
        let valid = values.indices.filter { values[$0] != BlockValue.unwritten }
        // What is not as it should be is solved with the range held only: a trim that comes meanwhile
        // may give back the group that the old place lies in.
        guard
            let right = await readStripe(
                grain, source, valid, values, at: buffers[0], solving: holdsRange,
                isExpected: !holdsRange)
        else { return .stopped }
        guard right.count == valid.count else { return holdsRange ? .failed : .stale }
        guard let shape = groups[target.group]?.shape else { return .stale }
        let image = StripeImage(shape, data: buffers[0], parity: buffers[1])
        image.encode(0..<image.rowCount, in: arena)
        let isFlushed = !Mutant.isActive(.moveBeforeData)
        guard let done = await write(image, to: target, isFlushed: isFlushed) else {
            return .stopped
        }
        written = done
        return !holdsRange && isStale(grain, source) ? .stale : .moved
    }

    /// Repair goes on while clients are at work.
    func waitForTurn(bytes: Int, _ priority: RepairPriority) async {
        while !engine.isStopped, !isClosing {
            let now = engine.nowNs
            let startNs = engine.repairPace.start(
                bytes: bytes, nowNs: now, isPatient: priority == .low,
                floor: engine.limits.repairFloorBytesPerSecond)
            if startNs <= now { return }
            await nap(ns: startNs - now)
        }
    }

    /// Reads a grain from one copy; with its range held, each block that does not match from whichever
    /// does. UNWRITTEN blocks become zeros: what lies there is nobody's.
    private func read(
        _ grain: UInt64, _ blocks: Range<Int>, _ source: GrainMap.Entry, _ values: [UInt32],
        into buffer: Int, holdsRange: Bool
    ) async -> Move {
        let io = IOBatch(engine)
        let whole = (0..<copies).first { isCurrent(source, copy: $0, blocks: blocks) }
        if let whole {
            groups.forEachRun(
                source, copy: whole, offsetBytes: blocks.lowerBound * Units.blockBytes,
                lengthBytes: blocks.count * Units.blockBytes
            ) { base, position, bytes in
                io.read(base.device, at: base.offsetBytes, bytes: bytes, into: buffer + position)
            }
        }
        let isRead = await io.run() && whole != nil
        for (position, block) in blocks.enumerated() {
            if engine.isStopped { return .stopped }
            let value = values[block]
            let target = buffer + position * Units.blockBytes
            if value == BlockValue.unwritten {
                unsafe engine.arena.bytes(target, Units.blockBytes)
                    .initializeMemory(as: UInt8.self, repeating: 0)
                continue
            }
            let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
            if isRead, !hasChecksums || blockValue(target, number) == value { continue }
            // Other copies are asked with the range held only: a trim that comes meanwhile may give
            // back the group that the old place lies in.
            guard holdsRange else { return .stale }
            guard await readBlock(grain, source, block, value: value, into: target) else {
                return .failed
            }
        }
        return .moved
    }

    // MARK: - a grain held alone

    /// Waits until no request is under way in these blocks, and keeps those that come out.
    func hold(
        _ grain: UInt64, blocks: Range<Int> = 0..<Units.blocksPerGrain, _ mayGoOn: () -> Bool
    ) async -> RequestIndex? {
        while !table.hasOwnRoom {
            guard mayGoOn() else { return nil }
            await nap()
        }
        let index = table.take()
        table[index].space = handle.index
        table[index].kind = .hold
        setRange(
            index, grain * UInt64(Units.grainBytes) + UInt64(blocks.lowerBound * Units.blockBytes),
            UInt32(blocks.count * Units.blockBytes))
        if engine.locks.enter(index) {
            table[index].state = .detour
            return index
        }
        table[index].state = .queued
        while table[index].state != .detour, !engine.isStopped { await holdGranted.wait() }
        return engine.isStopped ? nil : index
    }

    func letGo(_ held: RequestIndex) {
        engine.locks.leave(held, runnable: &engine.runnable)
        table.give(held)
    }
}
