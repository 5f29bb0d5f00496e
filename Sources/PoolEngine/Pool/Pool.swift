import PoolFormat

/// One open pool on one engine: its disks, its configuration, who has which slab and piece.
///
/// Everything here is a slow path: asynchronous functions on the engine's executor, which
/// interleave at every `await`. Three locks order them, always taken in this order:
///
///     administration   one change of the set of disks or spaces at a time
///     configuration    one configuration is written at a time
///     tables           slab and piece tables, in memory and on disk
///
/// A disk that fails under the table lock is only marked; whoever held the lock lets it go and then
/// has the failure recorded, because recording takes the configuration lock.
///
/// What is durable, in the order it was made so (each file says why its order is crash-safe):
///
///     labels ─► configuration ─► slab tables ─► piece tables ─► fence tables ─► spaces
public final class Pool: @unchecked Sendable {
    /// A disk as it is offered to a pool.
    public struct Member: Sendable {
        public var device: DeviceDescription
        /// The identity a new disk gets; not looked at when a labelled one is opened.
        public var uuid: PoolUUID
        public var mediaClass: MediaClass
        /// Where it is, for people and for the next search: at most 1,024 bytes of UTF-8.
        public var pathHint: String

        public init(
            device: DeviceDescription, uuid: PoolUUID, mediaClass: MediaClass, pathHint: String
        ) {
            self.device = device
            self.uuid = uuid
            self.mediaClass = mediaClass
            self.pathHint = pathHint
        }
    }

    public let engine: Engine
    public let uuid: PoolUUID
    /// What is in effect: durable on the disks and known to the witness.
    public internal(set) var configuration: Configuration
    public internal(set) var isClosed = false {
        didSet {
            guard isClosed else { return }
            superviseWanted.fire()
            scrubbing?.resumed.fire()
        }
    }

    /// The disks that are here, ascending by number. A disk that has failed stays, to be read.
    private(set) var disks: [Disk] = []
    /// By disk number.
    private var disksByNumber: [Disk?] = []
    /// Of the same disks.
    private(set) var places = DiskPlaces()
    /// The epoch in force of each lineage, as every disk's fence table says.
    var fences: [FenceEntry] = []
    /// The newest sequence that every disk which serves has: that of the configuration in effect, but
    /// while the pool is being opened, when a crash may have kept it from some.
    var commonSequence: UInt64
    /// The newest version ever written to a disk, whether or not it took effect.
    var highestVersion: ConfigurationVersion

    /// Generations below `generationLimit` are reserved in the configuration in effect.
    var nextGeneration: UInt64
    var generationLimit: UInt64

    var spaces: [Space] = []
    /// What spaces on other shards said when last asked.
    var learnt: [Lineage: SpaceFacts] = [:]
    /// Spaces that could not be opened, and why.
    var unavailable: [Lineage: String] = [:]
    /// Work behind the pool's back: ascending by id.
    var jobList: [Job] = []
    var nextJobID: UInt64 = 1
    /// When each disk that is away was first missed.
    var awaySinceNs: [DiskNumber: UInt64] = [:]
    let superviseWanted: Signal
    var isSuperviseWanted = false
    /// Counts what changes which disks are away from which spaces.
    var departuresChanged: UInt64 = 0
    /// Rounds in a row that have moved everything, and could not let a disk go.
    var unfinishedRepairs = 0
    /// When such a round is tried again.
    var repairRetryNs: UInt64?
    /// What a repair that nobody can do anything about was about.
    var failedRepair: (givenUp: Set<DiskNumber>, departuresChanged: UInt64)?
    /// The space that is being repaired, and what of those before it was moved.
    var repairing: Space?
    var repairedBytes: UInt64 = 0
    /// The scrub under way.
    var scrubbing: ScrubControl?
    /// Set when changes can no longer be recorded.
    var hasLostQuorum = false

