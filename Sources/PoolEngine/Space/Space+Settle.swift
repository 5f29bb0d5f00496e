import PoolFormat

/// After a crash: makes the copies of what was being written the same, before it is read.
///
/// Of each block the lowest copy that matches its value is chosen, else the lowest that can be
/// read: each of its sectors was really written. Where none matched, its value is recorded anew, in
/// a region that a crash left dirty and nowhere else, and durably. Then the others are overwritten
/// with it, the chosen one never, so a crash in the middle leads to the same choice again.
extension Space {
    /// Goes through every dirty region in the background; requests settle their own grain first.
    func settleCrashed() async {
        for region in regions.marked where regions[region].isCrashed {
            for position in 0..<UInt64(Units.grainsPerRegion) {
                if hasEnded || isClosing || engine.isStopped || readOnlyReason != nil { return }
                let grain = region * UInt64(Units.grainsPerRegion) + position
                guard grain < UInt64(map.grainCount), regions.needsSettling(grain),
                    settling[grain] == nil
                else { continue }
                beginSettling(grain)
                await settle(grain: grain)
            }
        }
    }

    /// One attempt to settle a grain, and the requests that wait for its end.
    struct Settling {
        let number: UInt64
        var waiters: [RequestIndex] = []
    }

    func beginSettling(_ grain: UInt64) {
        settlingsBegun += 1
        settling[grain] = Settling(number: settlingsBegun)
    }

    /// Settles one grain, or finds that it cannot be, whoever tries.
    func settleForBackground(_ grain: UInt64, _ mayGoOn: () -> Bool) async {
        if let attempt = settling[grain]?.number {
            // Its end is enough to know: where it fails, clients begin one after the other.
            while settling[grain]?.number == attempt, mayGoOn() { await nap() }
        } else {
            beginSettling(grain)
            await settle(grain: grain)
        }
    }

    /// Ends the attempt, and lets the requests that wait for it go on.
    func settle(grain: UInt64) async {
        var status = RequestStatus.ok
        do throws(PoolError) {
            try await makeEqual(grain)
        } catch {
            status = error.requestStatus
        }
        var waiters = settling.removeValue(forKey: grain)?.waiters ?? []
        guard status == .ok else { return fail(&waiters, status) }
        noteSettled(grain)
        wake(&waiters)
    }

    private func noteSettled(_ grain: UInt64) {
        let region = DirtyRegions.region(ofGrain: grain)
        regions[region].settledGrains |= 1 << UInt16(grain % UInt64(Units.grainsPerRegion))
        regions[region].coveredBy = startedCommits + 1
        regions[region].settledBy = startedCommits + 1
        regions[region].lastWriteNs = engine.nowNs
        if readOnlyReason != nil {
            regions[region].isSuspect = true
        } else if regions[region].settledGrains == .max {
            regions[region].isCrashed = false
        }
    }

    private func makeEqual(_ grain: UInt64) async throws(PoolError) {
        // Nothing can be written any more: reads keep to one copy and accept what it holds.
        if readOnlyReason != nil { return }
        let page = ChecksumPage.index(ofGrain: grain)
        guard pieces.has(.checksum, page: page) else { return }
        try await loadValues(page: page)
        let frame = pageFrames[Int(page)]
        guard frame >= 0 else { throw engine.isStopped ? .stopped : .ioError }
        frames[frame].pins += 1
        defer {
            frames[frame].pins -= 1
            engine.frameReleased.fire()
        }
        if copies == 1 { return try await settleSingle(grain, frame) }
        while true {
            switch try await settleCopies(grain, frame) {
            case .equal: return
            case .recordedAnew:
                // No buffer is held here, as a commit needs one.
                guard await commit() else { throw failure }
            case .diskLeft: continue
            }
        }
    }

    private enum Settled {
        case equal
        /// Nothing is overwritten yet: values were recorded that have to be durable first.
        case recordedAnew
        /// A disk failed and has left: the others are compared again without it.
        case diskLeft
    }

