import PoolFormat

/// One slab of a group is replaced by one on another disk, while the group serves: what a lost disk
/// held is written anew and nothing else, and a group can leave a disk without room for a whole one.
///
/// Order, each step complete before the next:
///
/// 1. *Granted*: a slab on a disk that has no other copy of the column, durably in its table.
/// 2. *Taken in*, at one instant: requests and moves that write into the group write there too. The
///    grains in use at this instant *lack*; one that is freed lacks no more, and who has it next
///    writes it everywhere. What settles, scrubs or makes a disk equal changes no value: it need not.
/// 3. *Copied*: of each lacking grain the valid blocks, with their range held, so behind every write
///    that began before 2.
/// 4. *Flushed*.
/// 5. The record that names the new slab is durable.
/// 6. *Switched*, at an instant with no write of the group at the devices: the new slab is read, the
///    old one is not written any more.
/// 7. *Released*, once everything that looked up a place before 6 has ended: the old slab is free in
///    its table.
///
/// A crash before 5 finds the old slab, which took every write, and frees the new one, which nobody
/// claims; a crash later finds the new slab, which has everything, and frees the old one. If the new
/// one's disk leaves before 5, it is given up, and a simple space goes on, too. If it leaves
/// between 5 and 6, the record names the old one again before the first write that goes to that one
/// alone; of a simple space there is none, as it is read-only then.
extension Space {
    enum Replaced: Sendable {
        case done
        /// No disk has a slab that would do.
        case noRoom
        /// Something of the group is on no copy: the others can be moved all the same.
        case unreadable
        /// The space closes, cannot write, or the disk has left.
        case failed
    }

    /// - Parameters:
    ///   - disk: where the new slab has to lie; nil: where there is most room.
    ///   - mayShare: where another column of the group lies, too, if there is no other way.
    func replaceSlab(
        of id: UInt32, at position: Int, avoiding givenUp: Set<DiskNumber> = [],
        on disk: DiskNumber? = nil, mayShare: Bool = false, _ priority: RepairPriority
    ) async -> Replaced {
        guard groups[id] != nil else { return .failed }
        guard await canBeFilled(id, at: position) else {
            return mayRepair ? .unreadable : .failed
        }
        guard let record = groups[id]?.record, groups.replacement(of: id) == nil else {
            return .failed
        }
        let old = record.slabs[position]
        let slab: GroupSlab
        do throws(PoolError) {
            slab = try await takeIn(record, position, givenUp, disk, mayShare: mayShare)
        } catch {
            return error.isShortOfSpace ? .noRoom : .failed
        }
        let filled = await fillReplacement(of: id, priority)
        let isFilled = filled == .done && canUseReplacement(of: id) && mayRepair
        let isNamed = isFilled ? await nameSlab(slab, of: id, at: position) : false
        // Nothing is written any more, and either slab is what the next opening may find.
        if isFilled, !isNamed {
            _ = await endReplacing(id, isNamed: false)
            return .failed
        }
        let isUsed = await endReplacing(id, isNamed: isNamed)
        await waitForOthers(in: id)
        if mayRepair, isUsed ? !old.isHole : !hasReplacementNamed(id) {
            await discardSlab(isUsed ? old : slab)
            await releaseSlab(isUsed ? old : slab, of: record)
        }
        groups.forgetReplacement(of: id)
        departed.hasHoles = groups.hasHoles
        if groups[id]?.usedCount == 0 { await releaseEmptyGroups() }
        return isUsed ? .done : filled == .done ? .failed : filled
    }

    // MARK: - slabs

    /// Steps 1 and 2.
    private func takeIn(
        _ record: GroupRecord, _ position: Int, _ givenUp: Set<DiskNumber>, _ disk: DiskNumber?,
        mayShare: Bool
    ) async throws(PoolError) -> GroupSlab {
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        let slab = try await grantReplacement(record, position, givenUp, disk, mayShare: mayShare)
        guard groups[record.id]?.record == record, mayRepair,
            departed.index(of: slab.address.disk) == nil, !isLost(places.base(slab.address))
        else {
            await releaseSlab(slab, of: record)
            throw .ioError
        }
        groups.startReplacing(record.id, at: position, with: slab, places.base(slab.address))
        return slab
    }

