import PoolFormat

/// Writes: whole blocks, in place, to all copies at once.
///
/// Why a crash at any point is safe: over durably UNWRITTEN blocks nothing that lands is readable
/// before its record is durable; over anything else the region is durably dirty, so recovery makes
/// the copies equal and accepts either value.
extension Space {
    func prepareWrite(_ request: RequestIndex) {
        guard readOnlyReason == nil else { return finish(request, .ioError) }
        guard isSettled(request), hasRoom(request),
            let frame = valuesFrame(request, forWrite: true),
            let entry = mappedGrain(request, values: frame),
            isFilled(request, entry, frame), isMarked(request, values: frame)
        else { return }
        startWrite(request, entry, frame)
    }

    private func startWrite(_ request: RequestIndex, _ entry: GrainMap.Entry, _ frame: Int32) {
        table[request].state = .transferring
        table[request].frame = frame
        frames[frame].pins += 1
        let region = DirtyRegions.region(ofGrain: table[request].grain)
        regions[region].writesInFlight += 1
        reservedBlocks += Int(table[request].blockCount)
        computeValues(request)
        sendLegs(request, entry, .write, copies: 0...(copies - 1))
    }

    /// Now, while the bytes are hot in the cache.
    private func computeValues(_ request: RequestIndex) {
        let first =
            table[request].grain * UInt64(Units.blocksPerGrain) + UInt64(table[request].firstBlock)
        for position in 0..<Int(table[request].blockCount) {
            let offset = table[request].bufferOffset + position * Units.blockBytes
            table.setValue(
                request, position,
                hasChecksums ? blockValue(offset, first + UInt64(position)) : BlockValue.present)
        }
    }

    /// Sends the request's blocks to, or reads them from, a range of copies.
    func sendLegs(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ kind: DeviceOperation.Kind,
        copies: ClosedRange<Int>
    ) {
        var leg = 0
        forEachLeg(request, entry, copies) { base, position, bytes in
            engine.operations.append(
                DeviceOperation(
                    kind: kind, device: base.device, token: Token.make(request: request, leg: leg),
                    offsetBytes: base.offsetBytes, lengthBytes: UInt64(bytes),
                    bufferOffset: table[request].bufferOffset + position))
            leg += 1
        }
        table[request].legsOutstanding = UInt16(leg)
    }

    @inline(__always)
    private func forEachLeg(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ copies: ClosedRange<Int>,
        _ body: (SlabGroups.Base, _ position: Int, _ bytes: Int) -> Void
    ) {
        for copy in copies {
            groups.forEachRun(
                entry, copy: copy, offsetBytes: Int(table[request].firstBlock) * Units.blockBytes,
                lengthBytes: Int(table[request].blockCount) * Units.blockBytes, body)
        }
    }

    /// A leg failed: counts it against its disk.
    func noteFailedLeg(_ request: RequestIndex, leg: Int) {
        table[request].deviceFailed = true
        guard table[request].state == .transferring else { return }
        let isRead = table[request].kind == .read
        let copy = Int(table[request].copy)
        var position = 0
        forEachLeg(request, map[table[request].grain], isRead ? copy...copy : 0...(copies - 1)) {
            base, _, _ in
            if position == leg {
                isRead ? noteReadError(base.device) : failedWriteDevices.insert(base.device)
            }
            position += 1
        }
    }

    func finishWrite(_ request: RequestIndex) {
        let grain = table[request].grain
        let region = DirtyRegions.region(ofGrain: grain)
        let frame = table[request].frame
        frames[frame].pins -= 1
        engine.frameReleased.fire()
        regions[region].writesInFlight -= 1
        reservedBlocks -= Int(table[request].blockCount)
        guard !table[request].deviceFailed else { return failWrite(request, region) }

        regions[region].coveredBy = startedCommits + 1
        regions[region].lastWriteNs = engine.nowNs
        forEachLeg(request, map[grain], 0...(copies - 1)) { base, _, _ in
            unflushedDevices.insert(base.device)
        }
        let first = Int(table[request].firstBlock)
        for position in 0..<Int(table[request].blockCount) {
            changeValue(grain, first + position, table.value(request, position), frame)
        }
        if !roomWaiters.isEmpty {
            // What it reserved is pending now, or nothing had to be recorded and there is room.
            pending.isEmpty ? wake(&roomWaiters) : wantCommit()
        }
        finish(request, .ok)
    }

    /// Every value change goes through here: the durable value is remembered until the new one is.
    func changeValue(_ grain: UInt64, _ block: Int, _ value: UInt32, _ frame: Int32) {
        let image = unsafe PageImage(frames.image(frame))
        let before = ChecksumPage.value(image, grain: grain, block: block)
        // Without checksums an overwrite changes nothing that has to be recorded.
        guard before != value || hasChecksums else { return }
        let key = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
        if pending.blocks.insert(key, old: UInt64(before)) {
            frames[frame].unflushed += 1
        }
        ChecksumPage.setValue(image, grain: grain, block: block, value)
        frames.markDirty(frame, since: firstUnwrittenSequence)
    }

