import PoolFormat

/// After the process alone has ended: what it had acknowledged and not flushed is made durable, as
/// the commit that it did not come to.
///
/// Order, each step complete before the next:
///
/// 1. The log's records stand behind everything that is durable, in the order the changes happened.
///    Of the commit that was under way some batches may be there already: absolute values may be
///    repeated. With them applied, it is known where each block lies.
/// 2. A block that was UNWRITTEN before is read from every copy, and compared with the values that
///    the log has of it. Its bytes were at the disks when its change was logged, but a disk may have
///    lost its cache since, while the machine went on; then the block stays UNWRITTEN, as after a
///    power cut, unless another copy has them: then the others are given them, and that is flushed.
///    Opening the pool has flushed the disks, so what is found is durable. Where a disk leaves
///    meanwhile, this begins anew. Blocks that were overwritten lie in regions that are durably
///    dirty, and are settled; these cannot be: where one copy has never had a block, nothing but
///    its value tells what is there from bytes that nobody has written.
///    What the log says lies in the cache is compared in its slots likewise, and is not there where no
///    copy has it: then the block is what it was before.
/// 3. The records are written behind the journal's newest batch, and flushed. Nothing that they free
///    is free before.
/// 4. The log begins anew.
///
/// Why it may be interrupted. The journal's batches that bear a later epoch than the log's are its
/// first records, since nothing else is written before all of them are: the next opening goes on
/// behind those. So they take their room in the journal once, however often that happens.
extension Space {
    /// What a killed process has left, and where new changes are to be noted.
    @safe
    struct LeftBehind {
        // Safe: it stays until the space's end, and is handed on alone.
        fileprivate var region: UnsafeMutableRawBufferPointer
        fileprivate var entries: [RestartLog.Entry] = []
        /// Of `records`, how many the journal has already.
        fileprivate var durableCount = 0

        /// What was acknowledged, in the order of the changes.
        var records: [JournalRecord] { entries.lazy.filter { !$0.isIntent }.map(\.record) }
    }

    private var restartOwner: RestartLog.Owner {
        RestartLog.Owner(pool: pool.uuid, lineage: lineage)
    }

    /// - Parameter chain: the journal, merged.
    /// - Returns: nil where there is no memory that outlives the process, or nothing is to be
    ///   written.
    func findLeftBehind(_ chain: [JournalScan.Batch]) -> LeftBehind? {
        let bytes = engine.limits.restartLogBytes
        guard readOnlyReason == nil, let newest = chain.last?.header,
            let region = unsafe engine.restartMemory?.region(of: restartOwner, bytes: bytes)
        else { return nil }
        var found = unsafe LeftBehind(region: region)
        let resumed = unsafe RestartLog(
            resuming: region, owner: restartOwner, journalEpoch: newest.epoch,
            journalSequence: newest.sequence)
        guard let log = resumed else { return found }
        if !Mutant.isActive(.forgetUnflushed) { found.entries = log.readAll() }
        let logEpoch = log.epoch
        // What was recorded of regions in front of them are no records of the log.
        found.durableCount = chain.lazy.filter { $0.header.epoch > logEpoch }
            .reduce(0) { $0 + self.countOfLogged($1) }
        // The journal keeps room for it; if not, it was never promised to be durable.
        let bytesLeft = found.records.dropFirst(found.durableCount)
            .reduce(0) { $0 + $1.encodedBytes }
        if !journal.hasRoom(bytes: bytesLeft) { found.entries.removeAll() }
        log.setHeir(epoch: epoch)
        return found
    }

