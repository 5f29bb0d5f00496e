import ArgumentParser
import Glibc
import PoolSimulator
import Synchronization

@main
struct PoolSim: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "poolsim",
        abstract: "Runs the engine over simulated disks that lose power, and checks every byte.",
        discussion: """
            A run is decided by its seed: the same seed gives the same trace hash. Without options \
            it runs seeds 1..100.
            """)

    @Option(help: "Replay one seed and print what it did.")
    var seed: UInt64?

    @Option(help: "Run a range of seeds, FIRST..LAST; of --mutant, look for it with these only.")
    var seeds: String?

    @Option(help: "How many seeds to run.")
    var count: UInt64?

    @Option(help: "The first seed of --count.")
    var from: UInt64 = 1

    @Option(help: "Client operations of a seed.")
    var operations = 5_000

    @Option(help: "Engines in the process of a seed (default: two for every fourth seed).")
    var shards: Int?

    @Flag(help: "No crashes.")
    var withoutCrashes = false

    @Flag(help: "Cut the power at every device-I/O boundary of bounded workloads.")
    var exhaustive = false

    @Option(help: "Only this workload, of --exhaustive or --mutant.")
    var workload: String?

    @Flag(help: "List the workloads of --exhaustive.")
    var workloadNames = false

    @Option(help: "Seeded fates of the volatile writes at each boundary, beside none and all.")
    var fates = 4

    @Option(
        help: ArgumentHelp(
            "Cut every n-th boundary only (default: all, but fewer of long workloads).",
            valueName: "n"))
    var stride: Int?

    @Option(
        help: ArgumentHelp(
            "Cut at most every n-th boundary, of workloads that have more of theirs cut.",
            valueName: "n"))
    var atMost: Int?

    @Option(help: "Of every n-th cut, cut the recovery at each of its boundaries too.")
    var recoveryStride: Int?

    @Option(help: "Cut this boundary only; with --verbose, print what follows.")
    var boundary: Int?

    @Flag(help: "Of seeds: more faults than any resiliency bears; reads may fail, and are never wrong.")
    var beyond = false

    @Flag(help: "Of seeds: disks that lie or are slow, too, and of every tenth more than is borne.")
    var allFaults = false

    @Option(
        help: ArgumentHelp(
            "Make so many blocks wrong without a word, and count what is found.",
            valueName: "n"))
    var silentFaults: Int?

    @Flag(help: "Lose every set of disks that spaces bear, and one more, at every kind of moment.")
    var tolerance = false

    @Flag(
        help: """
            Look for every mutant, where and as it is known to be found; those that need a crash in \
            every workload without one, too.
            """)
    var mutants = false

    @Option(help: "Look for one mutant.")
    var mutant: String?

    @Flag(help: "List the mutants.")
    var mutantNames = false

    @Flag(help: "Print everything that happens.")
    var verbose = false

    mutating func validate() throws {
        if let seeds, Self.range(seeds) == nil {
            throw ValidationError("--seeds takes FIRST..LAST, not \"\(seeds)\"")
        }
        if let workload, Workload.named(workload) == nil {
            let names = Workload.all.map(\.name).joined(separator: ", ")
            throw ValidationError("no workload \"\(workload)\": \(names)")
        }
        if operations < 1 || fates < 0 || count == 0
            || [stride, atMost, recoveryStride].contains(where: { $0 ?? 1 < 1 })
        {
            throw ValidationError("--operations, --stride, --at-most and --count are at least 1")
        }
        if let shards, !(1...4).contains(shards) {
            throw ValidationError("--shards is 1 to 4")
        }
        if (mutants || mutant != nil) && !MutantRun.isAvailable {
            throw ValidationError("this build has no mutants: build with POOLD_MUTANTS=1")
        }
        if let mutant, !MutantRun.names.contains(mutant) {
            throw ValidationError(
                "no mutant \"\(mutant)\": \(MutantRun.names.joined(separator: ", "))")
        }
    }

    func run() throws {
        if mutantNames { return say(MutantRun.names.joined(separator: "\n")) }
        if workloadNames { return say(Workload.all.map(\.name).joined(separator: "\n")) }
        Watchdog.start()
        let good: Bool
        if let mutant {
            good = runMutants([mutant])
        } else if mutants {
            good = runMutants(MutantRun.names, isThorough: true)
        } else if let silentFaults {
            good = runSilentFaults(silentFaults)
        } else if tolerance {
            good = runTolerance()
        } else if exhaustive || workload != nil {
            good = runExhaustive()
        } else if let seed {
            good = runSeeds(seed...seed, detailed: true)
        } else if let seeds, let range = Self.range(seeds) {
            good = runSeeds(range, detailed: false)
        } else {
            let last = from.addingReportingOverflow((count ?? 100) - 1)
            good = runSeeds(from...(last.overflow ? .max : last.partialValue), detailed: false)
        }
        if !good { throw ExitCode(1) }
    }

    private static func range(_ text: String) -> ClosedRange<UInt64>? {
        guard let dots = text.firstRange(of: ".."),
            let first = UInt64(text[..<dots.lowerBound]),
            let last = UInt64(text[dots.upperBound...]), first <= last
        else { return nil }
        return first...last
    }

    // MARK: - seeds

    private func runSeeds(_ range: ClosedRange<UInt64>, detailed: Bool) -> Bool {
        var options = SeedOptions()
        options.operations = operations
        options.withoutCrashes = withoutCrashes
        options.verbose = verbose
        options.shards = shards
        if beyond { options.isBeyond = true }
        options.hasAllFaults = allFaults
        let clock = ContinuousClock()
        let start = clock.now
        var totals = (operations: 0, devices: 0, crashes: 0, recovery: 0, faults: 0, seeds: 0)
        var progress = ProgressLine()
        var seed = range.lowerBound
        while true {
            Watchdog.begin("--seed \(seed) \(replayOptions)")
            let result = SeedRun(seed: seed, options: options).run()
            totals.operations += result.operations
            totals.devices += result.deviceOperations
            totals.crashes += result.crashes
            totals.recovery += result.cutsDuringRecovery
            totals.faults += result.faults
            totals.seeds += 1
            if detailed {
                say(
                    "seed \(seed): trace \(result.trace), \(result.operations) operations, "
                        + "\(result.deviceOperations) device operations, \(result.crashes) crashes "
                        + "(\(result.cutsDuringRecovery) during recovery), "
                        + "\(result.refusedForRoom) refused for room, "
                        + "\(result.failedReads) reads failed, \(result.faults) faults, "
                        + "\(result.failedRequests) requests failed")
            }
            if let violation = result.violation {
                progress.clear()
                say("seed \(seed): VIOLATION: \(violation)")
                say("replay: poolsim --seed \(seed) \(replayOptions)--verbose")
                return false
            }
            progress.show("seed \(seed), \(totals.crashes) crashes")
            if seed == range.upperBound { break }
            seed += 1
        }
        progress.clear()
        say(
            "\(totals.seeds) seeds: \(totals.operations) operations, \(totals.devices) device "
                + "operations, \(totals.crashes) crashes (\(totals.recovery) during recovery), "
                + "\(totals.faults) faults, no violation, \(Self.seconds(clock.now - start)) s")
        return true
    }

    private var replayOptions: String {
        (operations == 5_000 ? "" : "--operations \(operations) ")
            + (withoutCrashes ? "--without-crashes " : "")
            + (beyond ? "--beyond " : "") + (allFaults ? "--all-faults " : "")
            + (shards.map { "--shards \($0) " } ?? "")
    }

    // MARK: - exhaustive

    private func runExhaustive() -> Bool {
        let chosen = workload.flatMap(Workload.named)
        var options = Exhaustive.Options()
        options.randomFates = fates
        if fates <= 1 {
            // The slice for every build: one schedule.
            options.schedules = 1
            options.recoveryStride = 97
        }
        if let recoveryStride { options.recoveryStride = recoveryStride }
        options.stride = stride
        if let atMost { options.leastStride = atMost }
        options.onlyBoundary = boundary
        options.verbose = verbose
        var states = 0
        let clock = ContinuousClock()
        for workload in chosen.map({ [$0] }) ?? Workload.all {
            let start = clock.now
            Watchdog.begin("--workload \(workload.name) --fates \(fates)")
            let report = Exhaustive(workload, options: options).run()
            states += report.states + report.recoveryStates
            if report.violation == nil, boundary == nil,
                report.states == 0 && workload.bearsCrashes
                    || report.deviceOperations < Workload.fewestOperations
            {
                say(
                    "VIOLATION: \(workload.name) proves too little: \(report.deviceOperations) device "
                        + "operations, \(report.states) states")
                return false
            }
            if let violation = report.violation {
                say("VIOLATION: \(violation)")
                say(
                    "replay: poolsim --workload \(workload.name) --fates \(fates) "
                        + "--boundary N --verbose")
                return false
            }
            say(
                "\(workload.name): \(report.deviceOperations) device operations, "
                    + "\(report.boundaries) boundaries, \(report.states) states, "
                    + "\(report.recoveryStates) more during recovery, "
                    + "\(Self.seconds(clock.now - start)) s")
        }
        say("\(states) states, no violation")
        return true
    }

    // MARK: - faults

    private func runSilentFaults(_ count: Int) -> Bool {
        let clock = ContinuousClock()
        let start = clock.now
        Watchdog.begin("--silent-faults \(count) --from \(from)")
        var progress = ProgressLine()
        let report = SilentFaultRun(seed: from).run(faults: count) {
            progress.show("\($0.injected) faults")
        }
        progress.clear()
        say(
            "\(report.injected) silent faults in \(report.rounds) rounds: \(report.rotten) blocks "
                + "rotten, \(report.lostWrites) writes lost, \(report.misdirectedWrites) blocks wrong "
                + "by writes gone astray")
        say(
            "put right: \(report.repairedByReads) by reads, \(report.repairedByScrub) by scrubs; left: "
                + "\(report.left); wrong bytes: \(report.violation == nil ? "none" : "some"), "
                + "\(Self.seconds(clock.now - start)) s")
        if let violation = report.violation { say("VIOLATION: \(violation)") }
        return report.isGood
    }

    private func runTolerance() -> Bool {
        let clock = ContinuousClock()
        let start = clock.now
        var (borne, lost, online) = (0, 0, 0)
        for wanted in ToleranceRun.cases {
            Watchdog.begin("--tolerance (\(wanted))")
            let outcome = ToleranceRun(wanted, seed: from).run()
            if let violation = outcome.violation {
                if verbose { _ = ToleranceRun(wanted, seed: from, verbose: true).run() }
                say("\(wanted): VIOLATION: \(violation)")
                return false
            }
            if wanted.isBearable { borne += 1 } else { lost += 1 }
            online += outcome.spacesOnline
        }
        say(
            "\(borne) sets of disks within the tolerance: nothing lost; \(lost) beyond it: no wrong "
                + "bytes, \(online) spaces went on, \(Self.seconds(clock.now - start)) s")
        return true
    }

    // MARK: - mutants

    private func runMutants(_ names: [String], isThorough: Bool = false) -> Bool {
        var run = MutantRun()
        run.isThorough = isThorough
        if let workload = workload.flatMap(Workload.named) { run.search = .workload(workload) }
        if let range = seeds.flatMap(Self.range) { run.search = .seeds(range) }
        if verbose {
            run.progress = { line in
                say("    \(line)")
                fflush(nil)
            }
        }
        let clock = ContinuousClock()
        var killed = 0
        for name in names {
            Watchdog.begin("--mutant \(name)")
            let start = clock.now
            guard let outcome = run.run(name) else { continue }
            if outcome.isGood { killed += 1 }
            say("\(name): \(Self.verdict(outcome)), \(Self.seconds(clock.now - start)) s")
        }
        say("\(killed) of \(names.count) mutants killed")
        return killed == names.count
    }

    private static func verdict(_ outcome: MutantRun.Outcome) -> String {
        let odd = outcome.isOdd ? ", FOR ANOTHER REASON" : ""
        if let found = outcome.foundWithoutCrashes {
            let what = outcome.isPlain ? "killed without a crash" : "NEEDS NO CRASH, but should"
            return "\(what)\(odd): \(found)"
        }
        guard let found = outcome.killedBy else { return "SURVIVED" }
        let what = outcome.isPlain ? "NEEDS A CRASH, but should not" : "killed"
        return "\(what)\(odd): \(found)"
    }

    private static func seconds(_ duration: Duration) -> String {
        let tenths =
            duration.components.seconds * 10
            + duration.components.attoseconds / 100_000_000_000_000_000
        return "\(tenths / 10).\(tenths % 10)"
    }
}

