import PoolFormat

/// One open space: its requests, its map, its journal.
///
/// A request's way, in the order of the files:
///
///     submit ─► RangeLocks ─► Space+Prepare (settled? mapped? values loaded? marked? room?)
///        ─► Space+Read / Space+Write / Space+StripeWrite / Space+Trim / Space+BlockStatus
///        ─► legs at the devices ─► finish
///        ─► (FUA, FLUSH) Journal/Space+Commit ─► reply
///
/// What is true at any moment:
/// 1. A block's value in memory is what the copies hold once the writes in flight are done.
/// 2. `committing` and `pending` know, for each block and grain whose value in memory is not
///    durable, the one that is: `committing` first.
/// 3. A write over anything but durably UNWRITTEN blocks is in flight only while its region is
///    durably dirty.
/// 4. A physical grain has one owner: a map entry in memory, an unmapping that is not durable, or
///    the free list.
public final class Space: @unchecked Sendable {
    // Strong on purpose, because a weak or unowned reference is counted at every use of the data
    // path. The cycles end when the space ends or the engine stops.
    /// Touched only on its own shard: see `atHome`.
    let pool: Pool
    /// That of the space's shard.
    let engine: Engine
    /// Of the pool's disks, as of the last grant.
    var places: DiskPlaces
    /// The shard's request records.
    let table: RequestTable
    let arena: BufferArena
    let frames: PageFrames
    public let lineage: Lineage
    public let epoch: UInt64
    public internal(set) var sizeBytes: UInt64
    public let copies: Int
    let resiliency: ResiliencyKind
    /// As asked for, those of a parity's own included; 0: as many as each slab group can have.
    let columns: Int
    let interleaveBytes: UInt32
    let hasChecksums: Bool
    /// All its slab groups were granted when it was made, and stay.
    let isFixed: Bool
    var isParity: Bool { resiliency.isParity }
    /// It goes on without a disk.
    var isRedundant: Bool { resiliency.tolerance > 0 }
    /// Whether an interrupted overwrite can leave something that recovery must settle.
    var needsMarks: Bool { !isParity && (hasChecksums || copies > 1) }
    public internal(set) var handle = SpaceHandle(index: .max, serial: 0)

    var map: GrainMap
    var groups = SlabGroups()
    var regions: DirtyRegions
    /// Checksum page to frame, or -1.
    var pageFrames: SparseArray<Int32>
    var pieces: PieceDirectory
    var journal: Journal
    /// Where its journal and directory lie.
    var root: SpaceRoot
    var rootAddresses: [PieceAddress]
    /// Its copies of the root piece.
    var rootCopies: [SlabGroups.Base]
    var metadataDisks: [DiskNumber] { rootCopies.map(\.disk) }

    // Disks it does without.
    var departed: DepartedDisks
    /// Those of them whose departure is not durable yet.
    var departing: Set<DiskNumber> = []
    /// Those of these that are here again already.
    var comingBack: Set<DiskNumber> = []
    /// Grows with each.
    var departuresNoted: UInt64 = 0
    /// Regions that some disk lacks something of, as the journal or pages say, or are about to.
    var missedRegions: Set<UInt64> = []
    /// Of those, the ones whose record no commit has captured yet.
    var pendingMissed: Set<UInt64> = []
    /// Regions to be recorded as missed before the next commit is confirmed.
    var lateMissed: Set<UInt64> = []
    /// Likewise, of writes over UNWRITTEN blocks that a disk is away from; none that is recorded.
    var freshMissed: Set<UInt64> = []
    /// Slots of pages that are being written and flushed, by whoever does that.
    var pageWrites: [Int: [PageSlot]] = [:]
    var nextPageWrite = 0
    /// What the last copy may have lost, as it failed a flush or a write: acknowledged or not.
    var doubtful: MissedBlocks
    let departureSettled: Signal
    var isRepairing = false
    /// Grains of which a read found a copy wrong.
    var repairQueue: Set<UInt64> = []
    var isRepairingReads = false
    var repairProgress = RepairProgress()

