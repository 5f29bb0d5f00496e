import PoolEngine
import PoolFormat

/// Every set of disks a redundant space can lose, at every kind of moment.
///
/// Up to the tolerance nothing is lost and nothing fails. One more: what is read is right or an
/// error, spaces that have enough of everything left go on, and once the disks are back everything
/// that was durable is there.
public final class ToleranceRun {
    public enum Moment: String, CaseIterable, Sendable {
        case running, crash, rebuilding
    }

    public struct Case: Sendable, CustomStringConvertible {
        public var kind: ResiliencyKind
        public var lost: [Int]
        public var moment: Moment
        public var isBearable: Bool { lost.count <= kind.tolerance }

        public var description: String {
            "\(kind), \(moment.rawValue), disks \(lost) lost"
        }
    }

    public struct Outcome: Sendable {
        public var violation: String?
        /// Requests that failed while the disks were away.
        public var failedRequests = 0
        /// Spaces that had everything while the disks were away.
        public var spacesOnline = 0
    }

    public static var cases: [Case] {
        ResiliencyKind.allCases.filter { $0.tolerance > 0 }.flatMap { cases($0) }
    }

    /// - Parameter spare: disks beyond the least that it takes.
    public static func cases(_ kind: ResiliencyKind, spare: Int = 2) -> [Case] {
        let disks = kind.leastDisks + spare
        let sets = (0..<1 << disks).map { bits in (0..<disks).filter { bits >> $0 & 1 == 1 } }
        return sets.filter { (1...kind.tolerance + 1).contains($0.count) }.flatMap { lost in
            Moment.allCases.map { Case(kind: kind, lost: lost, moment: $0) }
        }
    }

    private let wanted: Case
    private let site: Site
    private var random: SeededRandom

    public init(_ wanted: Case, spare: Int = 2, seed: UInt64 = 1, verbose: Bool = false) {
        self.wanted = wanted
        random = SeededRandom(seed: seed)
        let disks = (0..<wanted.kind.leastDisks + spare).map {
            SimulatedDisk(
                sizeBytes: 3 << 30, sectorBytes: 512, supportsDiscard: true, seed: UInt64($0))
        }
        let machine = Machine(
            disks: disks, limits: Workload.smallLimits, seed: seed, verbose: verbose)
        machine.boot()
        site = Site(machine)
    }

    private var machine: Machine { site.machine }

    public func run() -> Outcome {
        var outcome = Outcome()
        if prepare() {
            if wanted.isBearable { bear() } else { outcome.spacesOnline = lose() }
        }
        outcome.violation = machine.violation
        outcome.failedRequests = site.clients.failedRequests
        return outcome
    }

    /// Three spaces, which lie on different disks.
    private func prepare() -> Bool {
        guard site.createPool(disks: Array(machine.disks.indices)) else { return false }
        for index in 0..<3 {
            var shape = SpaceShape(
                sizeBytes: 8 << 20, resiliency: wanted.kind,
                columns: wanted.kind.isParity ? UInt16(wanted.kind.leastDisks) : 1,
                interleaveBytes: 64 << 10, checksums: true, whenFull: .enospc)
            if wanted.kind.isParity, index > 0 { shape.writeCacheBytes = 1 << 20 }
            guard site.createSpace("s\(index)", shape) else { return false }
            submit(.write, index, 0..<2048)
            submit(.write, index, 3 * 2048 + 5..<3 * 2048 + 77)
            flush()
        }
        return machine.violation == nil
    }

    // MARK: - what is borne

    private func bear() {
        loseDisks()
        guard verify() else { return }
        for index in site.clients.spaces.indices {
            submit(.write, index, 40..<90)
            submit(.write, index, 5 * 2048..<5 * 2048 + 64)
        }
        flush()
        guard verify(), site.heal(), site.compareMembers(7) else { return }
        _ = site.leavesNothingBehind()
    }

    // MARK: - what is not

