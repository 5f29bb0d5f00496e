import PoolFormat

/// Where each grain of a space lies: 8 bytes of memory for each grain that was ever mapped.
///
///     entry   63          32 31            8 7      0
///             group          physical grain  state
struct GrainMap {
    struct Entry: Equatable {
        var rawValue: UInt64
        static let unmapped = Entry(rawValue: 0)

        init(rawValue: UInt64) { self.rawValue = rawValue }
        init(group: UInt32, physicalGrain: UInt32) {
            rawValue = UInt64(group) << 32 | UInt64(physicalGrain) << 8 | 1
        }
        var isMapped: Bool { rawValue & 0xff != 0 }
        var group: UInt32 { UInt32(rawValue >> 32) }
        var physicalGrain: UInt32 { UInt32(truncatingIfNeeded: rawValue >> 8) & 0xff_ffff }

        init(_ entry: MapEntry) {
            self =
                switch entry.state {
                case .unmapped: .unmapped
                case .mapped: Entry(group: entry.group, physicalGrain: entry.physicalGrain)
                }
        }
        /// Every entry is born in the first generation until there are snapshots.
        var durable: MapEntry {
            MapEntry(
                group: group, physicalGrain: physicalGrain, state: isMapped ? .mapped : .unmapped,
                birth: 1)
        }
    }

    private var entries: SparseArray<UInt64>
    private(set) var grainCount: Int
    private(set) var mappedCount = 0

    init(grainCount: Int) {
        self.grainCount = grainCount
        entries = SparseArray(count: grainCount, fill: 0)
    }

    /// What lies past a smaller end is unmapped, and stays so.
    mutating func resize(grainCount: Int) {
        entries.grow(to: grainCount)
        self.grainCount = grainCount
    }

    /// Ranges of grains of which some were mapped once; the last may end past the space.
    var populated: [Range<Int>] { entries.populated }

    /// The grains that lie in a group, among the next `limit` from `start`.
    ///
    /// - Returns: also where to go on; nil: that was the last.
    func grains(
        inGroup group: UInt32, from start: Int, limit: Int
    ) -> (grains: [UInt64], next: Int?) {
        let end = min(start + limit, grainCount)
        // The space may have been shrunk since the last time.
        guard start < end else { return ([], nil) }
        var found: [UInt64] = []
        for grain in start..<end {
            let entry = self[UInt64(grain)]
            if entry.isMapped, entry.group == group { found.append(UInt64(grain)) }
        }
        return (found, end < grainCount ? end : nil)
    }

    subscript(_ grain: UInt64) -> Entry {
        @inline(__always) get { Entry(rawValue: entries[Int(grain)]) }
        set {
            let wasMapped = Entry(rawValue: entries[Int(grain)]).isMapped
            if !wasMapped && !newValue.isMapped { return }
            mappedCount += (newValue.isMapped ? 1 : 0) - (wasMapped ? 1 : 0)
            entries[Int(grain)] = newValue.rawValue
        }
    }
}

/// The slab groups of a space: where their bytes lie, and which of their grains are free.
///
/// A grain is free only when nothing durable names it: it comes back through ``release(_:)`` once
/// its unmapping is durable, its readers have left and its discard has finished.
struct SlabGroups {
    /// Who may be emptying a group: each begins and gives up by itself.
    struct Drainers: OptionSet {
        let rawValue: UInt8
        static let compaction = Drainers(rawValue: 1)
        static let repair = Drainers(rawValue: 2)
        static let all: Drainers = [.compaction, .repair]
    }

    struct Group {
        var record: GroupRecord
        /// Index of its first (device, offset) in `bases`.
        var firstBase: Int
        var shape: GroupShape
        /// Bit set: free.
        var freeBits: [UInt64]
        var freeCount: Int
        /// A place from which a free grain is looked for.
        var cursor = 0
        /// Who is emptying it. Meanwhile none of its grains is handed out.
        var drainers: Drainers = []
        var isDraining: Bool { !drainers.isEmpty }

        var grainCount: Int { shape.grainCount }
        var usedCount: Int { grainCount - freeCount }
    }

    struct Base: Sendable {
        var device: DeviceIndex
        var disk: DiskNumber
        var offsetBytes: UInt64
    }

