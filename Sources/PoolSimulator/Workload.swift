import PoolEngine
import PoolFormat

/// A bounded workload for the exhaustive mode: it meets one part of the engine's write order, and
/// is short enough to be cut at every one of its device operations.
public struct Workload: Sendable {
    /// What `poolsim --workload` calls it.
    public internal(set) var name: String
    /// Sector size of each disk in turn.
    var sectorBytes = [512]
    var diskCount = 2
    /// Three slabs: one for metadata, two for data.
    var diskBytes: UInt64 = 1 << 30
    var limits = Workload.smallLimits
    /// Engines in the process; its successors have one.
    var shardCount = 1
    /// Its preparation cuts the power or kills the process.
    var crashesByItself = false
    /// It opens the pool without one of its disks: what is missed then shows as after a crash.
    var opensDegraded = false
    /// Of a long one every so many boundaries are cut, unless all are asked for.
    var cutStride = 1
    /// false: what is wrong already is as much as can be borne.
    public var bearsCrashes = true
    /// Refusals for want of room are no violation.
    var mayRunOutOfRoom = false
    /// Of the write-back cache of spaces with parity and checksums.
    var cacheBytes: UInt64 = 0
    /// What happens before the first cut.
    var prepare: @Sendable (Stage) -> Void
    /// What is cut at every boundary.
    var body: @Sendable (Stage) -> Void

    init(
        _ name: String, prepare: @escaping @Sendable (Stage) -> Void,
        body: @escaping @Sendable (Stage) -> Void
    ) {
        self.name = name
        self.prepare = prepare
        self.body = body
    }

    /// The same, with something else about it.
    func with(_ change: (inout Workload) -> Void) -> Workload {
        var changed = self
        change(&changed)
        return changed
    }

    public static let all: [Workload] =
        writes + zeroes + metadata + pools + room + departures + leaving + away + returns + healing
        + strangers + stalls + parity + cached

    /// Device operations of a schedule: with fewer there is hardly anything to cut.
    public static let fewestOperations = 30

    public static func named(_ name: String) -> Workload? { all.first { $0.name == name } }

    /// Small bounds, so that a short workload meets them.
    static var smallLimits: Limits {
        var limits = Limits()
        limits.requestsInFlight = 32
        limits.checksumPages = 32
        limits.journalPieces = 2
        limits.unflushedBlocks = 512
        limits.restartLogBytes = 16 << 10
        limits.dirtyRegions = 2
        limits.cleanAfterNs = 3_000_000
        limits.checkpointPages = 4
        limits.scratchPages = 16
        limits.scratchPairs = 4
        limits.scratchGrains = 6
        limits.scratchBands = 2
        (limits.repairMovers, limits.repairGroups) = (4, 2)
        // A grain in two steps, without waiting for clients who never rest.
        limits.repairChunkBytes = 512 << 10
        limits.repairFloorBytesPerSecond = 1 << 40
        return limits
    }

    func scene(seed: UInt64, verbose: Bool = false) -> (Machine, Stage) {
        let disks = (0..<diskCount).map { index in
            SimulatedDisk(
                sizeBytes: diskBytes, sectorBytes: sectorBytes[index % sectorBytes.count],
                supportsDiscard: true, seed: seed &* 31 &+ UInt64(index))
        }
        let machine = Machine(disks: disks, limits: limits, seed: seed, verbose: verbose)
        machine.shardCount = shardCount
        machine.boot()
        let site = Site(machine)
        site.clients.mayRunOutOfRoom = mayRunOutOfRoom
        return (machine, Stage(name, site, cacheBytes: cacheBytes))
    }

    func run(body stage: Stage) {
        body(stage)
        stage.site.clients.finish()
    }
}

/// What workloads say, in short words. Ranges are sectors of 512 bytes: a grain has 2048.
final class Stage {
    let site: Site
    private let workload: String
    private let cacheBytes: UInt64

    init(_ workload: String, _ site: Site, cacheBytes: UInt64 = 0) {
        self.workload = workload
        self.site = site
        self.cacheBytes = cacheBytes
    }

    var machine: Machine { site.machine }

