import PoolEngine
import PoolFormat
import Synchronization

/// One simulated machine: disks, a witness, a clock, and at most one running process, whose shards
/// all run in this thread.
///
/// Everything that happens is decided by the seed: which operation ends next, when, and what a
/// crash leaves. `step` ends exactly one operation, so a crash can be put between any two.
public final class Machine {
    public internal(set) var disks: [SimulatedDisk]
    public internal(set) var witness: [WitnessEntry] = []
    public private(set) var nowNs: UInt64 = 1_000_000
    public private(set) var trace = TraceHash()
    /// Grows with every step of any machine: what a watchdog looks at.
    public static let steps = Atomic<UInt64>(0)
    /// Device operations that have ended, over all lives of the machine.
    public private(set) var operationsEnded = 0
    /// The first thing that broke the contract.
    public private(set) var violation: String?
    /// Of the running process, by shard.
    private(set) var engines: [Engine] = []
    /// Where pools are at home: the last, so that with several shards most of it is far away.
    public var engine: Engine? { engines.last }
    /// How many shards the next boot starts.
    var shardCount = 1

    var random: SeededRandom
    let limits: Limits
    let verbose: Bool
    /// Told every reply, in order.
    var onReply: ((SpaceReply) -> Void)?
    /// Called between steps while a slow path runs: clients go on meanwhile.
    var onStep: (() -> Void)?
    /// Called when an operation has ended and the engine has reacted: the place for a crash.
    var onBoundary: (() -> Void)?
    /// Power goes when `operationsEnded` reaches this.
    var cutAtOperation: Int?
    /// Power goes so many operations after the next boot.
    var cutAtNextBoot: Int?

    private let shelf: ArenaShelf
    /// What a killed process leaves to the next; nil: nothing.
    private(set) var kept: KeptMemory? = KeptMemory()
    /// Every end since the last opening was that of a process alone, and `kept` was there.
    private(set) var isNothingLost = false
    /// How long a device may keep an operation before the engine is told, and told again.
    var stallAfterNs: UInt64 = 40_000_000_000
    private var stallsTold: [DeviceIndex: (count: Int, ns: UInt64)] = [:]
    private var givenUp: Set<DeviceIndex> = []
    private var scheduled: [Scheduled] = []
    private var operationsSubmitted: UInt64 = 0

    public struct WitnessEntry: Sendable {
        public var pool: PoolUUID
        public var version: ConfigurationVersion
    }

    private struct Scheduled {
        enum Work {
            case device(DeviceOperation)
            case witness(WitnessOperation)
            case post(EnginePost)
            /// Of a device that has been given up.
            case refused(DeviceOperation)
        }
        var work: Work
        var dueNs: UInt64
        var submittedNs: UInt64
        /// Whose it is.
        var shard: Int
        /// What the disk knows a device operation by: those of all shards differ.
        var token: UInt32 = 0
        /// The engine has been told that it failed; what it writes lands all the same.
        var isGivenUp = false
    }

    public convenience init(
        disks: [SimulatedDisk], limits: Limits, seed: UInt64, verbose: Bool = false
    ) {
        self.init(disks, limits, seed, verbose, ArenaShelf())
    }

    private init(
        _ disks: [SimulatedDisk], _ limits: Limits, _ seed: UInt64, _ verbose: Bool,
        _ shelf: ArenaShelf
    ) {
        self.shelf = shelf
        self.disks = disks
        self.limits = limits
        self.verbose = verbose
        random = SeededRandom(seed: seed)
    }

    /// Suspended slow paths would keep a forgotten engine alive for ever.
    deinit { halt() }

    // MARK: - life and death

    /// Starts an engine; the machine must not be running one.
    @discardableResult
    func boot() -> Engine {
        precondition(engine == nil)
        for index in disks.indices { disks[index].reopen() }
        engines = (0..<shardCount).map {
            Engine(
                arena: shelf.take(), limits: limits, shard: $0, shardCount: shardCount,
                restartMemory: kept)
        }
        cutAtOperation = cutAtNextBoot.map { operationsEnded + $0 }
        cutAtNextBoot = nil
        return engines[shardCount - 1]
    }

