import PoolEngine
import Testing

@testable import PoolSimulator

/// A machine keeps the time of its disks' faults.
@Suite struct MachineFaultTests {
    /// A space on one disk: the other may do as it likes.
    private func site(disks count: Int = 2) throws -> Site {
        let disks = (0..<count).map {
            SimulatedDisk(
                sizeBytes: 1 << 30, sectorBytes: 512, supportsDiscard: true, seed: UInt64($0))
        }
        let site = Site(Machine(disks: disks, limits: Workload.smallLimits, seed: 3))
        site.machine.boot()
        let shape = SpaceShape(
            sizeBytes: 4 << 20, resiliency: .mirror2, columns: 1, interleaveBytes: 64 << 10,
            checksums: true, whenFull: .enospc)
        try #require(site.createPool(disks: [0, 1]))
        try #require(site.createSpace("a", shape))
        write(site)
        try #require(site.machine.violation == nil)
        return site
    }

    private func write(_ site: Site) {
        site.clients.submit(.write, space: 0, sectors: 0..<8)
        site.clients.finish()
    }

    @Test func slowDiskTakesLonger() throws {
        let site = try site()
        let machine = site.machine
        for fault in [Slowness.byNs(3_000_000_000), .factor(1_000_000)] {
            let before = machine.nowNs
            machine.set(.slow(fault), disk: 1)
            write(site)
            #expect(machine.nowNs >= before + 3_000_000_000)
            machine.takeBack(.slow, disk: 1)
            let after = machine.nowNs
            write(site)
            #expect(machine.nowNs < after + 3_000_000_000)
        }
        #expect(machine.violation == nil)
    }

    @Test func diskThatHangsEndsNothingBeforeItsTime() throws {
        let site = try site()
        let machine = site.machine
        let untilNs = machine.nowNs + 5_000_000_000
        // What is in flight hangs as well as what comes.
        site.clients.submit(.write, space: 0, sectors: 0..<8)
        machine.settle()
        machine.set(.hang(untilNs: untilNs), disk: 1)
        site.clients.finish()
        #expect(machine.nowNs >= untilNs)
        #expect(machine.violation == nil)
        machine.takeBack(.hang, disk: 1)
        write(site)
        #expect(machine.nowNs < untilNs + 1_000_000_000)
    }

    /// Nothing is under way that ever ends, until the disk lets go.
    @Test func diskThatHangsForGoodIsNotUnderWay() throws {
        let site = try site()
        let machine = site.machine
        // The engine's own work comes to its end.
        machine.drain(steps: 10_000)
        #expect(!machine.step())
        machine.set(.hang(untilNs: nil), disk: 0)
        machine.set(.hang(untilNs: nil), disk: 1)
        site.clients.submit(.write, space: 0, sectors: 0..<8)
        machine.drain(steps: 10_000)
        #expect(!machine.step())
        #expect(site.clients.requestsInFlight == 1)
        #expect(machine.disks.contains { $0.operationsInFlight > 0 })
        machine.takeBack(.hang, disk: 0)
        machine.takeBack(.hang, disk: 1)
        site.clients.finish()
        #expect(site.clients.requestsInFlight == 0)
        #expect(machine.violation == nil)
    }

    @Test func bootOpensEveryDiskAnew() throws {
        let site = try site()
        let machine = site.machine
        machine.set(.flushError, disk: 1)
        machine.set(.unreachable, disk: 0)
        machine.takeBack(.unreachable, disk: 0)
        #expect(machine.disks[0].hasFailedFlush)
        machine.cutPower(.dropAll)
        machine.disks[1].hasFailedFlush = true
        machine.boot()
        #expect(machine.disks.allSatisfy { !$0.hasFailedFlush })
    }

    @Test func faultsAreInTheTrace() throws {
        func trace(_ change: (Machine) -> Void) throws -> TraceHash {
            let machine = try site().machine
            change(machine)
            return machine.trace
        }
        let untouched = try trace { _ in }
        #expect(try trace { _ in } == untouched)
        let slow = try trace { $0.set(.slow(.factor(2)), disk: 1) }
        #expect(try trace { $0.set(.slow(.factor(2)), disk: 1) } == slow)
        #expect(try trace { $0.set(.slow(.factor(2)), disk: 0) } != slow)
        #expect(slow != untouched)
    }

    @Test func diskComesBackThroughTheMachine() throws {
        let machine = try site(disks: 3).machine
        machine.disks[2].remember()
        machine.set(.unreachable, disk: 2)
        machine.reconnect(disk: 2, losingCache: .dropAll)
        machine.reopen(disk: 2)
        #expect(!machine.disks[2].isUnreachable && !machine.disks[2].hasFailedFlush)
        machine.set(.unreachable, disk: 2)
        machine.comeBackAsRemembered(disk: 2)
        #expect(!machine.disks[2].isUnreachable)
    }
}
