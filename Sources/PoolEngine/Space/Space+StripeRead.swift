import PoolFormat

/// Parity grains are read as others are, a column where it lies; what is away, cannot be read or does
/// not match its value is solved from the rest of its row.
///
/// What is solved is compared with its value like everything else: parities have none of their own,
/// so a wrong one shows in that. Where there are two and one block is missing each is tried. Blocks
/// that were trimmed have no value, and count in their row as the bytes that they were: whoever
/// writes a column anew writes them, too.
extension Space {
    /// What is there of a parity grain's column is what was last written to the grain.
    func holdsColumn(_ base: SlabGroups.Base, _ grain: UInt64) -> Bool {
        departed.isCurrent(base) || departed.isRight(base, grain: grain, .all)
            || Mutant.isActive(.solveFromReturning) && departed.takesData(base)
    }

    /// Columns of a parity grain that may be lost before something of it is. Below 0: it is.
    func spareColumns(_ entry: GrainMap.Entry) -> Int {
        guard let shape = groups[entry.group]?.shape else { return -1 }
        if departed.isEmpty { return shape.parityColumns }
        let current = (0..<shape.width).count {
            departed.isCurrent(groups.base(entry, column: $0))
        }
        return current - shape.columns
    }

    /// Reads valid blocks of a grain that is held, or read by whoever calls.
    ///
    /// - Parameters:
    ///   - values: of all 256 blocks of the grain.
    ///   - origin: where in the arena the grain's first byte would be.
    ///   - solving: what is not read as it should be is solved.
    ///   - isExpected: that something does not match says nothing against its disk.
    /// - Returns: the blocks that are right; nil: the engine has stopped.
    func readStripe(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ blocks: [Int], _ values: [UInt32],
        at origin: Int, solving: Bool = true, isExpected: Bool = false
    ) async -> [Int]? {
        var (right, wrong, isUnreadable) = await readDirectly(
            grain, entry, blocks, values, at: origin)
        if engine.isStopped { return nil }
        if !isExpected { wrong.forEach { noteChecksumError($0) } }
        guard right.count < blocks.count, solving else { return right }
        let found = Set(right)
        let wanted = blocks.filter { !found.contains($0) }
        guard let solved = await solve(grain, entry, wanted, values, at: origin) else { return nil }
        right += solved
        if isUnreadable || !wrong.isEmpty, !isExpected { repairLater(grain) }
        return right.sorted()
    }

    /// - Returns: those of the wanted blocks that could be had; nil: the engine has stopped.
    private func solve(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ wanted: [Int], _ values: [UInt32],
        at origin: Int
    ) async -> [Int]? {
        guard let shape = groups[entry.group]?.shape else { return nil }
        let rowCount = shape.unitBytes / Units.blockBytes
        let rows = Set(wanted.map { $0 % rowCount }).sorted()
        let rowsOfBand = ScratchBuffers.bandBytes / (shape.width * Units.blockBytes)
        guard rows.count <= 2 * rowsOfBand else {
            let (data, parity) = await engine.scratch.takeStripe()
            defer { engine.scratch.giveStripe(data, parity) }
            if engine.isStopped { return nil }
            let image = StripeImage(shape, data: data, parity: parity)
            return await solve(image, grain, entry, wanted, values, rows: rows, at: origin)
        }
        // Few rows take little memory: many reads of a few blocks are solved at a time.
        var solved: [Int] = []
        for run in Self.runs(of: rows) {
            for first in stride(from: run.lowerBound, to: run.upperBound, by: rowsOfBand) {
                let part = first..<min(first + rowsOfBand, run.upperBound)
                let band = await engine.scratch.takeBand()
                defer { engine.scratch.giveBand(band) }
                if engine.isStopped { return nil }
                let image = StripeImage(shape, rows: part, band: band)
                let found = await solve(
                    image, grain, entry, wanted, values, rows: Array(part), at: origin)
                guard let found else { return nil }
                solved += found
            }
        }
        return solved
    }

    private func solve(
        _ empty: StripeImage, _ grain: UInt64, _ entry: GrainMap.Entry, _ wanted: [Int],
        _ values: [UInt32], rows: [Int], at origin: Int
    ) async -> [Int]? {
        var image = empty
        guard await load(&image, grain, entry, values, rows: rows) else { return nil }
        let isLoaded = Set(rows)
        let found = wanted.filter {
            isLoaded.contains(image.row(ofBlock: $0)) && image.blocks[$0].isThere
        }
        for block in found {
            unsafe arena.bytes(origin + block * Units.blockBytes, Units.blockBytes).copyMemory(
                from: UnsafeRawBufferPointer(
                    arena.bytes(image.offset(ofBlock: block), Units.blockBytes)))
        }
        return found
    }

