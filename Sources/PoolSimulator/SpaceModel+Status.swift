/// What block status may say of a space.
///
/// 1. "Reads as zeros" is a read that returned zeros: the same rules judge it, and it settles the
///    same things.
/// 2. "Data" may be said of anything but what is zeros beyond doubt: a block that nothing was ever
///    written to, or that one trim covered whole, acknowledged, with nothing in flight since.
/// 3. A grain nothing was ever sent to is not mapped in a thin space, and mapped in a fixed one.
extension SpaceModel {
    /// What a reply of block status said, of sectors from the request's first.
    public struct Extent: Sendable {
        public var sectors: Range<Int>
        public var isMapped: Bool
        public var readsAsZeros: Bool
        public init(sectors: Range<Int>, isMapped: Bool, readsAsZeros: Bool) {
            self.sectors = sectors
            self.isMapped = isMapped
            self.readsAsZeros = readsAsZeros
        }
    }

    /// Checks one extent, and learns from it.
    ///
    /// - Returns: what is wrong, naming the first bad sector, or nil.
    public mutating func replyStatus(
        _ ticket: UInt32, asked: Range<Int>, _ extent: Extent, isFixed: Bool
    ) -> String? {
        guard let submitted = endRead(ticket) else { return "a status was answered twice" }
        let range = extent.sectors
        guard range.lowerBound == asked.lowerBound, !range.isEmpty,
            range.upperBound <= asked.upperBound
        else { return "an extent of \(range), asked for \(asked)" }
        guard range.upperBound % 8 == 0 || range.upperBound == asked.upperBound else {
            return "an extent that ends within a block, at sector \(range.upperBound)"
        }
        if !extent.isMapped && !extent.readsAsZeros { return "an unmapped extent with data" }
        let grains = SectorTable.sectorsPerGrain
        for grain in range.lowerBound / grains...(range.upperBound - 1) / grains
        where !history.isSent(grain: grain) && extent.isMapped != isFixed {
            return "grain \(grain), never written, is \(extent.isMapped ? "mapped" : "unmapped")"
        }
        return extent.readsAsZeros
            ? judgeZeros(range, submitted) : judgeData(range, submitted)
    }

    private mutating func judgeZeros(_ range: Range<Int>, _ submitted: UInt32) -> String? {
        for sector in range where !history[sector].isUntouched {
            if let wrong = judge(sector, .zeros, submitted: submitted) {
                return "space \(serial) sector \(sector): block status says \(wrong)"
            }
        }
        return nil
    }

    private func judgeData(_ range: Range<Int>, _ submitted: UInt32) -> String? {
        var block = range.lowerBound / 8 * 8
        while block < range.upperBound {
            if isZeroBeyondDoubt(block, submitted) {
                return "space \(serial) sector \(block): block status says data; allowed: "
                    + allowedText(block, submitted)
            }
            block += 8
        }
        return nil
    }

    /// The eight sectors are zeros of the new space, or of one change that covers them all.
    private func isZeroBeyondDoubt(_ block: Int, _ submitted: UInt32) -> Bool {
        let cause = history[block].first.operation
        return (block..<block + 8).allSatisfy { sector in
            guard history[sector].isSingle else { return false }
            let only = history[sector].first
            return only.operation == cause && isZeroes(only) && replied(only) < submitted
        }
    }
}
