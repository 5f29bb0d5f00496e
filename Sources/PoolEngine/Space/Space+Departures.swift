import PoolFormat

/// Disks leave a space while it serves: it goes on with the other copies.
///
/// Order, each step complete before the next:
///
/// 1. A write or a flush fails, here or elsewhere. At one instant, on this shard: nothing more goes
///    to the disk, and it lacks everything that no finished commit has flushed there (the changes
///    that are not durable, the writes at the devices, and whatever a crash left unequal).
/// 2. The departure is durable in the configuration (`Pool/Pool+Configuration.swift`). Until then
///    no write begins, and nothing is told of that does without the disk.
/// 3. The commit under way, or else the next, writes which regions the disk lacks something of,
///    flushed, before the records that make fresh blocks readable: their only mark may be this. A
///    disk that leaves later in a commit has flushed the commit's fresh blocks before.
/// 4. Writes go on. Over valid blocks each has its region durably dirty first, and a region leaves
///    the dirty set only in a batch that records it as missed. Over durably UNWRITTEN blocks that
///    lie on the disk the region is recorded as missed by the commit that makes them readable, in
///    front of that as in 3.
///
/// A crash before 2 finds a disk that missed only what was never acknowledged, in dirty regions or
/// behind no record. A crash later finds the departure, and what the disk lacks in the missed and
/// the dirty set together.
extension Space {
    /// What a disk that has failed was to a space.
    enum Loss: Sendable {
        /// A mirror goes on without it, and a simple space does not.
        case disk
        /// No copy of some of a mirror's metadata is left.
        case lastCopy
        /// A simple space has nothing there but what it was just being given, and does not need
        /// yet.
        case nothing
    }

    /// Step 1. The pool has stopped using the disk.
    @discardableResult
    func noteDeparting(
        _ number: DiskNumber, _ reason: String, missedPages: MissedPages = .nothing
    ) -> Loss {
        if hasEnded { return .disk }
        groups.loseReplacements(on: number)
        guard isRedundant else {
            if uses(number) {
                missUnflushed(&doubtful)
                becomeReadOnly(reason)
                return .disk
            }
            return .nothing
        }
        // It is given nothing, and that is durable: a configuration that was changed while the disk was
        // on its way back may say it again.
        if let index = departed.index(of: number), departed[index].phase == .away {
            comingBack.remove(number)
            return hasMetadata ? .disk : .lastCopy
        }
        departing.insert(number)
        departuresNoted += 1
        let index =
            departed.index(of: number)
            ?? departed.add(
                number, .away, grainBudget: engine.limits.missedGrains, missedPages: missedPages)
        departed[index].phase = .away
        (departed[index].takesPages, departed[index].takesJournal) = (false, false)
        missUnflushed(&departed[index].missed)
        lateMissed.formUnion(departed[index].missed.touchedRegions)
        missPagesUnderWay(index)
        let isLeft = hasMetadata
        if !isLeft { becomeReadOnly("no copy of its metadata is left: " + reason) }
        commitWanted.fire()
        return isLeft ? .disk : .lastCopy
    }

    /// Step 2 has ended: the configuration in effect says so, or has the disk without this space.
    func noteDeparted(_ number: DiskNumber, isDeparted: Bool) {
        guard departing.remove(number) != nil else { return }
        if !isDeparted {
            // A last copy stays, and may have lost what was not flushed.
            if readOnlyReason != nil, let index = departed.index(of: number) {
                doubtful = departed[index].missed
            }
            departed.remove(number)
        }
        if comingBack.remove(number) != nil { beginReturn(number) }
        guard departing.isEmpty else { return }
        departureSettled.fire()
        wake(&departureWaiters)
    }

    /// Waits while a departure is not durable yet. False: it will not be.
    func departuresAreDurable() async -> Bool {
        while !departing.isEmpty {
            if engine.isStopped || readOnlyReason != nil || hasEnded { return false }
            await departureSettled.wait()
        }
        return readOnlyReason == nil && !engine.isStopped
    }

    // MARK: - what a disk lacks

    /// Everything that the disk may lack at the instant it leaves.
    private func missUnflushed(_ missed: inout MissedBlocks) {
        if Mutant.isActive(.departWithoutUnflushed) { return }
        let blocksPerGrain = UInt64(Units.blocksPerGrain)
        for keys in [pending.blocks.keys, committing.blocks.keys] {
            for key in keys where key != PendingTable.removed {
                let block = Int(key % blocksPerGrain)
                missed.insert(
                    grain: key / blocksPerGrain, MissedBlocks.Mask(block..<block + 1))
            }
        }
        table.forEachAtDevices(ofSpace: handle.index) { request in
            // No part of a stripe: what lies in the cache is not copied, but destaged.
            if table[request].isCached { return }
            missed.insert(
                grain: table[request].grain, MissedBlocks.Mask(table[request].blocks))
        }
        for region in regions.marked {
            let state = regions[region]
            // Without checksums an overwrite leaves no trace but its region's mark.
            if state.isCrashed || state.isSuspect || state.settledBy > completedCommits
                || !hasChecksums
            {
                missed.insert(region: region)
            }
        }
    }

