import PoolFormat

/// Which block lies in which slot of a space's write-back cache.
///
/// The cache is a list of pieces of 256 slots, 4 KiB each, on as many disks as there are copies. Slot
/// `s` of the cache is slot `s % 256` of piece `s / 256`.
///
///     free ──► taken ──► live ───────────────► left ──► free
///              (a write  (the index names it;  (its block lies elsewhere;
///               is on     durable once a        until that is durable it
///               its way)  record says so)       stays as it is)
///
/// 1. A block lies in one slot at most.
/// 2. A slot that something durable names, or the log of what is not durable, is not free.
struct WriteCache {
    private struct State: OptionSet {
        let rawValue: UInt8
        /// The index names it.
        static let live = State(rawValue: 1)
        /// Some durable record, or page, says what lies there.
        static let durable = State(rawValue: 2)
    }

    private struct Piece {
        var freeCount = WriteCache.slotsPerPiece
        /// Nothing more is written there: it is being emptied.
        var isClosed = false
    }

    static let slotsPerPiece = CachePage.slotsPerPage
    private static let wordsPerPiece = slotsPerPiece / 64
    private static let nobody = UInt64.max

    let copies: Int
    /// Pieces that it may have.
    var pieceLimit = 0
    private var pieces: [Piece?] = []
    /// Of each piece's slots, lowest bit first. Set: free.
    private var freeBits: [UInt64] = []
    private var bases: [SlabGroups.Base] = []
    private var owners: [UInt64] = []
    private var states: [State] = []
    private var index: [UInt64: UInt32] = [:]
    /// Blocks that lie here, by grain.
    private var counts: [UInt64: Int] = [:]
    /// Grains to be destaged next, the last first.
    private var sweep: [UInt64] = []
    private var allocating = 0
    /// Where runs are put together; kept, so that nobody allocates them anew.
    private var runs: [Range<UInt32>] = []
    private(set) var pieceCount = 0
    /// Slots that can be handed out.
    private(set) var freeSlots = 0
    /// Those of them that requests will take.
    private var reservedSlots = 0

    init(copies: Int) { self.copies = copies }

    // MARK: - pieces

    /// The lowest number that no piece has; nil: it has as many as it may.
    var nextPiece: UInt32? {
        guard pieceCount < pieceLimit else { return nil }
        return UInt32(pieces.firstIndex { $0 == nil } ?? pieces.count)
    }

    var pieceNumbers: [UInt32] { pieces.indices.filter { pieces[$0] != nil }.map(UInt32.init) }

    func has(piece: UInt32) -> Bool { Int(piece) < pieces.count && pieces[Int(piece)] != nil }

    mutating func add(piece: UInt32, bases copies: [SlabGroups.Base]) {
        precondition(!has(piece: piece) && copies.count == self.copies)
        let nowhere = SlabGroups.Base(
            device: DiskPlaces.nowhere, disk: .hole, offsetBytes: 0)
        while pieces.count <= Int(piece) {
            pieces.append(nil)
            freeBits.append(contentsOf: repeatElement(.max, count: Self.wordsPerPiece))
            bases.append(contentsOf: repeatElement(nowhere, count: self.copies))
            owners.append(contentsOf: repeatElement(Self.nobody, count: Self.slotsPerPiece))
            states.append(contentsOf: repeatElement([], count: Self.slotsPerPiece))
        }
        pieces[Int(piece)] = Piece()
        bases.replaceSubrange(range(ofCopies: piece), with: copies)
        pieceCount += 1
        freeSlots += Self.slotsPerPiece
    }

    /// None of its slots is in use.
    mutating func remove(piece: UInt32) {
        precondition(isEmpty(piece: piece))
        if pieces[Int(piece)]?.isClosed == false { freeSlots -= Self.slotsPerPiece }
        pieces[Int(piece)] = nil
        pieceCount -= 1
    }

    /// A disk has come back, as another device.
    mutating func find(_ disk: DiskNumber, on device: DeviceIndex) {
        bases = bases.found(disk, on: device)
    }

    private func range(ofCopies piece: UInt32) -> Range<Int> {
        Int(piece) * copies..<(Int(piece) + 1) * copies
    }

    func bases(ofPiece piece: UInt32) -> ArraySlice<SlabGroups.Base> {
        bases[range(ofCopies: piece)]
    }

