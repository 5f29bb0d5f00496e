import Testing

@testable import PoolSimulator

/// What an atlas may be told, for brute force.
private enum Event: Hashable {
    case fault(DiskFault.Kind)
    case takenBack(DiskFault.Kind)
    case stale, inSync, replaced, healed

    static let all: [Event] =
        kinds.map { .fault($0) } + kinds.map { .takenBack($0) }
        + [.stale, .inSync, .replaced, .healed]

    /// One of each sort: vanishing, failing writes, passing damage, bytes, and what costs nothing.
    static let kinds: [DiskFault.Kind] = [.unreachable, .writeErrors, .lostWrites, .rot, .slow]
}

/// What is true of one disk, said again in the plainest way.
private struct Plain: Hashable {
    var isAway = false
    var failsWrites = false
    var losesWrites = false
    var isSlow = false
    var isStale = false
    var isDamaged = false

    var isBurdened: Bool { isAway || failsWrites || losesWrites || isStale || isDamaged }

    mutating func take(_ event: Event) {
        switch event {
        case .fault(.unreachable): (isAway, isStale) = (true, true)
        case .takenBack(.unreachable): isAway = false
        case .fault(.writeErrors): (failsWrites, isStale) = (true, true)
        case .takenBack(.writeErrors): failsWrites = false
        case .fault(.lostWrites): (losesWrites, isDamaged) = (true, true)
        case .takenBack(.lostWrites): losesWrites = false
        case .fault(.rot): isDamaged = true
        case .fault(.slow): isSlow = true
        case .takenBack(.slow): isSlow = false
        case .fault, .takenBack: break
        case .stale: isStale = true
        case .inSync: isStale = failsWrites
        case .replaced:
            self = Plain()
            isStale = true
        case .healed: isDamaged = losesWrites
        }
    }
}

extension FaultAtlas {
    fileprivate func agrees(with plain: [Plain]) -> Bool {
        plain.indices.allSatisfy { disk in
            isAway(disk) == plain[disk].isAway && isStale(disk) == plain[disk].isStale
                && isDamaged(disk) == plain[disk].isDamaged
                && isBurdened(disk) == plain[disk].isBurdened
        } && burdenedCount == plain.count(where: \.isBurdened)
    }

    fileprivate mutating func take(_ event: Event, _ disk: Int) {
        switch event {
        case .fault(let kind): note(kind, on: disk)
        case .takenBack(let kind): noteTakenBack(kind, on: disk)
        case .stale: noteStale(disk)
        case .inSync: noteInSync(disk)
        case .replaced: noteReplaced(disk)
        case .healed: noteHealed(disk)
        }
    }
}

@Suite struct FaultAtlasTests {
    /// Every state that faults within the bound lead to, of few disks.
    @Test(arguments: [(1, 0), (1, 1), (2, 1), (3, 1), (2, 2)])
    func boundHoldsInEveryState(_ count: Int, _ tolerance: Int) {
        var open = [
            (
                FaultAtlas(disks: count, tolerance: tolerance, seed: 1),
                Array(repeating: Plain(), count: count)
            )
        ]
        var seen: Set<[Plain]> = [open[0].1]
        while let (atlas, plain) = open.popLast() {
            let burdened = plain.count(where: \.isBurdened)
            #expect(burdened <= tolerance)
            for disk in 0..<count {
                // A fault is refused only where it would break the bound.
                let after = plain[disk].isBurdened ? burdened : burdened + 1
                #expect(atlas.mayFault(disk) == (after <= tolerance))
                for event in Event.all where isLegal(event, disk, atlas, plain) {
                    var next = (atlas, plain)
                    next.0.take(event, disk)
                    next.1[disk].take(event)
                    #expect(next.0.agrees(with: next.1), "\(event) of \(plain[disk])")
                    if seen.insert(next.1).inserted { open.append(next) }
                }
            }
        }
        // Slow or not; burdened in so many ways, for as many disks as may be.
        #expect(seen.count == Self.states(count, tolerance))
    }

