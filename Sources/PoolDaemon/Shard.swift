import Dispatch
import Logging
import NIOPosix
import PoolControl
import PoolDevices
import PoolEngine
import PoolFormat
import PoolNBD

/// What one shard's thread owns. Confined to that thread: everybody else posts work to it.
final class ShardState: @unchecked Sendable {
    let engine: Engine
    let driver: DeviceDriver
    let server: NBDServer
    let peers: ShardPeers
    /// The open pools: at home only.
    var pools: [PoolUUID: Pool] = [:]
    fileprivate let ring: Ring
    fileprivate let wakeup: Wakeup
    fileprivate var isFinished = false
    /// How long a disk may keep an operation.
    fileprivate let diskTimeoutNs: UInt64
    /// When it is looked next for operations that do not end.
    fileprivate var stallCheckNs: UInt64 = 0

    fileprivate init(
        _ shard: Int, _ peers: ShardPeers, engine diskEngine: DiskEngine, diskTimeoutSeconds: Int,
        _ restartMemory: RestartFolder, logger: Logger
    ) throws(RingError) {
        diskTimeoutNs = UInt64(diskTimeoutSeconds) * 1_000_000_000
        let log: @Sendable (String) -> Void = { logger.notice("\($0)") }
        self.peers = peers
        let arena = BufferArena(shardCount: peers.count)
        var options = Ring.Options()
        options.engine = diskEngine
        ring = try Ring(arena: arena, options: options, log: log)
        wakeup = Wakeup(ring: ring, mailbox: peers.mailboxes[shard])
        engine = Engine(
            arena: arena, limits: Limits(shardCount: peers.count), shard: shard,
            shardCount: peers.count, restartMemory: restartMemory)
        driver = DeviceDriver(
            ring: ring, mailbox: peers.count > 1 ? peers.mailboxes[shard] : nil, log: log)
        server = NBDServer(
            ring: ring, exports: ExportTable(), shard: shard,
            pieceCount: engine.limits.requestsInFlight, log: log)
    }
}

/// One shard: a thread with one ring, the engine, its disks and its clients.
///
/// A turn of its loop, in this order, so that one system call carries a whole batch:
///
///     completions from the ring -> driver, server, mailbox
///     driver's completions -> engine -> operations -> driver
///                                    -> witness operations -> the witness's thread
///                                    -> replies -> server -> requests -> engine (again)
///     engine's posts, server's departures -> other shards' mailboxes
///     now and then: operations that do not end -> engine
///     submit everything and wait
final class Shard: Sendable {
    /// What it runs on: what was asked for, or what serves in its place.
    var diskEngine: DiskEngine { state.ring.engine }
    private let mailbox: ShardMailbox
    private let thread: ShardThread
    private let state: ShardState
    private let hasEnded = DispatchSemaphore(value: 0)
    private let logger: Logger

    /// - Parameters:
    ///   - diskTimeoutSeconds: how long a disk may keep an operation before it is done without.
    ///   - witnessPool: where the witness's file is written.
    init(
        _ number: Int, peers: ShardPeers, engine: DiskEngine, diskTimeoutSeconds: Int,
        disks: DiskTable,
        witness: WitnessStore, witnessPool: NIOThreadPool, restartMemory: RestartFolder,
        logger: Logger
    ) throws(ControlFailure) {
        let mailbox = peers.mailboxes[number]
        self.mailbox = mailbox
        self.logger = logger
        let hasEnded = self.hasEnded
        let started = Handoff<Result<ShardState, RingError>>()
        do throws(ShardThreadError) {
            thread = try ShardThread(name: "shard\(number)") {
                do throws(RingError) {
                    let state = try ShardState(
                        number, peers, engine: engine, diskTimeoutSeconds: diskTimeoutSeconds,
                        restartMemory, logger: logger)
                    peers.add(state)
                    let record: (WitnessOperation) -> Void = { operation in
                        Shard.record(operation, witness, witnessPool, state, mailbox, logger)
                    }
                    started.put(.success(state))
                    Shard.run(state, disks, record)
                    hasEnded.signal()
                } catch {
                    started.put(.failure(error))
                }
            }
        } catch {
            throw ControlFailure(.failed, "\(error)", hint: "raise the limit of processes")
        }
        switch started.take() {
        case .success(let state): self.state = state
        case .failure(let error):
            throw ControlFailure(
                .failed, "this kernel gives poold no way to its disks: \(error)",
                hint: "allow io_uring (sysctl kernel.io_uring_disabled=0, the container's seccomp) "
                    + "or Linux AIO (sysctl fs.aio-max-nr)")
        }
    }

    // MARK: - from other threads

    /// Runs `body` as a slow path on the shard and waits for it: never call this on the shard.
    func call<T: Sendable>(
        _ body: @escaping @Sendable (ShardState) async throws(ControlFailure) -> T
    ) throws(ControlFailure) -> T {
        let handoff = Handoff<Result<T, ControlFailure>>()
        let isAccepted = mailbox.post { [state] in
            state.engine.spawn {
                do throws(ControlFailure) {
                    handoff.put(.success(try await body(state)))
                } catch {
                    handoff.put(.failure(error))
                }
            }
        }
        guard isAccepted else {
            throw ControlFailure(.unavailable, "the daemon is stopping", hint: "start it again")
        }
        return try handoff.take().get()
    }

    /// Runs `body` at once on the shard's thread, between two turns.
    func runNow<T: Sendable>(
        _ body: @escaping @Sendable (ShardState) -> T
    ) throws(ControlFailure) -> T {
        let handoff = Handoff<T>()
        guard mailbox.post({ [state] in handoff.put(body(state)) }) else {
            throw ControlFailure(.unavailable, "the daemon is stopping", hint: "start it again")
        }
        return handoff.take()
    }

