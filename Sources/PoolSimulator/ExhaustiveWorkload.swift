import PoolEngine
import PoolFormat

/// Bounded workloads for the exhaustive mode: each meets one part of the engine's write order.
public enum ExhaustiveWorkload: String, CaseIterable, Sendable {
    /// Overlapping writes of several clients on a mirror.
    case overlap
    /// First writes to grains: group and grain allocation, data before record.
    case allocation
    /// Trims and zeroes of blocks, of their parts and of whole grains; reuse of what they free.
    case trim
    /// A journal that fills up, is retired by checkpoints and wraps.
    case checkpoint
    /// Pool creation, space creation and destruction, a disk added, export and reopening.
    case configuration
    /// A crash with dirty regions, then reads and writes while the copies are made equal.
    case resync
    /// FUA writes among writes without, and FLUSHes of several clients.
    case fua
    /// Parts of blocks on disks with 4 KiB sectors.
    case unaligned

    var limits: Limits {
        var limits = Limits()
        limits.requestsInFlight = 32
        limits.checksumPages = 32
        limits.journalPieces = 2
        limits.unflushedBlocks = 512
        limits.dirtyRegions = 2
        limits.cleanAfterNs = 3_000_000
        limits.checkpointPages = 4
        limits.scratchPages = 16
        limits.scratchPairs = 4
        limits.scratchGrains = 6
        return limits
    }

    /// Its preparation cuts the power.
    var crashesByItself: Bool { self == .resync }

    private var sectorBytes: Int {
        switch self {
        case .unaligned, .checkpoint: 4096
        case .overlap, .allocation, .trim, .configuration, .resync, .fua: 512
        }
    }

    private var diskCount: Int {
        switch self {
        case .allocation, .configuration: 4
        case .overlap, .trim, .checkpoint, .resync, .fua, .unaligned: 2
        }
    }

    func scene(seed: UInt64, verbose: Bool = false) -> (Machine, Site) {
        let disks = (0..<diskCount).map { index in
            SimulatedDisk(
                sizeBytes: 1 << 30, sectorBytes: sectorBytes, supportsDiscard: true,
                seed: seed &* 31 &+ UInt64(index))
        }
        let machine = Machine(disks: disks, limits: limits, seed: seed, verbose: verbose)
        machine.boot()
        return (machine, Site(machine))
    }

    /// A space of eight grains.
    private func shape(
        _ resiliency: ResiliencyKind, columns: UInt16 = 1, checksums: Bool = true
    ) -> SpaceShape {
        SpaceShape(
            sizeBytes: 8 << 20, resiliency: resiliency, columns: columns,
            interleaveBytes: 64 << 10, checksums: checksums, whenFull: .enospc)
    }

    /// What happens before the first cut.
    func prepare(_ site: Site) {
        switch self {
        case .configuration:
            return
        case .overlap, .trim, .checkpoint, .fua, .unaligned:
            guard begin(site, shape(.mirror2)) else { return }
        case .allocation:
            guard begin(site, shape(.mirror2, columns: 2)) else { return }
        case .resync:
            guard begin(site, shape(.mirror2)) else { return }
            write(site, 0..<64)
            write(site, 2040..<2048)
            sync(site)
            for start in [0, 3, 11, 40] { write(site, start..<start + 16) }
            write(site, 2041..<2046)
            site.machine.drain(steps: 9)
            site.cutPower(.sectors(percent: 50))
            return
        }
        switch self {
        case .overlap, .trim, .unaligned, .fua:
            write(site, 0..<256)
            write(site, 2048..<4096)
            sync(site)
        case .checkpoint:
            // Up to shortly before the journal's end.
            for round in 0..<240 {
                write(site, (round * 8) % 512..<(round * 8) % 512 + 8, fua: true)
                site.clients.finish()
            }
        case .allocation, .configuration, .resync:
            break
        }
    }

    private func begin(_ site: Site, _ shape: SpaceShape) -> Bool {
        site.createPool(disks: Array(site.machine.disks.indices))
            && site.createSpace("a", shape)
    }

    /// What is cut at every boundary.
    func body(_ site: Site) {
        switch self {
        case .overlap: overlapBody(site)
        case .allocation: allocationBody(site)
        case .trim: trimBody(site)
        case .checkpoint: checkpointBody(site)
        case .configuration: configurationBody(site)
        case .resync: resyncBody(site)
        case .fua: fuaBody(site)
        case .unaligned: unalignedBody(site)
        }
        site.clients.finish()
    }

    private func overlapBody(_ site: Site) {
        for round in 0..<3 {
            for start in [0, 5, 8, 16, 3] {
                write(site, start + round..<start + round + 24)
            }
            flush(site)
            read(site, 0..<64)
            site.machine.drain(steps: 6)
            write(site, 10..<20, fua: round == 1)
        }
    }