    /// Where a copy of a slot lies.
    @inline(__always)
    func base(_ slot: UInt32, copy: Int) -> SlabGroups.Base {
        let (piece, within) = Int(slot).quotientAndRemainder(dividingBy: Self.slotsPerPiece)
        var base = bases[piece * copies + copy]
        base.offsetBytes += UInt64(within * Units.blockBytes)
        return base
    }

    /// Nothing more is written to a piece.
    mutating func close(piece: UInt32) {
        guard let state = pieces[Int(piece)], !state.isClosed else { return }
        pieces[Int(piece)]?.isClosed = true
        freeSlots -= state.freeCount
    }

    /// Pieces that are written to.
    var openPieces: Int { pieces.count { $0?.isClosed == false } }

    var closedPieces: [UInt32] { pieceNumbers.filter { pieces[Int($0)]?.isClosed ?? false } }

    func isEmpty(piece: UInt32) -> Bool {
        pieces[Int(piece)]?.freeCount == Self.slotsPerPiece
    }

    // MARK: - slots

    /// Slots for a request that is about to come. False: there are not as many.
    mutating func reserve(_ count: Int) -> Bool {
        guard freeSlots - reservedSlots >= count else { return false }
        reservedSlots += count
        return true
    }

    mutating func unreserve(_ count: Int) { reservedSlots -= count }

    /// Takes slots, the next ones that are free.
    ///
    /// - Parameters:
    ///   - runs: most runs of consecutive slots of one piece.
    ///   - isUsable: whether slots of a piece with these copies may be written; nil: of all.
    ///   - body: told each run.
    /// - Returns: false: there are not as many in so few runs; none is taken.
    mutating func take(
        _ count: Int, runs limit: Int,
        where isUsable: ((ArraySlice<SlabGroups.Base>) -> Bool)? = nil,
        _ body: (Range<UInt32>) -> Void
    ) -> Bool {
        guard count <= freeSlots else { return false }
        runs.removeAll(keepingCapacity: true)
        var left = count
        for step in 0...freeBits.count where left > 0 && runs.count <= limit {
            let word = (allocating + step) % freeBits.count
            let piece = word / Self.wordsPerPiece
            guard pieces[piece]?.isClosed == false,
                isUsable?(bases(ofPiece: UInt32(piece))) ?? true
            else { continue }
            takeRuns(ofWord: word, piece, &left, limit: limit)
            if left == 0 { allocating = word }
        }
        guard left == 0, runs.count <= limit else {
            for run in runs { for slot in run { setFree(slot) } }
            return false
        }
        runs.forEach(body)
        return true
    }

    private mutating func takeRuns(ofWord word: Int, _ piece: Int, _ left: inout Int, limit: Int) {
        while freeBits[word] != 0, left > 0, runs.count <= limit {
            let bit = freeBits[word].trailingZeroBitCount
            let slot = UInt32(word * 64 + bit)
            let length = min(left, (~(freeBits[word] >> UInt64(bit))).trailingZeroBitCount)
            let taken = (length == 64 ? UInt64.max : 1 << UInt64(length) - 1) << UInt64(bit)
            freeBits[word] &= ~taken
            pieces[piece]!.freeCount -= length
            freeSlots -= length
            left -= length
            if let last = runs.last, last.upperBound == slot,
                Int(slot) % Self.slotsPerPiece != 0
            {
                runs[runs.count - 1] = last.lowerBound..<slot + UInt32(length)
            } else {
                runs.append(slot..<slot + UInt32(length))
            }
        }
    }

    /// A slot that nothing names, and nobody reads or writes.
    mutating func setFree(_ slot: UInt32) {
        let piece = Int(slot) / Self.slotsPerPiece
        (owners[Int(slot)], states[Int(slot)]) = (Self.nobody, [])
        precondition(!isFree(slot), "a free slot was freed")
        freeBits[Int(slot) / 64] |= 1 << UInt64(slot % 64)
        pieces[piece]!.freeCount += 1
        if pieces[piece]?.isClosed == false { freeSlots += 1 }
    }

    private func isFree(_ slot: UInt32) -> Bool {
        freeBits[Int(slot) / 64] >> UInt64(slot % 64) & 1 == 1
    }

