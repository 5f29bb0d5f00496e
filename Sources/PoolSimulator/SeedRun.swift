import PoolEngine
import PoolFormat

/// How long and how hard a seed's run is.
public struct SeedOptions: Sendable {
    public var operations = 5_000
    public var powerCuts = 3
    /// No crash at all: what finds a fault here needs no simulator.
    public var withoutCrashes = false
    public var verbose = false
    /// Silent faults and slow disks too, and of some seeds more than can be borne.
    public var hasAllFaults = false
    /// More faults than any resiliency bears; nil: of every tenth seed.
    public var isBeyond: Bool?
    /// Engines in the process; nil: two for every fourth seed, one for the others.
    public var shards: Int?
    public init() {}
}

/// What one run found.
public struct RunResult: Sendable {
    public var seed: UInt64
    public var violation: String?
    public var trace: TraceHash
    public var operations: Int
    public var deviceOperations: Int
    public var crashes: Int
    public var cutsDuringRecovery: Int
    public var refusedForRoom: Int
    public var failedReads: Int
    /// Faults of disks that were set.
    public var faults = 0
    /// Requests that ended in an error, where more went wrong than is borne.
    public var failedRequests = 0
}

/// One seed: a pool, spaces, clients, control operations and crashes, all drawn from it.
public final class SeedRun {
    let options: SeedOptions
    private let seed: UInt64
    var random: SeededRandom
    let machine: Machine
    let site: Site
    var traffic: Traffic
    private var crashes = 0
    private var recoveryCuts = 0
    var nextSpace = 0
    /// Silent damage that no scrub comes to.
    var isBeyondRepair = false
    private var nextAilment = 0
    /// Which disk carries what.
    var atlas: FaultAtlas
    /// Failures of each disk when it last came back.
    var failuresKnown: [Int: Int] = [:]
    var faultCount = 0
    private let initialDisks: Int
    /// Reads of one disk fail now and then, so every space is a mirror.
    let isFaulty: Bool
    /// Disks go away and come back, so every space is a mirror.
    let isAiling: Bool
    /// Bytes go wrong without a word, so every space has checksums.
    let isSilent: Bool
    /// More goes wrong than the spaces bear.
    let isBeyond: Bool
    /// Every space bears the loss of two disks, which may be away at a time.
    let losesTwo: Bool
    /// Somebody sees to the pool also while disks are away; and what is drawn for that.
    let isAdministered: Bool
    var administration: SeededRandom
    private var nextAdministration = 0
    /// Disks that were to leave the pool for good.
    var retired: Set<Int> = []

    public init(seed: UInt64, options: SeedOptions = SeedOptions()) {
        self.seed = seed
        self.options = options
        random = SeededRandom(seed: seed)
        initialDisks = random.within(2...4)
        let spare = random.below(3)
        let tight = random.chance(15)
        let faulty = random.chance(25)
        let beyond = options.isBeyond ?? (options.hasAllFaults && seed % 10 == 9)
        let failsReads = faulty && !tight && !beyond
        let ails = random.chance(45)
        let isQuiet = random.chance(45)
        let ailing = beyond || ails && !tight && !failsReads
        let silent = ailing && isQuiet && (options.hasAllFaults || beyond)
        (isFaulty, isAiling, isSilent, isBeyond) = (failsReads, ailing, silent, beyond)
        // Drawn by themselves: the other seeds are what they were.
        var more = SeededRandom(seed: seed ^ 0x3a5e_9d11_7c42_66b7)
        losesTwo = ailing && !beyond && initialDisks > 2 && more.chance(40)
        isAdministered = ailing && !beyond && more.chance(50)
        administration = more
        let sectorKind = random.below(3)
        let discards = random.chance(70)
        var disks: [SimulatedDisk] = []
        for _ in 0..<initialDisks + spare {
            // Four spaces of up to three slab groups each fit where it is not meant to be tight.
            let size = tight ? 1 << 30 : (4 + UInt64(random.below(3))) << 30
            let sector = sectorKind == 2 ? random.pick([512, 4096]) : [512, 4096][sectorKind]
            // An odd tail, which no layout may use.
            let tail = UInt64(random.below(1000)) * 4096
            disks.append(
                SimulatedDisk(
                    sizeBytes: size + tail, sectorBytes: sector, supportsDiscard: discards,
                    seed: random.next()))
        }
        let limits = Self.limits(&random)
        machine = Machine(
            disks: disks, limits: limits, seed: random.next(), verbose: options.verbose)
        machine.shardCount = options.shards ?? (seed % 4 == 0 ? 2 : 1)
        if random.chance(20) { machine.doWithoutKeptMemory() }
        site = Site(machine)
        site.clients.mayRunOutOfRoom = tight
        site.acceptsErrors = isBeyond
        atlas = FaultAtlas(
            disks: disks.count, tolerance: losesTwo ? 2 : 1, seed: random.next(),
            bound: isBeyond ? .unbounded : .promised)
        if isFaulty {
            site.faultyDisk = random.below(initialDisks)
            site.readFaults = SimulatedDisk.ReadFaults(
                percent: random.pick([1, 5, 20]), stayingPercent: random.pick([0, 30]))
        }
        traffic = Traffic(seed: random.next())
    }

