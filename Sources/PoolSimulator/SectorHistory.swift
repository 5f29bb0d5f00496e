/// One client operation that changes a space.
struct ModelOperation: Sendable {
    /// False for trims, zeroes and the fresh space: their bytes are zeros.
    var writes: Bool
    var fua: Bool
    var submitted: UInt32
    /// `.max` while it is in flight.
    var replied: UInt32
    /// Known to have been applied.
    var certain: Bool
    /// Was durable when a crash came.
    var sealedDurable = false
}

/// One version of one sector.
struct SectorEntry: Sendable {
    var operation: UInt32
    /// Its submission, or the later read that found it there.
    var start: UInt32
    /// Found there by a read while nothing else was in flight.
    var settled: Bool
    /// Found there after a crash.
    var durableBySettling = false
}

/// The versions of one sector; nearly always one, which needs no memory of its own.
struct SectorHistory: Sendable {
    private(set) var first = SectorEntry(operation: 0, start: 0, settled: false)
    private var more: [SectorEntry] = []

    var isSingle: Bool { more.isEmpty }
    /// Nothing but the zeros of a new space.
    var isUntouched: Bool { isSingle && first.operation == 0 }

    var entries: [SectorEntry] {
        get { [first] + more }
        set {
            precondition(!newValue.isEmpty)
            first = newValue[0]
            more = Array(newValue.dropFirst())
        }
    }

    mutating func append(_ entry: SectorEntry) { more.append(entry) }
}

/// The histories of a space, grain by grain: a grain that nobody wrote to takes no memory, and a
/// copy of the table shares every grain that neither side changes.
struct SectorTable: Sendable {
    static let sectorsPerGrain = 2048
    /// Empty: untouched.
    private var grains: [[SectorHistory]]
    /// Whether any change was ever sent there, also one that left zeros what was zeros.
    private var isSent: [Bool]

    init(sectors: Int) {
        precondition(sectors % Self.sectorsPerGrain == 0)
        grains = Array(repeating: [], count: sectors / Self.sectorsPerGrain)
        isSent = Array(repeating: false, count: grains.count)
    }

    var sectors: Int { grains.count * Self.sectorsPerGrain }

    subscript(_ sector: Int) -> SectorHistory {
        get {
            let grain = sector / Self.sectorsPerGrain
            return grains[grain].isEmpty
                ? SectorHistory() : grains[grain][sector % Self.sectorsPerGrain]
        }
        _modify {
            let grain = sector / Self.sectorsPerGrain
            if grains[grain].isEmpty {
                grains[grain] = Array(repeating: SectorHistory(), count: Self.sectorsPerGrain)
            }
            yield &grains[grain][sector % Self.sectorsPerGrain]
        }
    }

    /// Grains of which a sector was changed once, ascending.
    var touchedGrains: [Int] { grains.indices.filter { !grains[$0].isEmpty } }

    func isTouched(grain: Int) -> Bool { !grains[grain].isEmpty }

    var sentGrains: [Int] { isSent.indices.filter { isSent[$0] } }
    func isSent(grain: Int) -> Bool { isSent[grain] }
    mutating func markSent(_ sectors: Range<Int>) {
        guard !sectors.isEmpty else { return }
        let first = sectors.lowerBound / Self.sectorsPerGrain
        for grain in first...(sectors.upperBound - 1) / Self.sectorsPerGrain {
            isSent[grain] = true
        }
    }

    /// Grains past the new end are forgotten, new ones untouched.
    mutating func resize(sectors: Int) {
        precondition(sectors % Self.sectorsPerGrain == 0)
        let count = sectors / Self.sectorsPerGrain
        if count < grains.count {
            grains.removeLast(grains.count - count)
            isSent.removeLast(isSent.count - count)
        }
        while grains.count < count {
            grains.append([])
            isSent.append(false)
        }
    }
}