    private func allocationBody(_ site: Site) {
        for grain in 0..<4 {
            write(site, grain * 2048 + 100..<grain * 2048 + 300)
            site.machine.drain(steps: 5)
        }
        flush(site)
        write(site, 5 * 2048..<6 * 2048)
        write(site, 300..<308, fua: true)
        sync(site)
        write(site, 6 * 2048..<6 * 2048 + 8)
        flush(site)
    }

    private func trimBody(_ site: Site) {
        trim(site, 8..<24)
        write(site, 16..<32)
        flush(site)
        site.machine.drain(steps: 8)
        // The next grain must not lie where this one did while a crash may bring it back.
        trim(site, 2048..<4096)
        write(site, 3 * 2048..<3 * 2048 + 64)
        trim(site, 35..<77)
        site.machine.drain(steps: 5)
        write(site, 2048..<2056)
        sync(site)
        zeroes(site, 0..<16)
        zeroes(site, 3 * 2048 + 9..<3 * 2048 + 30)
        write(site, 4 * 2048..<5 * 2048)
        flush(site)
    }

    private func checkpointBody(_ site: Site) {
        for round in 0..<14 {
            let start = (round % 5) * 2048 + round * 8
            write(site, start..<start + 8, fua: true)
            write(site, start + 64..<start + 80)
            site.machine.drain(steps: 7)
        }
        flush(site)
    }

    private func configurationBody(_ site: Site) {
        guard site.createPool(disks: [0, 1, 2]), site.createSpace("a", shape(.mirror2)) else {
            return
        }
        write(site, 0..<64)
        sync(site)
        guard site.createSpace("b", shape(.simple, columns: 2)), site.addDisk(3) else { return }
        write(site, 0..<64, space: 1)
        site.clients.finish()
        guard site.destroySpace("a"), site.createSpace("c", shape(.mirror2, checksums: false))
        else { return }
        write(site, 0..<64, space: 1, fua: true)
        site.clients.finish()
        guard site.close(export: true), site.recover() else { return }
        write(site, 32..<96, space: 1)
        flush(site, space: 1)
    }

    private func resyncBody(_ site: Site) {
        guard site.recover() else { return }
        read(site, 0..<32)
        write(site, 8..<12)
        read(site, 8..<40)
        site.machine.drain(steps: 10)
        write(site, 2044..<2048)
        read(site, 2040..<2048)
        flush(site)
        site.clients.finish()
        read(site, 0..<64)
        site.clients.finish()
        // Long enough for the regions to be cleaned.
        site.machine.drain(steps: 60)
    }

    private func fuaBody(_ site: Site) {
        for round in 0..<4 {
            write(site, round * 16..<round * 16 + 16)
            write(site, 4096 + round * 8..<4096 + round * 8 + 8, fua: true)
            site.machine.drain(steps: 4)
            flush(site)
            write(site, round * 16 + 4..<round * 16 + 12, fua: true)
            trim(site, 2048 + round * 64..<2048 + round * 64 + 24, fua: round % 2 == 0)
        }
    }

    private func unalignedBody(_ site: Site) {
        for start in [1, 7, 9, 250, 3] {
            write(site, start..<start + 3)
            site.machine.drain(steps: 3)
        }
        flush(site)
        write(site, 8 * 300 + 5..<8 * 302 + 3)
        write(site, 5 * 2048 + 2..<5 * 2048 + 5, fua: true)
        trim(site, 4..<13)
        sync(site)
        write(site, 6..<7)
        zeroes(site, 20..<41)
        flush(site)
        read(site, 0..<64)
    }

    // MARK: - short hands

    private func write(_ site: Site, _ sectors: Range<Int>, space: Int = 0, fua: Bool = false) {
        submit(site, .write, fua ? .fua : [], space, sectors)
    }

    private func trim(_ site: Site, _ sectors: Range<Int>, fua: Bool = false) {
        submit(site, .trim, fua ? .fua : [], 0, sectors)
    }

    private func zeroes(_ site: Site, _ sectors: Range<Int>) {
        submit(site, .writeZeroes, [], 0, sectors)
    }

    private func read(_ site: Site, _ sectors: Range<Int>) {
        submit(site, .read, [], 0, sectors)
    }

    private func flush(_ site: Site, space: Int = 0) {
        submit(site, .flush, [], space, 0..<0)
    }

    /// Everything acknowledged, then durable.
    private func sync(_ site: Site) {
        site.clients.finish()
        flush(site)
        site.clients.finish()
    }

    private func submit(
        _ site: Site, _ kind: SpaceRequest.Kind, _ flags: SpaceRequest.Flags, _ space: Int,
        _ sectors: Range<Int>
    ) {
        guard space < site.clients.spaces.count else { return }
        let accepted = site.clients.submit(kind, flags: flags, space: space, sectors: sectors)
        if !accepted, site.machine.violation == nil {
            site.machine.fail("workload \(rawValue): no room for a request")
        }
        site.machine.settle()
    }
}
