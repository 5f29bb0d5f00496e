/// Changes that are not durable yet: key (a block, a grain) to the value it had before.
///
/// Open addressing over a bounded capacity, entries kept in order of insertion, so that iteration
/// is the same in every run; a removed entry leaves its key out but keeps its place.
struct PendingTable {
    private(set) var keys: [UInt64] = []
    private var olds: [UInt64] = []
    private var slots: [Int32]
    private var mask: Int
    private(set) var count = 0

    private static let empty: Int32 = -1
    static let removed = UInt64.max

    init(capacity: Int) {
        var size = 64
        while size < capacity * 2 { size *= 2 }
        slots = Array(repeating: Self.empty, count: size)
        mask = size - 1
        keys.reserveCapacity(capacity)
        olds.reserveCapacity(capacity)
    }

    var isEmpty: Bool { count == 0 }

    @inline(__always)
    private func start(_ key: UInt64) -> Int {
        Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 20) & mask
    }

    /// The value before the change, or nil when `key` has none.
    @inline(__always)
    func old(_ key: UInt64) -> UInt64? {
        if count == 0 { return nil }
        var at = start(key)
        while slots[at] != Self.empty {
            let position = Int(slots[at])
            if keys[position] == key { return olds[position] }
            at = (at + 1) & mask
        }
        return nil
    }

    /// Remembers the value before the first change of `key`; later changes keep it.
    ///
    /// - Returns: whether it was the first.
    @inline(__always)
    mutating func insert(_ key: UInt64, old: UInt64) -> Bool {
        var at = start(key)
        while slots[at] != Self.empty {
            if keys[Int(slots[at])] == key { return false }
            at = (at + 1) & mask
        }
        slots[at] = Int32(keys.count)
        keys.append(key)
        olds.append(old)
        count += 1
        if keys.count * 2 > slots.count { grow() }
        return true
    }

    /// Forgets a change. False when there was none.
    mutating func remove(_ key: UInt64) -> Bool {
        if count == 0 { return false }
        var at = start(key)
        while slots[at] != Self.empty {
            let position = Int(slots[at])
            if keys[position] == key {
                // The slot stays taken, as a tombstone, until the table is emptied.
                keys[position] = Self.removed
                count -= 1
                return true
            }
            at = (at + 1) & mask
        }
        return false
    }

    mutating func removeAll() {
        guard !keys.isEmpty else { return }
        keys.removeAll(keepingCapacity: true)
        olds.removeAll(keepingCapacity: true)
        for at in slots.indices { slots[at] = Self.empty }
        count = 0
    }

    private mutating func grow() {
        slots = Array(repeating: Self.empty, count: slots.count * 2)
        mask = slots.count - 1
        for (position, key) in keys.enumerated() where key != Self.removed {
            var at = start(key)
            while slots[at] != Self.empty { at = (at + 1) & mask }
            slots[at] = Int32(position)
        }
    }
}

/// An array over a huge index range that takes memory only where something was set.
struct SparseArray<Element> {
    private var chunks: [[Element]?]
    private let fill: Element
    private(set) var count: Int
    private static var chunkElements: Int { 1024 }

    /// - Parameter count: elements in all; memory until the first `set`: 8 bytes per 1,024.
    init(count: Int, fill: Element) {
        chunks = Array(repeating: nil, count: (count + Self.chunkElements - 1) / Self.chunkElements)
        self.fill = fill
        self.count = count
    }

    /// Makes room for more elements; never takes any away.
    mutating func grow(to count: Int) {
        guard count > self.count else { return }
        let wanted = (count + Self.chunkElements - 1) / Self.chunkElements
        chunks.append(contentsOf: repeatElement(nil, count: wanted - chunks.count))
        self.count = count
    }

    subscript(_ index: Int) -> Element {
        @inline(__always) get {
            chunks[index / Self.chunkElements]?[index % Self.chunkElements] ?? fill
        }
        @inline(__always) set {
            if chunks[index / Self.chunkElements] == nil {
                chunks[index / Self.chunkElements] = Array(
                    repeating: fill, count: Self.chunkElements)
            }
            chunks[index / Self.chunkElements]![index % Self.chunkElements] = newValue
        }
    }

    /// The chunks that were ever set: (first index, elements).
    var populated: [Range<Int>] {
        chunks.indices.compactMap { chunk in
            chunks[chunk] == nil
                ? nil : chunk * Self.chunkElements..<(chunk + 1) * Self.chunkElements
        }
    }
}
