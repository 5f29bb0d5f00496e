import PoolEngine
import PoolFormat
import Testing

@testable import PoolSimulator

@Suite struct SilentFaultRunTests {
    /// A slice of `poolsim --silent-faults`.
    @Test func everySilentFaultIsFoundAndPutRight() {
        let report = SilentFaultRun(seed: 5).run(faults: 400)
        #expect(report.violation == nil)
        #expect(report.left == 0)
        #expect(report.injected >= 400)
        #expect(report.repairedByReads + report.repairedByScrub == report.injected)
        #expect(report.rotten > 0 && report.lostWrites > 0 && report.misdirectedWrites > 0)
        // A read sees one copy of each block: it finds some of them, and never all.
        #expect(report.repairedByReads > 0 && report.repairedByScrub > 0)
    }
}

@Suite struct ToleranceTests {
    @Test func everySetUpToOneMoreThanTheToleranceIsACase() {
        let cases = ToleranceRun.cases(.mirror2, spare: 1)
        // One of three, two of three; each at three moments.
        #expect(cases.count == (3 + 3) * 3)
        #expect(cases.filter(\.isBearable).count == 9)
        #expect(ToleranceRun.cases(.mirror3, spare: 1).filter(\.isBearable).count == (4 + 6) * 3)
    }

    /// A slice of `poolsim --tolerance`: one spare disk, and mirror2 alone.
    @Test(arguments: ToleranceRun.cases(.mirror2, spare: 1).map(\.description))
    func lossIsBorneOrTold(_ name: String) throws {
        let wanted = try #require(
            ToleranceRun.cases(.mirror2, spare: 1).first { $0.description == name })
        let outcome = ToleranceRun(wanted, spare: 1).run()
        #expect(outcome.violation == nil)
        if wanted.isBearable { #expect(outcome.failedRequests == 0) }
    }

    @Test func twoOfThreeCopiesAreBorne() throws {
        let wanted = ToleranceRun.Case(kind: .mirror3, lost: [0, 2], moment: .rebuilding)
        let outcome = ToleranceRun(wanted, spare: 1).run()
        #expect(outcome.violation == nil && outcome.failedRequests == 0)
    }

    @Test(arguments: ToleranceRun.Moment.allCases)
    func twoColumnsOfFourAreBorne(moment: ToleranceRun.Moment) throws {
        let wanted = ToleranceRun.Case(kind: .parity2, lost: [1, 3], moment: moment)
        let outcome = ToleranceRun(wanted, spare: 0).run()
        #expect(outcome.violation == nil && outcome.failedRequests == 0)
    }

    @Test func lossBeyondTheToleranceShows() {
        let failed = ToleranceRun.cases(.mirror2, spare: 1).filter { !$0.isBearable }
            .map { ToleranceRun($0, spare: 1).run() }
        #expect(failed.allSatisfy { $0.violation == nil })
        #expect(failed.contains { $0.failedRequests > 0 })
    }
}

@Suite struct FaultySeedTests {
    /// More goes wrong than any space bears: reads fail, and return nothing wrong.
    @Test(arguments: [3, 4] as [UInt64]) func beyondTheToleranceNothingIsWrong(_ seed: UInt64) {
        var options = SeedOptions()
        options.operations = 600
        options.isBeyond = true
        let result = SeedRun(seed: seed, options: options).run()
        #expect(result.violation == nil, "poolsim --seed \(seed) --operations 600 --beyond")
        #expect(result.faults > 0)
    }

    @Test func seedsMeetFaults() {
        var options = SeedOptions()
        options.operations = 300
        let result = SeedRun(seed: 14, options: options).run()
        #expect(result.violation == nil, "poolsim --seed 14 --operations 300")
        #expect(result.faults > 0)
    }
}