    private(set) var groups: [Group?] = []
    private var bases: [Base] = []
    /// Grains that can be handed out: those of a group that is being emptied cannot.
    private(set) var freeGrains = 0
    private var allocating = 0
    /// The slabs that are being replaced: few, and one of a group at a time.
    private(set) var replacements: [Replacement] = []
    /// Free grains that are kept whatever goes back to the pool, as long as some grain is in use.
    var reserve = 0

    /// The lowest id that no group has: so ids stay below the number of groups there ever are at
    /// a time, and the pages that hold them few.
    var nextID: UInt32 { UInt32(groups.firstIndex { $0 == nil } ?? groups.count) }
    /// The `count` lowest ids that no group has.
    func nextIDs(_ count: Int) -> [UInt32] {
        let gaps = groups.indices.lazy.filter { groups[$0] == nil }.prefix(count).map(UInt32.init)
        let more = count - gaps.count
        return gaps + (0..<more).map { UInt32(groups.count + $0) }
    }

    /// Of all groups, in use or free.
    private(set) var grainCount = 0
    var records: [GroupRecord] { groups.compactMap { $0?.record } }
    subscript(_ id: UInt32) -> Group? { Int(id) < groups.count ? groups[Int(id)] : nil }

    /// Adds a group whose grains are all free.
    mutating func add(_ record: GroupRecord, base: (GroupSlab) -> Base) {
        let shape = GroupShape(record)
        let grains = shape.grainCount
        while groups.count <= Int(record.id) { groups.append(nil) }
        groups[Int(record.id)] = Group(
            record: record, firstBase: bases.count, shape: shape,
            freeBits: Self.allFree(grains), freeCount: grains)
        bases.append(contentsOf: record.slabs.map(base))
        freeGrains += grains
        grainCount += grains
    }

    /// A bit for each grain. Of widths that do not divide a slab the last word has fewer: what lies
    /// past the last grain lies in the next slab, which is somebody else's.
    private static func allFree(_ grains: Int) -> [UInt64] {
        var bits = Array(repeating: UInt64.max, count: (grains + 63) / 64)
        let rest = grains % 64
        if rest > 0 { bits[bits.count - 1] = 1 << UInt64(rest) - 1 }
        return bits
    }

    /// Takes every entirely free group out of allocation for good.
    ///
    /// - Parameter wanted: only those; nil: all.
    mutating func removeEmpty(_ wanted: Set<UInt32>? = nil) -> [GroupRecord] {
        var removed: [GroupRecord] = []
        for id in groups.indices {
            guard let group = groups[id], group.freeCount == group.grainCount,
                wanted?.contains(UInt32(id)) ?? true, replacement(of: UInt32(id)) == nil,
                hasReserve(without: group)
            else { continue }
            groups[id] = nil
            grainCount -= group.grainCount
            if !group.isDraining { freeGrains -= group.freeCount }
            removed.append(group.record)
        }
        return removed
    }

    private func hasReserve(without group: Group) -> Bool {
        let left = freeGrains - (group.isDraining ? 0 : group.freeCount)
        let isAllFree = groups.allSatisfy { $0.map { $0.usedCount == 0 } ?? true }
        return left >= reserve || isAllFree
    }

    /// A disk has come back, as another device.
    mutating func find(_ disk: DiskNumber, on device: DeviceIndex) {
        for index in bases.indices where bases[index].disk == disk { bases[index].device = device }
        for index in replacements.indices where replacements[index].base.disk == disk {
            replacements[index].base.device = device
        }
    }

    // MARK: - emptying a group

    /// The group with the fewest grains in use, when the others have room for all of them.
    ///
    /// - Parameter excluding: groups that could not be emptied.
    func sparsest(excluding: Set<UInt32>) -> UInt32? {
        var best: Group?
        for case let group? in groups
        where !group.isDraining && group.freeCount > 0 && !excluding.contains(group.record.id)
            && replacement(of: group.record.id) == nil
        {
            if freeGrains - group.freeCount >= group.usedCount + reserve,
                group.usedCount < best?.usedCount ?? .max
            {
                best = group
            }
        }
        return best?.record.id
    }

    mutating func startDraining(_ id: UInt32, by drainer: Drainers) {
        guard let group = self[id] else { return }
        groups[Int(id)]!.drainers.formUnion(drainer)
        if !group.isDraining { freeGrains -= group.freeCount }
    }

