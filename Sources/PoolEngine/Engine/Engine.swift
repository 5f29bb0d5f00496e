import PoolFormat

/// The engine of one shard: it owns its spaces and shares their state with nobody.
///
/// It has no clock, socket, file, randomness or global. A driver turns the crank:
///
///     submit(request)...  complete(completion)...  receive(post)...  poll(nowNs:)
///     then take `operations`, `witnessOperations`, `posts` and `replies`
///
/// Everything, the asynchronous slow paths included, runs inside `poll` on the driver's thread, so
/// the same inputs in the same order give the same outputs in the same order.
public final class Engine: @unchecked Sendable {
    public let arena: BufferArena
    public let limits: Limits
    /// Which of the ``shardCount`` engines of this process it is.
    public let shard: Int
    public let shardCount: Int
    /// Where the spaces of this shard note what is not durable; nil: a killed process loses it.
    let restartMemory: (any RestartMemory)?
    let executor = ShardExecutor()

    /// What the devices are asked to do. The driver takes them and clears the list.
    public var operations: [DeviceOperation] = []
    /// What the witness is asked to record. The driver takes them and clears the list.
    public var witnessOperations: [WitnessOperation] = []
    /// What the clients are told. The driver takes them and clears the list.
    public var replies: [SpaceReply] = []
    /// What the other shards' engines are told. The driver takes them and clears the list.
    public var posts: [EnginePost] = []
    /// Devices that are given up: the driver ends what they have under way with errors, in every
    /// shard, and clears the list.
    public var abandonments: [DeviceIndex] = []

    public private(set) var nowNs: UInt64 = 0
    public private(set) var isStopped = false

    var spaces: [Space?] = []
    private var spaceSerials: [UInt32] = []
    /// Records of the requests under way; one table for the shard, so the bound is global.
    let requests: RequestTable
    let locks: RangeLocks
    let scratch: ScratchBuffers
    let frames: PageFrames
    /// Devices that failed a write or a flush, or had before they were opened.
    var failedDevices = DeviceSet()

    var readLatency = ReadLatency()
    var repairPace = RepairPace()
    /// When a client last asked for something, of whichever space.
    var lastRequestNs: UInt64?
    /// What tells one hedge from another.
    var hedges: UInt32 = 0
    private(set) lazy var readWatch = Signal(self)
    var isWatchingReads = false
    /// Devices that cannot give space back: they are not asked again.
    var discardRefused = DeviceSet()
    /// Slow paths that wait for a frame.
    var framesWanted = 0
    /// Fires when a frame may have become free to evict.
    private(set) lazy var frameReleased = Signal(self)
    /// Spaces of this process with writes that wait for room: others give back what they can.
    var parkedSpaces = 0
    /// Spaces placed on each shard by the pools of this one.
    var spacesPlaced: [Int]
    private var pools: [WeakPool] = []
    /// Devices that do not answer, while it is looked at whether they can be done without.
    var stallsLookedAt = DeviceSet()
    private var batches: [IOBatch?] = []
    private var freeBatches: [Int] = []
    private var signals: [WeakSignal] = []
    private var timers: [(deadlineNs: UInt64, signal: Signal)] = []
    private var witnessWaiters: [(token: UInt32, result: WitnessResult)] = []
    private var nextWitnessToken: UInt32 = 0
    /// Requests that can go on; filled by whatever they waited for, drained by `poll`.
    var runnable: [RequestIndex] = []