    // Changes that are not durable: new ones, and those in the commit under way.
    var pending: ChangeSet
    var committing: ChangeSet
    /// The same, for whoever opens the space after the process was killed.
    var unflushedLog = UnflushedLog()
    /// Devices with completed writes of this space since their last flush began.
    var unflushedDevices = DeviceSet()
    /// Blocks of writes at the devices: they will be pending once done.
    var reservedBlocks = 0
    /// Writes that have taken a free grain of a parity.
    var stripesUnderWay = 0

    // Commits, counted: `started` at the capture, `completed` when durable.
    var startedCommits: UInt64 = 0
    var completedCommits: UInt64 = 0
    var flushWaiters: [RequestIndex] = []
    var capturedWaiters: [RequestIndex] = []
    var isMarkWanted = false
    var isCommitWanted = false
    var isCheckpointWanted = false
    var nextCleaningNs: UInt64 = 0
    let commitWanted: Signal
    let commitCompleted: Signal
    let checkpointWanted: Signal
    let checkpointed: Signal
    let grantLock: AsyncLock
    /// Held while something of the space is repaired or moved.
    let repairLock: AsyncLock
    /// Held while groups are granted: their numbers are chosen first, taken later.
    let groupLock: AsyncLock
    let checkpointLock: AsyncLock
    /// Of flushes that several wait for, and those who wait for the next one.
    let flushLock: AsyncLock
    /// One group is emptied at a time.
    let emptyingLock: AsyncLock
    var nextFlush: FlushRound?
    /// The write-back cache, and what waits for room in it: outside, holding nothing.
    var cache: WriteCache
    var cacheQueue: [RequestIndex] = []
    /// Until then writes go to their stripes: the cache has no room, and cannot have any.
    var noCacheBeforeNs: UInt64 = 0
    var isGrowingCache = false
    var isReleasingCache = false
    var isDestaging = false
    /// Grains that are being destaged, and those that could not be, until it is tried again.
    var destaging: Set<UInt64> = []
    var destageFailures: [UInt64: DestageFailure] = [:]
    var destageMeter = RateMeter()
    let destageWanted: Signal
    /// Writes to the cache at the devices: those that began since a disk last came back, and the others.
    var cachedWrites = (begun: 0, before: 0)
    /// How often one has.
    var cacheRound = 0
    let cachedWritesEnded: Signal
    /// Held by each commit, and by whoever needs the journal to stand still.
    let commitLock: AsyncLock
    let idle: Signal
    /// Fires once in a while as long as regions are dirty.
    let maintenance: Signal
    /// Fires when a checksum page has been loaded, or could not be.
    let valuesLoaded: Signal

    // Requests that wait inside the space.
    var pageWaiters: [UInt32: [RequestIndex]] = [:]
    var settling: [UInt64: Settling] = [:]
    var settlingsBegun: UInt64 = 0
    var grainWaiters: [RequestIndex] = []
    var markWaiters: [RequestIndex] = []
    var departureWaiters: [RequestIndex] = []
    var replacementWaiters: [RequestIndex] = []
    var roomWaiters: [RequestIndex] = []
    var isGrowing = false

    // Writes that wait for the pool to have room: outside, holding nothing.
    var whenFull: WhenFull
    var parked: [ParkedWrite] = [] {
        didSet {
            guard oldValue.isEmpty != parked.isEmpty else { return }
            let change = parked.isEmpty ? -1 : 1
            for shard in 0..<engine.shardCount {
                engine.post(to: shard) { $0.parkedSpaces += change }
            }
        }
    }
    /// How often room may have come back.
    var roomReturns: UInt64 = 0
    var isParkedRetryWanted = false
    var isWatchingParked = false
    let parkedChanged: Signal

    /// It is being shrunk: no region is left dirty for longer than it takes.
    var isShrinking = false