    /// Power is gone. What was in flight is lost as far as the policy says.
    func cutPower(_ policy: CutPolicy) {
        note("power cut (\(policy)) after \(operationsEnded) operations")
        trace.add(0xdead)
        halt()
        kept?.forget()
        isNothingLost = false
        for index in disks.indices { disks[index].cutPower(policy, random: &random) }
    }

    /// The process is gone, and the disks have lost their caches, but the machine has gone on.
    func loseCaches(_ policy: CutPolicy) {
        note("kill -9 and the disks' power cut (\(policy)) after \(operationsEnded) operations")
        trace.add(0xdeed)
        halt()
        isNothingLost = false
        for index in disks.indices { disks[index].cutPower(policy, random: &random) }
    }

    /// The process is gone; the disks' caches are not.
    func killProcess() {
        note("kill -9 after \(operationsEnded) operations")
        trace.add(0xdeaf)
        if kept == nil { isNothingLost = false }
        halt()
        for index in disks.indices { disks[index].killProcess(random: &random) }
    }

    /// The pool is open: from here on it is the next end that counts.
    func noteOpened() { isNothingLost = kept != nil }

    /// Kills of the process lose what was not flushed.
    func doWithoutKeptMemory() { kept = nil }

    /// The daemon left by itself, everything closed: nothing may be in flight.
    func shutDown() {
        halt()
    }

    private func halt() {
        for engine in engines { engine.stop() }
        for engine in engines { shelf.give(engine.arena) }
        engines.removeAll()
        for item in scheduled {
            // A witness that was being written may have it or not.
            if case .witness(let operation) = item.work, random.chance(50) { record(operation) }
        }
        scheduled.removeAll()
        givenUp.removeAll()
        stallsTold.removeAll()
        cutAtOperation = nil
    }

    var isCutDue: Bool { cutAtOperation.map { operationsEnded >= $0 } ?? false }

    func fail(_ what: String) {
        if violation == nil {
            violation = what
            note("VIOLATION: \(what)")
        }
    }

    func note(_ text: @autoclosure () -> String) {
        if verbose { print("[\(nowNs / 1000) us] \(text())") }
    }

    func addToTrace(_ word: UInt64) { trace.add(word) }

    // MARK: - the crank

    /// Lets the engines react, takes what they ask for, and repeats until they ask for nothing.
    func settle() {
        while violation == nil {
            var isAsked = false
            for engine in engines where takeTurn(engine) { isAsked = true }
            if !isAsked { return }
        }
    }

    /// - Returns: whether the engine asked for anything.
    private func takeTurn(_ engine: Engine) -> Bool {
        engine.poll(nowNs: nowNs)
        let abandoned = engine.abandonments
        engine.abandonments.removeAll(keepingCapacity: true)
        for device in abandoned { giveUp(device, engine) }
        let operations = engine.operations
        engine.operations.removeAll(keepingCapacity: true)
        for operation in operations { submit(operation, engine) }
        let witnessed = engine.witnessOperations
        engine.witnessOperations.removeAll(keepingCapacity: true)
        for operation in witnessed { schedule(.witness(operation), engine) }
        let posts = engine.posts
        engine.posts.removeAll(keepingCapacity: true)
        for post in posts { schedule(.post(post), engine) }
        let replies = engine.replies
        engine.replies.removeAll(keepingCapacity: true)
        for reply in replies {
            trace.add(reply.cookie)
            trace.add(UInt64(reply.status.rawValue) + 7)
            onReply?(reply)
        }
        return !(operations.isEmpty && witnessed.isEmpty && posts.isEmpty && replies.isEmpty
            && abandoned.isEmpty)
    }