    /// Its grains can be handed out again, unless others are emptying it, too. Nothing happens when it
    /// is gone.
    mutating func stopDraining(_ id: UInt32, by drainers: Drainers) {
        guard let group = self[id], group.isDraining else { return }
        groups[Int(id)]!.drainers.subtract(drainers)
        if !groups[Int(id)]!.isDraining { freeGrains += group.freeCount }
    }

    /// Clients need the grains of groups that are being emptied.
    mutating func stopDraining() {
        for id in groups.indices { stopDraining(UInt32(id), by: .all) }
    }

    func isDraining(_ id: UInt32, by drainers: Drainers = .all) -> Bool {
        !(self[id]?.drainers ?? []).isDisjoint(with: drainers)
    }

    /// Whether a group is read and written in a place that no disk has, whatever its record says.
    var hasHoles: Bool {
        groups.contains { group in
            guard let group else { return false }
            return bases[group.firstBase..<group.firstBase + group.record.slabs.count]
                .contains { $0.disk == .hole }
        }
    }

    /// Whether a group is read and written there, or its record says so.
    func uses(_ number: DiskNumber) -> Bool {
        groups.contains { group in
            guard let group else { return false }
            return group.record.slabs.contains { $0.address.disk == number }
                || bases[group.firstBase..<group.firstBase + group.record.slabs.count]
                    .contains { $0.disk == number }
        }
    }

    // MARK: - grains

    /// A free grain, or nil when the space has none.
    mutating func allocate() -> GrainMap.Entry? {
        guard freeGrains > 0 else { return nil }
        for _ in groups.indices {
            if allocating < groups.count, let group = groups[allocating], !group.isDraining,
                group.freeCount > 0
            {
                return allocate(from: allocating)
            }
            allocating = (allocating + 1) % groups.count
        }
        return nil
    }

    private mutating func allocate(from id: Int) -> GrainMap.Entry? {
        let words = groups[id]!.freeBits.count
        for step in 0..<words {
            let word = (groups[id]!.cursor + step) % words
            let bits = groups[id]!.freeBits[word]
            guard bits != 0 else { continue }
            let grain = word * 64 + bits.trailingZeroBitCount
            groups[id]!.cursor = word
            take(UInt32(id), UInt32(grain))
            return GrainMap.Entry(group: UInt32(id), physicalGrain: UInt32(grain))
        }
        return nil
    }

    /// Whether a map entry names a grain that exists and is free; recovery asks before `take`.
    func isFree(_ entry: GrainMap.Entry) -> Bool {
        guard let group = self[entry.group] else { return false }
        let grain = Int(entry.physicalGrain)
        return grain < group.grainCount && group.freeBits[grain / 64] >> (grain % 64) & 1 == 1
    }

    mutating func take(_ id: UInt32, _ grain: UInt32) {
        let (word, bit) = (Int(grain) / 64, UInt64(1) << (UInt64(grain) % 64))
        precondition(
            Int(grain) < groups[Int(id)]!.grainCount && groups[Int(id)]!.freeBits[word] & bit != 0,
            "a grain has two owners")
        groups[Int(id)]!.freeBits[word] &= ~bit
        groups[Int(id)]!.freeCount -= 1
        if !groups[Int(id)]!.isDraining { freeGrains -= 1 }
    }

    mutating func release(_ entry: GrainMap.Entry) {
        let id = Int(entry.group)
        let grain = Int(entry.physicalGrain)
        let bit = UInt64(1) << UInt64(grain % 64)
        precondition(groups[id]!.freeBits[grain / 64] & bit == 0, "a free grain was freed")
        groups[id]!.freeBits[grain / 64] |= bit
        groups[id]!.freeCount += 1
        noteReplaced(entry)
        if !groups[id]!.isDraining { freeGrains += 1 }
    }

    // MARK: - replacing a slab

    /// A slab whose group is written to another one, too, which is to take its place.
    struct Replacement {
        let group: UInt32
        /// In the group's record.
        let position: Int
        let (old, slab): (GroupSlab, GroupSlab)
        fileprivate(set) var base: Base
        /// Grains of the group that the new slab does not have.
        fileprivate(set) var lacking: Set<UInt32>
        /// What is written to the group goes to the slab, too.
        fileprivate(set) var isWritten = true
        /// No write to the group begins.
        fileprivate(set) var isGated = false
        /// Its disk has left since.
        fileprivate(set) var isLost = false
    }