    /// The sectors of one grain.
    func grain(_ number: Int) -> Range<Int> { number * 2048..<(number + 1) * 2048 }

    // MARK: - pools and spaces

    static func shape(
        _ resiliency: ResiliencyKind, grains: Int = 8, columns: UInt16 = 1,
        checksums: Bool = true, whenFull: WhenFull = .enospc, isFixed: Bool = false
    ) -> SpaceShape {
        SpaceShape(
            sizeBytes: UInt64(grains) << 20, resiliency: resiliency,
            columns: resiliency.isParity ? 0 : columns,
            interleaveBytes: 64 << 10, checksums: checksums, whenFull: whenFull,
            isFixed: isFixed)
    }

    /// A pool on every disk with one space for each shape: "a", "b" and so on.
    func begin(_ shapes: SpaceShape..., onDisks disks: Int? = nil) {
        let all = Array(machine.disks.indices)
        guard site.createPool(disks: Array(all.prefix(disks ?? all.count))) else { return }
        for (index, shape) in shapes.enumerated() {
            var shape = shape
            if shape.resiliency.isParity, shape.checksums { shape.writeCacheBytes = cacheBytes }
            guard site.createSpace(String(UnicodeScalar(UInt8(97 + index))), shape) else { return }
        }
    }

    /// Clients go on at every step of a control operation: `one` is asked for more each time it has
    /// nothing in flight, with a count from 0.
    func busy(_ one: @escaping (Int) -> Void, during control: () -> Bool) -> Bool {
        var count = 0
        machine.onStep = { [unowned self] in
            guard self.site.isOpen, self.site.clients.requestsInFlight == 0 else { return }
            one(count)
            count += 1
        }
        defer { machine.onStep = nil }
        return control()
    }

    /// A fault that the spaces have to bear.
    func fault(_ fault: DiskFault, disk index: Int) {
        machine.set(fault, disk: index)
        site.noteFault()
    }

    // MARK: - requests

    func write(_ sectors: Range<Int>, space: Int = 0, fua: Bool = false) {
        submit(.write, fua ? .fua : [], space, sectors)
    }

    func trim(_ sectors: Range<Int>, space: Int = 0, fua: Bool = false) {
        submit(.trim, fua ? .fua : [], space, sectors)
    }

    func zeroes(_ sectors: Range<Int>, space: Int = 0, noHole: Bool = false, fua: Bool = false) {
        var flags: SpaceRequest.Flags = noHole ? .noHole : []
        if fua { flags.insert(.fua) }
        submit(.writeZeroes, flags, space, sectors)
    }

    func read(_ sectors: Range<Int>, space: Int = 0) { submit(.read, [], space, sectors) }

    func status(_ sectors: Range<Int>, space: Int = 0) {
        submit(.blockStatus, [], space, sectors)
    }

    func flush(space: Int = 0) { submit(.flush, [], space, 0..<0) }

    /// Lets a number of device operations end.
    func steps(_ count: Int) { machine.drain(steps: count) }

    /// Waits until next to nothing is under way: of the engine's own work its beginnings are left.
    func calm() {
        while machine.disks.reduce(0, { $0 + $1.operationsInFlight }) > 8, machine.step() {}
    }

    /// Clients rest for a while.
    func pass(ns: UInt64) {
        let endNs = machine.nowNs &+ ns
        while site.isOpen, machine.nowNs < endNs, !machine.isCutDue, machine.step() {}
    }

    /// Waits for every reply.
    func finish() { site.clients.finish() }

    /// Everything acknowledged, then durable.
    func sync(space: Int = 0) {
        finish()
        flush(space: space)
        finish()
    }

    private func submit(
        _ kind: SpaceRequest.Kind, _ flags: SpaceRequest.Flags, _ space: Int,
        _ sectors: Range<Int>
    ) {
        guard space < site.clients.spaces.count else { return }
        let accepted = site.clients.submit(kind, flags: flags, space: space, sectors: sectors)
        if !accepted, machine.violation == nil {
            machine.fail("workload \(workload): no room for a request")
        }
        machine.settle()
    }
}