    /// Steps 2 to 4. The map already is what the records make it.
    ///
    /// - Returns: the records as they are durable now.
    func commitLeftBehind(_ left: LeftBehind) async throws(PoolError) -> [JournalRecord] {
        var found: [UInt64: UInt32] = [:]
        var lostSlots: Set<UInt32> = []
        var departuresBefore: UInt64
        repeat {
            departuresBefore = departuresNoted
            try await missLeftBehind(left)
            found = try await findFreshBlocks(left.entries)
            lostSlots = try await findLostSlots(left.entries)
        } while departuresNoted != departuresBefore
        let records = left.records.map { $0.with(found).without(lostSlots) }
        // That no disk lacked anything then must not take back what one lacks now.
        let lost = records.dropFirst(left.durableCount).filter {
            departed.disks.isEmpty || !$0.isCaughtUp || Mutant.isActive(.takeBackMissed)
        }
        if !lost.isEmpty {
            guard await append(lost) else { throw failure }
            journal.confirmedSequence = journal.nextSequence - 1
        }
        unsafe unflushedLog.begin(
            RestartLog(emptying: left.region, owner: restartOwner, epoch: epoch))
        return records
    }

    private func countOfLogged(_ batch: JournalScan.Batch) -> Int {
        let records = (try? decode([batch])) ?? []
        return records.count {
            switch $0.record {
            case .missed, .mark: false
            default: true
            }
        }
    }

    /// Regions of blocks that a killed process had written: a disk that is away may lack them.
    private func missLeftBehind(_ left: LeftBehind) async throws(PoolError) {
        guard !departed.disks.isEmpty, !Mutant.isActive(.forgetMissedLeftBehind) else { return }
        for record in left.records {
            switch record {
            case .values(let first, _):
                lateMissed.insert(DirtyRegions.region(ofGrain: first / UInt64(Units.blocksPerGrain)))
            case .move(let grain, _), .rewrite(let grain, _, _):
                lateMissed.insert(DirtyRegions.region(ofGrain: grain))
            case .map, .unmap, .mark, .clean, .groupAdded, .groupRemoved, .pieceGranted,
                .pieceReleased, .activation, .missed, .caughtUp, .cached:
                continue
            }
        }
        lateMissed = lateMissed.filter { $0 < UInt64(regions.count) }
        for index in departed.disks.indices {
            for region in lateMissed { departed[index].missed.insert(region: region) }
        }
        guard await recordLateMissed() else { throw failure }
        journal.confirmedSequence = journal.nextSequence - 1
    }

    /// Nothing is left that is not durable.
    func discardLog() {
        unflushedLog.end()
        engine.restartMemory?.discard(restartOwner)
    }

    // MARK: - what the disks have lost

    /// Of the blocks that the records take out of UNWRITTEN, the value that a copy was found to
    /// have, and every other was given: UNWRITTEN where none has their bytes.
    private func findFreshBlocks(
        _ entries: [RestartLog.Entry]
    ) async throws(PoolError) -> [UInt64: UInt32] {
        if Mutant.isActive(.believeUnflushed) { return [:] }
        let fresh = freshBlocks(entries)
        var found: [UInt64: UInt32] = [:]
        for (block, _) in fresh { found[block] = BlockValue.unwritten }
        // Without checksums nobody can tell.
        guard hasChecksums else { return found }
        if isParity { return try await findFreshStripes(fresh, found) }
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        let atOnce = Units.pieceBytes / Units.blockBytes / copies
        for start in stride(from: 0, to: fresh.count, by: atOnce) {
            let some = fresh[start..<min(start + atOnce, fresh.count)]
            let placed = some.map { block, values in
                let (grain, within) = block.quotientAndRemainder(
                    dividingBy: UInt64(Units.blocksPerGrain))
                return PlacedBlock(
                    block: block, values: values, bases: bases(of: Int(within), map[grain]))
            }
            found.merge(try await spread(placed, buffer, copies: copies)) { $1 }
        }
        guard await flush(unflushedDevices) else { throw failure }
        return found
    }

