/// What a space may return, sector by sector: the checker.
///
/// Every client operation has a number and two instants: its submission and its reply. Instants
/// count events, so any two compare. A sector keeps the versions that may still be there.
///
/// 1. Version w *replaces* v when v's reply came before w's start: then the order is certain.
///    Versions whose lives overlapped may have landed in either order.
/// 2. Running: a read may return v unless a version acknowledged before the read's submission
///    replaces v.
/// 3. Once a read returned v and no write touched the sector meanwhile, v is what is there: v
///    starts anew at that read, and so replaces what was acknowledged before it.
/// 4. A version is durable once a FLUSH that was submitted after its acknowledgement completes, or
///    with its own acknowledgement under FUA. A crash may leave v unless a durable version
///    replaces v; what was in flight may be there or not.
/// 5. After a crash the first read settles a sector, durably: another crash takes nothing back.
/// 6. When the process alone ends, and its successor gets to serve before anything else happens,
///    what was acknowledged is durable, in a space with checksums.
/// 7. A failed write may be there or not, replaces nothing, and is never durable by itself.
public struct SpaceModel: Sendable {
    public let serial: UInt64
    public var sectors: Int { history.sectors }

    private(set) var history: SectorTable
    /// Number 0 is the zeros of a space just made.
    private(set) var operations: [ModelOperation]
    private var readsInFlight: [UInt32: UInt32] = [:]
    private var flushesInFlight: [UInt32: UInt32] = [:]
    /// Latest submission of a completed FLUSH: what was acknowledged before is durable.
    private var flushedUntil: UInt32 = 0
    private(set) var now: UInt32 = 1
    private var nextTicket: UInt32 = 1
    private var crashedAt: UInt32 = 0
    /// Operations before this one belong to an earlier life of the machine.
    private var firstOfThisLife = 1

    public init(serial: UInt64, sizeBytes: UInt64) {
        self.serial = serial
        history = SectorTable(sectors: Int(sizeBytes) / Stamp.sectorBytes)
        operations = [
            ModelOperation(
                writes: false, fua: false, submitted: 0, replied: 0, certain: true,
                sealedDurable: true)
        ]
    }

    // MARK: - events

    /// A write; its bytes are ``stamp(_:sectors:into:)`` of the number this returns.
    public mutating func submitWrite(sectors range: Range<Int>, fua: Bool) -> UInt32 {
        change(range, writes: true, fua: fua)
    }

    /// A trim, or a write of zeros.
    public mutating func submitZeroes(sectors range: Range<Int>, fua: Bool) -> UInt32 {
        change(range, writes: false, fua: fua)
    }

    private mutating func change(_ range: Range<Int>, writes: Bool, fua: Bool) -> UInt32 {
        now += 1
        let number = UInt32(operations.count)
        operations.append(
            ModelOperation(
                writes: writes, fua: fua, submitted: now, replied: .max, certain: false))
        let entry = SectorEntry(operation: number, start: now, settled: false)
        let oldestRead = readsInFlight.values.min() ?? .max
        history.markSent(range)
        for sector in range {
            // Zeros over the zeros of a new space change nothing that anybody could see.
            if !writes, history[sector].isUntouched { continue }
            prune(sector, oldestRead)
            history[sector].append(entry)
        }
        return number
    }

    public mutating func replyChange(_ number: UInt32, ok: Bool) {
        now += 1
        operations[Int(number)].replied = now
        operations[Int(number)].certain = ok
    }

    /// The space ends elsewhere now: what lay past the new end is gone, what is new is zeros.
    public mutating func resize(sizeBytes: UInt64) {
        now += 1
        history.resize(sectors: Int(sizeBytes) / Stamp.sectorBytes)
    }

    /// Any FLUSH of any client.
    public mutating func submitFlush() -> UInt32 {
        now += 1
        nextTicket += 1
        flushesInFlight[nextTicket] = now
        return nextTicket
    }

    public mutating func replyFlush(_ ticket: UInt32, ok: Bool) {
        now += 1
        guard let submitted = flushesInFlight.removeValue(forKey: ticket), ok else { return }
        flushedUntil = max(flushedUntil, submitted)
    }

    public mutating func submitRead() -> UInt32 {
        now += 1
        nextTicket += 1
        readsInFlight[nextTicket] = now
        return nextTicket
    }

    /// A read that failed tells nothing.
    public mutating func failRead(_ ticket: UInt32) {
        now += 1
        readsInFlight[ticket] = nil
    }

