import PoolFormat

/// The disks that a space does without, and what each of them lacks.
///
///              its failure is noted            it is here again         all is copied,
///     current ─────────────────────► away ─────────────────► returning ───────────────► current
///        the departure is durable     ▲                          │       the configuration says so
///        before anything is told      └──────────────────────────┘
///        that it does not have               it fails again
///
/// 1. *away*: it is given nothing, and what it lacks is noted. *returning*: it takes every write of
///    data, and of metadata as far as its copies are whole.
/// 2. A valid block whose place lies on a departed disk is in the disk's `missed`, or right there.
/// 3. The region of a missed block is durably missed, or durably dirty, or in `lateMissed` before
///    the block's value is durable: so a crash finds it in one of the two sets.
/// 4. Copies of metadata on a departed disk are never read, and count for nothing.
struct DepartedDisks: Sendable {
    enum Phase: Sendable { case away, returning }

    struct Disk: Sendable {
        let number: DiskNumber
        var phase: Phase
        var missed: MissedBlocks
        var missedPages: MissedPages
        /// Grains it has been given since it came back, and that were not moved since.
        var copied: Set<UInt64> = []
        /// How often it has come back.
        var returns = 0
        /// Its copies of pages take every checkpoint.
        var takesPages = false
        /// Its copy of the journal takes every batch.
        var takesJournal = false
    }

    private(set) var disks: [Disk] = []
    /// Slab groups with a copy that was never granted, for want of a disk.
    var hasHoles = false

    /// Nothing at all is known to be missing: the usual case, asked on every request.
    @inline(__always)
    var isEmpty: Bool { disks.isEmpty && !hasHoles }

    func index(of number: DiskNumber) -> Int? {
        disks.isEmpty ? nil : disks.firstIndex { $0.number == number }
    }

    subscript(_ index: Int) -> Disk {
        get { disks[index] }
        _modify { yield &disks[index] }
    }

    mutating func add(
        _ number: DiskNumber, _ phase: Phase, grainBudget: Int, missedPages: MissedPages
    ) -> Int {
        disks.append(
            Disk(
                number: number, phase: phase, missed: MissedBlocks(grainBudget: grainBudget),
                missedPages: missedPages))
        return disks.count - 1
    }

    mutating func remove(_ number: DiskNumber) { disks.removeAll { $0.number == number } }

    // MARK: - where something may go, and come from

    /// Holds everything: may be read, and counts.
    @inline(__always)
    func isCurrent(_ base: SlabGroups.Base) -> Bool {
        if isEmpty { return true }
        if Mutant.isActive(.readReturning), takesJournal(base) { return base.disk != .hole }
        return base.disk != .hole && index(of: base.disk) == nil
    }

    /// Data is written there.
    @inline(__always)
    func takesData(_ base: SlabGroups.Base) -> Bool {
        if isEmpty { return true }
        guard base.disk != .hole else { return false }
        if Mutant.isActive(.returningLacksWrites) { return index(of: base.disk) == nil }
        return index(of: base.disk).map { disks[$0].phase == .returning } ?? true
    }

    func takesPages(_ base: SlabGroups.Base) -> Bool {
        index(of: base.disk).map { disks[$0].phase == .returning && disks[$0].takesPages } ?? true
    }

    func takesJournal(_ base: SlabGroups.Base) -> Bool {
        index(of: base.disk).map { disks[$0].phase == .returning && disks[$0].takesJournal } ?? true
    }

    /// Not current, but what is there of these blocks is right.
    func isRight(_ base: SlabGroups.Base, grain: UInt64, _ blocks: MissedBlocks.Mask) -> Bool {
        guard base.device != DiskPlaces.nowhere, let index = index(of: base.disk) else {
            return false
        }
        return !disks[index].missed.intersects(grain: grain, blocks)
    }
}

extension GroupSlab {
    var isHole: Bool { address.disk == .hole }
}

extension DiskNumber {
    /// No disk's: the place of a copy that was never granted.
    public static let hole = DiskNumber(0)
}
