import PoolFormat

/// A slab group is emptied, whatever for: a disk that is given up, or one that is to be less full.
///
/// Grains move as compaction moves them, with their ranges held. Several movers share the work, as
/// disks are kept busy by nothing less; of those that are done writing, one flushes for all. While
/// clients are at work all movers but one rest, and that one goes on in small steps, as fast as they
/// do not notice (`RepairPace.swift`); what they write to meanwhile it copies again.
extension Space {
    /// Moves every grain of a group elsewhere, and gives the group back.
    func evacuate(_ victim: UInt32, _ priority: RepairPriority) async -> RepairOutcome {
        // Stripes and moves that are being written into it are mapped when they are done.
        await waitForWork(placedWork)
        // What is written to all the time is looked for again.
        for round in 0..<4 {
            guard let left = await moveAll(outOf: victim, priority, holdsRanges: round > 1) else {
                return .failed
            }
            guard left != .noRoom else { return .noRoom }
            await releaseFreed()
            guard mayRepair else { return .failed }
            if groups[victim]?.usedCount == 0 { break }
            // The pool is full, and clients have had its grains.
            if groups[victim] != nil, !groups.isDraining(victim, by: .repair) { return .noRoom }
        }
        guard let group = groups[victim] else { return .done }
        guard group.usedCount == 0 else { return .failed }
        // A fixed space keeps room for all of itself, each its reserve.
        let hasEnough = { (space: Space) in
            let left = space.groups.grainCount - group.grainCount
            let reserve = space.relocationReserve
            return space.groups.freeGrains >= reserve
                && (!space.isFixed || left >= space.map.grainCount + reserve)
        }
        if !hasEnough(self) {
            let outcome = await makeRoom(unless: hasEnough)
            guard outcome == .done else { return outcome }
        }
        let removed = groups.removeEmpty([victim])
        for record in removed {
            addRecord(.groupRemoved(id: record.id))
            pieces.markDirty(
                .group, GroupPage.index(ofGroup: record.id), since: firstUnwrittenSequence)
        }
        guard await commit() else { return .failed }
        departed.hasHoles = groups.hasHoles
        await release(removed)
        return .done
    }

    // MARK: - movers

    /// - Returns: nil: there is no point in going on.
    private func moveAll(
        outOf victim: UInt32, _ priority: RepairPriority, holdsRanges: Bool
    ) async -> RepairOutcome? {
        let evacuation = Evacuation(victim, priority, holdsRanges: holdsRanges)
        let isThrough = await forEachGrain(
            inGroup: victim, priority, movers: max(1, engine.limits.repairMovers / 2)
        ) { space, grain, again in
            await space.evacuate(grain, evacuation, again)
        }
        return isThrough ? .done : evacuation.outcome
    }

    /// - Returns: false: there is no point in going on.
    private func evacuate(
        _ grain: UInt64, _ evacuation: Evacuation, _ again: (UInt64) -> Void
    ) async -> Bool {
        if groups.freeGrains <= relocationReserve {
            let outcome = await makeRoom(unless: {
                $0.groups.freeGrains > $0.relocationReserve
            })
            guard outcome == .done else {
                evacuation.outcome = outcome
                return false
            }
        }
        switch await move(grain, evacuation) {
        case .moved:
            counters.movedGrains += 1
            repairProgress.doneBytes += UInt64(Units.grainBytes)
            evacuation.uncommitted += 1
        // Another mover took the last free grain.
        case .stopped where groups.freeGrains <= relocationReserve: again(grain)
        // It is looked for again; or it cannot be read, stays, and its readers are told.
        case .stale, .stopped, .failed: break
        }
        guard evacuation.uncommitted >= engine.limits.compactBatch else { return true }
        evacuation.uncommitted = 0
        return await commit()
    }

    /// Several movers share the grains of a group.
    ///
    /// - Parameter step: what is to be done with one; it may put it back. False: there is no point in
    ///   going on.
    /// - Returns: whether all are through.
    func forEachGrain(
        inGroup group: UInt32, _ priority: RepairPriority, movers: Int,
        _ step: @escaping @Sendable (Space, UInt64, (UInt64) -> Void) async -> Bool
    ) async -> Bool {
        let pass = GroupPass(engine, group, priority)
        pass.movers = movers
        for _ in 0..<movers { background { await $0.move(pass, step) } }
        while pass.movers > 0, !engine.isStopped { await pass.moverEnded.wait() }
        return !engine.isStopped && pass.goesOn
    }

