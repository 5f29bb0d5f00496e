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
        /// Every so many boundaries are cut; 1 is all of them.
        public var stride = 1
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
        return machine.violation ?? Self.check(stage.site, seed: 0)
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
        }
        report.deviceOperations += machine.operationsEnded - first
        if report.violation == nil, let wrong = Self.check(site, seed: seed) {
            report.violation = "\(workload.name), schedule \(seed), at the end: \(wrong)"
        }
    }

    private func isWanted(_ boundary: Int) -> Bool {
        options.onlyBoundary.map { $0 == boundary } ?? (boundary % options.stride == 0)
    }

    private func fates(_ machine: Machine) -> [CutPolicy] {
        guard machine.disks.contains(where: { $0.hasVolatileChanges }) else { return [.dropAll] }
        var fates: [CutPolicy] = [.dropAll, .keepAll, .keepCompleted]
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
            let crashed = Machine(
                crashed: snapshot, policy: fate, limits: workload.limits, seed: seed,
                verbose: options.verbose)
            crashed.note("boundary \(boundary), \(fate)")
            let successor = Site(crashed, state: state)
            report.states += 1
            let alsoRecovery = (boundary + index) % options.recoveryStride == 0
            if alsoRecovery { armRecovery(crashed, successor, seed) }
            let wrong = Self.recoverAndCheck(successor, seed: seed)
            crashed.onBoundary = nil
            if let wrong, report.violation == nil {
                report.violation =
                    "\(workload.name), schedule \(schedule), boundary \(boundary), \(fate): "
                    + wrong
            }
        }
    }

    /// Cuts again at every boundary until the pool is open and its first reads are through.
    private func armRecovery(_ machine: Machine, _ site: Site, _ seed: UInt64) {
        var second = 0
        machine.onBoundary = { [unowned self, unowned machine, unowned site] in
            guard self.report.violation == nil else { return }
            second += 1
            let fate = Self.recoveryFates[second % Self.recoveryFates.count]
            let seed = seed &* 977 &+ UInt64(second)
            let again = Machine(
                crashed: machine.snapshot(), policy: fate, limits: self.workload.limits,
                seed: seed, verbose: self.options.verbose)
            again.note("recovery boundary \(second), \(fate)")
            self.report.recoveryStates += 1
            let successor = Site(again, state: site.state)
            if let found = Self.recoverAndCheck(successor, seed: seed) {
                self.report.violation =
                    "\(self.workload.name), boundary \(self.boundary), "
                    + "recovery boundary \(second), \(fate): \(found)"
            }
        }
    }

    private static let recoveryFates: [CutPolicy] = [
        .dropAll, .sectors(percent: 50), .keepAll, .operations(percent: 50),
    ]

    /// Reopens after a crash, compares who owns what, and reads back everything that was ever
    /// touched.
    static func recoverAndCheck(_ site: Site, seed: UInt64) -> String? {
        guard site.recover() else { return site.machine.violation ?? "the pool does not open" }
        return check(site, seed: seed)
    }

    /// For some a second time: what was read stays. For some to the very end: what is trimmed and
    /// destroyed leaves nothing behind.
    private static func check(_ site: Site, seed: UInt64) -> String? {
        var random = SeededRandom(seed: seed)
        guard site.isOpen else { return site.machine.violation }
        site.clients.finish()
        for _ in 0..<(seed % 4 == 0 ? 2 : 1) {
            guard site.verify(.touched, sample: &random) else {
                return site.machine.violation ?? "verification did not end"
            }
        }
        // What comes now is no part of a recovery that is cut at every boundary.
        site.machine.onBoundary = nil
        if seed % 8 == 0, !site.leavesNothingBehind() {
            return site.machine.violation ?? "the end did not end"
        }
        return site.machine.violation
    }
}