    /// Gives every copy of each block what the log has last of what any of them has. Not flushed.
    ///
    /// - Returns: its value, where some copy has it.
    private func spread(
        _ fresh: [PlacedBlock], _ buffer: Int, copies: Int
    ) async throws(PoolError) -> [UInt64: UInt32] {
        let placed = fresh.map { $0.bases.filter { departed.isCurrent($0) } }
        let slot = { (position: Int, copy: Int) in
            buffer + (position * copies + copy) * Units.blockBytes
        }
        let reads = IOBatch(engine)
        for (position, bases) in placed.enumerated() {
            for (copy, base) in bases.enumerated() {
                reads.read(
                    base.device, at: base.offsetBytes, bytes: Units.blockBytes,
                    into: slot(position, copy))
            }
        }
        _ = await reads.run()
        if engine.isStopped { throw .stopped }
        var statuses = reads.statuses[...]
        let writes = IOBatch(engine)
        var found: [UInt64: UInt32] = [:]
        for (position, written) in fresh.enumerated() {
            let (block, values) = (written.block, written.values)
            let held = placed[position].indices.map { copy in
                statuses.popFirst() == .ok
                    ? blockValue(slot(position, copy), block) : BlockValue.unwritten
            }
            // The newest that is anywhere: what follows it in time was acknowledged after it.
            guard let value = values.last(where: { held.contains($0) }),
                let kept = held.firstIndex(of: value)
            else { continue }
            found[block] = value
            for (base, other) in zip(placed[position], held)
            where other != value && !Mutant.isActive(.leaveUnequal) {
                writes.write(
                    base.device, at: base.offsetBytes, bytes: Units.blockBytes,
                    from: slot(position, kept))
            }
        }
        if await !writeUnflushed(writes) {
            await failDevices(writes.devices(with: .ioError), during: "restart")
        }
        guard await departuresAreDurable() else { throw failure }
        return found
    }

    /// A block that a killed process had written, where its copies lie, and the values that it had.
    private struct PlacedBlock {
        var block: UInt64
        var values: [UInt32]
        var bases: [SlabGroups.Base]
    }

    /// The slots that the entries name, and no copy of which has what they say. Where one has it, every
    /// other is given it.
    private func findLostSlots(
        _ entries: [RestartLog.Entry]
    ) async throws(PoolError) -> Set<UInt32> {
        if Mutant.isActive(.believeCached) { return [] }
        var written: [(slot: UInt32, block: UInt64, value: UInt32)] = []
        for entry in entries {
            guard case .cached(let first, let slot, let changes) = entry.record else { continue }
            for (position, change) in changes.enumerated()
            where change.new != BlockValue.unwritten {
                written.append((slot + UInt32(position), first + UInt64(position), change.new))
            }
        }
        guard !written.isEmpty else { return [] }
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        var lost: Set<UInt32> = []
        let atOnce = Units.pieceBytes / Units.blockBytes / cache.copies
        var start = 0
        while start < written.count {
            // A block that was written again lies in another slot: one at a time of each.
            var (end, blocks): (Int, Set<UInt64>) = (start, [])
            while end < written.count, end - start < atOnce,
                blocks.insert(written[end].block).inserted
            { end += 1 }
            let some = written[start..<end]
            let placed = some.map {
                PlacedBlock(block: $0.block, values: [$0.value], bases: bases(ofSlot: $0.slot))
            }
            let found = try await spread(placed, buffer, copies: cache.copies)
            lost.formUnion(some.filter { found[$0.block] == nil }.map(\.slot))
            start = end
        }
        guard await flush(unflushedDevices) else { throw failure }
        return lost
    }

    /// Its cache is not put together yet.
    private func bases(ofSlot slot: UInt32) -> [SlabGroups.Base] {
        let (piece, within) = Int(slot).quotientAndRemainder(dividingBy: WriteCache.slotsPerPiece)
        guard let found = pieces.piece(.cache, UInt32(piece)), found.bases.count == cache.copies
        else { return [] }
        return found.bases.map {
            SlabGroups.Base(
                device: $0.device, disk: $0.disk,
                offsetBytes: $0.offsetBytes + UInt64(within * Units.blockBytes))
        }
    }