    func replacement(of id: UInt32) -> Replacement? {
        replacements.isEmpty ? nil : replacements.first { $0.group == id }
    }

    private func replacementIndex(of id: UInt32) -> Int? {
        replacements.isEmpty ? nil : replacements.firstIndex { $0.group == id }
    }

    /// From here on what is written to the group goes to the slab, too. It lacks what is in use.
    mutating func startReplacing(
        _ id: UInt32, at position: Int, with slab: GroupSlab, _ base: Base
    ) {
        guard let group = self[id] else { return }
        precondition(replacement(of: id) == nil, "one slab of a group is replaced at a time")
        let used = (0..<group.grainCount).filter {
            group.freeBits[$0 / 64] >> UInt64($0 % 64) & 1 == 0
        }
        replacements.append(
            Replacement(
                group: id, position: position, old: group.record.slabs[position], slab: slab,
                base: base, lacking: Set(used.map(UInt32.init))))
    }

    /// No write to the group begins any more.
    mutating func gateReplacement(of id: UInt32) {
        if let index = replacementIndex(of: id) { replacements[index].isGated = true }
    }

    /// Nothing more is written to both.
    ///
    /// - Parameter isUsed: the new slab is read and written in the place of the old one.
    mutating func endReplacing(_ id: UInt32, isUsed: Bool) {
        guard let index = replacementIndex(of: id) else { return }
        (replacements[index].isWritten, replacements[index].isGated) = (false, false)
        guard isUsed, let group = self[id] else { return }
        bases[group.firstBase + replacements[index].position] = replacements[index].base
    }

    /// Neither slab is anything but the group's, or free.
    mutating func forgetReplacement(of id: UInt32) { replacements.removeAll { $0.group == id } }

    /// The disk has left.
    mutating func loseReplacements(on disk: DiskNumber) {
        for index in replacements.indices where replacements[index].base.disk == disk {
            replacements[index].isLost = true
        }
    }

    /// The new slab has all of the grain, or nobody needs it any more.
    mutating func noteReplaced(_ entry: GrainMap.Entry) {
        guard let index = replacementIndex(of: entry.group) else { return }
        replacements[index].lacking.remove(entry.physicalGrain)
    }

    /// Nobody knows what the grain holds.
    mutating func lack(_ entry: GrainMap.Entry) {
        guard entry.isMapped, let index = replacementIndex(of: entry.group) else { return }
        replacements[index].lacking.insert(entry.physicalGrain)
    }

    /// What is written here goes to a slab that is to replace one of the group's, too.
    @inline(__always)
    func isReplacing(_ entry: GrainMap.Entry) -> Bool {
        !replacements.isEmpty && replacement(of: entry.group)?.isWritten ?? false
    }

    /// Names another slab at a place of a group. What is read and written stays where it was.
    mutating func rename(_ id: UInt32, at position: Int, _ slab: GroupSlab) -> GroupRecord? {
        guard self[id] != nil else { return nil }
        groups[Int(id)]!.record.slabs[position] = slab
        return groups[Int(id)]!.record
    }

    // MARK: - where bytes lie

    /// Cuts a byte range of a grain into runs that lie in one column each, with the places of every
    /// copy of the run.
    func forEachColumn(
        _ entry: GrainMap.Entry, offsetBytes: Int, lengthBytes: Int,
        _ body: (_ copies: [Base], _ position: Int, _ lengthBytes: Int) -> Void
    ) {
        let copies = groups[Int(entry.group)]!.shape.copies
        forEachRun(entry, copy: 0, offsetBytes: offsetBytes, lengthBytes: lengthBytes) {
            first, position, bytes in
            var bases = [first]
            for copy in 1..<max(copies, 1) {
                forEachRun(
                    entry, copy: copy, offsetBytes: offsetBytes + position, lengthBytes: bytes
                ) { base, _, _ in bases.append(base) }
            }
            body(bases, position, bytes)
        }
    }

