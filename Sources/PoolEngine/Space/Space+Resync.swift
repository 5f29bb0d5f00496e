import PoolFormat

/// A disk comes back: it is given what it has missed, and counts again.
///
/// Order, each step complete before the next:
///
/// 1. *Found*: its places are known, on the device it is now. From here on it takes every write of
///    data, so what it lacks grows no more.
/// 2. *Pages*: every checkpoint goes to it, too. Then the slots that it missed are copied from a copy
///    that counts, with no checkpoint under way: all of them, if it left before this opening; else
///    of each page the newer alone. What the disk has in the older one is older still, or torn: its
///    next checkpoint goes there, and a crash in the middle of that finds the newer one whole.
/// 3. *Journal*: what replay would read of it is copied with no commit under way, or all of it if the
///    disk left before this opening: it may have batches that never counted. From here on it takes
///    every batch.
/// 4. *Data*: grain by grain, with the grain's range held alone: the valid blocks that it missed are
///    read from a copy that counts, compared with their values, and written to it.
/// 5. A commit: everything it was given is flushed.
/// 6. The configuration says that it has not departed any more. Only then it is read, and counts.
///
/// A crash before 6 finds the departure, and in the missed and dirty sets what is to be copied: the
/// next opening begins anew. A disk that fails again is away again, and lacks, beside what was left,
/// what was not flushed.
extension Space {
    /// Step 1; the configuration in effect has the disk on this device.
    func noteReturned(_ number: DiskNumber, _ places: DiskPlaces) {
        if hasEnded { return }
        self.places = places
        let device = places.device(of: number)
        groups.find(number, on: device)
        journal.find(number, on: device)
        pieces.find(number, on: device)
        cache.find(number, on: device)
        rootCopies = rootCopies.found(number, on: device)
        // What is told by different shards may come in any order.
        if departing.contains(number) { comingBack.insert(number) } else { beginReturn(number) }
    }

    func beginReturn(_ number: DiskNumber) {
        guard let index = departed.index(of: number), departed[index].phase == .away else { return }
        departed[index].phase = .returning
        departed[index].returns += 1
        departed[index].copied.removeAll()
        background { await $0.resync(number) }
    }

    /// Steps 2 to 6, until the disk counts, or is away again: what one attempt meets may pass.
    func resync(_ number: DiskNumber) async {
        guard let index = departed.index(of: number) else { return }
        let attempt = departed[index].returns
        while isReturning(number, attempt) {
            await makeEqual(number, attempt)
            if isReturning(number, attempt) { await nap(ns: 1_000_000_000) }
        }
    }

    private func makeEqual(_ number: DiskNumber, _ attempt: Int) async {
        guard await copyPages(to: number), await copyJournal(to: number),
            await destageMissed(by: number, { self.isReturning(number, attempt) })
        else { return }
        repeat {
            guard await copyMissed(to: number), let copied = copiedGrains(number) else { return }
            if !Mutant.isActive(.caughtUpUnflushed) { guard await commit() else { return } }
            guard isReturning(number, attempt) else { return }
            forget(copied, number)
            // A grain that was moved meanwhile is missed anew.
        } while hasMissed(number)
        // A record may name a slab there that nothing was copied to, until it names the old one.
        let isNamed = groups.replacements.contains { $0.base.disk == number && $0.isWritten }
        guard !isNamed else { return }
        let lineage = self.lineage
        do throws(PoolError) {
            try await atHome { pool async throws(PoolError) in
                try await pool.noteCaughtUp(number, lineage)
            }
        } catch {
            return
        }
        // It may have failed since, and departed again.
        guard isReturning(number, attempt) else { return }
        departed.remove(number)
        forgetMissed()
        wantCommit()
    }

    /// It has not failed and come back again meanwhile.
    private func isReturning(_ number: DiskNumber, _ attempt: Int) -> Bool {
        guard isReturning(number), let index = departed.index(of: number) else { return false }
        return departed[index].returns == attempt
    }