    // Moves of grains, and compaction.
    /// Whether sparse groups are emptied while nobody waits for their room.
    var compacts = true
    /// Checksum pieces of which a grain was unmapped: maybe they describe nothing any more.
    var emptiedPieces: Set<UInt32> = []
    /// The grains being copied without their ranges held, and whether a write has come to them since.
    var moving: [UInt64: Bool] = [:]
    var isCompacting = false
    /// Groups with a grain that cannot be read: left alone until the space is opened anew.
    var unmovableGroups: Set<UInt32> = []
    /// Groups that were not emptied when it was last tried; forgotten when grains become free.
    var skippedGroups: Set<UInt32> = []
    /// How many are being granted room, or are giving some back: from before the tables change until
    /// the space claims the same nobody frees what they have more.
    var claimsChanging = 0
    /// Grains that kept a slab of their group from being filled, by group.
    var unreadableGrains: [UInt32: Set<UInt64>] = [:]
    /// Movers of a repair are numbered; one of them goes on while clients are at work.
    var nextMover: UInt64 = 0
    var pacer: UInt64?
    /// Moves and discards under way, by number: each has looked up where to write.
    var placedWork: Set<UInt64> = []
    var nextPlacedWork: UInt64 = 0
    /// Lists of grains that are being discarded, to be free then.
    var releasesUnderWay = 0
    var lastReleaseNs: UInt64 = 0
    let released: Signal
    /// Requests to give room back at once, and how many of them have been served.
    var reclaimsWanted: UInt64 = 0
    var reclaimsServed: UInt64 = 0
    let compactionWanted: Signal
    let compactionPause: Signal
    let holdGranted: Signal

    /// Journal records replay still has to apply to checksum pages that are not in memory.
    var overlay = ReplayOverlay()
    /// Why nothing is written any more; nil while all is well.
    public internal(set) var readOnlyReason: String?
    /// No new requests.
    var isClosing = false
    /// The last commit is done: background work ends.
    var hasEnded = false
    /// Where a run of values is put together; kept, so that nobody allocates it anew.
    var runChanges: [ValueChange] = []
    var backgroundTasks = 0
    var inFlight = 0
    public internal(set) var counters = SpaceCounters()

    init(
        pool: Pool, engine: Engine, places: DiskPlaces, settings: PoolSettings,
        record: SpaceRecord, root: SpaceRoot, departed: DepartedDisks, epoch: UInt64,
        journal: Journal, pieces: PieceDirectory
    ) {
        self.pool = pool
        self.engine = engine
        self.places = places
        table = engine.requests
        arena = engine.arena
        frames = engine.frames
        self.epoch = epoch
        self.journal = journal
        self.pieces = pieces
        lineage = record.lineage
        sizeBytes = record.sizeBytes
        copies = Int(record.copies)
        resiliency = record.resiliency
        columns = Int(record.columns)
        interleaveBytes = record.interleaveBytes
        hasChecksums = !record.flags.contains(.noChecksums)
        isFixed = record.flags.contains(.fixed)
        cache = WriteCache(copies: record.resiliency.tolerance + 1)
        groups.reserve = record.resiliency.isParity ? 1 : 0
        self.root = root
        rootAddresses = record.root
        rootCopies = places.bases(of: record.root)
        self.departed = departed
        doubtful = MissedBlocks(grainBudget: engine.limits.missedGrains)
        departureSettled = Signal(engine)
        let grains = Int(record.sizeBytes / UInt64(Units.grainBytes))
        map = GrainMap(grainCount: grains)
        regions = DirtyRegions(grainCount: grains)
        pageFrames = SparseArray(
            count: (grains + ChecksumPage.grainsPerPage - 1)
                / ChecksumPage.grainsPerPage, fill: -1)
        pending = ChangeSet(limits: engine.limits)
        committing = ChangeSet(limits: engine.limits)
        commitWanted = Signal(engine)
        commitCompleted = Signal(engine)
        checkpointWanted = Signal(engine)
        checkpointed = Signal(engine)
        grantLock = AsyncLock(engine)
        repairLock = AsyncLock(engine)
        groupLock = AsyncLock(engine)
        checkpointLock = AsyncLock(engine)
        flushLock = AsyncLock(engine)
        emptyingLock = AsyncLock(engine)
        commitLock = AsyncLock(engine)
        destageWanted = Signal(engine)
        cachedWritesEnded = Signal(engine)
        idle = Signal(engine)
        maintenance = Signal(engine)
        valuesLoaded = Signal(engine)
        whenFull = record.whenFull
        compacts = settings.compaction
        parkedChanged = Signal(engine)
        compactionWanted = Signal(engine)
        compactionPause = Signal(engine)
        released = Signal(engine)
        holdGranted = Signal(engine)
        setCache(sizeBytes: record.writeCacheBytes)
        if record.flags.contains(.readOnly) {
            readOnlyReason = record.readOnlyReason.isEmpty ? "read-only" : record.readOnlyReason
        }
    }

