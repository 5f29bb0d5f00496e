import PoolFormat

/// Trim and write-zeroes: no device I/O but at the edges. Blocks become UNWRITTEN; a whole grain
/// is unmapped, and its physical grain freed once that is durable.
extension Space {
    /// Splits off the unaligned edges, which are written as zeros, and enters what remains.
    ///
    ///     |····head····|======= whole blocks =======|··tail··|
    ///      child: zeroEdge   the aligned middle       child: zeroEdge
    func enterRange(_ request: RequestIndex) {
        let start = table[request].offsetBytes
        let end = start + UInt64(table[request].lengthBytes)
        let block = UInt64(Units.blockBytes)
        let alignedStart = (start + block - 1) / block * block
        let alignedEnd = end / block * block
        if start == alignedStart && end == alignedEnd { return enter(request) }

        // The request itself becomes the parent and holds no range; every part is a child.
        var parts: [RequestIndex] = []
        if alignedStart > alignedEnd || start / block == (end - 1) / block {
            parts.append(child(of: request, .zeroEdge, start, end))
        } else {
            if start < alignedStart {
                parts.append(child(of: request, .zeroEdge, start, alignedStart))
            }
            if alignedStart < alignedEnd {
                parts.append(child(of: request, table[request].kind, alignedStart, alignedEnd))
            }
            if alignedEnd < end { parts.append(child(of: request, .zeroEdge, alignedEnd, end)) }
        }
        table[request].state = .detour
        table[request].children = UInt8(parts.count)
        for part in parts { enter(part) }
    }

    func child(
        of parent: RequestIndex, _ kind: RequestKind, _ start: UInt64, _ end: UInt64
    ) -> RequestIndex {
        let index = table.take()
        table[index].space = handle.index
        table[index].kind = kind
        table[index].parent = parent
        table[index].bufferOffset = -1
        setExclusive(index)
        setRange(index, start, UInt32(end - start))
        if kind == .zeroEdge { setAsideIfRoom(index) }
        return index
    }

    func finishChild(_ child: RequestIndex, _ status: RequestStatus) {
        let parent = table[child].parent
        if table[child].kind == .zeroEdge, table[child].bufferOffset >= 0 {
            engine.scratch.give(table[child].bufferOffset)
        }
        table.give(child)
        childEnded(parent, status)
    }

    func childEnded(_ parent: RequestIndex, _ status: RequestStatus) {
        if status != .ok { table[parent].status = status }
        table[parent].children -= 1
        guard table[parent].children == 0 else { return }
        if table[parent].status == .ok && table[parent].isFUA {
            table[parent].state = .committing
            waitForCommit(parent)
        } else {
            reply(parent, table[parent].status)
        }
    }

    func prepareTrim(_ request: RequestIndex) {
        guard readOnlyReason == nil else { return finish(request, .ioError) }
        guard isSettled(request), hasRoom(request) else { return }
        let grain = table[request].grain
        let isWhole = Int(table[request].blockCount) == Units.blocksPerGrain
        let entry = map[grain]
        if table[request].kind == .trim {
            if !entry.isMapped { return finish(request, .ok) }
            if isWhole {
                unmap(grain, entry)
                return finish(request, .ok)
            }
        }
        guard let frame = valuesFrame(request, forWrite: table[request].kind == .zero) else {
            return
        }
        guard mappedGrain(request, values: frame) != nil else { return }
        forgetBlocks(request, frame)
        finish(request, .ok)
    }

    private func forgetBlocks(_ request: RequestIndex, _ frame: Int32) {
        let image = unsafe PageImage(frames.image(frame))
        let grain = table[request].grain
        let first = Int(table[request].firstBlock)
        var isChanged = false
        runChanges.removeAll(keepingCapacity: true)
        for block in first..<first + Int(table[request].blockCount) {
            let value = ChecksumPage.value(image, grain: grain, block: block)
            runChanges.append(ValueChange(old: value, new: BlockValue.unwritten))
            if value == BlockValue.unwritten { continue }
            changeValue(grain, block, BlockValue.unwritten, frame)
            if !Mutant.isActive(.trimKeepsCached) {
                uncache(block: grain * UInt64(Units.blocksPerGrain) + UInt64(block))
            }
            isChanged = true
        }
        guard isChanged else { return }
        unflushedLog.add(
            values: runChanges, firstBlock: grain * UInt64(Units.blocksPerGrain) + UInt64(first))
    }

    /// The grain's pending values go with it: a map or unmap record says all there is to say.
    private func unmap(_ grain: UInt64, _ entry: GrainMap.Entry) {
        let first = grain * UInt64(Units.blocksPerGrain)
        let frame = pageFrames[Int(ChecksumPage.index(ofGrain: grain))]
        for block in 0..<UInt64(Units.blocksPerGrain) where pending.blocks.remove(first + block) {
            frames[frame].unflushed -= 1
        }
        uncache(grain: grain)
        changeMap(grain, to: .unmapped)
        unflushedLog.add(.unmap(grain: grain))
        emptiedPieces.insert(Self.checksumPiece(ofGrain: grain))
        // Somebody waits for room: not until the next flush, which may never come.
        if engine.parkedSpaces > 0 { wantCommit() }
        pending.freed.append(entry)
    }

    /// Part of one block is zeroed: nothing to do where it reads as zeros already, else a write.
    func prepareZeroEdge(_ request: RequestIndex) {
        guard readOnlyReason == nil else { return finish(request, .ioError) }
        guard isSettled(request), hasRoom(request) else { return }
        let grain = table[request].grain
        guard map[grain].isMapped else { return finish(request, .ok) }
        guard let frame = valuesFrame(request, forWrite: false) else { return }
        let value = ChecksumPage.value(
            unsafe PageImage(frames.image(frame)), grain: grain,
            block: Int(table[request].firstBlock))
        if value == BlockValue.unwritten { return finish(request, .ok) }
        if table[request].bufferOffset < 0 {
            guard let page = engine.scratch.takePage(orPark: request) else {
                table[request].state = .parked
                return
            }
            unsafe engine.arena.bytes(page, Units.blockBytes)
                .initializeMemory(as: UInt8.self, repeating: 0)
            table[request].bufferOffset = page
        }
        prepareWrite(request)
    }
}
