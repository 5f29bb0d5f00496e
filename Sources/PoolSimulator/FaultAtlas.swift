/// Which disks carry which faults, and which may: faults stay within what the resiliency promises.
///
/// A disk costs redundancy, is *burdened*, while any of these holds:
///
/// 1. A fault is at work on it, other than slowness.
/// 2. It is stale: it was away, hung or shrunk, or failed a write or a flush, and has not been said
///    to be in sync since.
/// 3. It is damaged: sectors became unreadable, bits turned over or writes went astray, and nothing
///    has found it right since.
///
///                 ┌────────────── note(fault) ◄──────────────┐
///                 ▼                                          │
///     clean ─► at work ─ noteTakenBack ─┬─ it struck loud ─► stale ─ noteInSync ──────► clean
///                                       └─ it struck bytes ► damaged ─ noteScrubbed ──► clean
///                                                                    └ noteHealed ────► clean
///
/// A disk may be all three at once, and counts once: with ``Bound/promised`` at most `tolerance`
/// disks are burdened at any instant. So ``mayFault(_:)`` is true of a burdened disk, which loses
/// nothing by one more fault, and of others while there is room.
///
/// A value without a disk in it: the caller notes what it does to the disks and what it sees.
public struct FaultAtlas: Sendable {
    public enum Bound: Hashable, Sendable {
        case promised
        /// Any fault anywhere: for runs that lift the promises.
        case unbounded
    }

    /// What a scrub was begun after; see ``noteScrubbed(_:)``.
    public struct Scrub: Hashable, Sendable {
        fileprivate var moment: Int
    }

    private struct Disk {
        var atWork: Set<DiskFault.Kind> = []
        var isStale = false
        var isDamaged = false
        /// When something last happened to it that a scrub under way may have overlooked.
        var changed = 0

        var isBurdened: Bool { isStale || isDamaged || !atWork.subtracting([.slow]).isEmpty }
        var isAway: Bool { !atWork.isDisjoint(with: DiskFault.Kind.away) }
        var isSpoiling: Bool { !atWork.isDisjoint(with: DiskFault.Kind.spoiling) }
    }

    public let tolerance: Int
    public let bound: Bound
    private var disks: [Disk]
    /// Counts what was noted.
    private var moment = 0
    private var random: SeededRandom

    /// - Parameter tolerance: how many disks the least of the pool's spaces can do without.
    public init(disks: Int, tolerance: Int, seed: UInt64, bound: Bound = .promised) {
        precondition(disks > 0 && tolerance >= 0)
        self.tolerance = tolerance
        self.bound = bound
        self.disks = Array(repeating: Disk(), count: disks)
        random = SeededRandom(seed: seed)
    }

    // MARK: - what may be

    public func isBurdened(_ disk: Int) -> Bool { disks[disk].isBurdened }
    public func isAway(_ disk: Int) -> Bool { disks[disk].isAway }
    public func isStale(_ disk: Int) -> Bool { disks[disk].isStale }
    public func isDamaged(_ disk: Int) -> Bool { disks[disk].isDamaged }
    public func isAtWork(_ kind: DiskFault.Kind, _ disk: Int) -> Bool {
        disks[disk].atWork.contains(kind)
    }
    public var burdenedCount: Int { disks.count(where: \.isBurdened) }

    /// Whether one more fault of this disk stays within the bound.
    public func mayFault(_ disk: Int) -> Bool {
        switch bound {
        case .unbounded: true
        case .promised: disks[disk].isBurdened || burdenedCount < tolerance
        }
    }

    public func mayFault(_ disk: Int, _ kind: DiskFault.Kind) -> Bool {
        switch kind {
        case .slow: true
        case .lyingFlush: bound == .unbounded
        case .unreachable, .readErrors, .writeErrors, .flushError, .latentSectors, .rot,
            .lostWrites, .misdirectedWrites, .hang, .shrunk:
            mayFault(disk)
        }
    }

    /// A disk and a fault that may begin now, of these kinds; nil: none may. The caller sets it and
    /// notes it.
    public mutating func drawKind(
        _ kinds: [DiskFault.Kind]
    ) -> (disk: Int, kind: DiskFault.Kind)? {
        let choices = disks.indices.flatMap { disk in
            kinds.filter { mayFault(disk, $0) && makesSense($0, disks[disk]) }
                .map { (disk: disk, kind: $0) }
        }
        return choices.isEmpty ? nil : random.pick(choices)
    }