    /// A copy did not take the write. Nobody knows what it holds now: the region stays suspect, the
    /// spaces on that disk become read-only durably, and only then is the error told.
    private func failWrite(_ request: RequestIndex, _ region: UInt64) {
        wake(&roomWaiters)
        regions[region].isSuspect = true
        table[request].state = .detour
        let devices = failedWriteDevices
        failedWriteDevices = DeviceSet()
        background { space in
            await space.failDevices(devices, during: "write")
            space.finish(request, .ioError)
        }
    }

    func failDevices(_ devices: DeviceSet, during what: String) async {
        if engine.isStopped { return }
        await pool.devicesFailed(devices, during: what, from: engine)
        if readOnlyReason == nil { becomeReadOnly("a disk failed during a \(what)") }
    }

    // MARK: - edges of unaligned writes

    /// The blocks at an unaligned write's edges hold what they held before, outside the payload.
    private func isFilled(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ frame: Int32
    ) -> Bool {
        let hasHead = table[request].headIsPartial
        let hasTail = table[request].tailIsPartial
        if table[request].isFilled || !(hasHead || hasTail) { return true }
        let last = Int(table[request].blockCount) - 1
        let readsHead = hasHead && edgeValue(request, 0, frame) != BlockValue.unwritten
        let readsTail =
            hasTail && !(hasHead && last == 0)
            && edgeValue(request, last, frame) != BlockValue.unwritten
        if readsHead, table[request].headScratch < 0 {
            guard let page = engine.scratch.takePage(orPark: request) else {
                table[request].state = .parked
                return false
            }
            table[request].headScratch = page
        }
        if readsTail, table[request].tailScratch < 0 {
            guard let page = engine.scratch.takePage(orPark: request) else {
                table[request].state = .parked
                return false
            }
            table[request].tailScratch = page
        }
        guard readsHead || readsTail else {
            mergeEdges(request)
            table[request].isFilled = true
            return true
        }
        table[request].state = .detour
        // Now, not when the slow path begins: it begins later.
        frames[frame].pins += 1
        background { await $0.fillEdges(request, entry, frame) }
        return false
    }

    private func edgeValue(_ request: RequestIndex, _ position: Int, _ frame: Int32) -> UInt32 {
        ChecksumPage.value(
            unsafe PageImage(frames.image(frame)), grain: table[request].grain,
            block: Int(table[request].firstBlock) + position)
    }

    /// Reads and verifies the edge blocks, whose frame the caller pinned, then goes back to `prepare`.
    private func fillEdges(
        _ request: RequestIndex, _ entry: GrainMap.Entry, _ frame: Int32
    ) async {
        let grain = table[request].grain
        let first = Int(table[request].firstBlock)
        let last = Int(table[request].blockCount) - 1
        var isRight = true
        if table[request].headScratch >= 0 {
            isRight = await readBlock(
                grain, entry, first, value: edgeValue(request, 0, frame),
                into: table[request].headScratch)
        }
        if table[request].tailScratch >= 0, isRight {
            isRight = await readBlock(
                grain, entry, first + last, value: edgeValue(request, last, frame),
                into: table[request].tailScratch)
        }
        frames[frame].pins -= 1
        engine.frameReleased.fire()
        guard isRight else { return finish(request, .ioError) }
        mergeEdges(request)
        giveScratch(request)
        table[request].isFilled = true
        table[request].state = .parked
        engine.runnable.append(request)
    }

    /// Puts what surrounds the payload into its first and last block: the scratch page's bytes
    /// where there is one, else zeros.
    private func mergeEdges(_ request: RequestIndex) {
        let head = Int(table[request].offsetBytes % 4096)
        let buffer = table[request].bufferOffset
        if head > 0 {
            fill(buffer, head, from: table[request].headScratch, at: 0)
        }
        let end = head + Int(table[request].lengthBytes)
        let tail = (4096 - end % 4096) % 4096
        if tail > 0 {
            let isSameBlock = table[request].blockCount == 1
            let scratch = isSameBlock && head > 0
                ? table[request].headScratch : table[request].tailScratch
            fill(buffer + end, tail, from: scratch, at: 4096 - tail)
        }
    }

    private func fill(_ target: Int, _ count: Int, from scratch: Int, at offset: Int) {
        let bytes = unsafe engine.arena.bytes(target, count)
        if scratch >= 0 {
            unsafe bytes.copyMemory(
                from: UnsafeRawBufferPointer(engine.arena.bytes(scratch + offset, count)))
        } else {
            unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
        }
    }
}