    /// Small bounds, so that a short run meets all of them.
    static func limits(_ random: inout SeededRandom) -> Limits {
        var limits = Limits()
        limits.requestsInFlight = random.pick([32, 64, 256])
        limits.checksumPages = random.pick([16, 32, 256])
        limits.journalPieces = random.within(2...4)
        limits.unflushedBlocks = random.pick([512, 1024, 4096])
        limits.dirtyRegions = random.pick([2, 4, 32])
        limits.cleanAfterNs = random.pick([1_000_000, 20_000_000, 1_000_000_000])
        limits.checkpointPages = random.pick([1, 4, 64])
        limits.scratchPages = random.pick([16, 64])
        limits.scratchPairs = random.pick([4, 32])
        limits.scratchGrains = random.within(6...12)
        limits.scratchBands = 4
        (limits.repairMovers, limits.repairGroups) = (4, 2)
        limits.restartLogBytes = random.pick([16 << 10, 32 << 10, 64 << 10])
        limits.parkNs = random.pick([2_000_000, 20_000_000, 300_000_000])
        limits.reclaimNs = random.pick([1_000_000, 50_000_000])
        limits.parkedWrites = random.pick([0, 2, 128])
        limits.compactAfterNs = random.pick([500_000, 20_000_000, 500_000_000])
        limits.compactGrainNs = random.pick([1, 200_000, 16_000_000])
        limits.compactBatch = random.pick([1, 4, 32])
        limits.compactScan = random.pick([16, 65_536])
        return limits
    }

    public func run() -> RunResult {
        machine.onStep = { [unowned self] in self.refill() }
        if start() { live() }
        if machine.violation == nil { finish() }
        return RunResult(
            seed: seed, violation: machine.violation, trace: machine.trace,
            operations: site.clients.submitted, deviceOperations: machine.operationsEnded,
            crashes: crashes, cutsDuringRecovery: recoveryCuts,
            refusedForRoom: site.clients.refusedForRoom,
            failedReads: machine.disks.reduce(0) { $0 + $1.failedReads }, faults: faultCount,
            failedRequests: site.clients.failedRequests)
    }

    // MARK: - the run

    /// Makes the pool and the first spaces; sometimes the power goes meanwhile.
    private func start() -> Bool {
        machine.boot()
        if !options.withoutCrashes, random.chance(20) {
            machine.cutAtOperation = machine.operationsEnded + random.below(60)
        }
        while !site.createPool(disks: Array(0..<initialDisks)) {
            guard machine.violation == nil else { return false }
            guard survive() else { return false }
            if site.isOpen { break }
        }
        for _ in 0..<random.within(1...3) {
            guard createSpace() || survive() else { return false }
        }
        return true
    }

