import PoolEngine
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
    /// One of each kind: `poolsim --exhaustive` runs all of them, and fails where one is not cut.
    @Test(arguments: [
        "overlap", "zero-edges", "checkpoint", "grow", "parked", "departure", "two-columns",
        "cleaned-away", "returning-twice", "rotten", "restored", "hanging",
    ])
    func workloadIsLongEnoughAndPasses(_ name: String) throws {
        let workload = try #require(Workload.named(name))
        var options = Exhaustive.Options()
        options.schedules = 1
        options.stride = 13
        options.randomFates = 1
        options.recoveryStride = 200
        let report = Exhaustive(workload, options: options).run()
        #expect(report.violation == nil)
        #expect(report.deviceOperations >= Workload.fewestOperations)
        #expect(report.states > 1)
    }

    @Test func workloadsHaveTheirOwnNames() {
        #expect(Set(Workload.all.map(\.name)).count == Workload.all.count)
        #expect(Workload.all.count >= 60)
    }
}

@Suite struct MutantTests {
    /// Meaningful in the build with mutants only; the names are checked in every build.
    @Test func mutantsHaveNames() {
        #expect(!MutantRun.names.isEmpty)
        #expect(MutantRun().run("no such mutant") == nil)
    }

    /// A mutant that needs a crash has to need one where it is found, too.
    @Test(arguments: Mutant.allCases) func mutantsAreFoundInAWorkload(_ mutant: Mutant) {
        let killer = mutant.killer
        #expect(Workload.named(killer.workload.name) != nil)
        #expect(!mutant.needsCrash || !killer.workload.crashesByItself)
        #expect(!killer.symptoms.isEmpty && !killer.symptoms.contains(""))
    }
}

@Suite struct RotTests {
    /// A mirror with one written block, and where its copies lie.
    private func mirror() throws -> (site: Site, places: [(disk: Int, offset: UInt64)]) {
        let disks = (0..<2).map {
            SimulatedDisk(
                sizeBytes: 1 << 30, sectorBytes: 512, supportsDiscard: true, seed: UInt64($0))
        }
        let site = Site(
            Machine(disks: disks, limits: Workload.smallLimits, seed: 3))
        site.machine.boot()
        let shape = SpaceShape(
            sizeBytes: 4 << 20, resiliency: .mirror2, columns: 1, interleaveBytes: 64 << 10,
            checksums: true, whenFull: .enospc)
        try #require(site.createPool(disks: [0, 1]))
        try #require(site.createSpace("a", shape))
        site.clients.submit(.write, space: 0, sectors: 0..<8)
        site.clients.finish()
        var expected = [UInt8](repeating: 0, count: 4096)
        unsafe expected.withUnsafeMutableBytes {
            unsafe site.clients.spaces[0].model.stamp(1, sectors: 0..<8, into: $0)
        }
        var places: [(Int, UInt64)] = []
        for disk in site.machine.disks.indices {
            for offset in stride(from: UInt64(0), to: 1 << 30, by: 1 << 20)
            where site.machine.disks[disk].contents(offset, 4096) == expected {
                places.append((disk, offset))
            }
        }
        try #require(places.count == 2)
        return (site, places)
    }

    @Test(arguments: [0, 1]) func oneRottenCopyIsReadFromTheOther(_ copy: Int) throws {
        let (site, places) = try mirror()
        site.machine.disks[places[copy].disk].corrupt(places[copy].offset + 700, [0x55, 0xaa])
        site.clients.submit(.read, space: 0, sectors: 0..<8)
        site.clients.finish()
        #expect(site.machine.violation == nil)
    }

    @Test func rotOfBothCopiesIsAnErrorAndNeverData() throws {
        let (site, places) = try mirror()
        for place in places {
            site.machine.disks[place.disk].corrupt(place.offset + 700, [0x55, 0xaa])
        }
        site.clients.submit(.read, space: 0, sectors: 0..<8)
        site.clients.finish()
        let violation = try #require(site.machine.violation)
        #expect(violation.contains("ioError"))
    }

    /// Every read of one disk fails: the other answers, whichever was asked first.
    @Test(arguments: [0, 1]) func diskWithoutReadsIsBorne(_ faulty: Int) throws {
        let (site, _) = try mirror()
        site.machine.disks[faulty].readFaults = .init(percent: 100, stayingPercent: 50)
        // Of both regions, which prefer different copies.
        site.clients.submit(.write, space: 0, sectors: 5..<19)
        site.clients.submit(.read, space: 0, sectors: 0..<64)
        site.clients.finish()
        site.clients.submit(.read, space: 0, sectors: 0..<8)
        site.clients.finish()
        #expect(site.machine.violation == nil)
        // Only the first grains are read: their first copy is the one on disk 0.
        #expect((site.machine.disks[faulty].failedReads > 0) == (faulty == 0))
    }
}
