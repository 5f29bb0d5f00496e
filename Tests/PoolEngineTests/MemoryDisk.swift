/// A disk in memory with a volatile cache: what was not flushed may be lost, 512 bytes at a time.
final class MemoryDisk {
    let sizeBytes: UInt64
    private var durable: [UInt64: [UInt8]] = [:]
    private var cached: [(offset: UInt64, bytes: [UInt8])] = []
    /// Writes and flushes fail from now on.
    var isBroken = false
    /// It breaks after so many more writes.
    var writesUntilBroken = Int.max
    /// Or after so many more flushes.
    var flushesUntilBroken = Int.max
    /// Nothing at all gets through.
    private(set) var isUnplugged = false
    /// Every write it took: where, and how many bytes.
    private(set) var writes: [(offset: UInt64, bytes: Int)] = []
    /// 4 KiB blocks that cannot be read.
    var unreadable: Set<UInt64> = []
    /// Byte 0 of every block that was never written: nothing may be taken for zeros.
    private static let garbage = [UInt8](repeating: 0xA5, count: 4096)

    init(sizeBytes: UInt64) { self.sizeBytes = sizeBytes }

    func read(_ offset: UInt64, _ count: Int) -> [UInt8]? {
        if isUnplugged { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        for block in stride(from: offset, to: offset + UInt64(count), by: 4096) {
            if unreadable.contains(block) { return nil }
            bytes += durable[block] ?? Self.garbage
        }
        for write in cached {
            let (start, end) = (write.offset, write.offset + UInt64(write.bytes.count))
            let low = max(start, offset)
            let high = min(end, offset + UInt64(count))
            if low < high {
                bytes.replaceSubrange(
                    Int(low - offset)..<Int(high - offset),
                    with: write.bytes[Int(low - start)..<Int(high - start)])
            }
        }
        return bytes
    }

    /// 4 KiB blocks that were ever made durable, ascending.
    var writtenBlocks: [UInt64] { durable.keys.sorted() }

    func write(_ offset: UInt64, _ bytes: [UInt8]) -> Bool {
        writesUntilBroken -= 1
        if writesUntilBroken < 0 { isBroken = true }
        if isBroken || isUnplugged { return false }
        cached.append((offset, bytes))
        writes.append((offset, bytes.count))
        return true
    }

    func flush() -> Bool {
        flushesUntilBroken -= 1
        if flushesUntilBroken < 0 { isBroken = true }
        if isBroken || isUnplugged { return false }
        for write in cached { commit(write.offset, write.bytes[...]) }
        cached.removeAll()
        return true
    }

    private func commit(_ offset: UInt64, _ bytes: ArraySlice<UInt8>) {
        var at = bytes.startIndex
        while at < bytes.endIndex {
            let address = offset + UInt64(at - bytes.startIndex)
            let block = address / 4096 * 4096
            let within = Int(address - block)
            let count = min(4096 - within, bytes.endIndex - at)
            durable[block, default: Self.garbage]
                .replaceSubrange(within..<within + count, with: bytes[at..<at + count])
            at += count
        }
    }

    /// The power goes: of each unflushed sector `keeps` says whether it made it.
    func powerCut(_ policy: CutPolicy, _ keeps: () -> Bool) {
        switch policy {
        case .dropAll: cached.removeAll()
        case .keepAll: for write in cached { commit(write.offset, write.bytes[...]) }
        case .mixed: break
        }
        for write in cached where policy == .mixed {
            for sector in stride(from: 0, to: write.bytes.count, by: 512) where keeps() {
                commit(
                    write.offset + UInt64(sector), write.bytes[sector..<sector + 512])
            }
        }
        cached.removeAll()
    }

    /// Pulled out, with what was not flushed lost.
    func unplug() {
        cached.removeAll()
        isUnplugged = true
    }

    /// Back, and well.
    func plugIn() {
        (isUnplugged, isBroken) = (false, false)
        (writesUntilBroken, flushesUntilBroken) = (.max, .max)
    }

    /// What a copy of the whole disk would hold, made while nothing is cached.
    func copy() -> MemoryDisk {
        let copy = MemoryDisk(sizeBytes: sizeBytes)
        copy.durable = durable
        return copy
    }

    /// Rot: flips a byte that is durable.
    func corrupt(_ offset: UInt64) {
        guard var bytes = read(offset / 4096 * 4096, 4096) else { return }
        bytes[Int(offset % 4096)] ^= 0xff
        commit(offset / 4096 * 4096, bytes[...])
    }
}

/// What a power cut does to unflushed sectors.
enum CutPolicy: CaseIterable {
    case dropAll, keepAll, mixed
}
