import PoolEngine
import PoolFormat

/// Cuts the power at every device-I/O boundary of a bounded workload, reopens and checks.
///
/// The state of the disks, the witness and the clients' knowledge is a value: the workload runs
/// once, and at each boundary copies of it crash, with several fates for what was not durable.
/// Boundaries of the recovery that follows are cut in turn.
public final class Exhaustive {
    public struct Options: Sendable {
        /// Seeded fates for each boundary, beside none, all and all-completed.
        public var randomFates = 4
        /// Every so many first cuts the recovery itself is cut at each of its boundaries.
        public var recoveryStride = 23
        /// Orders in which the workload's own operations end.
        public var schedules = 2
        /// Every so many boundaries are cut; 1 is all of them. nil: as the workload says.
        public var stride: Int?
        /// Where the workload says fewer, it is this many.
        public var leastStride = 1
        /// Only this boundary, printing everything that happens after its cut.
        public var onlyBoundary: Int?
        public var verbose = false
        public init() {}
    }

    public struct Report: Sendable {
        public var workload: String
        public var deviceOperations = 0
        public var boundaries = 0
        public var states = 0
        public var recoveryStates = 0
        /// The first violation, with where the power went.
        public var violation: String?
        /// It was there without a cut.
        public var needsNoCut = false
    }

    private let workload: Workload
    private let options: Options
    private var report: Report
    private var boundary = 0

    public init(_ workload: Workload, options: Options = Options()) {
        self.workload = workload
        self.options = options
        report = Report(workload: workload.name)
    }

    public func run() -> Report {
        for schedule in 0..<options.schedules where report.violation == nil {
            runOnce(UInt64(schedule) &+ 1)
        }
        return report
    }

    /// The workload without any cut: must pass, and says how many operations it has.
    public func runWithoutCuts() -> String? {
        let (machine, stage) = workload.scene(seed: 1)
        workload.prepare(stage)
        workload.run(body: stage)
        return machine.violation ?? Self.check(stage.site, seed: 0, isEnd: true)
    }

    private func runOnce(_ seed: UInt64) {
        boundary = 0
        let (machine, stage) = workload.scene(seed: seed, verbose: options.verbose)
        let site = stage.site
        workload.prepare(stage)
        let first = machine.operationsEnded
        machine.onBoundary = { [unowned self, unowned machine, unowned site] in
            self.boundary += 1
            guard self.report.violation == nil, self.isWanted(self.boundary) else { return }
            self.report.boundaries += 1
            self.cut(machine, site, seed)
        }
        workload.run(body: stage)
        machine.onBoundary = nil
        if let violation = machine.violation, report.violation == nil {
            report.violation = "\(workload.name), schedule \(seed), no cut: \(violation)"
            report.needsNoCut = true
        }
        report.deviceOperations += machine.operationsEnded - first
        if report.violation == nil, let wrong = Self.check(site, seed: seed, isEnd: true) {
            report.violation = "\(workload.name), schedule \(seed), at the end: \(wrong)"
            report.needsNoCut = true
        }
    }

    private func isWanted(_ boundary: Int) -> Bool {
        guard workload.bearsCrashes else { return false }
        if let only = options.onlyBoundary { return boundary == only }
        let stride = options.stride ?? max(workload.cutStride, options.leastStride)
        return boundary % stride == 0
    }

    /// nil: the process alone is killed.
    private func fates(_ machine: Machine) -> [CutPolicy?] {
        guard machine.disks.contains(where: { $0.hasVolatileChanges }) else {
            return [.dropAll, nil]
        }
        var fates: [CutPolicy?] = [.dropAll, nil, .keepAll, .keepCompleted]
        for index in 0..<options.randomFates {
            fates.append(index % 2 == 0 ? .sectors(percent: 50) : .operations(percent: 50))
        }
        return fates
    }