    /// A slot that something durable names; recovery says so. False: it is none, or somebody's.
    mutating func recover(_ slot: UInt32, block: UInt64) -> Bool {
        let piece = UInt32(Int(slot) / Self.slotsPerPiece)
        guard has(piece: piece), index[block] == nil, isFree(slot) else { return false }
        freeBits[Int(slot) / 64] &= ~(1 << UInt64(slot % 64))
        pieces[Int(piece)]!.freeCount -= 1
        freeSlots -= 1
        _ = put(block, in: slot)
        states[Int(slot)].insert(.durable)
        return true
    }

    // MARK: - blocks

    var isEmpty: Bool { index.isEmpty }
    /// Blocks that lie here.
    var blockCount: Int { index.count }

    @inline(__always)
    func slot(ofBlock block: UInt64) -> UInt32? { index.isEmpty ? nil : index[block] }

    @inline(__always)
    func has(grain: UInt64) -> Bool { !index.isEmpty && counts[grain] != nil }

    /// Those of a grain's blocks that lie here, ascending, counted from the grain's first.
    func slots(ofGrain grain: UInt64) -> [(block: Int, slot: UInt32)] {
        guard let count = counts[grain] else { return [] }
        var found: [(block: Int, slot: UInt32)] = []
        let first = grain * UInt64(Units.blocksPerGrain)
        for block in 0..<Units.blocksPerGrain where found.count < count {
            if let slot = index[first + UInt64(block)] { found.append((block, slot)) }
        }
        return found
    }

    /// - Returns: the slot where the block lay until now.
    mutating func put(_ block: UInt64, in slot: UInt32) -> UInt32? {
        (owners[Int(slot)], states[Int(slot)]) = (block, .live)
        let before = index.updateValue(slot, forKey: block)
        if let before {
            states[Int(before)].remove(.live)
        } else {
            counts[block / UInt64(Units.blocksPerGrain), default: 0] += 1
        }
        return before
    }

    /// The block lies elsewhere now.
    ///
    /// - Returns: the slot where it lay.
    mutating func remove(_ block: UInt64) -> UInt32? {
        guard let slot = slot(ofBlock: block) else { return nil }
        index[block] = nil
        states[Int(slot)].remove(.live)
        let grain = block / UInt64(Units.blocksPerGrain)
        let count = (counts[grain] ?? 1) - 1
        counts[grain] = count == 0 ? nil : count
        return slot
    }

    /// A record that says what lies in the slot is durable.
    mutating func markDurable(_ slot: UInt32) { states[Int(slot)].insert(.durable) }

    func isDurable(_ slot: UInt32) -> Bool { states[Int(slot)].contains(.durable) }

    /// What lies in a slot of a piece, as far as that is durable.
    func forEachDurable(inPiece piece: UInt32, _ body: (_ slot: Int, _ block: UInt64) -> Void) {
        forEachSlot(ofPiece: piece) { within, slot in
            let state = states[slot]
            let isShown = Mutant.isActive(.cachePageFromMemory)
                ? state.contains(.live) : state.contains(.durable)
            if isShown { body(within, owners[slot]) }
        }
    }

    private func forEachSlot(ofPiece piece: UInt32, _ body: (_ within: Int, _ slot: Int) -> Void) {
        guard has(piece: piece) else { return }
        for within in 0..<Self.slotsPerPiece {
            body(within, Int(piece) * Self.slotsPerPiece + within)
        }
    }

    /// Whether a slot is so many places behind another, in the same piece.
    @inline(__always)
    static func isNext(_ slot: UInt32, behind first: UInt32, by count: Int) -> Bool {
        Int(slot) == Int(first) + count
            && Int(slot) / slotsPerPiece == Int(first) / slotsPerPiece
    }

    // MARK: - what is to be destaged

    /// Every grain of which something lies here, the last first.
    var grains: [UInt64] { counts.keys.sorted(by: >) }

    /// The next grain of which something lies here, in the order of addresses, round and round.
    mutating func nextGrain() -> UInt64? {
        if isEmpty {
            sweep.removeAll()
            return nil
        }
        while true {
            if sweep.isEmpty { sweep = grains }
            if let grain = sweep.popLast(), counts[grain] != nil { return grain }
        }
    }

    /// The grains of which something lies in a piece.
    func grains(inPiece piece: UInt32) -> [UInt64] {
        var found: Set<UInt64> = []
        forEachSlot(ofPiece: piece) { _, slot in
            if states[slot].contains(.live) {
                found.insert(owners[slot] / UInt64(Units.blocksPerGrain))
            }
        }
        return found.sorted()
    }
}