    /// - Parameter shard: below `shardCount`. The engines of a process are numbered from 0, and
    ///   its pools are opened on one of them.
    public init(
        arena: BufferArena, limits: Limits = Limits(), shard: Int = 0, shardCount: Int = 1,
        restartMemory: (any RestartMemory)? = nil
    ) {
        limits.check()
        precondition(shardCount >= 1 && (0..<shardCount).contains(shard))
        self.shard = shard
        self.shardCount = shardCount
        spacesPlaced = Array(repeating: 0, count: shardCount)
        self.restartMemory = restartMemory
        self.arena = arena
        self.limits = limits
        requests = RequestTable(capacity: limits.requestsInFlight)
        scratch = ScratchBuffers(arena: arena, limits: limits)
        frames = PageFrames(capacity: limits.checksumPages)
        locks = RangeLocks(requests)
        scratch.connect(self)
        operations.reserveCapacity(4096)
        replies.reserveCapacity(4096)
        runnable.reserveCapacity(limits.requestsInFlight)
    }

    // MARK: - the driver's face

    /// Whether another request may be submitted now; a full table frees up as replies come.
    public var canAcceptRequest: Bool { requests.hasRoom }

    /// Starts one request; its reply comes through ``replies``.
    public func submit(_ request: SpaceRequest) {
        guard !isStopped, let space = space(request.space) else {
            replies.append(SpaceReply(cookie: request.cookie, status: .shutdown))
            return
        }
        space.submit(request)
    }

    /// Tells the outcome of one operation taken from ``operations``.
    public func complete(_ completion: DeviceCompletion) {
        guard !isStopped else { return }
        if completion.token & Token.batchFlag != 0 {
            let (batch, index) = Token.batch(completion.token)
            batches[batch]?.complete(index, completion.status)
        } else {
            let (request, leg) = Token.leg(completion.token)
            let index = requests[request].space
            spaces[Int(index)]?.completeLeg(request, leg: leg, completion.status)
        }
    }

    public func complete(_ completion: WitnessCompletion) {
        guard let at = witnessWaiters.firstIndex(where: { $0.token == completion.token }) else {
            return
        }
        let waiter = witnessWaiters.remove(at: at)
        waiter.result.recorded = completion.recorded
        waiter.result.signal.fire()
    }

    /// Runs whatever can run. `nowNs` never goes backwards.
    public func poll(nowNs: UInt64) {
        self.nowNs = max(self.nowNs, nowNs)
        fireTimers()
        repeat {
            executor.drain()
            runRunnable()
        } while executor.hasJobs || !runnable.isEmpty
    }

    /// When `poll` wants to be called again though nothing completes; nil: not at all.
    public var nextDeadlineNs: UInt64? { timers.lazy.map(\.deadlineNs).min() }

    /// Runs an asynchronous slow path on this shard.
    public func spawn(_ body: @escaping @Sendable () async -> Void) {
        Task(executorPreference: executor) { await body() }
    }

    /// Ends at once, as a power cut would: nothing more reaches a device or a client, every
    /// suspended slow path is resumed with `.aborted` and unwinds.
    public func stop() {
        isStopped = true
        operations.removeAll()
        abandonments.removeAll()
        replies.removeAll()
        witnessOperations.removeAll()
        runnable.removeAll()
        repeat {
            for batch in batches { batch?.abort() }
            for signal in signals { signal.signal?.fire() }
            for waiter in witnessWaiters { waiter.result.signal.fire() }
            witnessWaiters.removeAll()
            timers.removeAll()
            executor.drain()
        } while executor.hasJobs
        for pool in pools { pool.pool?.spaces.removeAll() }
        pools.removeAll()
        spaces.removeAll()
    }

    // MARK: - devices

    /// What is known of a device from here on.
    func note(_ device: DeviceIndex, serves: Bool, supportsDiscard: Bool) {
        serves ? failedDevices.remove(device) : failedDevices.insert(device)
        readLatency.forget(device)
        supportsDiscard ? discardRefused.remove(device) : discardRefused.insert(device)
    }

    // MARK: - spaces

    func space(_ handle: SpaceHandle) -> Space? {
        let index = Int(handle.index)
        guard index < spaces.count, spaceSerials[index] == handle.serial else { return nil }
        return spaces[index]
    }