    private func miss(_ index: Int, grain: UInt64, _ blocks: Range<Int>) {
        departed[index].missed.insert(grain: grain, MissedBlocks.Mask(blocks))
    }

    /// A write to these blocks begins, or has been done without some disk: whatever is away there
    /// lacks them.
    ///
    /// - Parameter isMarked: their region is durably dirty.
    /// - Returns: false when some block has no copy left that could take it.
    func noteMissed(
        _ entry: GrainMap.Entry, grain: UInt64, blocks: Range<Int>, isMarked: Bool
    ) -> Bool {
        if departed.isEmpty { return true }
        var isCovered = true
        groups.forEachColumn(
            entry, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { bases, first, bytes in
            var isTaken = false
            for base in bases {
                if departed.isCurrent(base) { isTaken = true }
                // Of a simple space nothing is written where its only copy is away.
                guard copies > 1, let index = departed.index(of: base.disk),
                    departed[index].phase == .away
                else { continue }
                if Mutant.isActive(.forgetMissed) { continue }
                let start = blocks.lowerBound + first / Units.blockBytes
                miss(index, grain: grain, start..<start + bytes / Units.blockBytes)
                if !isMarked { recordMissedFresh(grain) }
            }
            if !isTaken { isCovered = false }
        }
        // It may be named as the group's by now.
        if groups.isReplacing(entry), let disk = groups.replacement(of: entry.group)?.base.disk,
            let index = departed.index(of: disk), departed[index].phase == .away
        {
            miss(index, grain: grain, blocks)
            if !isMarked { recordMissedFresh(grain) }
        }
        return isCovered
    }

    /// Before the blocks' values are durable the commit says so.
    private func recordMissedFresh(_ grain: UInt64) {
        if Mutant.isActive(.forgetFreshMissed) { return }
        let region = DirtyRegions.region(ofGrain: grain)
        if missedRegions.contains(region), !pendingMissed.contains(region) { return }
        freshMissed.insert(region)
    }

    /// A grain lies elsewhere now: a disk that was away meanwhile has nothing of it there.
    func missMoved(_ grain: UInt64) {
        guard !departed.disks.isEmpty else { return }
        for index in departed.disks.indices {
            miss(index, grain: grain, 0..<Units.blocksPerGrain)
            departed[index].copied.remove(grain)
        }
        recordMissed(DirtyRegions.region(ofGrain: grain))
    }

    /// Whether every block that a commit is about to make durable has a copy that serves.
    var isCommitCovered: Bool {
        // Without them an overwrite leaves no trace but its region's mark.
        if !hasChecksums {
            let isLost = regions.marked.contains { region in
                regions[region].coveredBy > completedCommits && !isRegionCovered(region)
            }
            if isLost { return false }
        }
        // Where they lie is what the commit says, whatever has been destaged since.
        if !committing.cachedSlots.allSatisfy(isCovered(slot:)) { return false }
        for key in committing.blocks.keys where key != PendingTable.removed {
            let grain = key / UInt64(Units.blocksPerGrain)
            guard map[grain].isMapped else { continue }
            let block = Int(key % UInt64(Units.blocksPerGrain))
            if !isCovered(map[grain], block..<block + 1) { return false }
        }
        return true
    }

    private func isRegionCovered(_ region: UInt64) -> Bool {
        let first = region * UInt64(Units.grainsPerRegion)
        let end = min(first + UInt64(Units.grainsPerRegion), UInt64(map.grainCount))
        return (first..<end).allSatisfy {
            !map[$0].isMapped || isCovered(map[$0], 0..<Units.blocksPerGrain)
        }
    }

    private func isCovered(_ entry: GrainMap.Entry, _ blocks: Range<Int>) -> Bool {
        if isParity { return spareColumns(entry) >= 0 }
        var isCovered = true
        groups.forEachColumn(
            entry, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { bases, _, _ in
            if !bases.contains(where: { departed.isCurrent($0) }) { isCovered = false }
        }
        return isCovered
    }

    // MARK: - which regions, durably

    /// The region's mark goes into the next commit, in front of whatever relies on it.
    func recordMissed(_ region: UInt64) {
        guard !missedRegions.contains(region) else { return }
        missedRegions.insert(region)
        pendingMissed.insert(region)
        addRecord(.missed(region: region))
        pieces.markDirty(
            .missed, UInt32(DirtyPage.place(ofRegion: region).page), since: firstUnwrittenSequence)
    }

    /// No disk is away any more: nothing of what is recorded as missed means anything.
    func forgetMissed() {
        guard departed.disks.isEmpty || Mutant.isActive(.forgetOthersMissed),
            !missedRegions.isEmpty
        else { return }
        for region in missedRegions {
            pieces.markDirty(
                .missed, UInt32(DirtyPage.place(ofRegion: region).page),
                since: firstUnwrittenSequence)
        }
        missedRegions.removeAll()
        pendingMissed.removeAll()
        lateMissed.removeAll()
        freshMissed.removeAll()
        addRecord(.caughtUp)
    }

    /// Step 3, in the commit that was captured: its records go in front of what makes blocks readable,
    /// and these are the last of them, behind one that says that all was made equal before.
    func captureLateMissed() async -> Bool {
        committing.records += takeLateMissed().map { .missed(region: $0) }
        return await departuresAreDurable()
    }

    /// Behind the commit's batches, in batches of their own.
    func recordLateMissed() async -> Bool {
        while true {
            let regions = takeLateMissed()
            guard !regions.isEmpty else { break }
            guard await append(regions.map { .missed(region: $0) }) else { return false }
        }
        return await departuresAreDurable()
    }

    /// What the next commit takes in the journal, beside what is pending.
    var freshMissedBytes: Int {
        freshMissed.count * JournalRecord.missed(region: 0).encodedBytes
    }

    /// Those that no record says yet, which the journal's next batch is to say.
    private func takeLateMissed() -> [UInt64] {
        let late = lateMissed.union(freshMissed)
        lateMissed.removeAll()
        freshMissed.removeAll()
        if Mutant.isActive(.forgetLateMissed) { return [] }
        let regions = late.filter {
            !missedRegions.contains($0) || pendingMissed.contains($0)
        }.sorted()
        // Behind a record that waits, and says that all was made equal before, they are said again.
        let isTakenBack = pending.records.contains(where: \.isCaughtUp)
        for region in regions {
            missedRegions.insert(region)
            if isTakenBack {
                pendingMissed.insert(region)
                addRecord(.missed(region: region))
            }
            pieces.markDirty(
                .missed, UInt32(DirtyPage.place(ofRegion: region).page),
                since: journal.nextSequence)
        }
        return regions
    }

    /// Batches of their own, written and flushed. False: the space can write no more.
    func append(_ records: [JournalRecord]) async -> Bool {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        var next = records.startIndex
        while next < records.endIndex {
            let bytes = unsafe engine.arena.bytes(buffer, Journal.batchBlocks * Units.blockBytes)
            var writer = unsafe BatchWriter(bytes)
            while next < records.endIndex, writer.append(records[next]) { next += 1 }
            guard await writeBatch(&writer, buffer: buffer) else { return false }
        }
        return await flush(journal.devices)
    }

    // MARK: - a simple space

    /// Whether something of the space is read there, or would be after a crash. A slab that is
    /// being filled is not: until a record names it, the old one has everything.
    private func uses(_ number: DiskNumber) -> Bool {
        groups.uses(number) || claimedPieceAddresses.contains { $0.disk == number }
    }

    /// Whether these have failed without anything that a simple space uses.
    func isSpared(_ devices: DeviceSet) -> Bool {
        guard devices.isSubset(of: engine.failedDevices) else { return false }
        var isSpared = true
        devices.forEach { device in
            if places.disk(on: device).map(uses) ?? false { isSpared = false }
        }
        return isSpared
    }

    /// What was written since the last good flush, and may be lost with the disk that has made the
    /// space read-only: as bytes, ascending, and in one range what lies side by side.
    var doubtfulBytes: [Range<UInt64>] {
        var ranges: [Range<UInt64>] = []
        func add(_ grain: UInt64, _ blocks: Range<Int>) {
            let first = (grain * UInt64(Units.blocksPerGrain) + UInt64(blocks.lowerBound))
            let start = first * UInt64(Units.blockBytes)
            let end = start + UInt64(blocks.count * Units.blockBytes)
            if let last = ranges.last, last.upperBound == start {
                ranges[ranges.count - 1] = last.lowerBound..<end
            } else {
                ranges.append(start..<end)
            }
        }
        for grain in doubtful.grains where grain < UInt64(map.grainCount) && map[grain].isMapped {
            guard let mask = doubtful.mask(ofGrain: grain) else { continue }
            if mask == .all {
                add(grain, 0..<Units.blocksPerGrain)
            } else {
                for block in 0..<Units.blocksPerGrain where mask.contains(block) {
                    add(grain, block..<block + 1)
                }
            }
        }
        return ranges
    }

    // MARK: - metadata

    /// Every piece has a copy that is whole.
    var hasMetadata: Bool {
        let isWhole = { [departed] (copies: [SlabGroups.Base]) in
            copies.contains { departed.isCurrent($0) }
        }
        return rootCopies.contains { departed.isCurrent($0) } && journal.pieces.allSatisfy(isWhole)
            && pieces.names.allSatisfy { isWhole(pieces.copies(of: $0)) }
    }
}
