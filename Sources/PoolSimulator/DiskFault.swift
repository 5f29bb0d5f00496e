import PoolEngine

/// One fault of one disk as a value: what a run draws, prints, sets and takes back.
///
/// What each does, ``SimulatedDisk`` says.
public enum DiskFault: Hashable, Sendable {
    case unreachable
    case readErrors(SimulatedDisk.ReadFaults)
    case writeErrors(WriteSelection)
    case flushError
    case latentSectors([Range<UInt64>])
    case rot([Range<UInt64>])
    case lostWrites(WriteSelection)
    case misdirectedWrites(Misdirection)
    case slow(Slowness)
    /// nil: for good.
    case hang(untilNs: UInt64?)
    case shrunk(toBytes: UInt64)
    /// Nothing promises to bear it: for runs without a bound.
    case lyingFlush

    public enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        case unreachable, readErrors, writeErrors, flushError, latentSectors, rot
        case lostWrites, misdirectedWrites, slow, hang, shrunk, lyingFlush
    }

    public var kind: Kind {
        switch self {
        case .unreachable: .unreachable
        case .readErrors: .readErrors
        case .writeErrors: .writeErrors
        case .flushError: .flushError
        case .latentSectors: .latentSectors
        case .rot: .rot
        case .lostWrites: .lostWrites
        case .misdirectedWrites: .misdirectedWrites
        case .slow: .slow
        case .hang: .hang
        case .shrunk: .shrunk
        case .lyingFlush: .lyingFlush
        }
    }

    /// One of a kind, for a disk.
    ///
    /// - Parameters:
    ///   - ranges: where sectors go bad, bits turn over and writes go astray: places that have a
    ///     copy elsewhere. None: such a fault strikes the whole disk.
    ///   - nowNs: what a hang starts from.
    public static func draw(
        _ kind: Kind, of disk: SimulatedDisk, within ranges: [Range<UInt64>], nowNs: UInt64,
        random: inout SeededRandom
    ) -> DiskFault {
        let ranges = ranges.isEmpty ? [0..<disk.sizeBytes] : ranges
        switch kind {
        case .unreachable: return .unreachable
        case .flushError: return .flushError
        case .lyingFlush: return .lyingFlush
        case .readErrors:
            return .readErrors(
                SimulatedDisk.ReadFaults(
                    percent: random.pick([1, 5, 20, 100]), stayingPercent: random.pick([0, 30])))
        case .writeErrors:
            let isEverywhere = random.chance(50)
            return .writeErrors(selection(isEverywhere ? nil : ranges, &random))
        case .latentSectors: return .latentSectors(places(ranges, disk.sectorBytes, &random))
        case .rot: return .rot(places(ranges, 1, &random))
        case .lostWrites: return .lostWrites(selection(ranges, &random))
        case .misdirectedWrites:
            return .misdirectedWrites(Misdirection(selection(ranges, &random), into: ranges))
        case .slow:
            let isFactor = random.chance(50)
            return .slow(
                isFactor
                    ? .factor(random.pick([2, 10, 100]))
                    : .byNs(UInt64(random.within(1_000_000...500_000_000))))
        case .hang:
            guard random.chance(80) else { return .hang(untilNs: nil) }
            return .hang(untilNs: nowNs + UInt64(random.within(1_000_000...5_000_000_000)))
        case .shrunk:
            // Mostly the tail alone, as a partition that was made anew.
            let unit = UInt64(disk.sectorBytes)
            let lost = random.chance(70) ? 1 << 20 : disk.fullSizeBytes / 2
            return .shrunk(toBytes: (disk.fullSizeBytes - lost) / unit * unit)
        }
    }

    private static func selection(
        _ ranges: [Range<UInt64>]?, _ random: inout SeededRandom
    ) -> WriteSelection {
        switch random.below(3) {
        case 0: .next(random.within(1...4), within: ranges)
        case 1: .percent(random.pick([1, 10, 50]), within: ranges)
        default: .all(within: ranges)
        }
    }

    /// A few short pieces of the ranges.
    private static func places(
        _ ranges: [Range<UInt64>], _ unit: Int, _ random: inout SeededRandom
    ) -> [Range<UInt64>] {
        (0..<random.within(1...4)).map { _ in
            let range = random.pick(ranges)
            let units = range.count / unit
            let first = random.below(units)
            let count = min(random.within(1...32), units - first)
            let start = range.lowerBound + UInt64(first * unit)
            return start..<start + UInt64(count * unit)
        }
    }
}

extension SimulatedDisk {
    public mutating func set(_ fault: DiskFault, random: inout SeededRandom) {
        switch fault {
        case .unreachable: disconnect(random: &random)
        case .readErrors(let faults): readFaults = faults
        case .writeErrors(let writes): writeErrors = writes
        case .flushError: failsNextFlush = true
        case .latentSectors(let ranges): makeUnreadable(ranges)
        case .rot(let ranges):
            for range in ranges { rot(range.lowerBound, range.count, random: &random) }
        case .lostWrites(let writes): lostWrites = writes
        case .misdirectedWrites(let misdirection): misdirectedWrites = misdirection
        case .slow(let slowness): self.slowness = slowness
        case .hang(let untilNs): hang(untilNs: untilNs)
        case .shrunk(let bytes): shrink(toBytes: bytes)
        case .lyingFlush: liesOnce = true
        }
    }

    /// The cause is gone. What it has done to bytes stays; latent sectors can be read again.
    public mutating func takeBack(_ kind: DiskFault.Kind) {
        switch kind {
        case .unreachable: reconnect()
        case .readErrors: readFaults = nil
        case .writeErrors: writeErrors = nil
        case .flushError: failsNextFlush = false
        case .latentSectors: makeReadable()
        case .rot: break
        case .lostWrites: lostWrites = nil
        case .misdirectedWrites: misdirectedWrites = nil
        case .slow: slowness = nil
        case .hang: unhang()
        case .shrunk: growBack()
        case .lyingFlush: liesOnce = false
        }
    }

    /// Whether the cause is still there: a fault that strikes so many times takes itself back.
    public func carries(_ kind: DiskFault.Kind) -> Bool {
        switch kind {
        case .unreachable: isUnreachable
        case .readErrors: readFaults != nil
        case .writeErrors: writeErrors != nil
        case .flushError: failsNextFlush
        case .latentSectors: latentPages > 0
        case .rot: current.damage.silent.contains { $0.kind == .rot }
        case .lostWrites: lostWrites != nil
        case .misdirectedWrites: misdirectedWrites != nil
        case .slow: slowness != nil
        case .hang: hanging != nil
        case .shrunk: sizeBytes < fullSizeBytes
        case .lyingFlush: liesOnce
        }
    }
}