    private func grantReplacement(
        _ record: GroupRecord, _ position: Int, _ givenUp: Set<DiskNumber>, _ disk: DiskNumber?,
        mayShare: Bool
    ) async throws(PoolError) -> GroupSlab {
        assert(claimsChanging > 0, "a disk that comes back would be freed of it")
        let (lineage, behind) = (lineage, Set(departed.disks.map(\.number)))
        let granted = try await atHome { pool async throws(PoolError) in
            let slab = try await pool.grantSlab(
                lineage: lineage, for: record, at: position, avoiding: givenUp.union(behind),
                on: disk, mayShare: mayShare)
            return (slab: slab, places: pool.places)
        }
        places = granted.places
        return granted.slab
    }

    /// One that could not be given back is found unclaimed when the space is next opened.
    private func releaseSlab(_ slab: GroupSlab, of record: GroupRecord) async {
        var only = record
        only.slabs = [slab]
        await release([only])
    }

    /// What nobody reads or writes any more takes no room behind its disk.
    private func discardSlab(_ slab: GroupSlab) async {
        let base = places.base(slab.address)
        guard departed.takesData(base), !engine.failedDevices.contains(base.device),
            !engine.discardRefused.contains(base.device)
        else { return }
        let io = IOBatch(engine)
        for grain in 0..<Units.grainsPerSlab {
            io.discard(
                base.device, at: base.offsetBytes + UInt64(grain * Units.grainBytes),
                bytes: UInt64(Units.grainBytes))
        }
        _ = await io.run()
        engine.discardRefused.formUnion(io.devices(with: .unsupported))
    }

    /// Its record, durably. Where its bytes are read and written stays as it is.
    private func nameSlab(_ slab: GroupSlab, of id: UInt32, at position: Int) async -> Bool {
        guard let next = groups.rename(id, at: position, slab) else { return false }
        addRecord(.groupAdded(next))
        pieces.markDirty(.group, GroupPage.index(ofGroup: id), since: firstUnwrittenSequence)
        return await commit()
    }

    /// It has everything, and its disk has been there all the time.
    private func canUseReplacement(of id: UInt32) -> Bool {
        groups.replacement(of: id).map { $0.lacking.isEmpty && !$0.isLost } ?? false
    }

    private func hasReplacementNamed(_ id: UInt32) -> Bool {
        guard let replacement = groups.replacement(of: id) else { return false }
        return groups[id]?.record.slabs[replacement.position] == replacement.slab
    }

    /// Waits until no write of the group is at the devices, and begins none until then: legs are
    /// counted by what is written to. Before the first write that goes to the old slab alone the
    /// record names that again.
    ///
    /// - Returns: whether the new slab is used from here on.
    private func endReplacing(_ id: UInt32, isNamed: Bool) async -> Bool {
        groups.gateReplacement(of: id)
        while isWritten(id), !engine.isStopped { await nap(ns: 100_000) }
        let isUsed = isNamed && groups.replacement(of: id)?.isLost == false
        if isNamed, !isUsed, let replacement = groups.replacement(of: id) {
            _ = await nameSlab(replacement.old, of: id, at: replacement.position)
        }
        groups.endReplacing(id, isUsed: isUsed)
        wake(&replacementWaiters)
        return isUsed
    }

    private func isWritten(_ id: UInt32) -> Bool {
        var isWritten = false
        table.forEachAtDevices(ofSpace: handle.index) { request in
            if table[request].isCached { return }
            if map[table[request].grain].group == id { isWritten = true }
        }
        return isWritten
    }

