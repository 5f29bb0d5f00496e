/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
///
///     name length 4 | name | query count 4 | (query length 4 | query) ...
///
/// Queries of other namespaces, and names this one does not have, select nothing.
struct MetaContextQuery {
    var name: [UInt8]
    var queryCount: UInt32 = 0
    var asksAllocation = false
    /// "base:": everything of the namespace.
    var asksWildcard = false

    /// nil where the lengths inside do not add up to the length outside.
    init?(_ data: Span<UInt8>) {
        guard data.count >= 8 else { return nil }
        let nameLength = data.bigEndian(0, as: UInt32.self)
        guard Int(nameLength) <= data.count - 8 else { return nil }
        var next = 4 + Int(nameLength)
        name = data.array(4..<next)
        queryCount = data.bigEndian(next, as: UInt32.self)
        next += 4
        // Each query takes four bytes at least, so the count is bounded by the data.
        for _ in 0..<queryCount {
            guard data.count - next >= 4 else { return nil }
            let length = data.bigEndian(next, as: UInt32.self)
            next += 4
            guard Int(length) <= data.count - next else { return nil }
            let end = next + Int(length)
            if data.holds(Wire.Allocation.name, next..<end) { asksAllocation = true }
            if data.holds(Wire.Allocation.wildcard, next..<end) { asksWildcard = true }
            next = end
        }
        guard next == data.count else { return nil }
    }

    /// What LIST_META_CONTEXT answers; no query at all asks for everything.
    var listsAllocation: Bool { queryCount == 0 || asksAllocation || asksWildcard }
}

extension Span where Element == UInt8 {
    /// A copy of a range that the caller has checked.
    func array(_ range: Range<Int>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(range.count)
        for index in range { bytes.append(self[index]) }
        return bytes
    }

    fileprivate func holds(_ text: String, _ range: Range<Int>) -> Bool {
        guard range.count == text.utf8.count else { return false }
        for (index, byte) in zip(range, text.utf8) where self[index] != byte { return false }
        return true
    }
}