    /// The same with everything about the fault drawn.
    public mutating func drawFault(
        _ kinds: [DiskFault.Kind], of simulated: [SimulatedDisk], within ranges: [Range<UInt64>],
        nowNs: UInt64
    ) -> (disk: Int, fault: DiskFault)? {
        guard let (disk, kind) = drawKind(kinds) else { return nil }
        let fault = DiskFault.draw(
            kind, of: simulated[disk], within: ranges, nowNs: nowNs, random: &random)
        return (disk, fault)
    }

    /// Not what it carries already, and while it is away only what happens in a drawer.
    private func makesSense(_ kind: DiskFault.Kind, _ disk: Disk) -> Bool {
        guard !disk.atWork.contains(kind) else { return false }
        guard disk.atWork.contains(.unreachable) else { return true }
        return kind == .rot || kind == .latentSectors
    }

    // MARK: - what happens

    /// A fault has been set.
    public mutating func note(_ fault: DiskFault.Kind, on disk: Int) {
        precondition(mayFault(disk, fault), "a fault beyond the bound")
        change(disk)
        if DiskFault.Kind.spoiling.contains(fault) { disks[disk].isDamaged = true }
        // Bytes that are spoilt are the whole of it: nothing goes on.
        if fault == .rot || fault == .latentSectors { return }
        if fault == .unreachable {
            // What hung has ended.
            disks[disk].atWork.remove(.hang)
        }
        if DiskFault.Kind.estranging.contains(fault) { disks[disk].isStale = true }
        disks[disk].atWork.insert(fault)
    }

    /// A fault has been taken back, or has taken itself back. What it did stays noted.
    public mutating func noteTakenBack(_ fault: DiskFault.Kind, on disk: Int) {
        change(disk)
        disks[disk].atWork.remove(fault)
    }

    public mutating func noteAway(_ disk: Int) { note(.unreachable, on: disk) }

    /// The disk is there again, and stale.
    public mutating func noteBack(_ disk: Int) { noteTakenBack(.unreachable, on: disk) }

    /// The engine gave the disk up for a reason of its own.
    public mutating func noteStale(_ disk: Int) {
        change(disk)
        disks[disk].isStale = true
    }

    /// The disk has everything that it missed.
    public mutating func noteInSync(_ disk: Int) {
        precondition(!disks[disk].isAway, "a disk that is away cannot be in sync")
        change(disk)
        // What still fails writes may make it stale again at any time.
        disks[disk].isStale = !disks[disk].atWork.isDisjoint(with: DiskFault.Kind.estranging)
    }

    /// The disk is a new one, which has nothing yet and is none the worse for its predecessor.
    public mutating func noteReplaced(_ disk: Int) {
        change(disk)
        disks[disk].atWork.removeAll()
        disks[disk].isDamaged = false
        disks[disk].isStale = true
    }

    /// The disk is the pool's no more, and nothing that happens to it matters.
    public mutating func noteGone(_ disk: Int) {
        change(disk)
        disks[disk].atWork.removeAll()
        (disks[disk].isStale, disks[disk].isDamaged) = (false, false)
    }

    /// The disk itself shows that nothing is wrong any more: ``SimulatedDisk/isUndamaged``.
    public mutating func noteHealed(_ disk: Int) {
        if !disks[disk].isSpoiling { disks[disk].isDamaged = false }
    }

    /// To be kept until the scrub ends.
    public func scrubBegins() -> Scrub { Scrub(moment: moment) }

    /// A scrub has found everything right, or made it so: of the disks that were there and in sync
    /// all the while, and to which nothing happened meanwhile.
    public mutating func noteScrubbed(_ scrub: Scrub) {
        for index in disks.indices {
            let disk = disks[index]
            guard disk.changed <= scrub.moment, !disk.isAway, !disk.isStale, !disk.isSpoiling
            else { continue }
            disks[index].isDamaged = false
        }
    }

    private mutating func change(_ disk: Int) {
        moment += 1
        disks[disk].changed = moment
    }
}

extension DiskFault.Kind {
    /// While one of these is at work the disk does not serve.
    static let away: Set<Self> = [.unreachable, .hang, .shrunk]
    /// After one of these the disk may lack what others have.
    static let estranging: Set<Self> = away.union([.writeErrors, .flushError, .lyingFlush])
    /// These change bytes, or what can be read of them, for longer than they last.
    static let spoiling: Set<Self> = [
        .readErrors, .latentSectors, .rot, .lostWrites, .misdirectedWrites,
    ]
}