    /// Whoever has looked up a place in the group before has ended: requests and whatever else holds a
    /// range, moves and discards, and grains that are being settled.
    private func waitForOthers(in id: UInt32) async {
        await waitForWork(placedWork)
        // Those that began before: where a grain cannot be settled clients begin one after the other.
        let settlings = Set(
            settling.filter { map[$0.key].isMapped && map[$0.key].group == id }.map(\.value.number))
        while settling.values.contains(where: { settlings.contains($0.number) }), !engine.isStopped {
            await nap()
        }
        var next: Int? = 0
        while let start = next {
            let found = map.grains(inGroup: id, from: start, limit: engine.limits.compactScan)
            for grain in found.grains {
                guard let held = await hold(grain, { !self.engine.isStopped }) else { return }
                letGo(held)
            }
            next = found.next
            if next != nil { await nap() }
        }
    }

    /// Waits until these moves, discards and writes of stripes have ended.
    func waitForWork(_ numbers: Set<UInt64>) async {
        while !placedWork.isDisjoint(with: numbers), !engine.isStopped { await nap() }
    }

    /// A move or a discard that has looked up places begins.
    func beginPlacedWork() -> UInt64 {
        nextPlacedWork += 1
        placedWork.insert(nextPlacedWork)
        return nextPlacedWork
    }

    func endPlacedWork(_ number: UInt64) { placedWork.remove(number) }

    // MARK: - what it lacks

    private func fillReplacement(of id: UInt32, _ priority: RepairPriority) async -> Replaced {
        guard let device = groups.replacement(of: id)?.base.device else { return .failed }
        let unreadable = Unreadable()
        // A move that began before may take its grain there at any time until it has ended.
        await waitForWork(placedWork)
        // One that is about to be mapped, or to be freed, is not found at once.
        for round in 0..<100 {
            if round > 0 {
                // What was trimmed is freed by a commit, which nobody else may want.
                await releaseFreed()
                await nap(ns: 10_000_000)
            }
            let isThrough = await forEachGrain(
                inGroup: id, priority,
                movers: engine.limits.repairMovers / engine.limits.repairGroups
            ) { space, grain, _ in
                await space.copyToReplacement(of: id, grain, priority, unreadable)
            }
            guard mayRepair, groups.replacement(of: id)?.isLost == false else { return .failed }
            guard unreadable.grains.isEmpty else {
                unreadableGrains[id] = unreadable.grains
                return .unreadable
            }
            guard isThrough else { return .failed }
            if groups.replacement(of: id)?.lacking.isEmpty ?? true { break }
        }
        guard groups.replacement(of: id)?.lacking.isEmpty ?? false else { return .failed }
        if Mutant.isActive(.replacedUnflushed) { return .done }
        var devices = DeviceSet()
        devices.insert(device)
        return await flush(devices) ? .done : .failed
    }

    /// What kept a slab of the group from being filled is looked at before anything is copied
    /// again.
    private func canBeFilled(_ id: UInt32, at position: Int) async -> Bool {
        for grain in (unreadableGrains[id] ?? []).sorted() {
            guard await isReadable(grain, in: id, at: position) else { return false }
        }
        unreadableGrains[id] = nil
        return true
    }

    /// Whether everything of a grain that the slab has can be had; also of one that lies elsewhere
    /// now.
    private func isReadable(_ grain: UInt64, in id: UInt32, at position: Int) async -> Bool {
        while grain < UInt64(map.grainCount) {
            guard await isReadyToCopy(grain, { self.mayRepair }),
                let held = await hold(grain, { self.mayRepair })
            else { return false }
            defer { letGo(held) }
            let entry = map[grain]
            guard entry.isMapped, entry.group == id else { return true }
            guard let values = stripeValues(grain) else { continue }
            let buffer = await engine.scratch.take(bytes: Units.grainBytes)
            defer { engine.scratch.give(buffer) }
            let wanted = groups.blocks(of: entry, inColumnOf: position)
                .filter { values[$0] != BlockValue.unwritten }
            let right =
                isParity
                ? await readStripe(grain, entry, wanted, values, at: buffer)
                : await readRight(grain, entry, wanted, values, into: buffer)
            return right?.count == wanted.count
        }
        return true
    }