    /// What a request asks for of the stripe; its blocks' values are in its record.
    func readStripe(_ request: RequestIndex, _ entry: GrainMap.Entry) async -> RequestStatus {
        let (grain, first) = (table[request].grain, Int(table[request].firstBlock))
        var values = valuesOrUnknown(grain)
        var wanted: [Int] = []
        let isCached = cache.has(grain: grain)
        for position in 0..<Int(table[request].blockCount) {
            let number = grain * UInt64(Units.blocksPerGrain) + UInt64(first + position)
            if isCached, cache.slot(ofBlock: number) != nil { continue }
            values[first + position] = table.value(request, position)
            if values[first + position] == BlockValue.unwritten {
                zeroBlocks(request, position..<position + 1)
            } else {
                wanted.append(first + position)
            }
        }
        let origin = table[request].bufferOffset - first * Units.blockBytes
        let right = await readStripe(grain, entry, wanted, values, at: origin)
        return right?.count == wanted.count ? .ok : .ioError
    }

    func readStripeBlock(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ block: Int, value: UInt32, into target: Int
    ) async -> Bool {
        let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
        if let slot = cache.slot(ofBlock: number) {
            return await readSlot(slot, block: number, value: value, into: target)
        }
        var values = valuesOrUnknown(grain)
        values[block] = value
        let origin = target - block * Units.blockBytes
        return await readStripe(grain, entry, [block], values, at: origin)?.count == 1
    }

    /// Of what lies in the stripe. Without its page in memory a block is like one that has no value: it
    /// is not known to be wrong.
    private func valuesOrUnknown(_ grain: UInt64) -> [UInt32] {
        stripeValues(grain)
            ?? Array(repeating: BlockValue.unwritten, count: Units.blocksPerGrain)
    }

    /// Whatever of the blocks lies on columns that count, and matches; and the devices where some does
    /// not.
    private func readDirectly(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ blocks: [Int], _ values: [UInt32], at origin: Int
    ) async -> (right: [Int], wrong: DeviceSet, isUnreadable: Bool) {
        let io = IOBatch(engine)
        var reads: [(device: DeviceIndex, blocks: Range<Int>)] = []
        for run in Self.runs(of: blocks) {
            groups.forEachRun(
                entry, copy: 0, offsetBytes: run.lowerBound * Units.blockBytes,
                lengthBytes: run.count * Units.blockBytes
            ) { base, position, bytes in
                guard departed.isCurrent(base) else { return }
                let first = run.lowerBound + position / Units.blockBytes
                io.read(
                    base.device, at: base.offsetBytes, bytes: bytes,
                    into: origin + first * Units.blockBytes)
                reads.append((base.device, first..<first + bytes / Units.blockBytes))
            }
        }
        _ = await io.run()
        if engine.isStopped { return ([], DeviceSet(), false) }
        var right: [Int] = []
        var (wrong, isUnreadable) = (DeviceSet(), false)
        for ((device, run), status) in zip(reads, io.statuses) {
            guard status == .ok else {
                noteReadError(device)
                isUnreadable = true
                continue
            }
            let matching = run.filter {
                isRight(grain, $0, values[$0], at: origin + $0 * Units.blockBytes)
            }
            right += matching
            if matching.count < run.count { wrong.insert(device) }
        }
        return (right, wrong, isUnreadable)
    }

    private func isRight(_ grain: UInt64, _ block: Int, _ value: UInt32, at offset: Int) -> Bool {
        !hasChecksums || value == BlockValue.unwritten || Mutant.isActive(.stripeUnverified)
            || blockValue(offset, grain * UInt64(Units.blocksPerGrain) + UInt64(block)) == value
    }

    // MARK: - whole rows