    private func schedule(_ work: Scheduled.Work, _ engine: Engine, token: UInt32 = 0) {
        var latencyNs = latency()
        if case .device(let operation) = work {
            latencyNs = disks[diskIndex(operation.device)].latency(drawnNs: latencyNs)
        }
        scheduled.append(
            Scheduled(
                work: work, dueNs: nowNs + latencyNs, submittedNs: nowNs, shard: engine.shard,
                token: token))
    }

    /// What ends first, and when: nothing of a disk that hangs for good.
    private func nextEnd() -> (index: Int, ns: UInt64)? {
        var next: (index: Int, ns: UInt64)?
        for (index, item) in scheduled.enumerated() {
            guard let ns = endNs(item) else { continue }
            // What a disk lets go all at once ends in the order in which it was due.
            let isSooner = next.map { (ns, item.dueNs) < ($0.ns, scheduled[$0.index].dueNs) }
            if isSooner ?? true { next = (index, ns) }
        }
        return next
    }

    private func endNs(_ item: Scheduled) -> UInt64? {
        guard case .device(let operation) = item.work else { return item.dueNs }
        let disk = diskIndex(operation.device)
        // Of a disk that does not hang no more is looked at: this is asked at every step.
        guard disks[disk].hanging != nil else { return item.dueNs }
        return disks[disk].endNs(dueNs: item.dueNs)
    }

    /// Ends the operation that is due next, delivers a post, or fires the engines' next timer.
    ///
    /// - Returns: false when nothing is under way that ever ends, and no timer is set.
    func step() -> Bool {
        guard !engines.isEmpty, violation == nil else { return false }
        Self.steps.add(1, ordering: .relaxed)
        settle()
        let timer = engines.compactMap(\.nextDeadlineNs).min()
        let next = nextEnd()
        if let stall = nextStall(), stall.ns <= min(timer ?? .max, next?.ns ?? .max) {
            tellStall(stall)
            return true
        }
        guard let next else {
            guard let timer else { return false }
            nowNs = max(nowNs + 1, timer)
            settle()
            return true
        }
        if let timer, timer <= next.ns {
            nowNs = max(nowNs + 1, timer)
            settle()
            return true
        }
        let item = scheduled.remove(at: next.index)
        nowNs = max(nowNs, next.ns)
        switch item.work {
        case .device(let operation):
            end(operation, item, engines[item.shard])
        case .refused(let operation):
            engines[item.shard].complete(
                DeviceCompletion(token: operation.token, status: .ioError))
        case .witness(let operation):
            record(operation)
            engines[item.shard].complete(
                WitnessCompletion(token: operation.token, recorded: true))
        case .post(let post):
            engines[post.shard].receive(post)
        }
        settle()
        onBoundary?()
        return true
    }

    private func submit(_ operation: DeviceOperation, _ engine: Engine) {
        if givenUp.contains(operation.device) { return schedule(.refused(operation), engine) }
        let index = diskIndex(operation.device)
        operationsSubmitted += 1
        traceOperation(operation, engine)
        var known = operation
        known.token = UInt32(truncatingIfNeeded: operationsSubmitted)
        if let wrong = disks[index].submit(known, arena: engine.arena) {
            fail("\(operation.kind) of disk \(index) at \(operation.offsetBytes): \(wrong)")
            return
        }
        schedule(.device(operation), engine, token: known.token)
    }

    private func traceOperation(_ operation: DeviceOperation, _ engine: Engine) {
        trace.add(UInt64(operation.kind.rawValue) << 32 | UInt64(operation.device.rawValue))
        trace.add(UInt64(operation.token))
        trace.add(operation.offsetBytes)
        trace.add(operation.lengthBytes)
        note(
            "\(operation.kind) disk \(operation.device.rawValue) at \(operation.offsetBytes)"
                + " + \(operation.lengthBytes) token \(operation.token)")
        guard operation.kind == .write, operation.bufferOffset >= 0,
            operation.lengthBytes <= 1 << 20,
            operation.bufferOffset <= engine.arena.sizeBytes - Int(operation.lengthBytes)
        else { return }
        let bytes = unsafe engine.arena.bytes(operation.bufferOffset, Int(operation.lengthBytes))
        // The head of every sector: where metadata and stamps differ.
        for sector in stride(from: 0, to: bytes.count, by: 512) {
            trace.add(unsafe bytes.loadUnaligned(fromByteOffset: sector, as: UInt64.self))
            trace.add(unsafe bytes.loadUnaligned(fromByteOffset: sector + 24, as: UInt64.self))
        }
    }