    /// Makes a space reachable for requests.
    func attach(_ space: Space) -> SpaceHandle {
        let index = spaces.firstIndex(where: { $0 == nil }) ?? spaces.count
        if index == spaces.count {
            spaces.append(nil)
            spaceSerials.append(0)
        }
        spaces[index] = space
        spaceSerials[index] &+= 1
        return SpaceHandle(index: UInt32(index), serial: spaceSerials[index])
    }

    func detach(_ handle: SpaceHandle) {
        guard space(handle) != nil else { return }
        spaces[Int(handle.index)] = nil
        spaceSerials[Int(handle.index)] &+= 1
    }

    /// What the requests of every space wait for: for whoever finds one that does not end.
    public var waiting: String {
        spaces.compactMap { $0 }.map { "space \($0.lineage.rawValue): \($0.waiting)" }
            .joined(separator: "\n")
    }

    private func runRunnable() {
        var next = 0
        while next < runnable.count {
            let request = runnable[next]
            next += 1
            spaces[Int(requests[request].space)]?.advance(request)
        }
        runnable.removeAll(keepingCapacity: true)
    }

    // MARK: - what slow paths wait for

    func register(_ batch: IOBatch) -> Int {
        let index = freeBatches.popLast() ?? batches.count
        if index == batches.count { batches.append(nil) }
        batches[index] = batch
        return index
    }

    func unregister(_ index: Int) {
        batches[index] = nil
        freeBatches.append(index)
    }

    /// The open pool that has a device; of the pools whose home this engine is.
    func pool(of device: DeviceIndex) -> Pool? {
        pools.lazy.compactMap(\.pool).first { !$0.isClosed && $0.disk(of: device) != nil }
    }

    /// A pool whose home this engine is: a stop ends its hold on its spaces.
    func register(_ pool: Pool) {
        pools.removeAll { $0.pool == nil }
        pools.append(WeakPool(pool: pool))
    }

    func register(_ signal: Signal) {
        signals.removeAll { $0.signal == nil }
        signals.append(WeakSignal(signal: signal))
    }

    /// Fires a signal once `nowNs` has reached the deadline.
    func fire(_ signal: Signal, atNs deadlineNs: UInt64) {
        timers.removeAll { $0.signal === signal }
        timers.append((deadlineNs, signal))
    }

    private func fireTimers() {
        guard timers.contains(where: { $0.deadlineNs <= nowNs }) else { return }
        let due = timers.filter { $0.deadlineNs <= nowNs }
        timers.removeAll { $0.deadlineNs <= nowNs }
        for timer in due { timer.signal.fire() }
    }

    /// Records a version at the witness. False: it is not known to be recorded.
    func recordAtWitness(_ pool: PoolUUID, _ version: ConfigurationVersion) async -> Bool {
        guard !isStopped else { return false }
        nextWitnessToken &+= 1
        let result = WitnessResult(signal: Signal(self))
        witnessWaiters.append((nextWitnessToken, result))
        witnessOperations.append(
            WitnessOperation(token: nextWitnessToken, pool: pool, version: version))
        await result.signal.wait()
        return result.recorded
    }
}

/// A version to be recorded, durably, before the completion says so.
public struct WitnessOperation: Sendable {
    public var token: UInt32
    public var pool: PoolUUID
    public var version: ConfigurationVersion
    public init(token: UInt32, pool: PoolUUID, version: ConfigurationVersion) {
        self.token = token
        self.pool = pool
        self.version = version
    }
}

public struct WitnessCompletion: Sendable {
    public var token: UInt32
    public var recorded: Bool
    public init(token: UInt32, recorded: Bool) {
        self.token = token
        self.recorded = recorded
    }
}

private final class WitnessResult {
    let signal: Signal
    var recorded = false
    init(signal: Signal) { self.signal = signal }
}

private struct WeakPool {
    weak var pool: Pool?
}

private struct WeakSignal {
    weak var signal: Signal?
}
