import PoolFormat

/// Writes to a parity space: a stripe is never changed. Whatever is written to a grain goes, with the
/// rest of it, to a free one, which takes its place.
///
/// Order, each step complete before the next:
///
/// 1. The whole grain is held, by the request's range lock; a free one is taken.
/// 2. The blocks that the request does not write are read and compared with their values; UNWRITTEN
///    ones become zeros.
/// 3. All columns, parity included, are written to the free grain. Where a disk leaves meanwhile, or
///    comes back, this begins anew, once that is durable.
/// 4. Where the grain was mapped: flushed. The map's change is believed, whoever finds it.
/// 5. At one instant the map names the new place, and the blocks have their new values; each disk that
///    is away lacks the grain, and the same commit says so.
/// 6. The commit writes both as one record. Then the old place is discarded, and free.
///
/// So there is no write hole: what is durable never lies in a stripe that is being written. A crash
/// before 6 has ended finds the old place, of which every row is whole, or, where nothing was mapped,
/// UNWRITTEN blocks; after it the new one. Nothing has to be made equal, no region is ever dirty, and
/// a block that does not match its value is rot.
///
/// The last free grain of a space is for clients' writes to grains that are mapped, which give one
/// back: a pool that is full goes on taking them.
extension Space {
    /// Free grains that no unmapped grain may have.
    var relocationReserve: Int { Mutant.isActive(.takeLastStripe) ? 0 : groups.reserve }

    func prepareStripeWrite(_ request: RequestIndex) {
        if table[request].isCached { return prepareCachedWrite(request) }
        guard readOnlyReason == nil else { return finish(request, .ioError) }
        guard departing.isEmpty else { return park(request, on: &departureWaiters) }
        let grain = table[request].grain
        guard hasRoom(request), let frame = valuesFrame(request, forWrite: true) else { return }
        // Of a grain that was unmapped its page still says what it held.
        if !map[grain].isMapped { resetValues(grain, frame) }
        guard isFilled(request, map[grain], frame), let target = takeStripe(request) else { return }
        table[request].state = .detour
        table[request].frame = frame
        frames[frame].pins += 1
        stripesUnderWay += 1
        reservedBlocks += Units.blocksPerGrain
        unflushedLog.reserve(loggedBytes(request))
        // From here on the free grain is somebody's, whichever slabs its group has.
        let work = beginPlacedWork()
        computeValues(request)
        background { space in
            let status = await space.writeStripe(request, to: target, frame)
            space.endPlacedWork(work)
            if space.engine.isStopped { return }
            space.leave(request, frame)
            space.finish(request, status)
        }
    }

    /// nil: it is parked until there is one, or refused.
    private func takeStripe(_ request: RequestIndex) -> GrainMap.Entry? {
        let isMapped = map[table[request].grain].isMapped
        if isMapped || groups.freeGrains > relocationReserve, let entry = groups.allocate() {
            return entry
        }
        park(request, on: &grainWaiters)
        // What other writes have left is free once that is durable.
        if isMapped, hasFreedGrains || stripesUnderWay > 0 {
            wantCommit()
        } else if !isGrowing {
            isGrowing = true
            background { await $0.grow() }
        }
        return nil
    }

    private func leave(_ request: RequestIndex, _ frame: Int32) {
        stripesUnderWay -= 1
        frames[frame].pins -= 1
        engine.frameReleased.fire()
        reservedBlocks -= Units.blocksPerGrain
        unflushedLog.unreserve(loggedBytes(request))
        if !grainWaiters.isEmpty { wantCommit() }
        tellRoomWaiters()
    }

    /// Steps 2 to 5.
    private func writeStripe(
        _ request: RequestIndex, to target: GrainMap.Entry, _ frame: Int32
    ) async -> RequestStatus {
        let grain = table[request].grain
        let isWhole = Int(table[request].blockCount) == Units.blocksPerGrain
        let buffers = await engine.scratch.takeGrains(isWhole ? 1 : 2)
        defer { buffers.forEach { engine.scratch.give($0) } }
        guard !engine.isStopped, let shape = groups[target.group]?.shape else { return .shutdown }
        let image = StripeImage(
            shape, data: isWhole ? table[request].bufferOffset : buffers[1], parity: buffers[0])
        if !isWhole {
            guard await gather(request, frame, into: image.data) else {
                giveUpStripe(target)
                return engine.isStopped ? .shutdown : .ioError
            }
        }
        image.encode(0..<image.rowCount, in: arena)
        let isMapped = map[grain].isMapped
        guard await write(image, to: target, isFlushed: isMapped) != nil else {
            giveUpStripe(target)
            return engine.isStopped ? .shutdown : .ioError
        }
        // At once: whoever lacks it is away still.
        place(request, in: target, frame)
        return .ok
    }