    /// - Returns: false: there is no point in going on.
    private func copyToReplacement(
        of id: UInt32, _ grain: UInt64, _ priority: RepairPriority, _ unreadable: Unreadable
    ) async -> Bool {
        let entry = map[grain]
        guard let replacement = groups.replacement(of: id), !replacement.isLost, mayRepair else {
            return false
        }
        guard entry.isMapped, entry.group == id,
            replacement.lacking.contains(entry.physicalGrain)
        else { return true }
        let all = 0..<Units.blocksPerGrain
        let isPaced = priority != .high && isBusy
        // A column of a stripe is made as a whole, from all the others.
        let chunk = isPaced && !isParity ? engine.limits.repairChunkBytes / Units.blockBytes : all.count
        for first in stride(from: 0, to: all.count, by: chunk) {
            let blocks = first..<min(first + chunk, all.count)
            let bytes = bytesInReplacement(entry, blocks)
            if bytes == 0 { continue }
            if isPaced { await waitForTurn(bytes: bytes, priority) }
            let isReady = await isReadyToCopy(grain, { self.mayRepair })
            guard isReady, await copyToReplacement(grain, entry, blocks) else {
                // Without it the slab is no use: nothing more is copied in vain.
                unreadable.grains.insert(grain)
                return false
            }
        }
        guard map[grain] == entry else { return true }
        groups.noteReplaced(entry)
        counters.movedGrains += 1
        repairProgress.doneBytes += UInt64(bytesInReplacement(entry, all))
        return true
    }

    private func bytesInReplacement(_ entry: GrainMap.Entry, _ blocks: Range<Int>) -> Int {
        var sum = 0
        guard groups.isReplacing(entry) else { return 0 }
        if isParity { return groups[entry.group]?.shape.unitBytes ?? 0 }
        groups.forEachReplacingRun(
            entry, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { _, _, bytes in sum += bytes }
        return sum
    }

    /// - Returns: false: they cannot be read, or written.
    private func copyToReplacement(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ blocks: Range<Int>
    ) async -> Bool {
        while true {
            guard let held = await hold(grain, blocks: blocks, { self.mayRepair }) else {
                return false
            }
            defer { letGo(held) }
            // Moved, or trimmed: whatever took its place is written everywhere.
            guard map[grain] == entry, groups.isReplacing(entry) else { return true }
            guard let values = stripeValues(grain) else {
                guard await loadsValues(grain) else { return false }
                continue
            }
            return await copyHeld(grain, entry, blocks, values)
        }
    }

    private func loadsValues(_ grain: UInt64) async -> Bool {
        do throws(PoolError) {
            try await loadValues(page: ChecksumPage.index(ofGrain: grain))
            return true
        } catch {
            return false
        }
    }

    private func copyHeld(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ blocks: Range<Int>, _ values: [UInt32]
    ) async -> Bool {
        if isParity {
            guard let (column, base) = groups.replacingBase(entry) else { return true }
            return await writeColumn(column, of: grain, entry, values, to: base) == .done
        }
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        var wanted: [Int] = []
        groups.forEachReplacingRun(
            entry, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { _, position, bytes in
            let first = blocks.lowerBound + position / Units.blockBytes
            wanted += first..<first + bytes / Units.blockBytes
        }
        wanted.removeAll { values[$0] == BlockValue.unwritten }
        guard let right = await readRight(grain, entry, wanted, values, into: buffer),
            right.count == wanted.count
        else { return false }
        let io = IOBatch(engine)
        for run in Self.runs(of: right) {
            groups.forEachReplacingRun(
                entry, offsetBytes: run.lowerBound * Units.blockBytes,
                lengthBytes: run.count * Units.blockBytes
            ) { base, position, bytes in
                io.write(
                    base.device, at: base.offsetBytes, bytes: bytes,
                    from: buffer + run.lowerBound * Units.blockBytes + position)
            }
        }
        if await writeUnflushed(io) { return true }
        await failDevices(io.devices(with: .ioError), during: "repair")
        return false
    }
}

/// Grains of a group of which no copy can be had.
private final class Unreadable: @unchecked Sendable {
    var grains: Set<UInt64> = []
}
