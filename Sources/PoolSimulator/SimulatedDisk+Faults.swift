import PoolEngine

/// Faults that the disk reports, or that only take time.
///
/// 7. *Unreachable*, from ``disconnect(random:)`` to ``reconnect()``. What is in flight lands in
///    the cache or does not, each by a coin; it and everything submitted until the return ends with
///    `.ioError`, even if it ends after the return, and nothing more lands. The disk comes back as
///    it was; or without its cache, as a power cut of this disk alone would leave it; or as the
///    older self that ``remember()`` kept. What was open stays without flushes: see 9.
/// 8. *Write errors*. A write that ``writeErrors`` strikes when it ends reports `.ioError`, and has
///    landed in the cache whole, not at all, or sector by sector: each case one time in three.
/// 9. *Flush errors*. With ``failsNextFlush`` the next flush that ends reports `.ioError`. Each
///    sector that it was to make durable is durable or lost for good, by a coin: the cache holds it
///    as clean, so no later flush writes it. Half of the time the cache forgets what was lost at
///    once, else it is read until the power goes. Every other flush that has not ended by then
///    fails in the same way until ``reopen()``; so do those of a disk that was unreachable.
/// 10. *Time*. ``slowness`` makes what is submitted while it is set end later. While the disk
///    hangs, nothing of it ends, submitted before or after; then everything ends as it would have.
///    A disk that vanishes ends what hung. The disk only says so: the ``Machine`` keeps the time.
/// 11. *Size*. A disk that has shrunk ends every operation that reaches beyond its end with
///    `.ioError`, by its size when the operation ends. Nothing of it lands. What lay behind the end
///    is there again once the disk has grown back.
extension SimulatedDisk {
    /// It ends in an error whatever else is set.
    func isRefused(_ flying: FlyingOperation) -> Bool {
        guard !flying.isDoomed else { return true }
        return flying.operation.kind != .flush
            && flying.operation.range.upperBound > sizeBytes
    }

    // MARK: - unreachable

    /// The disk vanishes.
    public mutating func disconnect(random: inout SeededRandom) {
        guard !isUnreachable else { return }
        isUnreachable = true
        hanging = nil
        hasFailedFlush = true
        cacheInFlight(&random)
        for index in inFlight.indices { inFlight[index].isDoomed = true }
    }

    /// The disk is there again, as it was when it vanished.
    public mutating func reconnect() { isUnreachable = false }

    /// The disk is there again; its own power was gone meanwhile.
    public mutating func reconnect(losingCache policy: CutPolicy, random: inout SeededRandom) {
        loseCache(policy, random: &random)
        reconnect()
    }

    /// The power of a disk that is away fails.
    public mutating func loseCache(_ policy: CutPolicy, random: inout SeededRandom) {
        precondition(inFlight.allSatisfy { $0.isDoomed }, "operations are in flight")
        for change in pending { land(change, policy, inFlight: false, &random) }
        pending.removeAll()
        current = durable
    }

    /// Keeps an image of what a reader would see now, with its damage.
    public mutating func remember() { remembered = current }

    public var remembersItself: Bool { remembered != nil }

    /// The disk is there again, restored from the image that ``remember()`` kept, which stays for
    /// another time.
    public mutating func comeBackAsRemembered() {
        precondition(inFlight.allSatisfy { $0.isDoomed }, "operations are in flight")
        guard let remembered else { preconditionFailure("there is no image to restore") }
        durable = remembered
        current = remembered
        pending.removeAll()
        reconnect()
    }

    /// The device is opened anew: flushes may succeed again, but for those of the old opening.
    /// There is nothing to open while the disk is away.
    public mutating func reopen() {
        guard hasFailedFlush, !isUnreachable else { return }
        hasFailedFlush = false
        for index in inFlight.indices where inFlight[index].operation.kind == .flush {
            inFlight[index].isDoomed = true
        }
    }

    // MARK: - writes

    /// What becomes of a write that is through.
    mutating func land(
        _ payload: Payload, of operation: DeviceOperation, _ random: inout SeededRandom
    ) -> DeviceStatus {
        let range = operation.range
        if Self.strikes(&writeErrors, range, &random) {
            landFailed(payload, range, &random)
            failedWrites += 1
            return .ioError
        }
        if Self.strikes(&lostWrites, range, &random) {
            loseWrite(range)
        } else if !misdirects(payload, range, &random) {
            cache(range, .bytes(payload, from: 0))
        }
        return .ok
    }

    private mutating func landFailed(
        _ payload: Payload, _ range: Range<UInt64>, _ random: inout SeededRandom
    ) {
        switch random.below(3) {
        case 0:
            break
        case 1:
            cache(range, .bytes(payload, from: 0))
        default:
            let whole = CachedChange(
                completion: 0, range: range, content: .bytes(payload, from: 0))
            for sector in sectors(of: whole) where random.chance(50) {
                cache(sector.range, sector.content)
            }
        }
    }

