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
        table[request].copy = UInt8(readableCopy(entry, after: nextReadCopy(grain)))
        table[request].state = .transferring
        sendLegs(request, entry, .read, copies: Int(table[request].copy)...Int(table[request].copy))
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
    private func nextReadCopy(_ grain: UInt64) -> Int {
        copies == 1 ? 0 : Int(DirtyRegions.region(ofGrain: grain) % UInt64(copies))
    }

    /// The first copy from `preferred` on whose disks have not failed; `preferred` if all have.
    private func readableCopy(_ entry: GrainMap.Entry, after preferred: Int) -> Int {
        if engine.failedDevices.isEmpty { return preferred }
        for step in 0..<copies where isReadable(entry, copy: (preferred + step) % copies) {
            return (preferred + step) % copies
        }
        return preferred
    }

    /// None of the copy's disks has failed: one that has missed a write is never read. A single
    /// copy has missed only what was told to be lost.
    func isReadable(_ entry: GrainMap.Entry, copy: Int) -> Bool {
        copies == 1 || engine.failedDevices.isDisjoint(with: devices(entry, copy: copy))
    }

    private func devices(_ entry: GrainMap.Entry, copy: Int) -> DeviceSet {
        var set = DeviceSet()
        groups.forEachRun(entry, copy: copy, offsetBytes: 0, lengthBytes: Units.grainBytes) {
            base, _, _ in set.insert(base.device)
        }
        return set
    }

    func finishRead(_ request: RequestIndex) {
        if !table[request].deviceFailed, allMatch(request) { return finish(request, .ok) }
        table[request].state = .detour
        background { await $0.readBlockByBlock(request) }
    }

    /// Compares every block with its value and zeroes the UNWRITTEN ones.
    private func allMatch(_ request: RequestIndex) -> Bool {
        let first = table[request].grain * UInt64(Units.blocksPerGrain)
        for position in 0..<Int(table[request].blockCount) {
            let value = table.value(request, position)
            if value == BlockValue.unwritten {
                zeroBlocks(request, position..<position + 1)
            } else if hasChecksums {
                let block = first + UInt64(table[request].firstBlock) + UInt64(position)
                let offset = table[request].bufferOffset + position * Units.blockBytes
                if blockValue(offset, block) != value { return false }
            }
        }
        return true
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
    /// read, as it is; everywhere else the read fails.
    private func readBlockByBlock(_ request: RequestIndex) async {
        counters.repairedReads += 1
        let entry = map[table[request].grain]
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
    func readBlock(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ block: Int, value: UInt32, into target: Int
    ) async -> Bool {
        let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
        let io = IOBatch(engine)
        var firstReadable: Int?
        for copy in 0..<copies where isReadable(entry, copy: copy) {
            let device = addBlockRead(io, entry, copy: copy, block: block, into: target)
            guard await io.run() else {
                if !engine.isStopped { noteReadError(device) }
                continue
            }
            if !hasChecksums || blockValue(target, number) == value { return true }
            if firstReadable == nil { firstReadable = copy }
            if !regions.acceptsMismatch(grain) { noteChecksumError(device) }
        }
        guard let copy = firstReadable, regions.acceptsMismatch(grain) else { return false }
        _ = addBlockRead(io, entry, copy: copy, block: block, into: target)
        return await io.run()
    }

    private func addBlockRead(
        _ io: IOBatch, _ entry: GrainMap.Entry, copy: Int, block: Int, into target: Int
    ) -> DeviceIndex {
        var device = DeviceIndex(0)
        groups.forEachRun(
            entry, copy: copy, offsetBytes: block * Units.blockBytes,
            lengthBytes: Units.blockBytes
        ) { base, position, bytes in
            io.read(base.device, at: base.offsetBytes, bytes: bytes, into: target + position)
            device = base.device
        }
        return device
    }
}
