import PoolEngine

/// Deliberate faults in the engine: the simulator has to find each, and must need its crashes to
/// where the fault does harm in a crash only.
public struct MutantRun: Sendable {
    public struct Outcome: Sendable {
        public var mutant: String
        /// What found it, or nil: it survived.
        public var killedBy: String?
        /// What a run without crashes found: then the mutant proves nothing about crashes.
        public var foundWithoutCrashes: String?
        /// It does harm while everything runs: nothing about crashes is proved by finding it.
        public var isPlain: Bool
        public var isGood: Bool {
            isPlain ? foundWithoutCrashes != nil : killedBy != nil && foundWithoutCrashes == nil
        }
    }

    /// Seeds tried before a mutant counts as survived.
    public var seeds: ClosedRange<UInt64> = 1...40
    public var faultFreeSeeds: ClosedRange<UInt64> = 1...5
    /// Only this workload, and no seeds.
    public var onlyWorkload: String?
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

    /// Runs the suite with one mutant.
    ///
    /// - Returns: nil when there is no such mutant in this build.
    public func run(_ name: String) -> Outcome? {
        guard Self.isAvailable, let mutant = Mutant(rawValue: name) else { return nil }
        Self.activate(mutant)
        defer { Self.activate(nil) }
        var outcome = Outcome(mutant: name, isPlain: !mutant.needsCrash)
        outcome.foundWithoutCrashes = withoutCrashes()
        if outcome.foundWithoutCrashes == nil { outcome.killedBy = withCrashes() }
        return outcome
    }

    private func withoutCrashes() -> String? {
        for workload in Workload.all
        where !workload.crashesByItself && (onlyWorkload ?? workload.name) == workload.name {
            if let violation = Exhaustive(workload).runWithoutCuts() {
                return "\(workload.name): \(violation)"
            }
        }
        if onlyWorkload != nil { return nil }
        for seed in faultFreeSeeds {
            var options = SeedOptions()
            options.withoutCrashes = true
            options.operations = 2_000
            if let violation = SeedRun(seed: seed, options: options).run().violation {
                return "seed \(seed): \(violation)"
            }
        }
        return nil
    }

    /// First every workload at a few of its crash points, then at more, then at all; then seeds.
    private func withCrashes() -> String? {
        let workloads = Workload.all.filter { onlyWorkload == nil || $0.name == onlyWorkload }
        for stride in [11, 3, 1] {
            for workload in workloads {
                var options = Exhaustive.Options()
                options.schedules = 1
                options.stride = stride
                options.randomFates = stride > 1 ? 2 : 6
                options.recoveryStride = stride > 3 ? .max : 61
                if let violation = Exhaustive(workload, options: options).run().violation {
                    return "exhaustive \(violation)"
                }
                progress("\(workload.name) does not see it, every \(stride). cut")
            }
        }
        if onlyWorkload != nil { return nil }
        for seed in seeds {
            if let violation = SeedRun(seed: seed).run().violation {
                return "seed \(seed): \(violation)"
            }
            progress("seed \(seed) does not see it")
        }
        return nil
    }

    private static func activate(_ mutant: Mutant?) {
        #if MUTANTS
            unsafe Mutant.active = mutant
        #endif
    }
}