    private func cut(_ machine: Machine, _ site: Site, _ schedule: UInt64) {
        let snapshot = machine.snapshot()
        let state = site.state
        for (index, fate) in fates(machine).enumerated() where report.violation == nil {
            let seed = schedule << 40 | UInt64(boundary) << 8 | UInt64(index)
            let roll = Roll(seed)
            // Of two cuts one is that of the disks' power alone.
            let crashed = Machine(
                crashed: snapshot, policy: fate, keepsMemory: roll.isOne(of: 2, 0),
                limits: workload.limits, seed: seed, verbose: options.verbose)
            crashed.note("boundary \(boundary), \(Self.name(fate))")
            let successor = Site(crashed, state: state)
            // A flush that lost something, and that the process may not have lived to tell of: what is
            // lost on that disk is found by a read or a scrub, while there is another copy.
            if fate == nil, crashed.disks.contains(where: { $0.lostFlushes > 0 }) {
                successor.isSpoiled = true
            }
            report.states += 1
            let alsoRecovery = roll.isOne(of: options.recoveryStride, 1)
            let revival = Revival(roll.number(below: 4, 2), fate)
            let isAway = crashed.disks.contains { $0.isUnreachable }
            if alsoRecovery, revival != .alone { armRecovery(crashed, successor, seed) }
            let wrong = Self.recoverAndCheck(successor, seed: seed, revival)
            crashed.onBoundary = nil
            if let wrong, report.violation == nil {
                report.violation =
                    "\(workload.name), schedule \(schedule), boundary \(boundary), "
                    + Self.name(fate)
                    + (isAway ? ", disks that were away \(revival): " : ": ") + wrong
            }
        }
    }

    /// Cuts again at every boundary until the pool is open and its first reads are through.
    private func armRecovery(_ machine: Machine, _ site: Site, _ seed: UInt64) {
        var second = 0
        machine.onBoundary = { [unowned self, unowned machine, unowned site] in
            guard self.report.violation == nil else { return }
            second += 1
            let seed = seed &* 977 &+ UInt64(second)
            let roll = Roll(seed)
            let fate = Self.recoveryFates[roll.number(below: Self.recoveryFates.count, 3)]
            let again = Machine(
                crashed: machine.snapshot(), policy: fate, keepsMemory: roll.isOne(of: 2, 0),
                limits: self.workload.limits, seed: seed, verbose: self.options.verbose)
            again.note("recovery boundary \(second), \(Self.name(fate))")
            self.report.recoveryStates += 1
            let successor = Site(again, state: site.state)
            if let found = Self.recoverAndCheck(successor, seed: seed) {
                self.report.violation =
                    "\(self.workload.name), boundary \(self.boundary), "
                    + "recovery boundary \(second), \(Self.name(fate)): \(found)"
            }
        }
    }

    private static let recoveryFates: [CutPolicy?] = [
        .dropAll, nil, .sectors(percent: 50), .keepAll, .operations(percent: 50),
    ]

    private static func name(_ fate: CutPolicy?) -> String { fate.map { "\($0)" } ?? "kill" }

    /// What becomes of disks that were away when the machine crashed.
    enum Revival: String, CustomStringConvertible {
        case away
        case back
        case withoutCache = "back without their caches"
        /// They are there, and the others are not, until the pool has been opened or refused.
        case alone

        /// Of a kill the one that swaps the disks is left out: what was acknowledged and not flushed
        /// may be nowhere else.
        init(_ number: Int, _ fate: CutPolicy?) {
            let all: [Revival] = [.away, .back, .withoutCache, fate == nil ? .back : .alone]
            self = all[number % all.count]
        }

        var description: String { rawValue }
    }