    /// A free grain that nothing names.
    func giveUpStripe(_ target: GrainMap.Entry) {
        guard !engine.isStopped, groups[target.group] != nil else { return }
        groups.release(target)
        wake(&grainWaiters)
    }

    // MARK: - the bytes

    /// The grain as it will be: what the request writes, between what is there.
    private func gather(
        _ request: RequestIndex, _ frame: Int32, into buffer: Int
    ) async -> Bool {
        let (grain, blocks) = (table[request].grain, table[request].blocks)
        let image = unsafe PageImage(frames.image(frame))
        let values = (0..<Units.blocksPerGrain).map {
            ChecksumPage.value(image, grain: grain, block: $0)
        }
        guard await gather(grain, values, except: blocks, into: buffer) else { return false }
        let bytes = blocks.count * Units.blockBytes
        unsafe arena.bytes(buffer + blocks.lowerBound * Units.blockBytes, bytes).copyMemory(
            from: UnsafeRawBufferPointer(arena.bytes(table[request].bufferOffset, bytes)))
        return true
    }

    /// What is there of a grain that is held, but for some blocks: from its stripe, and from the cache.
    /// UNWRITTEN blocks become zeros.
    ///
    /// - Parameter acceptsLoss: what cannot be had is lost, unless a disk is away.
    func gather(
        _ grain: UInt64, _ values: [UInt32], except written: Range<Int>, into buffer: Int,
        acceptsLoss: Bool = true
    ) async -> Bool {
        let cached = Mutant.isActive(.rewriteIgnoresCache)
            ? [] : cache.slots(ofGrain: grain).filter { !written.contains($0.block) }
        let below = withoutCached(values, grain)
        let kept = below.indices.filter {
            !written.contains($0) && below[$0] != BlockValue.unwritten
        }
        unsafe arena.bytes(buffer, Units.grainBytes)
            .initializeMemory(as: UInt8.self, repeating: 0)
        var right: Set<Int> = []
        if !kept.isEmpty {
            guard let read = await readStripe(grain, map[grain], kept, below, at: buffer) else {
                return false
            }
            right.formUnion(read)
        }
        if !cached.isEmpty {
            guard let read = await readCached(grain, cached, values, at: buffer) else {
                return false
            }
            right.formUnion(read)
        }
        let lost = Set(kept).union(cached.map(\.block)).subtracting(right)
        if lost.isEmpty { return true }
        // What is lost stays so: its value goes with it, which no zeros have. What is only away may
        // come back.
        guard acceptsLoss, hasChecksums, departed.isEmpty else { return false }
        for block in lost {
            unsafe arena.bytes(buffer + block * Units.blockBytes, Units.blockBytes)
                .initializeMemory(as: UInt8.self, repeating: 0)
        }
        return true
    }

    /// Steps 3 and 4. Whoever lacks some of it is away then, and as many columns count as have to.
    ///
    /// - Returns: where it was written, and who lacks it; nil: the space cannot write it.
    func write(
        _ image: StripeImage, to target: GrainMap.Entry, isFlushed: Bool
    ) async -> Written? {
        while await departuresAreDurable() {
            guard spareColumns(target) >= 0 else { return nil }
            let (written, isWritten) = await sendStripe(image, to: target, isFlushed: isFlushed)
            if engine.isStopped { return nil }
            if isWritten, isAccounted(written) { return written }
        }
        return nil
    }

    /// - Returns: false where some disk has failed, and leaves.
    func sendStripe(
        _ image: StripeImage, to target: GrainMap.Entry, isFlushed: Bool
    ) async -> (written: Written, isWritten: Bool) {
        var written = Written(departuresBefore: departuresNoted)
        let io = IOBatch(engine)
        func add(_ column: Int, _ base: SlabGroups.Base) {
            guard departed.takesData(base) else {
                if base.disk != .hole { written.skipped.insert(base.disk) }
                return
            }
            io.write(
                base.device, at: base.offsetBytes,
                bytes: image.shape.rowCount(ofColumn: column) * Units.blockBytes,
                from: image.offset(ofColumn: column, row: 0))
            written.devices.insert(base.device)
        }
        for column in 0..<image.shape.width { add(column, groups.base(target, column: column)) }
        if let (column, base) = groups.replacingBase(target),
            !Mutant.isActive(.replacingLacksWrites)
        {
            add(column, base)
        }
        guard await io.run() else {
            await failDevices(io.devices(with: .ioError), during: "write")
            return (written, false)
        }
        unflushedDevices.formUnion(written.devices)
        if isFlushed, !Mutant.isActive(.rewriteUnflushed) {
            guard await flushTogether(written.devices) else { return (written, false) }
        }
        return (written, true)
    }