    private func live() {
        var planned = 0
        var idleRounds = 0
        var stepsWithoutEnd = 0
        var operationsSeen = 0
        while site.clients.submitted < options.operations
            || (!options.withoutCrashes && crashes < options.powerCuts)
        {
            // Of a pool that cannot be opened any more there is nothing more to see.
            if isBeyond, !site.isOpen || isBeyondRepair { return }
            // Nor does a crash ever come where nothing can be put right before.
            if isBeyond, isDamaged, site.clients.submitted > 4 * options.operations {
                isBeyondRepair = isSilent
                return
            }
            if !options.withoutCrashes, machine.cutAtOperation == nil, !(isSilent && isDamaged) {
                let life = random.within(100...max(200, options.operations))
                machine.cutAtOperation = machine.operationsEnded + life
            }
            refill()
            if machine.step() {
                idleRounds = 0
            } else if machine.violation == nil {
                idleRounds += 1
                if site.clients.requestsInFlight > 0 {
                    machine.fail("requests never end: nothing is under way\n\(machine.waiting)")
                }
                // A pool too tight for even one space.
                if idleRounds > 1000 { return }
            }
            // Timers alone are no progress.
            stepsWithoutEnd = operationsSeen == machine.operationsEnded ? stepsWithoutEnd + 1 : 0
            operationsSeen = machine.operationsEnded
            if stepsWithoutEnd > 1_000_000, machine.violation == nil {
                machine.fail("nothing ends any more\n\(machine.waiting)")
            }
            if machine.violation != nil { return }
            if machine.isCutDue {
                guard survive() else { return }
            }
            if site.clients.submitted > planned + 700, !isBeyond, site.isWhole || !isAiling {
                planned = site.clients.submitted
                guard controlOperation() || survive() else { return }
            }
            if isAdministered, machine.operationsEnded > nextAdministration {
                nextAdministration = machine.operationsEnded + administration.within(300...1500)
                guard administer() || survive() else { return }
            }
            if isAiling, machine.operationsEnded > nextAilment {
                nextAilment = machine.operationsEnded + random.within(20...600)
                guard ail() || survive() else { return }
            }
        }
    }

    func refill() {
        guard site.isOpen else { return }
        traffic.refill(site.clients)
    }

    /// Everything that is there is read, closed, opened and read again; then it goes, and leaves
    /// nothing behind.
    private func finish() {
        machine.cutAtOperation = nil
        machine.onStep = nil
        site.clients.finish()
        if isBeyond { return finishBeyond() }
        if isAiling {
            endFaults()
            guard site.heal(), site.compareMembers(seed) else { return }
            // Each begins with the end of a process.
            if !options.withoutCrashes, !site.compareOpenings(seed, byKill: seed % 2 == 0) { return }
        }
        guard site.verify(.wholeGrains, sample: &random), site.close(export: false),
            site.recover(), site.verify(.wholeGrains, sample: &random),
            site.leavesNothingBehind()
        else { return }
        _ = site.destroyPool()
    }

    // MARK: - crashes

    /// Comes back from a crash that is due, through as many more as strike meanwhile.
    ///
    /// - Returns: false when something is wrong.
    func survive() -> Bool {
        guard machine.violation == nil else { return false }
        guard machine.isCutDue || isBeyond else {
            machine.fail("an operation was given up though the power is on")
            return false
        }
        crash()
        while true {
            if random.chance(40) {
                machine.cutAtNextBoot = random.below(120)
            }
            if isBeyond ? recoverBeyond() : site.recover(), afterRecovery() { return true }
            guard machine.violation == nil else { return false }
            recoveryCuts += 1
            crash()
        }
    }

    private func afterRecovery() -> Bool {
        guard site.isOpen else { return true }
        traffic.quiet = nil
        // Half of the time clients are back at once, while copies are still being made equal.
        let verified =
            random.chance(50)
            ? site.verify(random.chance(10) ? .wholeGrains : .unsettled, sample: &random)
            : !machine.isCutDue
        if verified { machine.cutAtOperation = nil }
        return verified
    }

    private func crash() {
        crashes += 1
        defer {
            for index in machine.disks.indices {
                // An opening reads tables that have no copy.
                if isAiling { takeBackLoudFaults(index) }
                guard machine.disks[index].isUnreachable, random.chance(30) else { continue }
                machine.reconnect(disk: index, losingCache: policy())
                atlas.noteBack(index)
            }
        }
        switch random.below(10) {
        case 0...2: site.killProcess()
        case 3: site.loseCaches(policy())
        default: site.cutPower(policy())
        }
    }

    func policy() -> CutPolicy {
        switch random.below(8) {
        case 0: .dropAll
        case 1: .keepAll
        case 2: .keepCompleted
        case 3, 4: .operations(percent: random.within(10...90))
        default: .sectors(percent: random.within(10...90))
        }
    }
}
