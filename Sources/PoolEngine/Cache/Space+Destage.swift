import PoolFormat

/// What lies in the write-back cache goes to its stripes: grain by grain in the order of addresses,
/// with whatever else of the grain lies there.
///
/// Order, each step complete before the next:
///
/// 1. The whole grain is held, a free place is taken.
/// 2. Its cached blocks are read from their slots, the others from its stripe; all are compared with
///    their values.
/// 3. All columns are written to the free place, and flushed, as for any write of a stripe.
/// 4. At one instant the map names that place, and the blocks have left the cache. The commit says
///    both in one record: each block that has left is among those that it gives a value.
/// 5. When that is durable, the slots and the old place are free.
///
/// A crash before 5 finds the slots, which nobody has written over, and the old place; after it the
/// new one. What cannot be read stays where it is, for a minute at least: it may have to do with more
/// than one disk, and pass. While clients are at work grains are destaged as fast as it takes to keep
/// the cache from being full, and otherwise until it is empty.
extension Space {
    /// From here on grains are destaged though clients are at work: slots in 1,024.
    private static var lowWater: Int { 512 }
    /// And as many at a time as there are buffers for.
    private static var highWater: Int { 768 }

    /// Slots in use, in 1,024 of all that it may have.
    private var fill: Int {
        let slots = cache.pieceLimit * WriteCache.slotsPerPiece
        return slots == 0 ? 1024 : cache.blockCount * 1024 / slots
    }

    private var mayDestage: Bool { !hasEnded && !engine.isStopped && readOnlyReason == nil }

    /// Bytes that lie in the cache.
    public var cachedBytes: UInt64 { UInt64(cache.blockCount * Units.blockBytes) }
    /// Of what was cached, how much went to stripes in the last seconds.
    public var destageBytesPerSecond: UInt64 { destageMeter.perSecond(nowNs: engine.nowNs) }

    /// Something has come into the cache.
    func wantDestage() {
        guard !isDestaging else { return }
        isDestaging = true
        background { await $0.destageLoop() }
    }

    /// Clients wait for slots: more pieces, as long as it may have more; else what is there is destaged.
    func wantCacheRoom() {
        wantDestage()
        destageWanted.fire()
        if hasLeftSlots { wantCommit() }
        guard !isGrowingCache, cache.nextPiece != nil else { return }
        isGrowingCache = true
        background { await $0.growCache() }
    }

    /// Runs for as long as something lies in the cache.
    private func destageLoop() async {
        while mayDestage, !cache.isEmpty || hasLeftSlots || !cacheQueue.isEmpty {
            let movers = wantedMovers
            if movers == 0 {
                if !isBusy || !cacheQueue.isEmpty, hasLeftSlots {
                    guard await commit() else { break }
                }
                engine.fire(destageWanted, atNs: engine.nowNs &+ 20_000_000)
                await destageWanted.wait()
                continue
            }
            let round = DestageRound(engine)
            round.movers = movers
            for _ in 0..<movers { background { await $0.destage(round) } }
            while round.movers > 0, !engine.isStopped { await round.moverEnded.wait() }
            guard mayDestage else { break }
            if !cacheQueue.isEmpty || pending.freedSlots.count > 64 { wantCommit() }
            if round.isStuck {
                if !cacheQueue.isEmpty { bypassCache() }
            }
            // What is left is being destaged by others, or cannot be just now.
            if !round.hasDone {
                engine.fire(destageWanted, atNs: engine.nowNs &+ 100_000_000)
                await destageWanted.wait()
            }
        }
        isDestaging = false
    }

    var hasLeftSlots: Bool {
        !pending.freedSlots.isEmpty || !committing.freedSlots.isEmpty
    }

    /// How many grains are destaged at a time just now.
    private var wantedMovers: Int {
        if cache.isEmpty { return 0 }
        let most = engine.limits.destageMovers
        if isClosing || !isBusy || fill > Self.highWater { return most }
        if !cacheQueue.isEmpty || !cache.closedPieces.isEmpty { return most }
        return fill > Self.lowWater ? 1 : 0
    }