    /// Reads rows of a stripe from the columns that hold them, and solves what it can of the rest.
    ///
    /// - Returns: false: the engine has stopped.
    func load(
        _ image: inout StripeImage, _ grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32],
        rows: [Int]
    ) async -> Bool {
        guard await read(&image, grain, entry, values, rows: rows) else { return false }
        for row in rows { solve(&image, grain, values, row: row) }
        let lost = rows.filter { row in
            image.columns(ofRow: row).contains {
                let block = image.block($0, row)
                return !image.blocks[block].isThere && values[block] != BlockValue.unwritten
            }
        }
        // After a crash it is known of regions only that some disk lacks something there, not which
        // one: those that are being made equal are believed as far as values say.
        guard !lost.isEmpty, image.asked.count < image.shape.width else { return true }
        let isBelieved = hasChecksums && !Mutant.isActive(.solveWithoutReturning)
        let isRead = await read(
            &image, grain, entry, values, rows: lost, fromReturning: isBelieved)
        guard isRead else { return false }
        for row in lost { solve(&image, grain, values, row: row) }
        return true
    }

    /// Reads the columns that were not asked before, and says of each block whether it is right.
    ///
    /// - Parameter fromReturning: also those that may have been written without their disks.
    func read(
        _ image: inout StripeImage, _ grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32],
        rows: [Int], fromReturning: Bool = false
    ) async -> Bool {
        let io = IOBatch(engine)
        var lacking: [(column: Int, rows: Range<Int>)] = []
        for column in 0..<image.shape.width {
            let base = groups.base(entry, column: column)
            guard !image.asked.contains(column),
                holdsColumn(base, grain) || fromReturning && departed.takesData(base)
            else { continue }
            image.asked.insert(column)
            let count = image.shape.rowCount(ofColumn: column)
            lacking += Self.runs(of: rows.filter { $0 < count }).map { (column, $0) }
        }
        // Where a run cannot be read as a whole it is read block by block.
        for isWhole in [true, false] {
            let parts = isWhole
                ? lacking : lacking.flatMap { run in run.rows.map { (run.column, $0..<$0 + 1) } }
            for (column, rows) in parts {
                let base = groups.base(entry, column: column)
                io.read(
                    base.device, at: base.offsetBytes + UInt64(rows.lowerBound * Units.blockBytes),
                    bytes: rows.count * Units.blockBytes,
                    into: image.offset(ofColumn: column, row: rows.lowerBound))
            }
            _ = await io.run()
            if engine.isStopped { return false }
            lacking.removeAll()
            for ((column, rows), status) in zip(parts, io.statuses) {
                if status == .ok {
                    judge(&image, grain, values, column: column, rows: rows)
                } else {
                    lacking.append((column, rows))
                }
            }
            if isWhole { io.devices(with: .ioError).forEach { noteReadError($0) } }
            if lacking.isEmpty { return true }
        }
        return true
    }

    private func judge(
        _ image: inout StripeImage, _ grain: UInt64, _ values: [UInt32], column: Int,
        rows: Range<Int>
    ) {
        for row in rows {
            guard column < image.shape.columns else {
                image.parities[column - image.shape.columns][row] = .unverified
                continue
            }
            judge(&image, grain, values, block: image.block(column, row))
        }
    }

    private func judge(
        _ image: inout StripeImage, _ grain: UInt64, _ values: [UInt32], block: Int
    ) {
        if values[block] == BlockValue.unwritten || !hasChecksums {
            image.blocks[block] = .unverified
        } else {
            let isRight = isRight(grain, block, values[block], at: image.offset(ofBlock: block))
            image.blocks[block] = isRight ? .right : .wrong
        }
    }

    /// Solves what is missing of a row, if that can be done.
    func solve(
        _ image: inout StripeImage, _ grain: UInt64, _ values: [UInt32], row: Int
    ) {
        let missing = image.columns(ofRow: row).filter {
            !image.blocks[image.block($0, row)].isThere
        }
        if missing.isEmpty { return }
        for (doubted, parities) in ways(image, row: row, missing: missing) {
            // Solved as if it were missing, too, and not believed for that.
            let offset = doubted.map { image.offset(ofBlock: image.block($0, row)) }
            let before = offset.map { unsafe Array(arena.bytes($0, Units.blockBytes)) }
            let unknown = missing + (doubted.map { [$0] } ?? [])
            guard image.solve(unknown, row: row, with: parities, in: arena) else { continue }
            for column in missing { judge(&image, grain, values, block: image.block(column, row)) }
            if missing.allSatisfy({ image.blocks[image.block($0, row)].isThere }) { return }
            if let offset, let before {
                unsafe arena.bytes(offset, Units.blockBytes).copyBytes(from: before)
            }
        }
    }

    /// What to try, one after the other: as few parities as it takes; where there are more, each; then
    /// without one of the blocks that nothing tells whether they are right.
    private func ways(
        _ image: StripeImage, row: Int, missing: [Int]
    ) -> [(doubted: Int?, parities: [Int])] {
        let known = image.parities.indices.filter { image.parities[$0][row].isThere }
        guard missing.count < known.count else {
            return missing.count == known.count ? [(nil, known)] : []
        }
        let single: [(Int?, [Int])] = known.map { (nil, [$0]) }
        guard hasChecksums else { return Array(single.prefix(1)) }
        let doubtful = image.columns(ofRow: row).filter {
            image.blocks[image.block($0, row)] == .unverified
        }
        return single + doubtful.map { ($0, known) }
    }
}