    private func settleSingle(_ grain: UInt64, _ frame: Int32) async throws(PoolError) {
        guard hasChecksums else { return }
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        let isRead = try await readGrain(grain, copy: 0, into: buffer)
        // What lies on a disk that is away is settled once that is back: nothing of it was read.
        let valid = (0..<Units.blocksPerGrain).filter {
            currentValue(grain, $0, frame) != BlockValue.unwritten
        }
        guard valid.allSatisfy({ isRead[$0] }) || Mutant.isActive(.settleUnread) else {
            throw .ioError
        }
        for block in valid {
            let value = currentValue(grain, block, frame)
            let found = computed(buffer, grain, block)
            if found != value { changeValue(grain, block, found, frame) }
        }
    }

    private func settleCopies(
        _ grain: UInt64, _ frame: Int32
    ) async throws(PoolError) -> Settled {
        // Together: many grains may be settled at a time, and none may keep one from another.
        let buffers = await engine.scratch.takeGrains(copies)
        defer { buffers.forEach { engine.scratch.give($0) } }
        var isRead: [[Bool]] = []
        for (copy, buffer) in buffers.enumerated() {
            isRead.append(try await readGrain(grain, copy: copy, into: buffer))
        }
        let isCurrent = buffers.indices.map { currentBlocks(grain, copy: $0) }
        var overwritten: [(block: Int, kept: Int, target: Int)] = []
        var (isRecordedAnew, isUnanswered) = (false, false)
        for block in 0..<Units.blocksPerGrain {
            let value = currentValue(grain, block, frame)
            if value == BlockValue.unwritten { continue }
            let current = buffers.indices.filter { isCurrent[$0](block) }
            let readable = current.filter { isRead[$0][block] }
            guard let first = readable.first else {
                // Of copies whose disks are away nothing is to be had, and nothing to be settled.
                if !current.isEmpty { isUnanswered = true }
                continue
            }
            let isMatch = { [self] in computed(buffers[$0], grain, block) == value }
            let kept = hasChecksums ? readable.first(where: isMatch) ?? first : first
            settleValue(grain, block, value, buffers[kept], frame)
            if currentValue(grain, block, frame) != value { isRecordedAnew = true }
            // What one copy cannot give, another has: it is written anew.
            for copy in current where copy != kept {
                if readable.contains(copy), isSame(buffers[copy], buffers[kept], block) { continue }
                overwritten.append((block, buffers[kept], copy))
            }
        }
        // Where no copy matched, sectors of the one over sectors of the other could add up to
        // the recorded value, and a crash would choose that: the new value is durable first.
        if isRecordedAnew { return .recordedAnew }
        let io = IOBatch(engine)
        for (block, kept, target) in overwritten {
            counters.settledBlocks += 1
            groups.forEachRun(
                map[grain], copy: target, offsetBytes: block * Units.blockBytes,
                lengthBytes: Units.blockBytes
            ) { base, position, bytes in
                io.write(
                    base.device, at: base.offsetBytes, bytes: bytes,
                    from: kept + block * Units.blockBytes + position)
            }
        }
        if await writeUnflushed(io) {
            guard !isUnanswered else { throw .ioError }
            return .equal
        }
        if engine.isStopped { throw .stopped }
        await failDevices(io.devices(with: .ioError), during: "resync")
        guard await departuresAreDurable() else { throw failure }
        return .diskLeft
    }

    /// Which blocks of a grain a copy has on a disk that is current.
    private func currentBlocks(_ grain: UInt64, copy: Int) -> (Int) -> Bool {
        if departed.isEmpty { return { _ in true } }
        if Mutant.isActive(.settleFromReturning) {
            return { [self] block in
                var takes = true
                groups.forEachRun(
                    map[grain], copy: copy, offsetBytes: block * Units.blockBytes,
                    lengthBytes: Units.blockBytes
                ) { base, _, _ in if !departed.takesData(base) { takes = false } }
                return takes
            }
        }
        return { [self] in isCurrent(map[grain], copy: copy, blocks: $0..<$0 + 1) }
    }

    private func isSame(_ first: Int, _ second: Int, _ block: Int) -> Bool {
        let offset = block * Units.blockBytes
        let a = unsafe engine.arena.bytes(first + offset, Units.blockBytes)
        let b = unsafe engine.arena.bytes(second + offset, Units.blockBytes)
        return unsafe a.elementsEqual(b)
    }