    // MARK: - one column

    enum WrittenColumn {
        case done
        /// Some of it could not be had; the rest is written.
        case incomplete
        case failed
    }

    /// Makes a column of a grain that is held from the others, and writes it, not flushed.
    func writeColumn(
        _ column: Int, of grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32],
        to base: SlabGroups.Base
    ) async -> WrittenColumn {
        let (data, parity) = await engine.scratch.takeStripe()
        defer { engine.scratch.giveStripe(data, parity) }
        guard !engine.isStopped, let shape = groups[entry.group]?.shape else { return .failed }
        var image = StripeImage(shape, data: data, parity: parity)
        let count = shape.rowCount(ofColumn: column)
        guard await load(&image, grain, entry, values, rows: Array(0..<count)) else {
            return .failed
        }
        let isThere: (Int) -> Bool
        if column < shape.columns {
            isThere = { image.blocks[image.block(column, $0)].isThere }
        } else {
            // The others may be wrong where this one is right: it is made of blocks alone.
            isThere = { row in
                image.columns(ofRow: row).allSatisfy {
                    image.blocks[image.block($0, row)].isThere
                }
            }
        }
        // Of rows without a valid block there is nothing to lose: maybe they were never written.
        let valid = (0..<count).filter { row in
            image.columns(ofRow: row).contains {
                values[image.block($0, row)] != BlockValue.unwritten
            }
        }
        let rows = valid.filter(isThere)
        if column >= shape.columns {
            for run in Self.runs(of: rows) { image.encode(run, in: arena) }
        }
        let io = IOBatch(engine)
        for run in Self.runs(of: rows) {
            io.write(
                base.device, at: base.offsetBytes + UInt64(run.lowerBound * Units.blockBytes),
                bytes: run.count * Units.blockBytes,
                from: image.offset(ofColumn: column, row: run.lowerBound))
        }
        guard await writeUnflushed(io) else {
            await failDevices(io.devices(with: .ioError), during: "repair")
            return .failed
        }
        counters.resyncedBlocks += UInt64(rows.count)
        guard rows.count < valid.count else { return .done }
        let isLost = column < shape.columns
        if isLost { counters.lostBlocks += UInt64(valid.count - rows.count) }
        return .incomplete
    }

    // MARK: - the map

    /// Step 5.
    private func place(_ request: RequestIndex, in target: GrainMap.Entry, _ frame: Int32) {
        let grain = table[request].grain
        let source = map[grain]
        guard source.isMapped else {
            changeMap(grain, to: target)
            missStripe(grain)
            unflushedLog.add(.map(grain: grain, entry: target.durable))
            resetValues(grain, frame)
            return takeValues(request, frame)
        }
        changeStripe(grain, to: target)
        let (first, blocks) = (Int(table[request].firstBlock), table[request].blocks)
        let folded = foldCached(grain, frame, except: blocks)
        var rewritten = RewrittenBlocks()
        rewritten.append(folded, where: { $0 < first })
        for (position, block) in blocks.enumerated() {
            let new = table.value(request, position)
            let old = changeValue(grain, block, new, frame)
            rewritten.append(block, ValueChange(old: old, new: new))
        }
        rewritten.append(folded, where: { $0 > first })
        unflushedLog.add(.rewrite(grain: grain, entry: target.durable, rewritten))
        free(source)
    }

    private func free(_ source: GrainMap.Entry) {
        guard !Mutant.isActive(.stripeFreedEarly) else { return giveUpStripe(source) }
        pending.freed.append(source)
    }

    /// The grain lies in another stripe, which is durable on every disk that is not away.
    func changeStripe(_ grain: UInt64, to target: GrainMap.Entry) {
        if pending.grains.insert(grain, old: map[grain].rawValue) { pending.moved.insert(grain) }
        map[grain] = target
        missStripe(grain)
        pieces.markDirty(.map, MapPage.index(ofGrain: grain), since: firstUnwrittenSequence)
    }

    /// A grain was written to another place: a disk that is away has nothing of it.
    private func missStripe(_ grain: UInt64) {
        if departed.disks.isEmpty || Mutant.isActive(.forgetMissed) { return }
        var isMissed = false
        for index in departed.disks.indices where departed[index].phase == .away {
            departed[index].missed.insert(grain: grain, .all)
            departed[index].copied.remove(grain)
            isMissed = true
        }
        if isMissed { recordMissed(DirtyRegions.region(ofGrain: grain)) }
    }
}