    private func isLegal(
        _ event: Event, _ disk: Int, _ atlas: FaultAtlas, _ plain: [Plain]
    ) -> Bool {
        switch event {
        case .fault(let kind): atlas.mayFault(disk, kind)
        case .takenBack: true
        // What an engine does by itself is no fault beyond the bound, if it is right.
        case .stale, .replaced: atlas.mayFault(disk)
        case .inSync: !plain[disk].isAway
        case .healed: true
        }
    }

    /// Of one disk: slow or not, and away (then stale) or not, failing (then stale) or not, losing
    /// (then damaged) or not, and so on.
    private static func states(_ count: Int, _ tolerance: Int) -> Int {
        // (away, failing, stale): 5, as the first two are stale; (losing, damaged): 3.
        let burdened = 2 * (5 * 3 - 1)
        func choose(_ n: Int, _ k: Int) -> Int {
            k == 0 ? 1 : choose(n - 1, k - 1) * n / k
        }
        func power(_ base: Int, _ exponent: Int) -> Int {
            (0..<exponent).reduce(1) { product, _ in product * base }
        }
        return (0...min(count, tolerance)).reduce(0) { total, many in
            total + choose(count, many) * power(burdened, many) * power(2, count - many)
        }
    }

    @Test func withoutABoundEverythingGoes() {
        var atlas = FaultAtlas(disks: 2, tolerance: 0, seed: 1, bound: .unbounded)
        for disk in 0..<2 {
            for kind in DiskFault.Kind.allCases {
                #expect(atlas.mayFault(disk, kind))
                atlas.note(kind, on: disk)
            }
        }
        #expect(atlas.burdenedCount == 2)
    }

    @Test func promisesBearNoLyingFlushAndAnySlowness() {
        let atlas = FaultAtlas(disks: 2, tolerance: 0, seed: 1)
        for kind in DiskFault.Kind.allCases {
            #expect(atlas.mayFault(0, kind) == (kind == .slow))
        }
        #expect(!FaultAtlas(disks: 2, tolerance: 2, seed: 1).mayFault(0, .lyingFlush))
    }

    @Test func diskIsStaleUntilItIsInSync() {
        for kind in [.unreachable, .hang, .shrunk, .writeErrors, .flushError] as [DiskFault.Kind] {
            var atlas = FaultAtlas(disks: 2, tolerance: 1, seed: 1)
            atlas.note(kind, on: 0)
            #expect(!atlas.mayFault(1) && atlas.mayFault(0))
            atlas.noteTakenBack(kind, on: 0)
            #expect(atlas.isStale(0) && !atlas.isAway(0) && !atlas.mayFault(1), "\(kind)")
            atlas.noteInSync(0)
            #expect(atlas.mayFault(1) && atlas.burdenedCount == 0)
        }
    }

    @Test func vanishingEndsAHang() {
        var atlas = FaultAtlas(disks: 2, tolerance: 1, seed: 1)
        atlas.note(.hang, on: 0)
        atlas.noteAway(0)
        atlas.noteBack(0)
        #expect(!atlas.isAway(0) && atlas.isStale(0))
    }

    // MARK: - scrubs

    @Test func scrubMendsWhatWasThereWhenItBegan() {
        var atlas = FaultAtlas(disks: 3, tolerance: 2, seed: 1)
        atlas.note(.rot, on: 0)
        let scrub = atlas.scrubBegins()
        atlas.note(.latentSectors, on: 1)
        atlas.noteScrubbed(scrub)
        #expect(!atlas.isDamaged(0) && atlas.isDamaged(1))
        atlas.noteScrubbed(atlas.scrubBegins())
        #expect(atlas.burdenedCount == 0)
    }