    /// The blocks that are UNWRITTEN before the entries and not behind them, with every value that
    /// one of them may hold. Of a parity those of grains that were mapped since: all that they have.
    func freshBlocks(
        _ entries: [RestartLog.Entry]
    ) -> [(block: UInt64, values: [UInt32])] {
        var grains: [UInt64: [UInt64: FreshBlock]] = [:]
        for entry in entries {
            switch entry.record {
            case .map(let grain, _): grains[grain] = isParity ? [:] : nil
            case .unmap(let grain): grains[grain] = nil
            case .values(let first, let changes):
                let grain = first / UInt64(Units.blocksPerGrain)
                // Blocks were trimmed of a stripe that is durable: whatever else it has is, too.
                if isParity, grains[grain] == nil { continue }
                for (position, change) in changes.enumerated() {
                    let unknown = FreshBlock(isFresh: change.old == BlockValue.unwritten)
                    grains[grain, default: [:]][first + UInt64(position), default: unknown]
                        .take(change.new, isIntent: entry.isIntent)
                }
            case .rewrite(let grain, _, let rewritten):
                // It was flushed; but what was fresh before, and may be lost, lies there, too.
                guard grains[grain] != nil else { continue }
                for (block, change) in zip(rewritten.blocks, rewritten.changes) {
                    let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
                    // Whatever it was before lay in the cache, if it was not fresh.
                    let unknown = FreshBlock(isFresh: true)
                    grains[grain, default: [:]][number, default: unknown]
                        .take(change.new, isIntent: false)
                }
            case .move, .mark, .clean, .groupAdded, .groupRemoved, .pieceGranted, .pieceReleased,
                .activation, .missed, .caughtUp, .cached:
                continue
            }
        }
        return grains.keys.sorted().filter { $0 < map.grainCount && map[$0].isMapped }
            .flatMap { grain in
                grains[grain, default: [:]].filter { $0.value.isWritten }
                    .map { (block: $0.key, values: $0.value.values) }
                    .sorted { $0.block < $1.block }
            }
    }

    private struct FreshBlock {
        /// It was UNWRITTEN when it was first changed.
        var isFresh: Bool
        var values: [UInt32] = []
        private var isUnwritten = true

        init(isFresh: Bool) { self.isFresh = isFresh }

        var isWritten: Bool { isFresh && !isUnwritten }

        mutating func take(_ value: UInt32, isIntent: Bool) {
            if value != BlockValue.unwritten { values.append(value) }
            if !isIntent { isUnwritten = value == BlockValue.unwritten }
        }
    }
}

extension JournalRecord {
    var isCaughtUp: Bool {
        if case .caughtUp = self { true } else { false }
    }

    /// The record, of which some slots are not what it says: it names no block there.
    fileprivate func without(_ lostSlots: Set<UInt32>) -> JournalRecord {
        guard !lostSlots.isEmpty, case .cached(let first, let slot, var changes) = self else {
            return self
        }
        for position in changes.indices where lostSlots.contains(slot + UInt32(position)) {
            changes[position].new = BlockValue.unwritten
        }
        return .cached(firstBlock: first, slot: slot, changes: changes)
    }

    /// The record with another value of some blocks, where it writes them.
    fileprivate func with(_ found: [UInt64: UInt32]) -> JournalRecord {
        let change = { (block: UInt64, change: ValueChange) in
            change.new == BlockValue.unwritten ? change.new : found[block] ?? change.new
        }
        switch self {
        case .values(let first, var changes):
            for position in changes.indices {
                changes[position].new = change(first + UInt64(position), changes[position])
            }
            return .values(firstBlock: first, changes: changes)
        case .rewrite(let grain, let entry, let rewritten):
            let first = grain * UInt64(Units.blocksPerGrain)
            return .rewrite(
                grain: grain, entry: entry,
                rewritten.mapValues { change(first + UInt64($0), $1) })
        default: return self
        }
    }
}