    /// One of several that share the work of a round.
    private func destage(_ round: DestageRound) async {
        defer {
            round.movers -= 1
            round.moverEnded.fire()
        }
        for _ in 0..<Self.grainsOfRound {
            guard mayDestage, let grain = nextToDestage() else { return }
            let isDone = await destage(grain: grain) == .done
            (round.hasDone, round.isStuck) = (round.hasDone || isDone, round.isStuck || !isDone)
        }
    }

    /// For so long it is tried again to read what cannot be read.
    private static var lostAfterNs: UInt64 { 60_000_000_000 }

    /// A mover looks anew how many there are to be after so many.
    private static var grainsOfRound: Int { 8 }

    private func nextToDestage() -> UInt64? {
        for piece in cache.closedPieces {
            if let grain = cache.grains(inPiece: piece).first(where: isDue) { return grain }
        }
        for _ in 0...destageFailures.count + destaging.count {
            guard let grain = cache.nextGrain() else { return nil }
            if isDue(grain) { return grain }
        }
        return nil
    }

    private func isDue(_ grain: UInt64) -> Bool {
        !destaging.contains(grain) && destageFailures[grain]?.againNs ?? 0 <= engine.nowNs
    }

    // MARK: - one grain

    enum Destaged { case done, unreadable, failed }

    /// Nothing of the grain, as it is now, lies in the cache any more.
    func destage(grain: UInt64) async -> Destaged {
        while destaging.contains(grain), !engine.isStopped { await nap() }
        guard cache.has(grain: grain) else { return .done }
        destaging.insert(grain)
        defer { destaging.remove(grain) }
        let outcome = await destageAlone(grain)
        if outcome == .done {
            destageFailures[grain] = nil
            return .done
        }
        var failure = destageFailures[grain] ?? DestageFailure()
        failure.againNs = engine.nowNs &+ 1_000_000_000
        if outcome == .unreadable {
            failure.unreadableNs = failure.unreadableNs ?? engine.nowNs
        }
        destageFailures[grain] = failure
        return outcome
    }

    private func destageAlone(_ grain: UInt64) async -> Destaged {
        while mayDestage {
            guard await isReadyToCopy(grain, { self.mayDestage }), await hasRoomToDestage(),
                let held = await hold(grain, { self.mayDestage })
            else { return .failed }
            guard cache.has(grain: grain) else {
                letGo(held)
                return .done
            }
            guard let values = valuesInMemory(grain), let target = groups.allocate() else {
                letGo(held)
                continue
            }
            let outcome = await destageHeld(grain, values, to: target)
            letGo(held)
            return outcome
        }
        return .failed
    }

    /// A free grain, and room for what the commit is to say. The last free grain may be taken: as soon
    /// as the commit is durable there is another.
    private func hasRoomToDestage() async -> Bool {
        while mayDestage {
            let unflushed =
                pending.blocks.count + 2 * pending.grains.count + reservedBlocks
                + Units.blocksPerGrain
            if unflushed > engine.limits.unflushedBlocks || isJournalTight {
                if isJournalTight { wantCheckpoint() }
                guard await commit() else { return false }
                await nap()
            } else if groups.freeGrains > 0 {
                return true
            } else if hasFreedGrains {
                await releaseFreed()
            } else if stripesUnderWay > 0 {
                guard await commit() else { return false }
                await nap()
            } else {
                let outcome = await makeRoom(unless: { $0.groups.freeGrains > 0 })
                guard outcome == .done || groups.freeGrains > 0 else { return false }
            }
        }
        return false
    }