    /// A disk that is opened anew is another device: one for each multiple of the count of disks.
    private func diskIndex(_ device: DeviceIndex) -> Int { Int(device.rawValue) % disks.count }

    private func end(_ operation: DeviceOperation, _ item: Scheduled, _ engine: Engine) {
        let index = diskIndex(operation.device)
        let (status, wrong) = disks[index].complete(
            token: item.token, arena: engine.arena, random: &random)
        operationsEnded += 1
        trace.add(UInt64(operation.token) << 8 | UInt64(status.rawValue))
        if status == .ioError {
            note("\(operation.kind) disk \(index) token \(operation.token) has failed")
        }
        if let wrong { fail("\(operation.kind) of disk \(index): \(wrong)") }
        if item.isGivenUp { return }
        engine.complete(DeviceCompletion(token: operation.token, status: status))
    }

    // MARK: - devices that do not answer

    private typealias Stall = (ns: UInt64, device: DeviceIndex, shard: Int)

    /// When the engine is to be told next that a device does not answer.
    private func nextStall() -> Stall? {
        guard disks.contains(where: { $0.hanging != nil || $0.slowness != nil }) else { return nil }
        var next: Stall?
        for item in scheduled where !item.isGivenUp {
            guard case .device(let operation) = item.work else { continue }
            var ns = item.submittedNs + stallAfterNs
            if let told = stallsTold[operation.device] {
                // A device that hangs for good, and that nothing can do without, ends the run.
                if told.count >= 64 { continue }
                ns = max(ns, told.ns + stallAfterNs / 2)
            }
            if ns < next?.ns ?? .max { next = (ns, operation.device, item.shard) }
        }
        return next
    }

    private func tellStall(_ stall: Stall) {
        nowNs = max(nowNs + 1, stall.ns)
        note("device \(stall.device.rawValue) does not answer")
        addToTrace(0x57a1 << 32 | UInt64(stall.device.rawValue))
        stallsTold[stall.device] = ((stallsTold[stall.device]?.count ?? 0) + 1, nowNs)
        engines[stall.shard].noteStalled(stall.device, home: shardCount - 1)
        settle()
    }

    /// The engine does without what a device has of it.
    private func giveUp(_ device: DeviceIndex, _ engine: Engine) {
        note("device \(device.rawValue) is given up")
        givenUp.insert(device)
        for index in scheduled.indices.reversed()
        where scheduled[index].shard == engine.shard && !scheduled[index].isGivenUp {
            guard case .device(let operation) = scheduled[index].work, operation.device == device
            else { continue }
            let stays = disks[diskIndex(device)].giveUp(token: scheduled[index].token)
            scheduled[index].isGivenUp = true
            if !stays { scheduled.remove(at: index) }
            engine.complete(DeviceCompletion(token: operation.token, status: .ioError))
        }
    }

    private func record(_ operation: WitnessOperation) {
        if let at = witness.firstIndex(where: { $0.pool == operation.pool }) {
            witness[at].version = max(witness[at].version, operation.version)
        } else {
            witness.append(WitnessEntry(pool: operation.pool, version: operation.version))
        }
    }

    /// Mostly quick, sometimes slow, now and then very slow: enough for any order of ends.
    private func latency() -> UInt64 {
        let kind = random.below(100)
        if kind < 70 { return UInt64(random.within(20_000...200_000)) }
        if kind < 95 { return UInt64(random.within(200_000...2_000_000)) }
        return UInt64(random.within(2_000_000...20_000_000))
    }

    // MARK: - slow paths

    /// What the engines' requests wait for.
    var waiting: String {
        engines.isEmpty ? "no engine" : engines.map(\.waiting).joined(separator: "\n")
    }