    /// The machine or the process is gone: what was in flight is as uncertain as a failed write,
    /// and what is durable limits what may be found.
    ///
    /// - Parameter isNothingLost: rule 6.
    public mutating func crash(isNothingLost: Bool = false) {
        now += 1
        if isNothingLost { flushedUntil = now }
        for sector in unsettledSectors() {
            let all = history[sector].entries
            history[sector].entries = all.filter { entry in
                !all.contains { isDurable($0) && replaces($0, entry) }
            }.map { entry in
                var survivor = entry
                survivor.settled = entry.durableBySettling
                return survivor
            }
        }
        // Acknowledged or not: of what is not durable none is known to be the one that is there.
        for number in firstOfThisLife..<operations.count {
            let operation = operations[number]
            let durable =
                operation.certain && (operation.fua || operation.replied < flushedUntil)
            operations[number].certain = durable
            operations[number].sealedDurable = durable
            operations[number].replied = min(operation.replied, now)
        }
        firstOfThisLife = operations.count
        crashedAt = now
        flushedUntil = 0
        readsInFlight.removeAll()
        flushesInFlight.removeAll()
    }

    /// Fills the payload of write `number`.
    ///
    /// - Parameter bytes: `range.count` sectors.
    public func stamp(
        _ number: UInt32, sectors range: Range<Int>, into bytes: UnsafeMutableRawBufferPointer
    ) {
        for sector in range {
            let at = (sector - range.lowerBound) * Stamp.sectorBytes
            unsafe Stamp.write(
                Stamp.Head(
                    operation: UInt64(number), space: serial, sector: UInt64(sector)),
                to: UnsafeMutableRawBufferPointer(
                    rebasing: bytes[at..<at + Stamp.sectorBytes]))
        }
    }

    // MARK: - reading

    /// Takes a read's ticket back: when it was submitted, or nil if it was answered before.
    mutating func endRead(_ ticket: UInt32) -> UInt32? {
        now += 1
        return readsInFlight.removeValue(forKey: ticket)
    }

    /// Checks what a read returned, and learns from it.
    ///
    /// - Parameter bytes: `range.count` sectors.
    /// - Returns: what is wrong, naming the first bad sector, or nil.
    public mutating func replyRead(
        _ ticket: UInt32, sectors range: Range<Int>, bytes: UnsafeRawBufferPointer
    ) -> String? {
        guard let submitted = endRead(ticket) else { return "a read was answered twice" }
        for sector in range {
            let at = (sector - range.lowerBound) * Stamp.sectorBytes
            let content = unsafe Stamp.read(
                UnsafeRawBufferPointer(rebasing: bytes[at..<at + Stamp.sectorBytes]))
            if let wrong = judge(sector, content, submitted: submitted) {
                return "space \(serial) sector \(sector) (byte \(sector * 512)): \(wrong)"
            }
        }
        return nil
    }

    mutating func judge(
        _ sector: Int, _ content: Stamp.Content, submitted: UInt32
    ) -> String? {
        switch content {
        case .garbage(let claimed):
            return "garbage; its head claims \(describe(claimed)); allowed: "
                + allowedText(sector, submitted)
        case .stamp(let head):
            guard head.space == serial, head.sector == UInt64(sector) else {
                return "the bytes of \(describe(head))"
            }
            if history[sector].isSingle, UInt64(history[sector].first.operation) == head.operation,
                operations[Int(history[sector].first.operation)].writes
            {
                return settleSingle(sector, submitted)
            }
            let all = history[sector].entries
            guard let at = all.firstIndex(where: { UInt64($0.operation) == head.operation }),
                allowed(all[at], in: all, submitted: submitted)
            else {
                return "operation \(head.operation) is stale; allowed: "
                    + allowedText(sector, submitted)
            }
            settle(sector, on: at, submitted: submitted)
            return nil
        case .zeros:
            if history[sector].isSingle, isZeroes(history[sector].first) {
                return settleSingle(sector, submitted)
            }
            let all = history[sector].entries
            let candidates = all.indices.filter {
                isZeroes(all[$0]) && allowed(all[$0], in: all, submitted: submitted)
            }
            // Zeros do not say which of several made them: the least durable one claims least.
            let best = candidates.max { a, b in
                let left = (isDurable(all[a]) ? 0 : 1, replied(all[a]))
                let right = (isDurable(all[b]) ? 0 : 1, replied(all[b]))
                return left < right
            }
            guard let best else { return "zeros; allowed: " + allowedText(sector, submitted) }
            settle(sector, on: best, submitted: submitted)
            return nil
        }
    }