    /// The disk is still the one that is being made equal.
    private func isReturning(_ number: DiskNumber) -> Bool {
        guard !engine.isStopped, !hasEnded, !isClosing, readOnlyReason == nil else { return false }
        return departed.index(of: number).map { departed[$0].phase == .returning } ?? false
    }

    // MARK: - metadata

    private func copyPages(to number: DiskNumber) async -> Bool {
        // Replay writes pages that a crash left behind on some copy: not while they are copied.
        for page in overlay.pageNumbers { try? await loadValues(page: page) }
        guard isReturning(number), let index = departed.index(of: number) else { return false }
        departed[index].takesPages = true
        // From here on it misses no more of them. Those that are granted meanwhile are written whole.
        let missed = departed[index].missedPages
        if Mutant.isActive(.keepStaleMetadata) { return true }
        // No other root is written meanwhile.
        await checkpointLock.acquire(engine)
        let isRootCopied = await copyPiece(rootCopies, Self.rootBlocks, to: number)
        checkpointLock.release()
        guard isRootCopied else { return false }
        for name in pieces.names {
            let blocks = missed.blocks(of: name)
            if blocks.isEmpty { continue }
            // A step that began without the disk has to end first; and a piece may lie elsewhere now.
            await checkpointLock.acquire(engine)
            let isCopied = await copyPiece(
                pieces.copies(of: name), blocks, ofPages: missed.isEverything ? nil : name,
                to: number)
            checkpointLock.release()
            guard isCopied else { return false }
        }
        return true
    }

    private func copyJournal(to number: DiskNumber) async -> Bool {
        await commitLock.acquire(engine)
        defer { commitLock.release() }
        guard let index = departed.index(of: number) else { return false }
        let isWhole = departed[index].missedPages.isEverything
        for (piece, copies) in journal.pieces.enumerated()
        where !Mutant.isActive(.keepStaleJournal) {
            let blocks = isWhole ? Self.allBlocks : journal.liveBlocks(ofPiece: piece)
            guard await copyPiece(copies, blocks, to: number) else { return false }
        }
        guard isReturning(number), let index = departed.index(of: number) else { return false }
        departed[index].takesJournal = true
        return true
    }

    /// Copies blocks of one piece from its current copies: what of it cannot be read from one is read
    /// from another, and what none can give stays as it is.
    ///
    /// - Parameter name: of a piece of pages whose older slots need not be copied.
    private func copyPiece(
        _ copies: [SlabGroups.Base], _ blocks: [Int], ofPages name: PieceName? = nil,
        to number: DiskNumber
    ) async -> Bool {
        guard isReturning(number) else { return false }
        if blocks.isEmpty { return true }
        guard let target = copies.first(where: { $0.disk == number }) else { return true }
        let sources = copies.filter { departed.isCurrent($0) }
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        var lacking = blocks
        for source in sources where !lacking.isEmpty {
            let isRead = try? await Pool.readBlocks(
                engine, source.device, at: source.offsetBytes, bytes: Units.pieceBytes,
                into: buffer
            ) { noteReadError(source.device) }
            guard let isRead else { return false }
            let readable = lacking.filter { isRead[$0] }
            lacking.removeAll { isRead[$0] }
            let needed = name.map { newer(readable, of: $0, in: buffer) } ?? readable
            guard await write(needed, of: buffer, to: target) else { return false }
        }
        return isReturning(number)
    }

    /// Blocks of a piece of pages, without those that are the older of two right slots. Two of the
    /// same sequence are both needed: either may be taken for the newer one.
    private func newer(_ blocks: [Int], of name: PieceName, in buffer: Int) -> [Int] {
        blocks.filter { block in
            let (page, slot) = (block / 2, block % 2)
            let sequences = inspectPair(
                name.kind, name.index * UInt32(MetadataPage.pagesPerPiece) + UInt32(page),
                buffer + 2 * page * Units.blockBytes
            ).sequences
            guard let this = sequences[slot], let other = sequences[1 - slot] else { return true }
            return Mutant.isActive(.copyOlderSlots) ? this <= other : this >= other
        }
    }