    private func move(
        _ pass: GroupPass,
        _ step: @Sendable (Space, UInt64, (UInt64) -> Void) async -> Bool
    ) async {
        nextMover += 1
        let number = nextMover
        defer {
            if pacer == number { pacer = nil }
            pass.movers -= 1
            pass.moverEnded.fire()
        }
        while pass.goesOn, !pass.isThrough {
            guard mayRepair else { return pass.goesOn = false }
            // While clients are at work one of all goes on.
            if pass.priority != .high, isBusy {
                if pacer == nil { pacer = number }
                if pacer != number {
                    await nap(ns: 20_000_000)
                    continue
                }
            }
            guard let grain = await nextGrain(pass) else { return }
            if await !step(self, grain, { pass.grains.append($0) }) { pass.goesOn = false }
        }
    }

    private func move(_ grain: UInt64, _ evacuation: Evacuation) async -> Move {
        let (victim, priority) = (evacuation.victim, evacuation.priority)
        let isPaced = priority != .high && isBusy
        if isPaced, !evacuation.holdsRanges {
            return await move(
                grain, outOf: victim, holdsRange: false, pace: priority, { self.mayRepair })
        }
        // Whoever waits for it waits for one grain, not for its turns.
        if isPaced { await waitForTurn(bytes: Units.grainBytes, priority) }
        return await move(grain, outOf: victim, holdsRange: true, { self.mayRepair })
    }

    private func nextGrain(_ pass: GroupPass) async -> UInt64? {
        while true {
            if let grain = pass.grains.popFirst() { return grain }
            guard let start = pass.next else { return nil }
            let found = map.grains(
                inGroup: pass.group, from: start, limit: engine.limits.compactScan)
            (pass.grains, pass.next) = (found.grains[...], found.next)
            // A large map is looked through in slices, between which others have their turn.
            if pass.next != nil { await nap() }
        }
    }

    /// Clients have sent something not long ago, to whichever space of this shard.
    var isBusy: Bool {
        engine.lastRequestNs.map { engine.nowNs &- $0 < 100_000_000 } ?? false
    }

    /// Another group, unless there is room by now.
    func makeRoom(unless hasRoom: (Space) -> Bool) async -> RepairOutcome {
        await groupLock.acquire(engine)
        defer { groupLock.release() }
        if hasRoom(self) { return .done }
        do throws(PoolError) {
            try await addGroup()
            return .done
        } catch {
            return error.isShortOfSpace ? .noRoom : .failed
        }
    }

    // MARK: - one flush for several

    /// Flushes devices, together with those that others wait for.
    ///
    /// - Returns: as `flush(_:)` does, for all of them.
    func flushTogether(_ devices: DeviceSet) async -> Bool {
        let round = nextFlush ?? FlushRound()
        nextFlush = round
        round.devices.formUnion(devices)
        await flushLock.acquire(engine)
        defer { flushLock.release() }
        if let isGood = round.isGood { return isGood }
        // Who comes from here on may have written since: the next round is theirs.
        nextFlush = Mutant.isActive(.joinLateFlush) ? round : nil
        let isGood = await flush(round.devices)
        round.isGood = isGood
        return isGood
    }
}

/// One pass of the movers over the grains of a group.
private final class GroupPass: @unchecked Sendable {
    let group: UInt32
    let priority: RepairPriority
    /// Found and not taken yet, and from where on to look for more; nil: there are none.
    var grains: ArraySlice<UInt64> = []
    var next: Int? = 0
    var movers = 0
    /// There is a point in going on.
    var goesOn = true
    let moverEnded: Signal

    init(_ engine: Engine, _ group: UInt32, _ priority: RepairPriority) {
        self.group = group
        self.priority = priority
        moverEnded = Signal(engine)
    }

    var isThrough: Bool { grains.isEmpty && next == nil }
}

/// Grains of a group that are moved elsewhere.
private final class Evacuation: @unchecked Sendable {
    let victim: UInt32
    let priority: RepairPriority
    /// Clients wait for a grain that is moved: what was written to all the time.
    let holdsRanges: Bool
    var uncommitted = 0
    /// Of one that has ended early; nil: the space closes, or cannot write.
    var outcome: Space.RepairOutcome?

    init(_ victim: UInt32, _ priority: RepairPriority, holdsRanges: Bool) {
        (self.victim, self.priority, self.holdsRanges) = (victim, priority, holdsRanges)
    }
}

/// Those who wait for the same flush.
final class FlushRound: @unchecked Sendable {
    var devices = DeviceSet()
    /// nil: it is not over.
    var isGood: Bool?
}