    /// The value of what is kept, where that is another than the one recorded.
    private func settleValue(
        _ grain: UInt64, _ block: Int, _ value: UInt32, _ buffer: Int, _ frame: Int32
    ) {
        guard hasChecksums, value != BlockValue.unwritten else { return }
        let found = computed(buffer, grain, block)
        if found != value { changeValue(grain, block, found, frame) }
    }

    private func currentValue(_ grain: UInt64, _ block: Int, _ frame: Int32) -> UInt32 {
        ChecksumPage.value(
            unsafe PageImage(frames.image(frame)), grain: grain, block: block)
    }

    private func computed(_ buffer: Int, _ grain: UInt64, _ block: Int) -> UInt32 {
        blockValue(
            buffer + block * Units.blockBytes,
            grain * UInt64(Units.blocksPerGrain) + UInt64(block))
    }

    private func isSettledFrom(_ base: SlabGroups.Base) -> Bool {
        Mutant.isActive(.settleFromReturning)
            ? departed.takesData(base) : departed.isCurrent(base)
    }

    /// Reads what is on current disks of one copy of a grain; where that fails as a whole, block by
    /// block.
    ///
    /// - Returns: of each block whether it was read. Which disks are current may change meanwhile.
    private func readGrain(
        _ grain: UInt64, copy: Int, into buffer: Int
    ) async throws(PoolError) -> [Bool] {
        var runs: [(base: SlabGroups.Base, first: Int, count: Int)] = []
        groups.forEachRun(
            map[grain], copy: copy, offsetBytes: 0, lengthBytes: Units.grainBytes
        ) { base, position, bytes in
            guard isSettledFrom(base) else { return }
            runs.append((base, position / Units.blockBytes, bytes / Units.blockBytes))
        }
        let io = IOBatch(engine)
        func read(_ base: SlabGroups.Base, _ offset: Int, _ block: Int, _ count: Int) {
            io.read(
                base.device, at: base.offsetBytes + UInt64(offset * Units.blockBytes),
                bytes: count * Units.blockBytes, into: buffer + block * Units.blockBytes)
        }
        for run in runs { read(run.base, 0, run.first, run.count) }
        let isWhole = await io.run()
        if engine.isStopped { throw .stopped }
        var isRead = Array(repeating: false, count: Units.blocksPerGrain)
        let blocks = runs.flatMap { $0.first..<$0.first + $0.count }
        if isWhole {
            for block in blocks { isRead[block] = true }
            return isRead
        }
        io.devices(with: .ioError).forEach { noteReadError($0) }
        for run in runs {
            for offset in 0..<run.count { read(run.base, offset, run.first + offset, 1) }
        }
        _ = await io.run()
        if engine.isStopped { throw .stopped }
        for (block, status) in zip(blocks, io.statuses) { isRead[block] = status == .ok }
        return isRead
    }

    // MARK: - other background work

    /// Brings in the pages that replay still has changes for, so that the journal can be retired.
    func drainOverlay() async {
        for page in overlay.pageNumbers {
            if hasEnded || engine.isStopped { return }
            // A page that cannot be read stays in the journal; its readers get the error.
            try? await loadValues(page: page)
        }
        wantCheckpoint()
    }

    /// Once in a while, as long as regions are dirty: a commit, which cleans the idle ones.
    func maintain() async {
        while !hasEnded, !engine.isStopped, readOnlyReason == nil {
            if !regions.marked.isEmpty {
                engine.fire(maintenance, atNs: engine.nowNs &+ engine.limits.cleanAfterNs / 4)
            }
            await maintenance.wait()
            if !regions.marked.isEmpty {
                let idle = regions.cleanable(
                    completedCommits: completedCommits, nowNs: engine.nowNs,
                    idleNs: engine.limits.cleanAfterNs, bound: engine.limits.dirtyRegions)
                let isUncovered = regions.marked.contains {
                    regions[$0].mark == .dirty && regions[$0].coveredBy > completedCommits
                        && engine.nowNs &- regions[$0].lastWriteNs >= engine.limits.cleanAfterNs
                }
                if !idle.isEmpty || isUncovered { wantCommit() }
            }
        }
    }
}