    let administrationLock: AsyncLock
    let configurationLock: AsyncLock
    let tableLock: AsyncLock

    init(_ engine: Engine, configuration: Configuration) {
        self.engine = engine
        self.configuration = configuration
        uuid = configuration.poolUUID
        highestVersion = configuration.version
        commonSequence = configuration.sequenceBefore
        nextGeneration = configuration.nextGeneration
        generationLimit = configuration.nextGeneration
        administrationLock = AsyncLock(engine)
        configurationLock = AsyncLock(engine)
        tableLock = AsyncLock(engine)
        superviseWanted = Signal(engine)
        engine.register(self)
    }

    public var name: String { configuration.poolName }

    /// The open space of a name; nil when there is none, or it could not be opened.
    public func space(named name: String) -> Space? {
        guard let record = configuration.spaces.first(where: { $0.name == name }) else {
            return nil
        }
        return spaces.first { $0.lineage == record.lineage }
    }

    // MARK: - disks

    func attach(_ disk: Disk) {
        // The index may have been another disk's before.
        engine.note(
            disk.device, serves: disk.serves, supportsDiscard: disk.description.supportsDiscard)
        places.add(disk.number, disk.device, disk.layout)
        let number = Int(disk.number.rawValue)
        while disksByNumber.count <= number { disksByNumber.append(nil) }
        disksByNumber[number] = disk
        let index = disks.firstIndex { $0.number > disk.number } ?? disks.count
        disks.insert(disk, at: index)
    }

    func detach(_ disk: Disk) {
        disksByNumber[Int(disk.number.rawValue)] = nil
        places.remove(disk.number)
        disks.removeAll { $0 === disk }
    }

    func removePlace(_ number: DiskNumber) { places.remove(number) }

    /// A disk of the pool that is not here.
    func placeNowhere(_ number: DiskNumber, _ layout: DiskLayout) {
        places.add(number, DiskPlaces.nowhere, layout)
    }

    func disk(_ number: DiskNumber) -> Disk? {
        let index = Int(number.rawValue)
        return index < disksByNumber.count ? disksByNumber[index] : nil
    }

    func disk(of device: DeviceIndex) -> Disk? { disks.first { $0.device == device } }

    /// Disks that take writes.
    var servingDisks: [Disk] { disks.filter(\.serves) }

    /// The disks for the metadata of a new space: the most room first, at most `copies`.
    func metadataDisks(copies: Int) -> [DiskNumber] {
        Placement.chooseMetadataDisks(rooms(\.pieceRoom), copies: copies)
    }

    /// What each disk has room for, and what it fails together with.
    func rooms(_ slabs: (Disk) -> Int) -> [Placement.Room] {
        let domains = domains
        return disks.map {
            Placement.Room(disk: $0.number, slabs: slabs($0), domain: domains[$0.number])
        }
    }

    /// What each disk fails together with, whether it is here or not.
    var domains: [DiskNumber: FaultDomain] {
        Dictionary(
            configuration.disks.map { ($0.number, FaultDomain($0)) },
            uniquingKeysWith: { first, _ in first })
    }

    // MARK: - counters

    func noteReadError(_ device: DeviceIndex) { disk(of: device)?.errors.read &+= 1 }
    func noteChecksumError(_ device: DeviceIndex) { disk(of: device)?.errors.checksum &+= 1 }
    func noteWriteError(_ device: DeviceIndex) { disk(of: device)?.errors.write &+= 1 }

    // MARK: - locks

    /// Runs `body` alone among those of the same lock.
    func holding<T>(
        _ lock: AsyncLock, _ body: () async throws(PoolError) -> T
    ) async throws(PoolError) -> T {
        await lock.acquire(engine)
        defer { lock.release() }
        if engine.isStopped { throw .stopped }
        return try await body()
    }

    func requireOpen() throws(PoolError) {
        if engine.isStopped { throw .stopped }
        if isClosed { throw .closed(pool: name) }
    }
}
