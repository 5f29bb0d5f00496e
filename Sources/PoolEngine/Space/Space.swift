import PoolFormat

/// One open space: its requests, its map, its journal.
///
/// A request's way, in the order of the files:
///
///     submit ─► RangeLocks ─► Space+Prepare (settled? mapped? values loaded? marked? room?)
///        ─► Space+Read / Space+Write / Space+Trim / Space+BlockStatus
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
    let columns: Int
    let interleaveBytes: UInt32
    let hasChecksums: Bool
    /// All its slab groups were granted when it was made, and stay.
    let isFixed: Bool
    /// Whether an interrupted overwrite can leave something that recovery must settle.
    var needsMarks: Bool { hasChecksums || copies > 1 }
    public internal(set) var handle = SpaceHandle(index: .max, serial: 0)

    var map: GrainMap
    var groups = SlabGroups()
    var regions: DirtyRegions
    /// Checksum page to frame, or -1.
    var pageFrames: SparseArray<Int32>
    var pieces: PieceDirectory
    var journal: Journal
    let metadataDisks: [DiskNumber]

    // Changes that are not durable: new ones, and those in the commit under way.
    var pending: ChangeSet
    var committing: ChangeSet
    /// Devices with completed writes of this space since their last flush began.
    var unflushedDevices = DeviceSet()
    /// Devices that failed a write which is about to end in an error.
    var failedWriteDevices = DeviceSet()
    /// Blocks of writes at the devices: they will be pending once done.
    var reservedBlocks = 0

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
    /// Held while groups are granted: their numbers are chosen first, taken later.
    let groupLock: AsyncLock
    let checkpointLock: AsyncLock
    let idle: Signal
    /// Fires once in a while as long as regions are dirty.
    let maintenance: Signal
    /// Fires when a checksum page has been loaded, or could not be.
    let valuesLoaded: Signal

    // Requests that wait inside the space.
    var pageWaiters: [UInt32: [RequestIndex]] = [:]
    var settleWaiters: [UInt64: [RequestIndex]] = [:]
    var grainWaiters: [RequestIndex] = []
    var markWaiters: [RequestIndex] = []
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

    // Compaction: one grain moves at a time.
    /// Whether sparse groups are emptied while nobody waits for their room.
    var compacts = true
    /// Checksum pieces of which a grain was unmapped: maybe they describe nothing any more.
    var emptiedPieces: Set<UInt32> = []
    /// The grain being copied without its range held; `.max`: none.
    var movingGrain = UInt64.max
    /// A write has come to it since.
    var isMoveStale = false
    var isCompacting = false
    /// Groups with a grain that cannot be read: left alone until the space is opened anew.
    var unmovableGroups: Set<UInt32> = []
    /// Groups that were not emptied when it was last tried; forgotten when grains become free.
    var skippedGroups: Set<UInt32> = []
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
    /// Where a commit puts a run of values together; kept, so that no commit allocates it anew.
    var runChanges: [ValueChange] = []
    var backgroundTasks = 0
    var inFlight = 0
    public internal(set) var counters = SpaceCounters()

    init(
        pool: Pool, engine: Engine, places: DiskPlaces, settings: PoolSettings,
        record: SpaceRecord, epoch: UInt64, journal: Journal, pieces: PieceDirectory
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
        metadataDisks = record.root.map(\.disk)
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
        groupLock = AsyncLock(engine)
        checkpointLock = AsyncLock(engine)
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
        if record.flags.contains(.readOnly) {
            readOnlyReason = record.readOnlyReason.isEmpty ? "read-only" : record.readOnlyReason
        }
    }

    /// A request's legs, at most 65 runs on each of 3 copies, are numbered in 8 bits.
    public static let minimumInterleaveBytes = 16 << 10

    /// Logical bytes that are mapped.
    public var mappedBytes: UInt64 { UInt64(map.mappedCount) * UInt64(Units.grainBytes) }
    public var groupRecords: [GroupRecord] { groups.records }
    /// The shard it is on: requests go to that engine.
    public var shard: Int { engine.shard }

    // MARK: - requests come in

    func submit(_ request: SpaceRequest) {
        guard !isClosing, isValid(request) else {
            let status: RequestStatus = isClosing ? .shutdown : .invalid
            engine.replies.append(SpaceReply(cookie: request.cookie, status: status))
            return
        }
        inFlight += 1
        counters.requests &+= 1
        switch request.kind {
        case .flush:
            let index = take(.flush, request)
            table[index].state = .committing
            waitForCommit(index)
        case .read: enter(take(.read, request))
        case .write: enter(take(.write, request))
        case .trim: enterRange(take(.trim, request))
        case .writeZeroes:
            enterRange(take(request.flags.contains(.noHole) ? .zero : .trim, request))
        case .blockStatus: submitBlockStatus(request)
        case .cache: enter(take(.cache, request))
        }
    }

    /// The bounds every later step relies on.
    private func isValid(_ request: SpaceRequest) -> Bool {
        if request.kind == .flush { return true }
        let length = UInt64(request.lengthBytes)
        let grain = UInt64(Units.grainBytes)
        return length > 0 && length % 512 == 0 && request.offsetBytes % 512 == 0
            && request.offsetBytes <= sizeBytes && length <= sizeBytes - request.offsetBytes
            && (request.kind == .blockStatus || request.offsetBytes % grain + length <= grain)
    }

    func take(_ kind: RequestKind, _ request: SpaceRequest) -> RequestIndex {
        let index = table.take()
        table[index].space = handle.index
        table[index].kind = kind
        table[index].isFUA = request.flags.contains(.fua)
        table[index].bufferOffset = request.bufferOffset
        table[index].cookie = request.cookie
        setRange(index, request.offsetBytes, request.lengthBytes)
        return index
    }

    func setRange(_ index: RequestIndex, _ offsetBytes: UInt64, _ lengthBytes: UInt32) {
        table[index].offsetBytes = offsetBytes
        table[index].lengthBytes = lengthBytes
        table[index].grain = offsetBytes / UInt64(Units.grainBytes)
        let within = Int(offsetBytes % UInt64(Units.grainBytes))
        let first = within / Units.blockBytes
        let end = (within + Int(lengthBytes) + Units.blockBytes - 1) / Units.blockBytes
        table[index].firstBlock = UInt16(first)
        table[index].blockCount = UInt16(end - first)
    }

    func enter(_ request: RequestIndex) {
        if engine.locks.enter(request) {
            table[request].state = .preparing
            prepare(request)
        } else {
            table[request].state = .queued
        }
    }

    /// Goes on with a request that was runnable: it came first in its range, or what it was parked
    /// for is there.
    func advance(_ request: RequestIndex) {
        switch table[request].state {
        case .preparing, .parked:
            table[request].state = .preparing
            prepare(request)
        case .queued, .transferring, .detour, .committing:
            preconditionFailure("a request went on that waits for something else")
        }
    }

    private func prepare(_ request: RequestIndex) {
        if table[request].grain == movingGrain, table[request].changesGrain { isMoveStale = true }
        switch table[request].kind {
        case .read: prepareRead(request)
        case .write: prepareWrite(request)
        case .trim, .zero: prepareTrim(request)
        case .zeroEdge: prepareZeroEdge(request)
        case .blockStatus: prepareBlockStatus(request)
        case .cache: prepareCache(request)
        case .hold:
            table[request].state = .detour
            holdGranted.fire()
        case .flush: preconditionFailure("a flush has no range")
        }
    }

    func completeLeg(_ request: RequestIndex, leg: Int, _ status: DeviceStatus) {
        precondition(table[request].legsOutstanding > 0)
        if status != .ok { noteFailedLeg(request, leg: leg) }
        table[request].legsOutstanding -= 1
        guard table[request].legsOutstanding == 0 else { return }
        switch table[request].state {
        case .transferring:
            table[request].kind == .read ? finishRead(request) : finishWrite(request)
        case .queued, .preparing, .parked, .detour, .committing:
            preconditionFailure("a leg of a request that has none")
        }
    }

    // MARK: - requests go out

    /// The range is done: lets those behind it go on, and waits for durability where asked.
    func finish(
        _ request: RequestIndex, _ status: RequestStatus, extent: SpaceExtent = SpaceExtent()
    ) {
        engine.locks.leave(request, runnable: &engine.runnable)
        giveScratch(request)
        if table[request].parent != .none {
            finishChild(request, status)
        } else if status == .ok && table[request].isFUA && table[request].writes {
            table[request].state = .committing
            waitForCommit(request)
        } else {
            reply(request, status, extent: extent)
        }
    }

    func giveScratch(_ request: RequestIndex) {
        if table[request].headScratch >= 0 { engine.scratch.give(table[request].headScratch) }
        if table[request].tailScratch >= 0 { engine.scratch.give(table[request].tailScratch) }
        table[request].headScratch = -1
        table[request].tailScratch = -1
    }

    func reply(
        _ request: RequestIndex, _ status: RequestStatus, extent: SpaceExtent = SpaceExtent()
    ) {
        engine.replies.append(
            SpaceReply(cookie: table[request].cookie, status: status, extent: extent))
        table.give(request)
        inFlight -= 1
        if inFlight == 0 { idle.fire() }
    }

    // MARK: - parking

    func park(_ request: RequestIndex, on waiters: inout [RequestIndex]) {
        table[request].state = .parked
        waiters.append(request)
    }

    func wake(_ waiters: inout [RequestIndex]) {
        engine.runnable.append(contentsOf: waiters)
        waiters.removeAll(keepingCapacity: true)
    }

    /// Ends every request of a list with an error.
    func fail(_ waiters: inout [RequestIndex], _ status: RequestStatus) {
        let failed = waiters
        waiters.removeAll(keepingCapacity: true)
        for request in failed { finish(request, status) }
    }

    /// A slow path of this space; `close` waits until the last has ended.
    func background(_ body: @escaping @Sendable (Space) async -> Void) {
        backgroundTasks += 1
        engine.spawn { [self] in
            await body(self)
            backgroundTasks -= 1
            idle.fire()
        }
    }

    /// Refuses writes from now on; what is acknowledged stays readable.
    public func becomeReadOnly(_ reason: String) {
        if readOnlyReason == nil { readOnlyReason = reason }
        wake(&roomWaiters)
        wake(&markWaiters)
        wake(&grainWaiters)
        retryParked()
        commitWanted.fire()
    }
}