    private static let allBlocks = Array(0..<Units.pieceBytes / Units.blockBytes)
    private static let rootBlocks = Array(0..<2 * SpaceRoot.slotBytes / Units.blockBytes)

    private func write(_ blocks: [Int], of buffer: Int, to target: SlabGroups.Base) async -> Bool {
        let io = IOBatch(engine)
        for run in Self.runs(of: blocks) {
            let offset = run.lowerBound * Units.blockBytes
            io.write(
                target.device, at: target.offsetBytes + UInt64(offset),
                bytes: run.count * Units.blockBytes, from: buffer + offset)
        }
        if await writeUnflushed(io) { return true }
        await failDevices(io.devices(with: .ioError), during: "resync")
        return false
    }

    static func runs(of blocks: [Int]) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        for block in blocks {
            if let last = runs.last, last.upperBound == block {
                runs[runs.count - 1] = last.lowerBound..<block + 1
            } else {
                runs.append(block..<block + 1)
            }
        }
        return runs
    }

    // MARK: - data

    private func copyMissed(to number: DiskNumber) async -> Bool {
        guard let index = departed.index(of: number) else { return false }
        for grain in departed[index].missed.grains {
            guard isReturning(number) else { return false }
            guard await copyMissed(grain, to: number) else { return false }
        }
        return isReturning(number)
    }

    /// What the disk has been given. Until that is flushed it may still lose it.
    private func copiedGrains(_ number: DiskNumber) -> Set<UInt64>? {
        departed.index(of: number).map { departed[$0].copied }
    }

    private func hasMissed(_ number: DiskNumber) -> Bool {
        departed.index(of: number).map { !departed[$0].missed.isEmpty } ?? false
    }

    /// What was copied is flushed; of it whatever was not missed anew is the disk's.
    private func forget(_ grains: Set<UInt64>, _ number: DiskNumber) {
        guard let index = departed.index(of: number) else { return }
        for grain in departed[index].copied.intersection(grains).sorted() {
            departed[index].missed.remove(grain: grain)
        }
        departed[index].copied.subtract(grains)
    }

    /// - Returns: false when the disk cannot be made equal now.
    private func copyMissed(_ grain: UInt64, to number: DiskNumber) async -> Bool {
        let mayGoOn = { self.isReturning(number) }
        while true {
            // Of a simple space there is nothing to copy from, and nothing was written without it.
            guard isRedundant, grain < UInt64(map.grainCount), map[grain].isMapped,
                pieces.has(.checksum, page: ChecksumPage.index(ofGrain: grain)),
                !Mutant.isActive(.skipMissed)
            else {
                noteCopied(grain, number)
                return true
            }
            guard await isReadyToCopy(grain, mayGoOn), let held = await hold(grain, mayGoOn) else {
                return false
            }
            let outcome = await copyHeld(grain, to: number)
            // While its range is held: a move of it after this is seen.
            if outcome == .done { noteCopied(grain, number) }
            letGo(held)
            switch outcome {
            case .done: return true
            case .again: continue
            case .failed: return false
            }
        }
    }

    private enum Copied { case done, again, failed }

    private func noteCopied(_ grain: UInt64, _ number: DiskNumber) {
        guard let index = departed.index(of: number) else { return }
        departed[index].copied.insert(grain)
    }

    private func copyHeld(_ grain: UInt64, to number: DiskNumber) async -> Copied {
        let entry = map[grain]
        guard entry.isMapped else { return .done }
        guard let values = stripeValues(grain) else { return .again }
        guard let index = departed.index(of: number),
            let missed = departed[index].missed.mask(ofGrain: grain)
        else { return .done }
        if isParity { return await copyColumn(grain, entry, values, to: number) }
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        let blocks = placed(entry, on: number).filter {
            missed.contains($0) && values[$0] != BlockValue.unwritten
        }
        guard !blocks.isEmpty else { return .done }
        guard let right = await readRight(grain, entry, blocks, values, into: buffer) else {
            return .failed
        }
        counters.lostBlocks += UInt64(blocks.count - right.count)
        // Where nothing tells what is there from what should be, or what does not match is served all
        // the same, the disk would count with what it had before.
        if right.count < blocks.count, !hasChecksums || regions.acceptsMismatch(grain) {
            return .failed
        }
        return await write(right, of: buffer, entry, to: number) ? .done : .failed
    }

    /// A column that was written without the disk is made anew, whole: what it lacks of a stripe it
    /// lacks for good.
    private func copyColumn(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32], to number: DiskNumber
    ) async -> Copied {
        guard let shape = groups[entry.group]?.shape else { return .done }
        for column in 0..<shape.width {
            let base = groups.base(entry, column: column)
            guard base.disk == number else { continue }
            if column >= shape.columns, Mutant.isActive(.resyncSkipsParity) { continue }
            switch await writeColumn(column, of: grain, entry, values, to: base) {
            case .done: continue
            case .incomplete where hasChecksums: continue
            case .incomplete, .failed: return .failed
            }
        }
        return .done
    }

    /// The grain's blocks of which a copy lies on the disk.
    private func placed(_ entry: GrainMap.Entry, on number: DiskNumber) -> [Int] {
        var blocks: [Int] = []
        groups.forEachColumn(
            entry, offsetBytes: 0, lengthBytes: Units.grainBytes
        ) { bases, position, bytes in
            guard bases.contains(where: { $0.disk == number }) else { return }
            let first = position / Units.blockBytes
            blocks += Array(first..<first + bytes / Units.blockBytes)
        }
        return blocks
    }

    /// Reads blocks from copies that count, run by run, and what does not match block by block.
    ///
    /// - Returns: those that are right; nil: the engine has stopped.
    func readRight(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ blocks: [Int], _ values: [UInt32],
        into buffer: Int
    ) async -> [Int]? {
        let io = IOBatch(engine)
        var read: [(run: Range<Int>, operations: Range<Int>)] = []
        var operations = 0
        for run in Self.runs(of: blocks) {
            guard let copy = (0..<copies).first(where: { isCurrent(entry, copy: $0, blocks: run) })
            else { continue }
            let first = operations
            groups.forEachRun(
                entry, copy: copy, offsetBytes: run.lowerBound * Units.blockBytes,
                lengthBytes: run.count * Units.blockBytes
            ) { base, position, bytes in
                io.read(
                    base.device, at: base.offsetBytes, bytes: bytes,
                    into: buffer + run.lowerBound * Units.blockBytes + position)
                operations += 1
            }
            read.append((run, first..<operations))
        }
        _ = await io.run()
        if engine.isStopped { return nil }
        var isRead: Set<Int> = []
        for (run, operations) in read
        where operations.allSatisfy({ io.statuses[$0] == .ok }) { isRead.formUnion(run) }
        var right: [Int] = []
        for block in blocks {
            let target = buffer + block * Units.blockBytes
            let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
            let isUnverified = !hasChecksums || Mutant.isActive(.resyncUnverified)
            if isRead.contains(block), isUnverified || blockValue(target, number) == values[block] {
                right.append(block)
            } else if await readBlock(grain, entry, block, value: values[block], into: target) {
                right.append(block)
            }
            if engine.isStopped { return nil }
        }
        return right
    }

    private func write(
        _ blocks: [Int], of buffer: Int, _ entry: GrainMap.Entry, to number: DiskNumber
    ) async -> Bool {
        let io = IOBatch(engine)
        for run in Self.runs(of: blocks) {
            for copy in 0..<copies {
                groups.forEachRun(
                    entry, copy: copy, offsetBytes: run.lowerBound * Units.blockBytes,
                    lengthBytes: run.count * Units.blockBytes
                ) { base, position, bytes in
                    guard base.disk == number else { return }
                    io.write(
                        base.device, at: base.offsetBytes, bytes: bytes,
                        from: buffer + run.lowerBound * Units.blockBytes + position)
                }
            }
        }
        if await writeUnflushed(io) {
            counters.resyncedBlocks += UInt64(blocks.count)
            return true
        }
        await failDevices(io.devices(with: .ioError), during: "resync")
        return false
    }
}
