import PoolFormat

/// Every copy of every valid block is read and compared with its value; what is wrong is written
/// anew from a copy that is right.
///
/// A grain's range is held alone while it is looked at: what is found wrong is not a write on its
/// way. A block is overwritten only with bytes that match its value, so a crash in between leaves it
/// wrong or right, never something else. Blocks of a region that a crash left dirty are made equal
/// first; those of an interrupted write that nothing tells apart are left alone.
extension Space {
    struct ScrubFindings: Sendable {
        var repairedBlocks: UInt64 = 0
        var lostBlocks: UInt64 = 0
    }

    /// Grains with a place, ascending: what a scrub goes through.
    var mappedGrains: [UInt64] {
        map.populated.flatMap { range in
            range.lazy.filter { $0 < self.map.grainCount }.map(UInt64.init)
                .filter { self.map[$0].isMapped }
        }
    }

    /// One grain of a scrub. nil: the space closes, or cannot be written.
    func scrub(grain: UInt64) async -> ScrubFindings? {
        guard mayRepair else { return nil }
        // It belongs to the pool's job: the space must not end before it has let go of everything.
        backgroundTasks += 1
        defer { noteTaskEnded() }
        while true {
            guard mayRepair else { return nil }
            guard grain < UInt64(map.grainCount), map[grain].isMapped else { return ScrubFindings() }
            guard await isReadyToCopy(grain, { self.mayRepair }) else {
                return mayRepair ? ScrubFindings() : nil
            }
            // What lies in the cache is compared with its values, and goes to its stripe.
            if cache.has(grain: grain) { _ = await destage(grain: grain) }
            guard let held = await hold(grain, { self.mayRepair }) else { return nil }
            let entry = map[grain]
            guard entry.isMapped, !regions.acceptsMismatch(grain) else {
                letGo(held)
                return ScrubFindings()
            }
            guard let values = stripeValues(grain) else {
                letGo(held)
                continue
            }
            if Mutant.isActive(.scrubUnheld) { letGo(held) }
            let findings = await scrubHeld(grain, entry, values)
            if !Mutant.isActive(.scrubUnheld) { letGo(held) }
            return findings
        }
    }

