import PoolFormat

/// Changes of a space that are not durable: those since the last capture, or those of one commit.
struct ChangeSet {
    /// Block to the value it had before.
    var blocks: PendingTable
    /// Grain to the map entry it had before.
    var grains: PendingTable
    /// Grants and releases, in the order they happened.
    var records: [JournalRecord] = []
    var marks: [UInt64] = []
    var cleans: [UInt64] = []
    /// Those of `grains` that only lie elsewhere: their blocks kept their values.
    var moved: Set<UInt64> = []
    /// Physical grains that are free once this is durable.
    var freed: [GrainMap.Entry] = []
    /// Slots of the cache that are.
    var freedSlots: [UInt32] = []
    /// Slots that this names.
    var cachedSlots: [UInt32] = []

    init(limits: Limits) {
        blocks = PendingTable(capacity: limits.unflushedBlocks)
        grains = PendingTable(capacity: 1024)
    }

    var isEmpty: Bool {
        blocks.isEmpty && grains.isEmpty && records.isEmpty && marks.isEmpty && cleans.isEmpty
    }

    /// What a run of one block takes, in the cache.
    static let blockBytes = 32

    /// An upper bound of what it takes in the journal.
    var journalBytes: Int {
        blocks.count * Self.blockBytes + grains.count * 80 + records.count * 1200
            + (marks.count + cleans.count) * 16
    }

    mutating func removeAll() {
        blocks.removeAll()
        grains.removeAll()
        records.removeAll(keepingCapacity: true)
        marks.removeAll(keepingCapacity: true)
        cleans.removeAll(keepingCapacity: true)
        moved.removeAll(keepingCapacity: true)
        freed.removeAll(keepingCapacity: true)
        freedSlots.removeAll(keepingCapacity: true)
        cachedSlots.removeAll(keepingCapacity: true)
    }
}

/// A set of device indices below 256.
struct DeviceSet: Sendable {
    private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

    @inline(__always)
    mutating func insert(_ device: DeviceIndex) {
        let bit = UInt64(1) << UInt64(device.rawValue & 63)
        switch device.rawValue >> 6 {
        case 0: words.0 |= bit
        case 1: words.1 |= bit
        case 2: words.2 |= bit
        case 3: words.3 |= bit
        case let word: preconditionFailure("device word \(word): a shard has at most 256 devices")
        }
    }

    mutating func remove(_ device: DeviceIndex) {
        var single = DeviceSet()
        single.insert(device)
        words = (
            words.0 & ~single.words.0, words.1 & ~single.words.1, words.2 & ~single.words.2,
            words.3 & ~single.words.3
        )
    }

    var isEmpty: Bool { words == (0, 0, 0, 0) }

    func isSubset(of other: DeviceSet) -> Bool {
        words.0 & ~other.words.0 == 0 && words.1 & ~other.words.1 == 0
            && words.2 & ~other.words.2 == 0 && words.3 & ~other.words.3 == 0
    }

    func contains(_ device: DeviceIndex) -> Bool {
        var single = DeviceSet()
        single.insert(device)
        return !isDisjoint(with: single)
    }

    func isDisjoint(with other: DeviceSet) -> Bool {
        words.0 & other.words.0 | words.1 & other.words.1 | words.2 & other.words.2
            | words.3 & other.words.3 == 0
    }

    mutating func formUnion(_ other: DeviceSet) {
        words = (
            words.0 | other.words.0, words.1 | other.words.1, words.2 | other.words.2,
            words.3 | other.words.3
        )
    }

    /// In rising order.
    func forEach(_ body: (DeviceIndex) -> Void) {
        for (position, var word) in [words.0, words.1, words.2, words.3].enumerated() {
            while word != 0 {
                body(DeviceIndex(UInt16(position * 64 + word.trailingZeroBitCount)))
                word &= word - 1
            }
        }
    }
}