/// A line at once, also into a pipe: a run that somebody ends still shows how far it came.
private func say(_ line: String) {
    print(line)
    fflush(nil)
}

/// One line on a terminal that is written over; nothing when piped.
private struct ProgressLine {
    private let isTerminal = isatty(STDOUT_FILENO) == 1

    mutating func show(_ text: String) {
        guard isTerminal else { return }
        print("\r\u{1b}[K\(text)", terminator: "")
        fflush(nil)
    }

    mutating func clear() {
        guard isTerminal else { return }
        print("\r\u{1b}[K", terminator: "")
    }
}

/// Ends the program when the engine spins without an operation, which no step can notice.
private enum Watchdog {
    private static let current = Mutex("")
    private static let limitSeconds: UInt32 = 30

    static func begin(_ what: String) { current.withLock { $0 = what } }

    static func start() {
        var thread = pthread_t()
        let failed = unsafe pthread_create(
            &thread, nil,
            { _ in
                Watchdog.watch()
                return nil
            }, nil)
        if failed != 0 { print("no watchdog: error \(failed)") }
    }

    private static func watch() {
        var last: UInt64 = .max
        while true {
            _ = sleep(limitSeconds)
            let steps = Machine.steps.load(ordering: .relaxed)
            if steps == last { break }
            last = steps
        }
        print("VIOLATION: the engine spins: nothing ends any more")
        print("replay: poolsim \(current.withLock { $0 })")
        exit(1)
    }
}