    /// Cuts a byte range of a grain into runs on one device each, for one copy.
    @inline(__always)
    func forEachRun(
        _ entry: GrainMap.Entry, copy: Int, offsetBytes: Int, lengthBytes: Int,
        _ body: (_ base: Base, _ position: Int, _ lengthBytes: Int) -> Void
    ) {
        let (firstBase, shape) = place(entry)
        shape.forEachPart(
            entry.physicalGrain, offsetBytes: offsetBytes, lengthBytes: lengthBytes
        ) { slab, offset, position, run in
            var base = bases[firstBase + slab + copy]
            base.offsetBytes += UInt64(offset)
            body(base, position, run)
        }
    }

    /// Likewise for the slab that is to replace one of the group's: what of the range lies there.
    func forEachReplacingRun(
        _ entry: GrainMap.Entry, offsetBytes: Int, lengthBytes: Int,
        _ body: (_ base: Base, _ position: Int, _ lengthBytes: Int) -> Void
    ) {
        guard let replacement = replacement(of: entry.group), replacement.isWritten else { return }
        let (_, shape) = place(entry)
        shape.forEachPart(
            entry.physicalGrain, offsetBytes: offsetBytes, lengthBytes: lengthBytes
        ) { slab, offset, position, run in
            guard (slab..<slab + shape.copies).contains(replacement.position) else { return }
            var base = replacement.base
            base.offsetBytes += UInt64(offset)
            body(base, position, run)
        }
    }

    /// The blocks of a grain that a slab's part of it is, or is made of.
    func blocks(of entry: GrainMap.Entry, inColumnOf slab: Int) -> [Int] {
        let (_, shape) = place(entry)
        if shape.isParity {
            let column = shape.column(at: slab, grain: entry.physicalGrain)
            return column < shape.columns
                ? Array(shape.blocks(ofColumn: column)) : Array(0..<Units.blocksPerGrain)
        }
        var blocks: [Int] = []
        shape.forEachPart(
            entry.physicalGrain, offsetBytes: 0, lengthBytes: Units.grainBytes
        ) { position, _, offset, bytes in
            guard position / shape.copies == slab / shape.copies else { return }
            let first = offset / Units.blockBytes
            blocks += first..<first + bytes / Units.blockBytes
        }
        return blocks
    }

    @inline(__always)
    private func place(_ entry: GrainMap.Entry) -> (firstBase: Int, shape: GroupShape) {
        let id = Int(entry.group)
        precondition(groups[id] != nil && entry.physicalGrain < groups[id]!.grainCount)
        return (groups[id]!.firstBase, groups[id]!.shape)
    }

    // MARK: - stripes

    /// Where the column of a parity grain lies, P and Q behind those of data: one unit.
    func base(_ entry: GrainMap.Entry, column: Int) -> Base {
        let (firstBase, shape) = place(entry)
        let position = shape.position(ofColumn: column, grain: entry.physicalGrain)
        return stripeBase(bases[firstBase + position], entry, shape)
    }

    /// Likewise for the slab that is to replace one of the group's, and the column that it takes.
    func replacingBase(_ entry: GrainMap.Entry) -> (column: Int, base: Base)? {
        guard let replacement = replacement(of: entry.group), replacement.isWritten else {
            return nil
        }
        let (_, shape) = place(entry)
        let column = shape.column(at: replacement.position, grain: entry.physicalGrain)
        return (column, stripeBase(replacement.base, entry, shape))
    }

    private func stripeBase(_ slab: Base, _ entry: GrainMap.Entry, _ shape: GroupShape) -> Base {
        var base = slab
        base.offsetBytes += UInt64(Int(entry.physicalGrain) * shape.unitBytes)
        return base
    }

    /// Everything that a grain takes, all copies and all columns.
    func forEachPlace(_ entry: GrainMap.Entry, _ body: (_ base: Base, _ lengthBytes: Int) -> Void) {
        let (_, shape) = place(entry)
        guard !shape.isParity else {
            for column in 0..<shape.width { body(base(entry, column: column), shape.unitBytes) }
            return
        }
        for copy in 0..<shape.copies {
            forEachRun(
                entry, copy: copy, offsetBytes: 0, lengthBytes: Units.grainBytes
            ) { base, _, bytes in body(base, bytes) }
        }
    }
}