    /// Logical bytes that are mapped.
    public var mappedBytes: UInt64 { UInt64(map.mappedCount) * UInt64(Units.grainBytes) }
    public var groupRecords: [GroupRecord] { groups.records }
    /// The shard it is on: requests go to that engine.
    public var shard: Int { engine.shard }

    // MARK: - slow paths, and the end of writing

    /// A slow path of this space; `close` waits until the last has ended.
    func background(_ body: @escaping @Sendable (Space) async -> Void) {
        backgroundTasks += 1
        engine.spawn { [self] in
            await body(self)
            noteTaskEnded()
        }
    }

    /// Runs writes that the next commit flushes.
    func writeUnflushed(_ io: IOBatch) async -> Bool {
        let isWritten = await io.run()
        // Not before: a commit that captured the set meanwhile has not flushed these.
        unflushedDevices.formUnion(io.usedDevices)
        return isWritten
    }

    func noteTaskEnded() {
        backgroundTasks -= 1
        idle.fire()
    }

    /// Refuses writes from now on; what is acknowledged stays readable.
    public func becomeReadOnly(_ reason: String) {
        if readOnlyReason == nil { readOnlyReason = reason }
        wake(&roomWaiters)
        wake(&markWaiters)
        wake(&grainWaiters)
        wake(&departureWaiters)
        departureSettled.fire()
        engine.frameReleased.fire()
        retryParked()
        admitWrites()
        destageWanted.fire()
        commitWanted.fire()
    }
}

extension Space {
    /// What requests wait for, in one line: for whoever finds one that does not end.
    public var waiting: String {
        let lists = [
            ("page", pageWaiters.values.reduce(0) { $0 + $1.count }),
            ("settling", settling.values.reduce(0) { $0 + $1.waiters.count }),
            ("grain", grainWaiters.count), ("mark", markWaiters.count),
            ("a departure", departureWaiters.count), ("a slab", replacementWaiters.count),
            ("room", roomWaiters.count), ("the pool's room", parked.count),
            ("the cache", cacheQueue.count),
            ("commit", flushWaiters.count + capturedWaiters.count),
        ]
        let parts = lists.filter { $0.1 > 0 }.map { "\($0.1) for \($0.0)" }
        return "\(inFlight) in flight; " + parts.joined(separator: ", ")
            + "; unflushed \(pending.blocks.count) + \(committing.blocks.count) blocks, "
            + "\(reservedBlocks) reserved; journal \(journal.usedBlocks) of "
            + "\(journal.blockCount) blocks, tail \(journal.tail.sequence), "
            + "confirmed \(journal.confirmedSequence)"
            + departed.disks.map { "; disk\($0.number.rawValue) is \($0.phase)" }.joined()
            + (readOnlyReason.map { "; read-only: \($0)" } ?? "")
    }
}

/// What a space has done since it was opened.
public struct SpaceCounters: Sendable {
    public var commits: UInt64 = 0
    public var checkpointedPages: UInt64 = 0
    public var settledBlocks: UInt64 = 0
    public var repairedReads: UInt64 = 0
    /// Reads that were tried on another copy because they took too long.
    public var hedgedReads: UInt64 = 0
    public var movedGrains: UInt64 = 0
    /// Blocks of copies that were found wrong and put right.
    public var repairedBlocks: UInt64 = 0
    /// Blocks copied to disks that came back.
    public var resyncedBlocks: UInt64 = 0
    /// Blocks that no copy had right, or could give.
    public var lostBlocks: UInt64 = 0
}

extension PoolError {
    /// What a request is told that met this on its way.
    var requestStatus: RequestStatus {
        if isShortOfSpace { return .noSpace }
        return self == .stopped ? .shutdown : .ioError
    }
}