    /// Reopens after a crash, compares who owns what, and reads back everything that was ever
    /// touched.
    static func recoverAndCheck(
        _ site: Site, seed: UInt64, _ revival: Revival = .away
    ) -> String? {
        let pulled = site.machine.disks.indices.filter { site.machine.disks[$0].isUnreachable }
        let others = site.members.filter { !pulled.contains($0) }
        // Fewer than some space needs may be opened, and cannot answer.
        let isBearable = !pulled.isEmpty && others.count <= site.tolerance
        for index in pulled {
            switch revival {
            case .away: break
            case .back, .alone: site.machine.takeBack(.unreachable, disk: index)
            case .withoutCache:
                site.machine.reconnect(disk: index, losingCache: .sectors(percent: 50))
            }
        }
        if revival == .alone, isBearable, !openAlone(site, pulled, seed) {
            return site.machine.violation ?? "the pool does not open, nor is it refused"
        }
        guard site.recover() else { return site.machine.violation ?? "the pool does not open" }
        return check(site, seed: seed)
    }

    /// Those that were away before the crash, without the others: either nothing had been told that
    /// does without them, and everything is there, or the pool is refused.
    private static func openAlone(_ site: Site, _ pulled: [Int], _ seed: UInt64) -> Bool {
        let machine = site.machine
        let others = machine.disks.indices.filter { !pulled.contains($0) }
        let hidden = others.filter { !machine.disks[$0].isUnreachable }
        for index in hidden { site.pull(index) }
        let acceptsErrors = site.acceptsErrors
        defer { site.acceptsErrors = acceptsErrors }
        // A space whose last copy is not here does not open: that is refusing, too. What is served is
        // right.
        site.acceptsErrors = true
        guard site.recover(allowing: Site.isDetached) else { return false }
        if site.isOpen {
            var random = SeededRandom(seed: seed)
            guard site.verify(.touched, sample: &random) else { return false }
        }
        site.cutPower(.keepCompleted)
        for index in hidden { machine.takeBack(.unreachable, disk: index) }
        return true
    }

    /// For some a second time: what was read stays. For some, and at the end of the workload, to the
    /// very end: what is trimmed and destroyed leaves nothing behind.
    private static func check(_ site: Site, seed: UInt64, isEnd: Bool = false) -> String? {
        var random = SeededRandom(seed: seed)
        let roll = Roll(seed)
        guard site.isOpen else { return site.machine.violation }
        site.clients.finish()
        for _ in 0..<(roll.isOne(of: 4, 4) ? 2 : 1) {
            guard site.verify(.touched, sample: &random) else {
                return site.machine.violation ?? "verification did not end"
            }
        }
        // What comes now is no part of a recovery that is cut at every boundary.
        site.machine.onBoundary = nil
        if site.hasHadFaults, !isEqual(site, seed: seed, isThorough: isEnd || roll.isOne(of: 8, 5)) {
            return site.machine.violation ?? "the disks are never the same again"
        }
        if isEnd || roll.isOne(of: 8, 6), !site.leavesNothingBehind() {
            return site.machine.violation ?? "the end did not end"
        }
        return site.machine.violation
    }

    /// Every disk comes back and is made equal; then each of them is done without, in some way.
    ///
    /// - Parameter isThorough: a scrub, which looks at every page, has to find nothing.
    private static func isEqual(_ site: Site, seed: UInt64, isThorough: Bool) -> Bool {
        guard site.heal(isThorough: isThorough) else { return false }
        // Of a simple space no disk can be done without.
        if site.tolerance == 0 { return true }
        // Without a cut, the end is to be seen as clients see it: nothing is killed.
        if seed == 0 { return site.compareMembers(seed) && site.compareOpenings(seed, byKill: false) }
        let roll = Roll(seed)
        return roll.isOne(of: 3, 7)
            ? site.compareOpenings(seed, byKill: roll.isOne(of: 2, 8)) : site.compareMembers(seed)
    }

    /// What is chosen for one crash: each choice by itself, whatever boundaries are cut.
    private struct Roll {
        private let seed: UInt64

        init(_ seed: UInt64) { self.seed = seed }

        /// - Parameter choice: which of them is made.
        func number(below bound: Int, _ choice: UInt64) -> Int {
            Int(SplitMix.mix(seed &* 31 &+ choice &+ 1) % UInt64(bound))
        }

        func isOne(of count: Int, _ choice: UInt64) -> Bool { number(below: count, choice) == 0 }
    }
}