extension Space {
    /// What requests wait for, in one line: for whoever finds one that does not end.
    public var waiting: String {
        let lists = [
            ("page", pageWaiters.values.reduce(0) { $0 + $1.count }),
            ("settling", settleWaiters.values.reduce(0) { $0 + $1.count }),
            ("grain", grainWaiters.count), ("mark", markWaiters.count),
            ("room", roomWaiters.count), ("slabs", parked.count), ("commit", flushWaiters.count + capturedWaiters.count),
        ]
        let parts = lists.filter { $0.1 > 0 }.map { "\($0.1) for \($0.0)" }
        return "\(inFlight) in flight; " + parts.joined(separator: ", ")
            + "; unflushed \(pending.blocks.count) + \(committing.blocks.count) blocks, "
            + "\(reservedBlocks) reserved; journal \(journal.usedBlocks) of "
            + "\(journal.blockCount) blocks, tail \(journal.tail.sequence), "
            + "confirmed \(journal.confirmedSequence)"
    }
}

/// What a space has done since it was opened.
public struct SpaceCounters: Sendable {
    public var requests: UInt64 = 0
    public var commits: UInt64 = 0
    public var checkpointedPages: UInt64 = 0
    public var settledBlocks: UInt64 = 0
    public var repairedReads: UInt64 = 0
    public var movedGrains: UInt64 = 0
}

extension PoolError {
    /// What a request is told that met this on its way.
    var requestStatus: RequestStatus {
        if isShortOfSpace { return .noSpace }
        return self == .stopped ? .shutdown : .ioError
    }
}
