import PoolFormat

/// Blocks that a disk which is away lacks: to the block within a budget, by whole regions past it.
struct MissedBlocks: Sendable {
    /// Which of a grain's 256 blocks.
    struct Mask: Equatable, Sendable {
        private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

        static func == (a: Mask, b: Mask) -> Bool { a.words == b.words }
        static let all = Mask(0..<Units.blocksPerGrain)

        init(_ blocks: Range<Int>) {
            words = (
                Self.word(blocks, 0), Self.word(blocks, 1), Self.word(blocks, 2),
                Self.word(blocks, 3)
            )
        }

        private static func word(_ blocks: Range<Int>, _ index: Int) -> UInt64 {
            let low = max(blocks.lowerBound - index * 64, 0)
            let high = min(blocks.upperBound - index * 64, 64)
            guard low < high else { return 0 }
            return (UInt64.max >> UInt64(64 - (high - low))) << UInt64(low)
        }

        mutating func formUnion(_ other: Mask) {
            words = (
                words.0 | other.words.0, words.1 | other.words.1, words.2 | other.words.2,
                words.3 | other.words.3
            )
        }

        func intersects(_ other: Mask) -> Bool {
            words.0 & other.words.0 != 0 || words.1 & other.words.1 != 0
                || words.2 & other.words.2 != 0 || words.3 & other.words.3 != 0
        }

        func contains(_ block: Int) -> Bool { intersects(Mask(block..<block + 1)) }
        var count: Int {
            words.0.nonzeroBitCount + words.1.nonzeroBitCount + words.2.nonzeroBitCount
                + words.3.nonzeroBitCount
        }
    }

    private var masks: [UInt64: Mask] = [:]
    private var regions: Set<UInt64> = []
    private let grainBudget: Int

    /// - Parameter grainBudget: grains that are known to the block, 100 bytes of memory each; with
    ///   more, all that is known so far is kept by the region.
    init(grainBudget: Int) { self.grainBudget = grainBudget }

    var isEmpty: Bool { masks.isEmpty && regions.isEmpty }

    mutating func insert(grain: UInt64, _ mask: Mask) {
        if regions.contains(DirtyRegions.region(ofGrain: grain)) { return }
        masks[grain, default: Mask(0..<0)].formUnion(mask)
        guard masks.count > grainBudget else { return }
        if !Mutant.isActive(.forgetPastBudget) {
            regions.formUnion(masks.keys.map { DirtyRegions.region(ofGrain: $0) })
        }
        masks.removeAll()
    }

    mutating func insert(region: UInt64) {
        guard regions.insert(region).inserted else { return }
        for grain in Self.grains(of: region) { masks[grain] = nil }
    }

    /// What of a grain is missed; nil: nothing.
    func mask(ofGrain grain: UInt64) -> Mask? {
        if regions.contains(DirtyRegions.region(ofGrain: grain)) { return .all }
        return masks.isEmpty ? nil : masks[grain]
    }

    func intersects(grain: UInt64, _ mask: Mask) -> Bool {
        self.mask(ofGrain: grain)?.intersects(mask) ?? false
    }

    /// The disk has all of the grain now.
    mutating func remove(grain: UInt64) {
        let region = DirtyRegions.region(ofGrain: grain)
        if regions.remove(region) != nil {
            for other in Self.grains(of: region) { masks[other] = .all }
        }
        masks[grain] = nil
    }

    /// The grains of which something is missed, ascending. Costs a pass over all that is known.
    var grains: [UInt64] {
        (Array(masks.keys) + regions.flatMap { Array(Self.grains(of: $0)) }).sorted()
    }

    /// How many that are, at most.
    var grainCount: Int { masks.count + regions.count * Units.grainsPerRegion }

    /// Regions of which something is missed.
    var touchedRegions: Set<UInt64> {
        regions.union(masks.keys.map { DirtyRegions.region(ofGrain: $0) })
    }

    private static func grains(of region: UInt64) -> Range<UInt64> {
        let count = UInt64(Units.grainsPerRegion)
        return region * count..<(region + 1) * count
    }
}
