import PoolFormat

/// Reads: UNWRITTEN blocks are zeros whatever the disks hold; every other block is compared with
/// its value; what one copy cannot answer, another does.
extension Space {
    func prepareRead(_ request: RequestIndex) {
        guard isSettled(request) else { return }
        let grain = table[request].grain
        let entry = map[grain]
        let page = ChecksumPage.index(ofGrain: grain)
        guard entry.isMapped, pieces.has(.checksum, page: page) else {
            zeroBlocks(request, 0..<Int(table[request].blockCount))
            return finish(request, .ok)
        }
        guard let frame = valuesFrame(request, forWrite: false) else { return }
        guard expectValues(request, frame) else {
            zeroBlocks(request, 0..<Int(table[request].blockCount))
            return finish(request, .ok)
        }
        if isParity, readsCache(request) { return }
        guard let copy = readableCopy(request, entry) else {
            table[request].state = .detour
            return background { await $0.readBlockByBlock(request) }
        }
        table[request].copy = UInt8(copy)
        table[request].state = .transferring
        sendLegs(request, entry, .read, copies: copy...copy)
        noteSent(request)
    }

    /// Notes the values the blocks must have; false: all are UNWRITTEN.
    private func expectValues(_ request: RequestIndex, _ frame: Int32) -> Bool {
        let image = unsafe PageImage(frames.image(frame))
        let (grain, first) = (table[request].grain, Int(table[request].firstBlock))
        var hasData = false
        for position in 0..<Int(table[request].blockCount) {
            let value = ChecksumPage.value(image, grain: grain, block: first + position)
            table.setValue(request, position, value)
            if value != BlockValue.unwritten { hasData = true }
        }
        return hasData
    }

    /// Spreads reads over the copies: neighbouring regions differ, so sequential runs stay whole.
    func nextReadCopy(_ grain: UInt64) -> Int {
        copies == 1 ? 0 : Int(DirtyRegions.region(ofGrain: grain) % UInt64(copies))
    }

    /// None of the copy's disks in the range is away: one that has missed a write is never read.
    func isCurrent(_ entry: GrainMap.Entry, copy: Int, blocks: Range<Int>) -> Bool {
        if departed.isEmpty { return true }
        var isCurrent = true
        groups.forEachRun(
            entry, copy: copy, offsetBytes: blocks.lowerBound * Units.blockBytes,
            lengthBytes: blocks.count * Units.blockBytes
        ) { base, _, _ in
            if !departed.isCurrent(base) { isCurrent = false }
        }
        return isCurrent
    }

    func finishRead(_ request: RequestIndex) {
        noteAnswered(request)
        if !table[request].deviceFailed, allMatch(request) { return finish(request, .ok) }
        table[request].state = .detour
        if table[request].isCached { return background { await $0.readMixed(request) } }
        background { await $0.readBlockByBlock(request) }
    }

    private func allMatch(_ request: RequestIndex) -> Bool {
        let first = table[request].grain * UInt64(Units.blocksPerGrain)
            + UInt64(table[request].firstBlock)
        for position in 0..<Int(table[request].blockCount) {
            let offset = table[request].bufferOffset + position * Units.blockBytes
            guard matches(table.value(request, position), first + UInt64(position), at: offset)
            else { return false }
        }
        return true
    }

    func allMatch(_ values: [UInt32], firstBlock: UInt64, at buffer: Int) -> Bool {
        values.indices.allSatisfy {
            matches(values[$0], firstBlock + UInt64($0), at: buffer + $0 * Units.blockBytes)
        }
    }

    /// Compares a block with its value; zeroes one that is UNWRITTEN.
    @inline(__always)
    private func matches(_ value: UInt32, _ block: UInt64, at offset: Int) -> Bool {
        if value == BlockValue.unwritten {
            unsafe engine.arena.bytes(offset, Units.blockBytes)
                .initializeMemory(as: UInt8.self, repeating: 0)
            return true
        }
        return !hasChecksums || blockValue(offset, block) == value
    }

    @inline(__always)
    func blockValue(_ bufferOffset: Int, _ block: UInt64) -> UInt32 {
        unsafe Checksum.blockValue(
            UnsafeRawBufferPointer(engine.arena.bytes(bufferOffset, Units.blockBytes)),
            lineage: lineage, block: block)
    }