    /// - Returns: how many spaces served all the time.
    private func lose() -> Int {
        site.acceptsErrors = true
        let whole = site.clients.spaces.indices.filter { hasEverything(site.clients.spaces[$0].name) }
        loseDisks()
        _ = verify()
        var served = 0
        if site.isOpen {
            for index in whole {
                guard site.clients.spaces[index].handle != nil else {
                    machine.fail(
                        "space \(site.clients.spaces[index].name) has enough of everything, "
                            + "and is not served")
                    return served
                }
                served += 1
                let failed = site.clients.failedRequests
                submit(.write, index, 40..<90)
                submit(.write, index, 6 * 2048..<6 * 2048 + 64)
                submit(.flush, index, 0..<0)
                submit(.read, index, 0..<2048)
                site.clients.finish()
                if site.clients.failedRequests > failed {
                    machine.fail(
                        "space \(site.clients.spaces[index].name) has enough of everything, "
                            + "and a request of it failed\n\(machine.waiting)")
                }
            }
        }
        // Everything is there again: now every flushed byte is wanted.
        site.cutPower(.keepCompleted)
        for index in machine.disks.indices { machine.takeBack(.unreachable, disk: index) }
        site.acceptsErrors = false
        _ = site.recover() && verify()
        return served
    }

    /// The disks that are about to go hold nothing of the space that it cannot do without.
    private func hasEverything(_ name: String) -> Bool {
        let gone = Set(wanted.lost.compactMap { site.number(of: $0) })
        guard let found = try? site.pool?.explain(name) else { return false }
        let isCovered = { (disks: [DiskNumber]) in disks.contains { !gone.contains($0) } }
        return found.metadata.allSatisfy(isCovered)
            && found.groups.allSatisfy { group in
                if wanted.kind.isParity {
                    return group.slabs.count { gone.contains($0.address.disk) }
                        <= wanted.kind.tolerance
                }
                let columns = stride(from: 0, to: group.slabs.count, by: Int(group.copies))
                return columns.allSatisfy { first in
                    isCovered(group.slabs[first..<first + Int(group.copies)].map(\.address.disk))
                }
            }
    }

    // MARK: - the moment

    private func loseDisks() {
        for index in site.clients.spaces.indices {
            submit(.write, index, 16..<48)
            submit(.write, index, 2048 * 2..<2048 * 2 + 32)
        }
        machine.drain(steps: 4)
        switch wanted.moment {
        case .running:
            wanted.lost.forEach { site.pull($0) }
        case .crash:
            wanted.lost.forEach { site.pull($0) }
            machine.drain(steps: 3)
            site.cutPower(.sectors(percent: 50))
            _ = site.recover(allowing: wanted.isBearable ? { _ in false } : { _ in true })
        case .rebuilding:
            // The first has been given up, and what it held is on its way elsewhere.
            site.pull(wanted.lost[0])
            flush()
            let others = wanted.lost.dropFirst()
            var steps = 0
            machine.onStep = { [unowned site] in
                steps += 1
                if steps == 25 { others.forEach { site.pull($0) } }
            }
            site.rebuildAsFarAsPossible()
            machine.onStep = nil
            others.filter { !machine.disks[$0].isUnreachable }.forEach { site.pull($0) }
        }
        site.clients.finish()
    }

    // MARK: - requests

    private func verify() -> Bool {
        guard site.isOpen else { return machine.violation == nil }
        return site.verify(.touched, sample: &random)
    }

    private func flush() {
        site.clients.finish()
        for index in site.clients.spaces.indices { submit(.flush, index, 0..<0) }
        site.clients.finish()
    }

    private func submit(_ kind: SpaceRequest.Kind, _ space: Int, _ sectors: Range<Int>) {
        guard site.isOpen, site.clients.spaces[space].handle != nil else { return }
        while !site.clients.submit(kind, space: space, sectors: sectors) {
            guard site.clients.waitForRoom() else { return }
        }
    }
}