    private func scrubHeld(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32]
    ) async -> ScrubFindings? {
        guard hasChecksums || isRedundant else { return ScrubFindings() }
        if isParity { return await scrubStripe(grain, entry, values) }
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        var wrong: [(copy: Int, block: Int)] = []
        for copy in 0..<copies {
            guard let found = await wrongBlocks(grain, entry, values, copy: copy, into: buffer)
            else { return nil }
            wrong += found.map { (copy, $0) }
        }
        var findings = ScrubFindings()
        for block in Set(wrong.map(\.block)).sorted() {
            if engine.isStopped { return nil }
            let isRight = await readBlock(
                grain, entry, block, value: values[block], into: buffer, isRepairing: true)
            if Mutant.isActive(.scrubFromWrong) {
                _ = await readRun(entry, copy: copies - 1, block..<block + 1, into: buffer)
                let wrongBytes = buffer + block * Units.blockBytes
                guard await rewrite(block, of: entry, copies: [0], from: wrongBytes) else {
                    return nil
                }
                continue
            }
            guard isRight else {
                findings.lostBlocks += 1
                counters.lostBlocks += 1
                continue
            }
            let targets = wrong.filter { $0.block == block }.map(\.copy)
            guard await rewrite(block, of: entry, copies: targets, from: buffer) else { return nil }
            findings.repairedBlocks += 1
            counters.repairedBlocks += 1
        }
        return findings
    }

    /// Blocks of one copy, on disks that are current, which cannot be read or do not match.
    private func wrongBlocks(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32], copy: Int, into buffer: Int
    ) async -> [Int]? {
        var wrong: [Int] = []
        let blocks = values.indices.filter {
            values[$0] != BlockValue.unwritten && isCurrent(entry, copy: copy, blocks: $0..<$0 + 1)
        }
        for run in Self.runs(of: blocks) {
            guard let readable = await readRun(entry, copy: copy, run, into: buffer) else {
                return nil
            }
            for block in run {
                let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
                let offset = buffer + block * Units.blockBytes
                let isRight =
                    readable.contains(block)
                    && (!hasChecksums || blockValue(offset, number) == values[block])
                guard !isRight else { continue }
                if Mutant.isActive(.scrubSkipsUnreadable), !readable.contains(block) { continue }
                wrong.append(block)
                if readable.contains(block) { noteChecksumError(device(entry, copy, block)) }
            }
        }
        return wrong
    }

    private func device(_ entry: GrainMap.Entry, _ copy: Int, _ block: Int) -> DeviceIndex {
        var device = DiskPlaces.nowhere
        groups.forEachRun(
            entry, copy: copy, offsetBytes: block * Units.blockBytes, lengthBytes: Units.blockBytes
        ) { base, _, _ in device = base.device }
        return device
    }

    /// - Returns: the blocks that could be read; nil: the engine has stopped.
    private func readRun(
        _ entry: GrainMap.Entry, copy: Int, _ run: Range<Int>, into buffer: Int
    ) async -> Set<Int>? {
        let io = IOBatch(engine)
        func add(_ blocks: Range<Int>) {
            groups.forEachRun(
                entry, copy: copy, offsetBytes: blocks.lowerBound * Units.blockBytes,
                lengthBytes: blocks.count * Units.blockBytes
            ) { base, position, bytes in
                io.read(
                    base.device, at: base.offsetBytes, bytes: bytes,
                    into: buffer + blocks.lowerBound * Units.blockBytes + position)
            }
        }
        add(run)
        if await io.run() { return Set(run) }
        if engine.isStopped { return nil }
        io.devices(with: .ioError).forEach { noteReadError($0) }
        for block in run { add(block..<block + 1) }
        _ = await io.run()
        if engine.isStopped { return nil }
        return Set(zip(run, io.statuses).filter { $0.1 == .ok }.map(\.0))
    }

    private func rewrite(
        _ block: Int, of entry: GrainMap.Entry, copies: [Int], from buffer: Int
    ) async -> Bool {
        if Mutant.isActive(.repairNothing) { return true }
        let io = IOBatch(engine)
        for copy in copies {
            groups.forEachRun(
                entry, copy: copy, offsetBytes: block * Units.blockBytes,
                lengthBytes: Units.blockBytes
            ) { base, position, bytes in
                guard departed.takesData(base) else { return }
                io.write(base.device, at: base.offsetBytes, bytes: bytes, from: buffer + position)
            }
        }
        if await writeUnflushed(io) { return true }
        await failDevices(io.devices(with: .ioError), during: "repair")
        return await departuresAreDurable()
    }

    // MARK: - metadata

    /// Every page of one piece, on every copy: a copy that lacks the newest is given it.
    func scrubPages(_ kind: PieceKind, piece: UInt32) async -> Bool {
        guard mayRepair else { return false }
        backgroundTasks += 1
        defer { noteTaskEnded() }
        for page in 0..<UInt32(MetadataPage.pagesPerPiece) {
            let number = piece * UInt32(MetadataPage.pagesPerPiece) + page
            guard await scrubPage(kind, number) else { return mayRepair }
        }
        return true
    }

    /// - Returns: false: the page is no more, or the space closes, or cannot be written.
    func scrubPage(_ kind: PieceKind, _ page: UInt32) async -> Bool {
        await checkpointLock.acquire(engine)
        defer { checkpointLock.release() }
        guard mayRepair, kind == .directory || pieces.has(kind, page: page) else { return false }
        do throws(PoolError) {
            let found = try await readPage(kind, page, afterCrash: true)
            engine.scratch.give(found.buffer)
        } catch {
            // Its readers are told when they come to it.
            return mayRepair
        }
        return true
    }

    // MARK: - what a read has found

    /// A copy was wrong where another was right.
    func repairLater(_ grain: UInt64) {
        guard isRedundant, readOnlyReason == nil, repairQueue.count < engine.limits.repairQueue,
            repairQueue.insert(grain).inserted, !isRepairingReads
        else { return }
        isRepairingReads = true
        background { await $0.repairReads() }
    }

    private func repairReads() async {
        while let grain = repairQueue.min(), mayRepair {
            repairQueue.remove(grain)
            guard await scrub(grain: grain) != nil else { break }
        }
        repairQueue.removeAll()
        isRepairingReads = false
    }
}