    /// Whether a selection strikes this write; one that is used up is taken back.
    static func strikes(
        _ selection: inout WriteSelection?, _ range: Range<UInt64>, _ random: inout SeededRandom
    ) -> Bool {
        guard var selected = selection else { return false }
        let isStruck = selected.strikes(range, &random)
        selection = selected.isUsedUp ? nil : selected
        return isStruck
    }

    // MARK: - flushes

    mutating func flush(
        _ flying: FlyingOperation, _ random: inout SeededRandom
    ) -> DeviceStatus {
        let count = pending.prefix { $0.completion <= flying.barrier }.count
        guard !isRefused(flying) else {
            // It never reached the disk, which has lost nothing by it.
            failedFlushes += 1
            return .ioError
        }
        if failsNextFlush || hasFailedFlush {
            failFlush(count, &random)
            return .ioError
        }
        if liesOnce {
            liesOnce = false
            liedFlushes += 1
            return .ok
        }
        for change in pending.prefix(count) { Self.apply(change, to: &durable) }
        pending.removeFirst(count)
        return .ok
    }

    private mutating func failFlush(_ count: Int, _ random: inout SeededRandom) {
        failsNextFlush = false
        hasFailedFlush = true
        failedFlushes += 1
        guard count > 0 else { return }
        lostFlushes += 1
        for change in pending.prefix(count) {
            land(change, .sectors(percent: 50), inFlight: false, &random)
        }
        pending.removeFirst(count)
        guard random.chance(50) else { return }
        current = durable
        for change in pending { Self.apply(change, to: &current) }
    }

    // MARK: - time

    /// Nothing ends before `untilNs`, when this has no more effect; nil: before ``unhang()``.
    public mutating func hang(untilNs: UInt64?) {
        hanging = untilNs.map { .until(ns: $0) } ?? .forGood
    }

    public mutating func unhang() { hanging = nil }

    /// How long an operation takes that is submitted now.
    func latency(drawnNs: UInt64) -> UInt64 {
        switch slowness {
        case nil: drawnNs
        case .factor(let factor): drawnNs * UInt64(factor)
        case .byNs(let delayNs): drawnNs + delayNs
        }
    }

    /// When an operation ends that is due then; nil: not as things are.
    func endNs(dueNs: UInt64) -> UInt64? {
        switch isUnreachable ? nil : hanging {
        case nil: dueNs
        case .until(let ns): max(dueNs, ns)
        case .forGood: nil
        }
    }

    // MARK: - size

    /// The disk says that it is smaller.
    public mutating func shrink(toBytes bytes: UInt64) {
        precondition(bytes <= fullSizeBytes && bytes % UInt64(sectorBytes) == 0)
        sizeBytes = bytes
    }

    /// The disk is as large as it was made.
    public mutating func growBack() { sizeBytes = fullSizeBytes }
}

/// Which writes a fault strikes: those that touch a range, and of these the next few or so many in
/// a hundred. A write counts, and is drawn for, when it ends.
public struct WriteSelection: Hashable, Sendable {
    private enum Rate: Hashable, Sendable {
        case next(Int)
        case percent(Int)
        case all
    }

    private var rate: Rate
    /// nil: the whole disk.
    private let ranges: [Range<UInt64>]?

    /// The next `count`, and then none: the selection is taken back by itself.
    public static func next(_ count: Int, within ranges: [Range<UInt64>]? = nil) -> Self {
        precondition(count > 0)
        return Self(rate: .next(count), ranges: ranges)
    }

    public static func percent(_ percent: Int, within ranges: [Range<UInt64>]? = nil) -> Self {
        Self(rate: .percent(percent), ranges: ranges)
    }

    /// Every one.
    public static func all(within ranges: [Range<UInt64>]? = nil) -> Self {
        Self(rate: .all, ranges: ranges)
    }

    fileprivate var isUsedUp: Bool { rate == .next(0) }

    fileprivate mutating func strikes(
        _ range: Range<UInt64>, _ random: inout SeededRandom
    ) -> Bool {
        if let ranges, !ranges.contains(where: { $0.overlaps(range) }) { return false }
        switch rate {
        case .next(let count):
            rate = .next(count - 1)
            return true
        case .percent(let percent):
            return random.chance(percent)
        case .all:
            return true
        }
    }
}

/// How much later than drawn the operations of a disk end.
public enum Slowness: Hashable, Sendable {
    case factor(Int)
    case byNs(UInt64)
}

/// How long nothing of a disk ends.
public enum Hanging: Hashable, Sendable {
    case until(ns: UInt64)
    case forGood
}
