import Testing

@testable import PoolSimulator

@Suite struct SeedRunTests {
    /// A slice of what `poolsim` runs by the thousand.
    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func seedHasNoViolation(_ seed: UInt64) {
        var options = SeedOptions()
        options.operations = 300
        let result = SeedRun(seed: seed, options: options).run()
        #expect(result.violation == nil, "poolsim --seed \(seed) --operations 300")
        #expect(result.operations >= 300)
        #expect(result.crashes >= options.powerCuts)
    }

    @Test func sameSeedGivesTheSameTrace() {
        var options = SeedOptions()
        options.operations = 150
        options.powerCuts = 2
        let first = SeedRun(seed: 77, options: options).run()
        let second = SeedRun(seed: 77, options: options).run()
        let other = SeedRun(seed: 78, options: options).run()
        #expect(first.trace == second.trace)
        #expect(first.deviceOperations == second.deviceOperations)
        #expect(first.trace != other.trace)
    }

    @Test func recoveryIsCutToo() {
        var options = SeedOptions()
        options.operations = 100
        let cuts = (20...23 as ClosedRange<UInt64>).reduce(0) { total, seed in
            total + SeedRun(seed: seed, options: options).run().cutsDuringRecovery
        }
        #expect(cuts > 0)
    }
}

@Suite struct ExhaustiveTests {
    @Test(arguments: ExhaustiveWorkload.allCases)
    func workloadIsLongEnoughAndPasses(_ workload: ExhaustiveWorkload) {
        var options = Exhaustive.Options()
        options.schedules = 1
        options.stride = 29
        options.randomFates = 1
        options.recoveryStride = 200
        let report = Exhaustive(workload, options: options).run()
        #expect(report.violation == nil)
        #expect(report.deviceOperations >= 30)
        #expect(report.states > 3)
    }
}

@Suite struct MutantTests {
    /// Meaningful in the build with mutants only; the names are checked in every build.
    @Test func mutantsHaveNames() {
        #expect(!MutantRun.names.isEmpty)
        #expect(MutantRun().run("no such mutant") == nil)
    }
}