    private func destageHeld(
        _ grain: UInt64, _ values: [UInt32], to target: GrainMap.Entry
    ) async -> Destaged {
        let page = Int(ChecksumPage.index(ofGrain: grain))
        let frame = pageFrames[page]
        frames[frame].pins += 1
        stripesUnderWay += 1
        reservedBlocks += Units.blocksPerGrain
        let work = beginPlacedWork()
        defer {
            endPlacedWork(work)
            stripesUnderWay -= 1
            reservedBlocks -= Units.blocksPerGrain
            frames[frame].pins -= 1
            engine.frameReleased.fire()
            if !grainWaiters.isEmpty { wantCommit() }
            tellRoomWaiters()
        }
        let buffers = await engine.scratch.takeGrains(2)
        defer { buffers.forEach { engine.scratch.give($0) } }
        guard !engine.isStopped, let shape = groups[target.group]?.shape else { return .failed }
        let image = StripeImage(shape, data: buffers[1], parity: buffers[0])
        // Nobody has asked for it to be written now.
        let isLost = destageFailures[grain]?.unreadableNs
            .map { engine.nowNs &- $0 >= Self.lostAfterNs } ?? false
        let isThere = await gather(
            grain, values, except: 0..<0, into: image.data, acceptsLoss: isLost)
        guard isThere else {
            giveUpStripe(target)
            return .unreadable
        }
        image.encode(0..<image.rowCount, in: arena)
        let isFlushed = !Mutant.isActive(.destageUnflushed)
        guard await write(image, to: target, isFlushed: isFlushed) != nil else {
            giveUpStripe(target)
            return .failed
        }
        // At once: whoever lacks it is away still.
        let source = map[grain]
        changeStripe(grain, to: target)
        let folded = foldCached(grain, frame)
        unflushedLog.addOwn(.rewrite(grain: grain, entry: target.durable, folded))
        pending.freed.append(source)
        destageMeter.add(UInt64(folded.count * Units.blockBytes), nowNs: engine.nowNs)
        return .done
    }

    /// The cached blocks of a grain lie in its new stripe: they leave the cache, and the commit is to
    /// say so of each, whose value stays what it is.
    ///
    /// - Parameter written: blocks of a request, whose values come otherwise.
    func foldCached(
        _ grain: UInt64, _ frame: Int32, except written: Range<Int> = 0..<0
    ) -> RewrittenBlocks {
        var folded = RewrittenBlocks()
        let image = unsafe PageImage(frames.image(frame))
        for (block, _) in cache.slots(ofGrain: grain) {
            let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
            uncache(block: number)
            if written.contains(block) { continue }
            let value = ChecksumPage.value(image, grain: grain, block: block)
            if !Mutant.isActive(.destageUnsaid) { changeValue(grain, block, value, frame) }
            let old = committing.blocks.old(number) ?? pending.blocks.old(number)
            folded.append(block, ValueChange(old: UInt32(old ?? UInt64(value)), new: value))
        }
        return folded
    }

    /// Whatever lies in the cache goes to its stripes, before the space ends. What cannot stays.
    func drainCache() async {
        for _ in 0..<3 where !cache.isEmpty {
            guard mayDestage else { return }
            let round = DestageRound(engine)
            round.grains = cache.grains
            round.movers = engine.limits.destageMovers
            for _ in 0..<round.movers { background { await $0.drain(round) } }
            while round.movers > 0, !engine.isStopped { await round.moverEnded.wait() }
        }
    }

    private func drain(_ round: DestageRound) async {
        defer {
            round.movers -= 1
            round.moverEnded.fire()
        }
        while mayDestage, let grain = round.grains.popLast() { _ = await destage(grain: grain) }
    }
}

/// A grain that could not be destaged.
struct DestageFailure {
    /// When it is tried again.
    var againNs: UInt64 = 0
    /// Since when something of it cannot be read.
    var unreadableNs: UInt64?
}

/// Several movers that go on until one looks anew at how many there are to be.
private final class DestageRound: @unchecked Sendable {
    var movers = 0
    /// Some grain was destaged; some could not be.
    var hasDone = false
    var isStuck = false
    /// Those that are left of a list.
    var grains: [UInt64] = []
    let moverEnded: Signal

    init(_ engine: Engine) { moverEnded = Signal(engine) }
}