    private mutating func settleSingle(_ sector: Int, _ submitted: UInt32) -> String? {
        settle(sector, on: 0, submitted: submitted)
        return nil
    }

    func allowed(
        _ entry: SectorEntry, in all: [SectorEntry], submitted: UInt32
    ) -> Bool {
        // With nothing in flight since the submission, what another read found is still there.
        let isQuiet = all.allSatisfy { replied($0) < submitted }
        return !all.contains { other in
            isCertain(other) && replaces(other, entry)
                && (acknowledged(other) < submitted || (isQuiet && other.settled))
        }
    }

    /// Rule 3 and rule 5.
    private mutating func settle(_ sector: Int, on index: Int, submitted: UInt32) {
        if history[sector].isSingle {
            let only = history[sector].first
            // Nothing to learn about a version that is acknowledged, or settled already.
            guard !only.settled, !operation(only).certain else { return }
        }
        var all = history[sector].entries
        let quiet = all.allSatisfy { replied($0) < submitted }
        guard quiet else { return }
        let seen = all[index]
        let survivor = replied(seen) <= crashedAt
        all[index].start = max(seen.start, submitted)
        all[index].settled = true
        all[index].durableBySettling = seen.durableBySettling || survivor
        history[sector].entries = all
        prune(sector, readsInFlight.values.min() ?? .max)
    }

    // MARK: - rules

    private func operation(_ entry: SectorEntry) -> ModelOperation {
        operations[Int(entry.operation)]
    }
    func replied(_ entry: SectorEntry) -> UInt32 { operation(entry).replied }
    /// When an entry began to be what is there: its acknowledgement, or the read that settled it.
    private func acknowledged(_ entry: SectorEntry) -> UInt32 {
        entry.settled ? entry.start : replied(entry)
    }
    func isZeroes(_ entry: SectorEntry) -> Bool { !operation(entry).writes }
    private func isCertain(_ entry: SectorEntry) -> Bool {
        entry.settled || operation(entry).certain
    }
    private func isDurable(_ entry: SectorEntry) -> Bool {
        if entry.durableBySettling { return true }
        let operation = operation(entry)
        guard operation.certain else { return false }
        return operation.sealedDurable || operation.fua || operation.replied < flushedUntil
    }
    /// Rule 1.
    private func replaces(_ later: SectorEntry, _ earlier: SectorEntry) -> Bool {
        later.operation != earlier.operation && replied(earlier) < later.start
    }

    /// Drops what can be neither read nor found after a crash any more.
    private mutating func prune(_ sector: Int, _ oldestRead: UInt32) {
        guard !history[sector].isSingle else { return }
        let all = history[sector].entries
        let kept = all.filter { entry in
            !all.contains { other in
                isDurable(other) && acknowledged(other) < oldestRead && replaces(other, entry)
            }
        }
        if kept.count < all.count { history[sector].entries = kept }
    }

    // MARK: - inspection

    /// Sectors that may hold more than one version: worth a read after a crash.
    public func unsettledSectors() -> [Int] {
        history.touchedGrains.flatMap { grain in
            let first = grain * SectorTable.sectorsPerGrain
            return (first..<first + SectorTable.sectorsPerGrain).filter { !history[$0].isSingle }
        }
    }

    /// Whether anything but the zeros of a new space may be there.
    public func isTouched(_ sector: Int) -> Bool { !history[sector].isUntouched }

    /// Whether some grain from this one on holds data beyond doubt.
    func surelyHolds(fromGrain first: Int) -> Bool {
        touchedGrains.contains { grain in
            grain >= first
                && (grain * SectorTable.sectorsPerGrain..<(grain + 1) * SectorTable.sectorsPerGrain)
                    .contains {
                        let only = history[$0].first
                        return history[$0].isSingle && !isZeroes(only)
                            && operations[Int(only.operation)].certain
                    }
        }
    }

    /// Grains that may hold something, and all that a change was ever sent to; ascending.
    public var touchedGrains: [Int] { history.touchedGrains }
    public var sentGrains: [Int] { history.sentGrains }

    private func describe(_ head: Stamp.Head) -> String {
        "operation \(head.operation), space \(head.space), sector \(head.sector)"
    }

    func allowedText(_ sector: Int, _ submitted: UInt32) -> String {
        let all = history[sector].entries
        let names = all.filter { allowed($0, in: all, submitted: submitted) }.map { entry in
            let kind = isZeroes(entry) ? "zeros of" : "write"
            let durable = isDurable(entry) ? ", durable" : ""
            return "\(kind) \(entry.operation)\(durable)"
        }
        return "[" + names.joined(separator: "; ") + "]"
    }
}