    /// Runs an asynchronous body on the pools' shard until it ends.
    ///
    /// - Returns: nil when the power went first, or something is wrong.
    func run<Value: Sendable>(
        _ what: String, _ body: @escaping @Sendable (Engine) async -> Value
    ) -> Value? {
        guard let engine else { return nil }
        let outcome = Outcome<Value>()
        engine.spawn { outcome.value = await body(engine) }
        settle()
        while outcome.value == nil {
            guard violation == nil, !isCutDue else { return nil }
            onStep?()
            if !step(), outcome.value == nil {
                if violation == nil { fail("\(what) never ends: nothing is under way\n\(waiting)") }
                return nil
            }
        }
        return outcome.value
    }

    /// Runs until every device operation that is under way now has ended.
    ///
    /// - Returns: false when the power went first, or something is wrong.
    func endOperations() -> Bool {
        let last = UInt32(truncatingIfNeeded: operationsSubmitted)
        while violation == nil, !isCutDue {
            let isUnderWay = scheduled.contains {
                if case .device = $0.work { $0.token <= last } else { false }
            }
            if !isUnderWay { return true }
            if !step() { return violation == nil }
        }
        return false
    }

    /// Runs until nothing is under way, or for a number of steps.
    func drain(steps: Int) {
        for _ in 0..<steps where violation == nil && !isCutDue {
            guard step() else { return }
        }
    }
}

/// Where a slow path leaves its result; written and read on the one thread of the simulation.
final class Outcome<Value>: @unchecked Sendable {
    var value: Value?
}

extension Machine {
    /// What a crash would leave behind, apart from the caches' fate.
    struct Snapshot {
        var disks: [SimulatedDisk]
        var witness: [WitnessEntry]
        var witnessInFlight: [WitnessEntry]
        var nowNs: UInt64
        fileprivate var kept: KeptMemory?
        fileprivate var isNothingLost: Bool
        fileprivate var shelf: ArenaShelf
    }

    func snapshot() -> Snapshot {
        let flying = scheduled.compactMap { item -> WitnessEntry? in
            guard case .witness(let operation) = item.work else { return nil }
            return WitnessEntry(pool: operation.pool, version: operation.version)
        }
        return Snapshot(
            disks: disks, witness: witness, witnessInFlight: flying, nowNs: nowNs,
            kept: kept.map(KeptMemory.init(copying:)), isNothingLost: isNothingLost, shelf: shelf)
    }

    /// A machine without an engine whose power went at the snapshot.
    ///
    /// - Parameters:
    ///   - policy: nil: it was the process alone that ended.
    ///   - keepsMemory: the machine has gone on, it was the disks' power.
    convenience init(
        crashed snapshot: Snapshot, policy: CutPolicy?, keepsMemory: Bool = false, limits: Limits,
        seed: UInt64, verbose: Bool = false
    ) {
        self.init(snapshot.disks, limits, seed, verbose, snapshot.shelf)
        nowNs = snapshot.nowNs
        witness = snapshot.witness
        for entry in snapshot.witnessInFlight where random.chance(50) {
            record(WitnessOperation(token: 0, pool: entry.pool, version: entry.version))
        }
        if policy == nil || keepsMemory { kept = snapshot.kept.map(KeptMemory.init(copying:)) }
        guard let policy else {
            isNothingLost = snapshot.isNothingLost
            for index in disks.indices { disks[index].killProcess(random: &random) }
            return
        }
        for index in disks.indices { disks[index].cutPower(policy, random: &random) }
    }
}

/// Arenas that no engine uses: a machine that comes and goes by the thousand maps none anew.
private final class ArenaShelf {
    private var free: [BufferArena] = []

    func take() -> BufferArena {
        guard let arena = free.popLast() else {
            return BufferArena(counts: [1024, 64, 32, 48])
        }
        arena.reset()
        return arena
    }

    func give(_ arena: BufferArena) { free.append(arena) }
}
