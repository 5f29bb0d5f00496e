import PoolEngine

/// Deliberate faults in the engine: the simulator has to find each, and must need its crashes to
/// where the fault does harm in a crash only.
public struct MutantRun: Sendable {
    /// Where it is looked for.
    public enum Search: Sendable {
        /// Where it is known to be found: see `Mutant.killer`.
        case killer
        /// In this workload only.
        case workload(Workload)
        /// With these seeds only.
        case seeds(ClosedRange<UInt64>)
    }

    public struct Outcome: Sendable {
        public var mutant: String
        /// What found it, or nil: it survived.
        public var killedBy: String?
        /// What a run without crashes found: then the mutant proves nothing about crashes.
        public var foundWithoutCrashes: String?
        /// It does harm while everything runs: nothing about crashes is proved by finding it.
        public var isPlain: Bool
        /// It was found where it is known to be, but looked otherwise.
        public var isOdd = false

        public var isGood: Bool {
            if isOdd { return false }
            return isPlain
                ? foundWithoutCrashes != nil : killedBy != nil && foundWithoutCrashes == nil
        }
    }

    public var search = Search.killer
    /// A mutant that needs a crash is looked for in every workload without one; else in an eighth of
    /// them, which is another for the next mutant.
    public var isThorough = false
    /// Called as things go on.
    public var progress: @Sendable (String) -> Void = { _ in }

    public init() {}

    /// Whether this build carries the mutants.
    public static var isAvailable: Bool {
        #if MUTANTS
            true
        #else
            false
        #endif
    }

    public static var names: [String] { Mutant.allCases.map(\.rawValue) }

    /// Runs what is to find one mutant, and what must not.
    ///
    /// - Returns: nil when there is no such mutant in this build.
    public func run(_ name: String) -> Outcome? {
        guard Self.isAvailable, let mutant = Mutant(rawValue: name) else { return nil }
        Self.activate(mutant)
        defer { Self.activate(nil) }
        var outcome = Outcome(mutant: name, isPlain: !mutant.needsCrash)
        outcome.foundWithoutCrashes = withoutCrashes(mutant)
        if outcome.foundWithoutCrashes == nil, let (found, needsNoCut) = withCrashes(mutant) {
            if needsNoCut { outcome.foundWithoutCrashes = found } else { outcome.killedBy = found }
        }
        if case .killer = search, let found = outcome.foundWithoutCrashes ?? outcome.killedBy {
            outcome.isOdd = !mutant.killer.expects(found)
        }
        return outcome
    }

    // MARK: - without crashes

    /// Of a mutant that needs a crash no workload may see anything, and no seed.
    private func withoutCrashes(_ mutant: Mutant) -> String? {
        switch search {
        case .killer:
            guard mutant.needsCrash else { return uncut(mutant.killer.workload) }
            for workload in uncutWorkloads(mutant) {
                if let found = uncut(workload) { return found }
            }
            return isThorough ? seeds(1...2, withoutCrashes: true) : nil
        case .workload(let workload): return workload.crashesByItself ? nil : uncut(workload)
        case .seeds(let range):
            return seeds(range.lowerBound...range.lowerBound, withoutCrashes: true)
        }
    }

    private func uncutWorkloads(_ mutant: Mutant) -> [Workload] {
        let all = Workload.all.filter {
            !$0.crashesByItself && !$0.opensDegraded && $0.bearsCrashes
        }
        if isThorough { return all }
        let slice = (Mutant.allCases.firstIndex(of: mutant) ?? 0) % 8
        return all.enumerated().filter { $0 % 8 == slice || $1.name == mutant.killer.workload.name }
            .map(\.element)
    }

    private func uncut(_ workload: Workload) -> String? {
        Exhaustive(workload).runWithoutCuts().map { "\(workload.name): \($0)" }
    }

    // MARK: - with crashes

    private func withCrashes(_ mutant: Mutant) -> (found: String, needsNoCut: Bool)? {
        switch search {
        case .killer: cut(mutant.killer.workload)
        case .workload(let workload): cut(workload)
        case .seeds(let range):
            seeds(range, withoutCrashes: false).map { ($0, needsNoCut: false) }
        }
    }

    /// First at a few of its crash points, then at all.
    private func cut(_ workload: Workload) -> (found: String, needsNoCut: Bool)? {
        for stride in [7, 1] {
            var options = Exhaustive.Options()
            options.schedules = stride > 1 ? 1 : 3
            options.stride = stride
            options.randomFates = stride > 1 ? 2 : 6
            options.recoveryStride = stride > 1 ? .max : 61
            let report = Exhaustive(workload, options: options).run()
            if let violation = report.violation {
                return (violation, needsNoCut: report.needsNoCut)
            }
            progress("\(workload.name) does not see it, every \(stride). cut")
        }
        return nil
    }

    private func seeds(_ range: ClosedRange<UInt64>, withoutCrashes: Bool) -> String? {
        var options = SeedOptions()
        options.withoutCrashes = withoutCrashes
        if withoutCrashes { options.operations = 2_000 }
        for seed in range {
            if let violation = SeedRun(seed: seed, options: options).run().violation {
                return "seed \(seed): \(violation)"
            }
            progress("seed \(seed) does not see it\(withoutCrashes ? " without crashes" : "")")
        }
        return nil
    }

    private static func activate(_ mutant: Mutant?) {
        #if MUTANTS
            unsafe Mutant.active = mutant
        #endif
    }
}
