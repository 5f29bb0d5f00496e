import PoolFormat

/// Durable writes of the pool's own tables, and reads that bear a bad sector.
///
/// 1. `writeDurably` returns only after every disk has flushed or is marked as failed.
/// 2. A failed write or flush is never retried: the disk is marked at once, nothing more is
///    written to it, and the caller has the failure recorded once it holds no table lock.
extension Pool {
    /// One 4 KiB page on its way to a disk.
    struct PageWrite {
        var disk: Disk
        var offsetBytes: UInt64
        /// Fills the image, which is zero before.
        var encode: (PageImage) -> Void
    }

    /// Pages in flight together; bounded so that slow paths together fit the scratch buffers.
    private static var pagesTogether: Int { 8 }

    /// Writes pages and flushes the disks they lie on.
    ///
    /// - Returns: whether every disk took them; those that did not are marked as failed.
    func writeDurably(
        _ writes: [PageWrite], during what: String
    ) async throws(PoolError) -> Bool {
        var isComplete = true
        var start = 0
        while start < writes.count {
            let chunk = writes[start..<min(start + Self.pagesTogether, writes.count)]
            start += chunk.count
            if try await writePages(chunk, during: what) == false { isComplete = false }
        }
        var touched: [Disk] = []
        for write in writes where !touched.contains(where: { $0 === write.disk }) {
            touched.append(write.disk)
        }
        if Mutant.isActive(.grantUnflushed), what.hasSuffix("granted") { return isComplete }
        let flushed = try await flush(touched, during: what)
        return isComplete && flushed
    }

    private func writePages(
        _ writes: ArraySlice<PageWrite>, during what: String
    ) async throws(PoolError) -> Bool {
        let io = IOBatch(engine)
        var buffers: [Int] = []
        defer { for buffer in buffers { engine.scratch.give(buffer) } }
        var written: [Disk] = []
        for write in writes where write.disk.serves {
            let buffer = await engine.scratch.take(bytes: Units.blockBytes)
            buffers.append(buffer)
            let image = unsafe PageImage(engine.arena.bytes(buffer, Units.blockBytes))
            image.zero()
            write.encode(image)
            io.write(
                write.disk.device, at: write.offsetBytes, bytes: Units.blockBytes, from: buffer)
            written.append(write.disk)
        }
        if await io.run() { return written.count == writes.count }
        if engine.isStopped { throw .stopped }
        for (disk, status) in zip(written, io.statuses) where status != .ok {
            markFailed(disk, during: what)
        }
        return false
    }

    /// Flushes disks together; those that fail are marked.
    func flush(_ disks: [Disk], during what: String) async throws(PoolError) -> Bool {
        let io = IOBatch(engine)
        let flushed = disks.filter(\.serves)
        for disk in flushed { io.flush(disk.device) }
        if await io.run() { return flushed.count == disks.count }
        if engine.isStopped { throw .stopped }
        for (disk, status) in zip(flushed, io.statuses) where status != .ok {
            markFailed(disk, during: what)
        }
        return false
    }

    /// From here on nothing is written to the disk. Not durable yet: see `recordFailures`.
    ///
    /// Spaces with something on it do without it at once: what they had not flushed there may be
    /// lost, and their own next flush of the device could succeed without it.
    func markFailed(_ disk: Disk, during what: String) {
        disk.errors.write &+= 1
        stopUsing(disk, as: .failed, what)
    }

    /// From here on nothing is written to the disk, for whatever reason.
    func stopUsing(_ disk: Disk, as state: DiskState, _ reason: String) {
        guard disk.failure == nil else { return }
        (disk.failure, disk.awayState) = (reason, state)
        engine.failedDevices.insert(disk.device)
        // Those of other shards are told, and wait for it, before the failure is recorded.
        for space in spaces where space.engine === engine && disk.holds(space.lineage) {
            disk.note(space.noteDeparting(disk.number, Self.reason(disk)), of: space.lineage)
        }
    }

    /// Which 4 KiB blocks of a range could be read. A range that fails as a whole is read again
    /// block by block; what cannot be read is zeros.
    func readBlocks(
        _ device: DeviceIndex, at offsetBytes: UInt64, bytes: Int, into buffer: Int
    ) async throws(PoolError) -> [Bool] {
        try await Self.readBlocks(engine, device, at: offsetBytes, bytes: bytes, into: buffer) {
            self.noteReadError(device)
        }
    }

    static func readBlocks(
        _ engine: Engine, _ device: DeviceIndex, at offsetBytes: UInt64, bytes: Int,
        into buffer: Int, onError: () -> Void
    ) async throws(PoolError) -> [Bool] {
        let count = bytes / Units.blockBytes
        let io = IOBatch(engine)
        io.read(device, at: offsetBytes, bytes: bytes, into: buffer)
        if await io.run() { return Array(repeating: true, count: count) }
        if engine.isStopped { throw .stopped }
        onError()
        for block in 0..<count {
            let position = block * Units.blockBytes
            io.read(
                device, at: offsetBytes + UInt64(position), bytes: Units.blockBytes,
                into: buffer + position)
        }
        _ = await io.run()
        if engine.isStopped { throw .stopped }
        for (block, status) in io.statuses.enumerated() where status != .ok {
            unsafe engine.arena.bytes(buffer + block * Units.blockBytes, Units.blockBytes)
                .initializeMemory(as: UInt8.self, repeating: 0)
        }
        return io.statuses.map { $0 == .ok }
    }
}

/// Of two slots of a page, the one that is right.
struct SlotChoice {
    var slot: Int
    var sequence: UInt64
    /// The other one is neither valid nor blank: it is written afresh.
    var isOtherDamaged: Bool

    /// Sequences beyond this were written by nobody.
    static let sequenceLimit: UInt64 = 1 << 62

    /// - Parameter readable: whether each slot could be read.
    /// - Parameter validate: throws unless the slot holds what it should.
    /// - Throws: the better of the two reasons, when neither is right.
    static func choose(
        readable: (Bool, Bool), structure: Structure,
        _ validate: (_ slot: Int) throws(FormatError) -> UInt64
    ) throws(FormatError) -> SlotChoice {
        var best: (slot: Int, sequence: UInt64)?
        var damaged = [false, false]
        var reason = FormatError.blank(structure)
        for slot in 0..<2 {
            guard slot == 0 ? readable.0 : readable.1 else {
                damaged[slot] = true
                continue
            }
            do throws(FormatError) {
                let sequence = try validate(slot)
                guard sequence < sequenceLimit else {
                    throw .outOfRange(structure, field: "sequence", value: sequence)
                }
                if best.map({ $0.sequence < sequence }) ?? true { best = (slot, sequence) }
            } catch {
                if error != .blank(structure) {
                    damaged[slot] = true
                    reason = error
                }
            }
        }
        guard let best else { throw reason }
        return SlotChoice(
            slot: best.slot, sequence: best.sequence, isOtherDamaged: damaged[1 - best.slot])
    }
}
