import PoolFormat

/// Which regions may differ between copies, or from their recorded values, after a crash.
///
///              write needs a mark              journal batch durable
///     clean ───────────────────► requested ──► committing ──► dirty
///       ▲                                                       │ idle, a whole commit since the
///       │        journal batch durable                          │ last write, no write in flight
///       └────────────────────────────────── cleaning ◄──────────┘
///
/// 1. A write over anything but durably UNWRITTEN blocks goes out only in `dirty`.
/// 2. A region enters `cleaning` only when a commit that began after its last write has finished:
///    its values are durable and every copy has been flushed since.
/// 3. `cleaning` is still dirty for recovery; a write that comes meanwhile asks for a new mark.
struct DirtyRegions {
    enum Mark: UInt8 { case clean, requested, committing, dirty, cleaning }

    struct Region {
        var mark: Mark = .clean
        /// Left dirty by a crash: each grain is made equal on all copies before it is used.
        var isCrashed = false
        /// A write could not be completed, or what a crash left could not be settled any more: its
        /// blocks match either value, or none.
        var isSuspect = false
        /// A mark is wanted again once the cleaning under way is durable.
        var isWantedAgain = false
        /// Grains already made equal since the crash.
        var settledGrains: UInt16 = 0
        var writesInFlight: UInt16 = 0
        /// The commit that will cover its last write.
        var coveredBy: UInt64 = 0
        /// The commit that will cover the last copy that was made equal after a crash.
        var settledBy: UInt64 = 0
        /// The commit that will cover the last write to a block that was UNWRITTEN.
        var freshCoveredBy: UInt64 = 0
        var lastWriteNs: UInt64 = 0
    }

    private var regions: SparseArray<Region>
    private(set) var count: Int
    /// Regions that are not clean, oldest first.
    private(set) var marked: [UInt64] = []

    init(grainCount: Int) {
        count = Self.count(grainCount: grainCount)
        regions = SparseArray(count: count, fill: Region())
    }

    /// What lies past a smaller end is clean, and stays so.
    mutating func resize(grainCount: Int) {
        count = Self.count(grainCount: grainCount)
        regions.grow(to: count)
    }

    static func count(grainCount: Int) -> Int {
        (grainCount + Units.grainsPerRegion - 1) / Units.grainsPerRegion
    }

    static func region(ofGrain grain: UInt64) -> UInt64 { grain / UInt64(Units.grainsPerRegion) }

    subscript(_ region: UInt64) -> Region {
        @inline(__always) get { regions[Int(region)] }
        @inline(__always) set { regions[Int(region)] = newValue }
    }

    /// Marked durably: what recovery would find.
    func isDurablyDirty(_ region: UInt64) -> Bool {
        switch self[region].mark {
        case .clean, .requested, .committing: false
        case .dirty, .cleaning: true
        }
    }

    mutating func setMark(_ region: UInt64, _ mark: Mark) {
        let before = self[region].mark
        self[region].mark = mark
        if before == .clean, mark != .clean { marked.append(region) }
        if mark == .clean { marked.removeAll { $0 == region } }
    }

    func needsSettling(_ grain: UInt64) -> Bool {
        let region = self[Self.region(ofGrain: grain)]
        return region.isCrashed
            && region.settledGrains >> UInt16(grain % UInt64(Units.grainsPerRegion)) & 1 == 0
    }

    /// Mismatching blocks of this grain are served as they are. Not once it is settled: what then
    /// matches no value is a copy that lacks it, and whoever had it has left.
    func acceptsMismatch(_ grain: UInt64) -> Bool {
        needsSettling(grain) || self[Self.region(ofGrain: grain)].isSuspect
    }

    /// Regions that may be cleaned now; the oldest first, those idle for long enough, or more when
    /// there are too many of them. Those that cannot be cleaned do not count: for them the region that
    /// a write has just asked for would be cleaned before the write comes to it, and so for ever.
    func cleanable(completedCommits: UInt64, nowNs: UInt64, idleNs: UInt64, bound: Int) -> [UInt64] {
        let candidates = marked.filter { index in
            let region = self[index]
            return region.mark == .dirty && !region.isCrashed && !region.isSuspect
                && region.writesInFlight == 0 && region.coveredBy <= completedCommits
        }
        var result: [UInt64] = []
        for index in candidates {
            let isIdle = nowNs &- self[index].lastWriteNs >= idleNs
            if isIdle || candidates.count - result.count > bound { result.append(index) }
        }
        return result
    }
}