    func zeroBlocks(_ request: RequestIndex, _ positions: Range<Int>) {
        let offset = table[request].bufferOffset + positions.lowerBound * Units.blockBytes
        unsafe engine.arena.bytes(offset, positions.count * Units.blockBytes)
            .initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// The slow way: for each block whichever copy matches its value.
    ///
    /// Where none does, a region with an interrupted write serves the first copy that could be
    /// read, as it is, unless that may have lost an acknowledged one; everywhere else the read fails.
    private func readBlockByBlock(_ request: RequestIndex) async {
        counters.repairedReads += 1
        let entry = map[table[request].grain]
        if isParity { return finish(request, await readStripe(request, entry)) }
        var status = RequestStatus.ok
        for position in 0..<Int(table[request].blockCount) {
            let value = table.value(request, position)
            if value == BlockValue.unwritten {
                zeroBlocks(request, position..<position + 1)
                continue
            }
            let block = Int(table[request].firstBlock) + position
            let target = table[request].bufferOffset + position * Units.blockBytes
            if await !readBlock(table[request].grain, entry, block, value: value, into: target) {
                status = .ioError
            }
        }
        finish(request, status)
    }

    /// One block from the copy that matches its value. False: no copy has the right bytes.
    ///
    /// A copy on a disk that is away comes behind: where it has missed nothing it is right. So it is,
    /// after a crash, where it matches: then it is known of regions only that something was missed.
    func readBlock(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ block: Int, value: UInt32, into target: Int,
        isRepairing: Bool = false
    ) async -> Bool {
        if isParity { return await readStripeBlock(grain, entry, block, value: value, into: target) }
        let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
        let io = IOBatch(engine)
        var firstReadable: Int?
        var isWrongSomewhere = false
        // Asked for one by one: a disk may begin to count, or cease to, while another is read.
        var tried: Set<Int> = []
        while let copy = copyToRead(entry, grain: grain, block: block, except: tried) {
            tried.insert(copy)
            let device = addBlockRead(io, entry, copy: copy, block: block, into: target)
            guard await io.run() else {
                if !engine.isStopped { noteReadError(device) }
                isWrongSomewhere = true
                continue
            }
            if !hasChecksums || blockValue(target, number) == value {
                if isWrongSomewhere, !isRepairing { repairLater(grain) }
                return true
            }
            if firstReadable == nil { firstReadable = copy }
            isWrongSomewhere = true
            if !regions.acceptsMismatch(grain), !isRepairing { noteChecksumError(device) }
        }
        for copy in copiesMadeEqual(entry, block, except: tried)
        where hasChecksums && !regions.acceptsMismatch(grain) {
            _ = addBlockRead(io, entry, copy: copy, block: block, into: target)
            if await io.run(), blockValue(target, number) == value {
                if !isRepairing { repairLater(grain) }
                return true
            }
        }
        guard let copy = firstReadable, regions.acceptsMismatch(grain),
            doubtful.isEmpty || !doubtful.intersects(grain: grain, MissedBlocks.Mask(block..<block + 1))
        else { return false }
        _ = addBlockRead(io, entry, copy: copy, block: block, into: target)
        return await io.run()
    }

    /// One that counts; else one on a disk that is away, and has missed nothing of it.
    private func copyToRead(
        _ entry: GrainMap.Entry, grain: UInt64, block: Int, except tried: Set<Int>
    ) -> Int? {
        let untried = (0..<copies).filter { !tried.contains($0) }
        if departed.isEmpty { return untried.first }
        let (mask, bases) = (MissedBlocks.Mask(block..<block + 1), bases(of: block, entry))
        return untried.first { departed.isCurrent(bases[$0]) }
            ?? untried.first { departed.isRight(bases[$0], grain: grain, mask) }
    }

    /// The others, on disks that are being made equal.
    private func copiesMadeEqual(
        _ entry: GrainMap.Entry, _ block: Int, except tried: Set<Int>
    ) -> [Int] {
        if tried.count == copies { return [] }
        let bases = bases(of: block, entry)
        return bases.indices.filter { !tried.contains($0) && departed.takesData(bases[$0]) }
    }

    private func addBlockRead(
        _ io: IOBatch, _ entry: GrainMap.Entry, copy: Int, block: Int, into target: Int
    ) -> DeviceIndex {
        let base = bases(of: block, entry)[copy]
        io.read(base.device, at: base.offsetBytes, bytes: Units.blockBytes, into: target)
        return base.device
    }

    /// Where each copy of a block lies.
    func bases(of block: Int, _ entry: GrainMap.Entry) -> [SlabGroups.Base] {
        var bases: [SlabGroups.Base] = []
        for copy in 0..<copies {
            groups.forEachRun(
                entry, copy: copy, offsetBytes: block * Units.blockBytes,
                lengthBytes: Units.blockBytes
            ) { base, _, _ in bases.append(base) }
        }
        return bases
    }
}