    @Test func scrubSeesNothingOfADiskThatIsNotInSync() {
        for kind in [.unreachable, .writeErrors] as [DiskFault.Kind] {
            var atlas = FaultAtlas(disks: 2, tolerance: 1, seed: 1)
            atlas.note(.rot, on: 0)
            atlas.note(kind, on: 0)
            let early = atlas.scrubBegins()
            atlas.noteScrubbed(early)
            atlas.noteTakenBack(kind, on: 0)
            let stale = atlas.scrubBegins()
            atlas.noteScrubbed(stale)
            atlas.noteInSync(0)
            // They began before it was in sync.
            atlas.noteScrubbed(early)
            atlas.noteScrubbed(stale)
            #expect(atlas.isDamaged(0) && !atlas.mayFault(1))
            atlas.noteScrubbed(atlas.scrubBegins())
            #expect(!atlas.isBurdened(0))
        }
    }

    @Test func writesThatAreLostAreNotScrubbedAwayWhileTheyGoOn() {
        var atlas = FaultAtlas(disks: 2, tolerance: 1, seed: 1)
        atlas.note(.lostWrites, on: 0)
        let scrub = atlas.scrubBegins()
        atlas.noteScrubbed(scrub)
        atlas.noteHealed(0)
        atlas.noteTakenBack(.lostWrites, on: 0)
        atlas.noteScrubbed(scrub)
        #expect(atlas.isDamaged(0))
        atlas.noteScrubbed(atlas.scrubBegins())
        #expect(!atlas.isBurdened(0))
    }

    @Test func newDiskHasNothingOfItsPredecessor() {
        var atlas = FaultAtlas(disks: 2, tolerance: 1, seed: 1)
        for kind in [.unreachable, .rot, .lostWrites] as [DiskFault.Kind] {
            atlas.note(kind, on: 0)
        }
        atlas.noteReplaced(0)
        #expect(atlas.isStale(0) && !atlas.isDamaged(0) && !atlas.isAway(0))
        atlas.noteInSync(0)
        #expect(atlas.burdenedCount == 0)
    }

    // MARK: - draws

    @Test func drawsStayWithinTheBoundAndMeetEverything() {
        var met: Set<DiskFault.Kind> = []
        for seed in 0..<40 as Range<UInt64> {
            var atlas = FaultAtlas(disks: 4, tolerance: Int(seed % 3), seed: seed)
            var random = SeededRandom(seed: seed)
            for _ in 0..<50 {
                if let (disk, kind) = atlas.drawKind(DiskFault.Kind.allCases) {
                    #expect(!atlas.isAtWork(kind, disk))
                    atlas.note(kind, on: disk)
                    met.insert(kind)
                }
                #expect(atlas.burdenedCount <= atlas.tolerance)
                let disk = random.below(4)
                if random.chance(30) { atlas.noteTakenBack(random.pick(Event.kinds), on: disk) }
                if random.chance(30), !atlas.isAway(disk) { atlas.noteInSync(disk) }
                if random.chance(10) { atlas.noteScrubbed(atlas.scrubBegins()) }
            }
        }
        #expect(met == Set(DiskFault.Kind.allCases).subtracting([.lyingFlush]))
    }

    @Test func drawsAreThoseOfTheSeed() {
        func draws(_ seed: UInt64) -> [String] {
            let disks = (0..<3).map {
                SimulatedDisk(
                    sizeBytes: 1 << 30, sectorBytes: 512, supportsDiscard: true, seed: $0)
            }
            var atlas = FaultAtlas(disks: 3, tolerance: 2, seed: seed)
            return (0..<20).map { _ in
                let drawn = atlas.drawFault(
                    DiskFault.Kind.allCases, of: disks, within: [0..<1 << 20], nowNs: 5)
                guard let (disk, fault) = drawn else { return "none" }
                atlas.note(fault.kind, on: disk)
                return "\(disk): \(fault)"
            }
        }
        #expect(draws(1) == draws(1))
        #expect(draws(1) != draws(2))
    }

    @Test func diskThatIsAwayOnlyLiesInADrawer() {
        var atlas = FaultAtlas(disks: 1, tolerance: 1, seed: 1)
        atlas.noteAway(0)
        var met: Set<DiskFault.Kind> = []
        for _ in 0..<100 {
            if let drawn = atlas.drawKind(DiskFault.Kind.allCases) { met.insert(drawn.kind) }
        }
        #expect(met == [.rot, .latentSectors])
    }
}
