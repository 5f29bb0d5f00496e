import PoolEngine
import PoolFormat

/// How many faults that no disk speaks of are found and put right while a space can do without the
/// disk: bits that turn over, writes that are lost, writes that go astray.
///
/// Every block of every grain holds something, so each fault strikes bytes that somebody will want.
/// A round spoils one disk, reads everything once, and scrubs. The disk itself keeps count of what
/// is still wrong on it, whatever the engine thinks.
public final class SilentFaultRun {
    public struct Report: Sendable {
        public var rounds = 0
        /// Blocks of 4 KiB made wrong, by the fault that did it.
        public var rotten = 0
        public var lostWrites = 0
        public var misdirectedWrites = 0
        /// Of these, put right once everything had been read; and by the scrub behind it.
        public var repairedByReads = 0
        public var repairedByScrub = 0
        /// Still wrong after both.
        public var left = 0
        /// The first read that returned anything wrong, failed, or a scrub that did.
        public var violation: String?

        public var injected: Int { rotten + lostWrites + misdirectedWrites }
        public var isGood: Bool { violation == nil && left == 0 }
    }

    private static let grains = 6
    private var random: SeededRandom
    private let seed: UInt64
    private var report = Report()

    public init(seed: UInt64) {
        self.seed = seed
        random = SeededRandom(seed: seed)
    }

    /// Rounds until so many blocks were made wrong, on a new pool every few of them.
    public func run(
        faults: Int, progress: (Report) -> Void = { _ in }
    ) -> Report {
        while report.injected < faults, report.isGood {
            let kind = random.pick([ResiliencyKind.mirror2, .mirror3, .parity1, .parity2])
            let site = makePool(kind)
            for _ in 0..<12 where report.injected < faults && report.isGood {
                spoilOnce(site, kind, disk: random.below(kind.leastDisks))
                report.violation = site.machine.violation
                progress(report)
            }
        }
        return report
    }

    private func makePool(_ kind: ResiliencyKind) -> Site {
        let disks = (0..<kind.leastDisks).map { _ in
            SimulatedDisk(
                sizeBytes: 1 << 30, sectorBytes: random.pick([512, 4096]), supportsDiscard: true,
                seed: random.next())
        }
        let machine = Machine(disks: disks, limits: Workload.smallLimits, seed: random.next())
        machine.boot()
        let site = Site(machine)
        let shape = SpaceShape(
            sizeBytes: UInt64(Self.grains) << 20, resiliency: kind,
            columns: kind.isParity ? UInt16(kind.leastDisks) : 1, interleaveBytes: 64 << 10,
            checksums: true, whenFull: .enospc)
        guard site.createPool(disks: Array(disks.indices)), site.createSpace("a", shape) else {
            return site
        }
        for grain in 0..<Self.grains { write(site, grain * 2048..<(grain + 1) * 2048) }
        sync(site)
        return site
    }

    // MARK: - one round

    private func spoilOnce(_ site: Site, _ kind: ResiliencyKind, disk index: Int) {
        let machine = site.machine
        let ranges = site.spoilable(index)
        guard machine.violation == nil, !ranges.isEmpty else { return }
        report.rounds += 1
        site.isSpoiled = true
        for _ in 0..<40 {
            let range = random.pick(ranges)
            let block = range.lowerBound + UInt64(random.below(range.count / 4096)) * 4096
            let first = random.below(4096)
            let end = min(4096, first + random.within(1...64))
            machine.set(.rot([block + UInt64(first)..<block + UInt64(end)]), disk: index)
        }
        // A stripe that is overwritten lies elsewhere afterwards, and what is wrong where it was is
        // nobody's.
        if !kind.isParity {
            overwrite(site, index, .lostWrites(.all(within: ranges)))
            overwrite(
                site, index, .misdirectedWrites(Misdirection(.all(within: ranges), into: ranges)))
        }
        let found = damage(machine, index, ranges)
        report.rotten += found.rotten
        report.lostWrites += found.lost
        report.misdirectedWrites += found.astray
        for grain in 0..<Self.grains { read(site, grain * 2048..<(grain + 1) * 2048) }
        site.clients.finish()
        // What reads have found is put right behind their backs.
        _ = machine.endOperations()
        machine.drain(steps: 2_000)
        let afterReads = damage(machine, index, ranges).total
        report.repairedByReads += found.total - afterReads
        guard site.scrub() else { return }
        let left = damage(machine, index, ranges).total
        report.repairedByScrub += afterReads - left
        report.left += left
    }

    /// A few blocks here and there, while the disk loses what is written to it.
    private func overwrite(_ site: Site, _ index: Int, _ fault: DiskFault) {
        site.machine.set(fault, disk: index)
        for _ in 0..<24 {
            let start = random.below(Self.grains * 256) * 8
            write(site, start..<start + 8)
        }
        sync(site)
        site.machine.takeBack(fault.kind, disk: index)
    }

    // MARK: - what is wrong on a disk

    private struct Damage {
        var rotten = 0
        var lost = 0
        var astray = 0
        var total: Int { rotten + lost + astray }
    }

    /// Blocks that are wrong where data lies; each counts once.
    private func damage(
        _ machine: Machine, _ index: Int, _ ranges: [Range<UInt64>]
    ) -> Damage {
        var kinds: [UInt64: SilentFault.Kind] = [:]
        for fault in machine.disks[index].silentFaults {
            let blocks = fault.offset / 4096...(fault.offset + fault.length - 1) / 4096
            for block in blocks where ranges.contains(where: { $0.contains(block * 4096) }) {
                kinds[block] = fault.kind
            }
        }
        var damage = Damage()
        for kind in kinds.values {
            switch kind {
            case .rot: damage.rotten += 1
            case .lostWrite: damage.lost += 1
            case .misdirectedWrite, .strayWrite: damage.astray += 1
            }
        }
        return damage
    }

    // MARK: - requests

    private func write(_ site: Site, _ sectors: Range<Int>) { submit(.write, site, sectors) }
    private func read(_ site: Site, _ sectors: Range<Int>) { submit(.read, site, sectors) }

    private func sync(_ site: Site) {
        site.clients.finish()
        submit(.flush, site, 0..<0)
        site.clients.finish()
    }

    private func submit(_ kind: SpaceRequest.Kind, _ site: Site, _ sectors: Range<Int>) {
        while !site.clients.submit(kind, space: 0, sectors: sectors) {
            guard site.clients.waitForRoom() else { return }
        }
    }
}
