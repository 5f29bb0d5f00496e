import PoolFormat
import Testing

@testable import PoolEngine
@testable import PoolSimulator

/// A disk that is slow or hangs costs the reads that find it so, and not those behind them.
@Suite struct SlowDiskTests {
    private static let fault: [DiskFault] = [.slow(.byNs(1_000_000_000)), .hang(untilNs: nil)]

    @Test(arguments: fault)
    func readsAreAnsweredByTheOtherCopy(_ fault: DiskFault) throws {
        for slow in 0..<2 {
            let (machine, stage) = Workload.slow.scene(seed: UInt64(slow) + 1)
            // In each of two regions, whose first copies differ.
            let places = [0..<64, 16 * 2048..<16 * 2048 + 64]
            stage.begin(Stage.shape(.mirror2, grains: 32))
            for place in places { stage.write(place) }
            stage.sync()
            for place in places { stage.read(place) }
            stage.finish()
            machine.set(fault, disk: slow)
            let space = try #require(stage.site.pool?.spaces.first)
            let before = space.counters.hedgedReads
            let start = machine.nowNs
            for _ in 0..<20 {
                for place in places { stage.read(place) }
                stage.finish()
            }
            #expect(machine.violation == nil)
            // Each read of the disk takes a second, and twenty were meant for it.
            #expect(machine.nowNs - start < 4_000_000_000, "disk \(slow): \(fault)")
            #expect(space.counters.hedgedReads > before)
            #expect(space.counters.hedgedReads <= before + 8, "most went to the other at once")
            #expect(stage.site.serves(slow), "nothing was done without it")
        }
    }

    @Test func aBufferThatASlowDiskHasIsNotGivenToAnother() throws {
        let (machine, stage) = Workload.slow.scene(seed: 3)
        stage.begin(Stage.shape(.mirror2, grains: 32))
        stage.write(0..<64)
        stage.sync()
        let arena = try #require(machine.engine?.arena)
        let free = arena.freeBytes
        for slow in 0..<2 { machine.set(.slow(.byNs(1_000_000_000)), disk: slow) }
        // Both are: the second copy answers no sooner than the first, and takes the credit.
        stage.read(0..<64)
        stage.finish()
        for slow in 0..<2 { machine.takeBack(.slow, disk: slow) }
        while machine.disks.contains(where: { $0.operationsInFlight > 0 }), machine.step() {}
        #expect(machine.violation == nil)
        #expect(arena.freeBytes == free, "every buffer has come back")
    }
}