    /// Ends the thread. Whatever should be finished or flushed has been by now; a disk that does not
    /// answer is not waited for, it is left to the end of the process.
    func stop() {
        mailbox.post { [state] in
            state.engine.stop()
            state.isFinished = true
        }
        mailbox.close()
        guard hasEnded.wait(timeout: .now() + .seconds(Self.stopSeconds)) == .success else {
            return logger.warning("a disk does not answer, its operations are left behind")
        }
        thread.join()
    }

    private static var stopSeconds: Int { 5 }

    // MARK: - on the shard's thread

    private static func run(
        _ state: ShardState, _ disks: DiskTable, _ record: (WitnessOperation) -> Void
    ) {
        while true {
            turn(state, disks, record)
            if state.isFinished && state.driver.inFlightCount == 0 { return }
            let now = monotonicNs()
            let deadline = earlier(
                earlier(state.engine.nextDeadlineNs, state.server.nextDeadlineNs),
                checkStalls(state, nowNs: now))
            state.ring.submitAndWait(timeoutNs: deadline.map { $0 > now ? $0 - now : 0 })
            let after = monotonicNs()
            state.ring.forEachCompletion { userData, result, flags in
                switch RingUserData.kind(userData) {
                case .disk:
                    state.driver.handle(userData: userData, result: result, nowNs: after)
                case .listener, .connection:
                    state.server.complete(userData: userData, result: result, flags: flags)
                case .wakeup: state.wakeup.handle(result: result)
                case .timer, .ignored, nil: break
                }
            }
        }
    }

    /// Looks for operations that do not end, while there are any.
    ///
    /// - Returns: when to look next.
    private static func checkStalls(_ state: ShardState, nowNs: UInt64) -> UInt64? {
        let driver = state.driver
        guard driver.inFlightCount > 0 || driver.hasStuckWorkers else { return nil }
        guard nowNs >= state.stallCheckNs else { return state.stallCheckNs }
        state.stallCheckNs = nowNs + stallCheckNs
        driver.makeWayAround(lateAfterNs: stallCheckNs / 2, nowNs: nowNs)
        driver.giveUpTheRest(nowNs: nowNs)
        for device in driver.stalled(nowNs: nowNs, afterNs: state.diskTimeoutNs) {
            state.engine.noteStalled(device, home: 0)
        }
        return state.stallCheckNs
    }

    private static var stallCheckNs: UInt64 { 250_000_000 }

    /// Passes values between driver, engine and server until none of them has more to say.
    private static func turn(
        _ state: ShardState, _ disks: DiskTable, _ record: (WitnessOperation) -> Void
    ) {
        let (engine, driver, server) = (state.engine, state.driver, state.server)
        let now = monotonicNs()
        repeat {
            for completion in driver.completions { engine.complete(completion) }
            driver.completions.removeAll(keepingCapacity: true)
            engine.poll(nowNs: now)
            for device in engine.abandonments { driver.abandon(device, nowNs: now) }
            engine.abandonments.removeAll(keepingCapacity: true)
            driver.submit(engine.operations, nowNs: now)
            engine.operations.removeAll(keepingCapacity: true)
            for operation in engine.witnessOperations { record(operation) }
            engine.witnessOperations.removeAll(keepingCapacity: true)
            for reply in engine.replies { server.complete(reply) }
            engine.replies.removeAll(keepingCapacity: true)
            server.poll(nowNs: now)
        } while server.submitRequests(to: engine) || !driver.completions.isEmpty
        for index in driver.detached { disks.remove(index) }
        driver.detached.removeAll(keepingCapacity: true)
        if !engine.posts.isEmpty || !server.departures.isEmpty { sendAway(state) }
    }

    /// What belongs to other shards.
    private static func sendAway(_ state: ShardState) {
        for post in state.engine.posts {
            // A shard that has ended is told nothing more.
            state.peers.send(post.shard) { $0.engine.receive(post) }
        }
        state.engine.posts.removeAll(keepingCapacity: true)
        for departure in state.server.departures {
            let isSent = state.peers.send(departure.shard) { $0.server.adopt(departure) }
            if !isSent { departure.close() }
        }
        state.server.departures.removeAll(keepingCapacity: true)
    }

    private static func record(
        _ operation: WitnessOperation, _ witness: WitnessStore, _ pool: NIOThreadPool,
        _ state: ShardState, _ mailbox: ShardMailbox, _ logger: Logger
    ) {
        pool.submit { work in
            var isRecorded = false
            switch work {
            case .active:
                do throws(ControlFailure) {
                    try witness.record(operation.version, of: operation.pool)
                    isRecorded = true
                } catch {
                    logger.error("witness: \(error.what); \(error.hint)")
                }
            case .cancelled: break
            }
            let completion = WitnessCompletion(token: operation.token, recorded: isRecorded)
            mailbox.post { state.engine.complete(completion) }
        }
    }

    private static func earlier(_ a: UInt64?, _ b: UInt64?) -> UInt64? {
        switch (a, b) {
        case (let a?, let b?): min(a, b)
        case (let only?, nil), (nil, let only?): only
        case (nil, nil): nil
        }
    }
}

/// One value from one thread to another that waits for it.
private final class Handoff<T: Sendable>: @unchecked Sendable {
    // Written before the signal, read after the wait: never at the same time.
    private var value: T?
    private let filled = DispatchSemaphore(value: 0)

    func put(_ value: T) {
        self.value = value
        filled.signal()
    }

    func take() -> T {
        filled.wait()
        guard let value else { preconditionFailure("signalled without a value") }
        return value
    }
}
