import PoolFormat

/// Reads of blocks that lie in the write-back cache.
extension Space {
    /// Reads a request whose blocks all lie in the cache at once, and one of which some do in its own
    /// way; false: none does. Its blocks' values are in its record.
    func readsCache(_ request: RequestIndex) -> Bool {
        let grain = table[request].grain
        guard cache.has(grain: grain) else { return false }
        let first = grain * UInt64(Units.blocksPerGrain)
        var cached = 0
        for (position, block) in table[request].blocks.enumerated() {
            guard let slot = cache.slot(ofBlock: first + UInt64(block)) else { continue }
            table.setSlot(request, position, slot)
            cached += 1
        }
        if cached == 0 { return false }
        guard cached == Int(table[request].blockCount), let copy = readableCopy(ofSlots: request)
        else {
            table[request].state = .detour
            background { await $0.readMixed(request) }
            return true
        }
        table[request].isCached = true
        table[request].hasSlots = true
        table[request].copy = UInt8(copy)
        table[request].state = .transferring
        sendLegs(request, map[grain], .read, copies: copy...copy)
        return true
    }

    /// A copy of all of the request's slots that counts, and whose legs can be told apart; by turns,
    /// and one on a disk that keeps reads only where there is no other.
    private func readableCopy(ofSlots request: RequestIndex) -> Int? {
        let preferred = Int(table.slot(request, 0)) / WriteCache.slotsPerPiece % cache.copies
        var late: Int?
        for step in 0..<cache.copies {
            let copy = (preferred + step) % cache.copies
            var (isCurrent, isLate, legs) = (true, false, 0)
            forEachSlotLeg(request, copy...copy) { base, _, _ in
                if !departed.isCurrent(base) { isCurrent = false }
                if engine.readLatency.isLate(base.device, nowNs: engine.nowNs) { isLate = true }
                legs += 1
            }
            guard isCurrent, legs <= Token.mostLegs else { continue }
            if !isLate { return copy }
            if late == nil { late = copy }
        }
        return late
    }

    /// Some blocks lie here and some in the stripe, or what was read does not match.
    func readMixed(_ request: RequestIndex) async {
        let (grain, first) = (table[request].grain, Int(table[request].firstBlock))
        let origin = table[request].bufferOffset - first * Units.blockBytes
        var isRight = true
        for (position, block) in table[request].blocks.enumerated() {
            let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
            guard let slot = cache.slot(ofBlock: number) else { continue }
            let isRead = await readSlot(
                slot, block: number, value: table.value(request, position),
                into: origin + block * Units.blockBytes)
            if !isRead { isRight = false }
        }
        let status = await readStripe(request, map[grain])
        finish(request, isRight ? status : .ioError)
    }

    /// One cached block, from the copy that matches its value: one that counts, if any does. False: none
    /// does, or the engine has stopped.
    func readSlot(
        _ slot: UInt32, block: UInt64, value: UInt32, into target: Int
    ) async -> Bool {
        let io = IOBatch(engine)
        var isWrongSomewhere = false
        let bases = (0..<cache.copies).map { cache.base(slot, copy: $0) }
            .filter { $0.device != DiskPlaces.nowhere }
        for base in bases.filter(departed.isCurrent) + bases.filter({ !departed.isCurrent($0) }) {
            io.read(base.device, at: base.offsetBytes, bytes: Units.blockBytes, into: target)
            guard await io.run() else {
                if engine.isStopped { return false }
                if departed.isCurrent(base) { noteReadError(base.device) }
                isWrongSomewhere = true
                continue
            }
            let isRight = blockValue(target, block) == value || Mutant.isActive(.slotUnverified)
            if !isRight {
                isWrongSomewhere = true
                if departed.isCurrent(base) { noteChecksumError(base.device) }
                continue
            }
            // It is destaged for that, and what is wrong is left behind.
            if isWrongSomewhere { repairLater(block / UInt64(Units.blocksPerGrain)) }
            return true
        }
        return false
    }

    /// All cached blocks of a grain that is held, run by run, and what does not match one by one.
    ///
    /// - Parameters:
    ///   - values: of all 256 blocks of the grain.
    ///   - origin: where in the arena the grain's first byte would be.
    /// - Returns: the blocks that are right; nil: the engine has stopped.
    func readCached(
        _ grain: UInt64, _ slots: [(block: Int, slot: UInt32)], _ values: [UInt32], at origin: Int
    ) async -> [Int]? {
        let io = IOBatch(engine)
        var runs: [Range<Int>] = []
        var start = 0
        while start < slots.count {
            var end = start + 1
            while end < slots.count, slots[end].block == slots[start].block + end - start,
                WriteCache.isNext(slots[end].slot, behind: slots[start].slot, by: end - start)
            {
                end += 1
            }
            let slot = slots[start].slot
            let copies = (0..<cache.copies).map {
                (Int(slot) / WriteCache.slotsPerPiece + $0) % cache.copies
            }
            if let copy = copies.first(where: { departed.isCurrent(cache.base(slot, copy: $0)) }) {
                let base = cache.base(slot, copy: copy)
                io.read(
                    base.device, at: base.offsetBytes, bytes: (end - start) * Units.blockBytes,
                    into: origin + slots[start].block * Units.blockBytes)
                runs.append(start..<end)
            }
            start = end
        }
        _ = await io.run()
        if engine.isStopped { return nil }
        var isRead: Set<Int> = []
        for (run, status) in zip(runs, io.statuses) where status == .ok { isRead.formUnion(run) }
        var right: [Int] = []
        for (position, (block, slot)) in slots.enumerated() {
            let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
            let target = origin + block * Units.blockBytes
            let isRight = isRead.contains(position)
                && (blockValue(target, number) == values[block] || Mutant.isActive(.slotUnverified))
            if isRight {
                right.append(block)
            } else if await readSlot(slot, block: number, value: values[block], into: target) {
                right.append(block)
            }
            if engine.isStopped { return nil }
        }
        return right
    }
}
