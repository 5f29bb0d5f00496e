import PoolFormat
import Synchronization

@testable import PoolEngine

/// Disks and a witness that outlive engines; and the engines of one process at a time on them.
final class PoolWorld {
    var disks: [MemoryDisk]
    var witness: ConfigurationVersion?
    var witnessAnswers = true
    /// One for each shard.
    private(set) var engines: [Engine]
    /// Where pools are opened: the last, so that with several shards the first space is on another.
    var engine: Engine { engines[engines.count - 1] }
    /// Device and witness operations until the power goes; nil: it does not.
    var operationsLeft: Int?
    private(set) var operationsDone = 0
    private(set) var nowNs: UInt64 = 0
    private var seed: UInt64
    /// Of requests nobody has asked about yet, by cookie.
    private var replies: [UInt64: SpaceReply] = [:]
    var nextCookie: UInt64 = 1

    static let uuid = PoolUUID(high: 0x1111, low: 0x2222)
    private static let diskLimit = 32

    init(_ sizesMiB: [Int], seed: UInt64 = 1, shards: Int = 1) {
        disks = sizesMiB.map { MemoryDisk(sizeBytes: UInt64($0) << 20) }
        self.seed = seed
        engines = Self.makeEngines(shards)
    }

    private static func makeEngines(_ shards: Int) -> [Engine] {
        var limits = Limits()
        limits.requestsInFlight = 32
        limits.checksumPages = 32
        limits.unflushedBlocks = 1024
        limits.restartLogBytes = 32 << 10
        limits.journalPieces = 2
        limits.scratchPages = 32
        limits.scratchPairs = 8
        limits.scratchGrains = 8
        limits.scratchBands = 2
        (limits.repairMovers, limits.repairGroups) = (4, 2)
        return (0..<shards).map {
            Engine(
                arena: BufferArena(counts: [64, 16, 4, 16]), limits: limits, shard: $0,
                shardCount: shards)
        }
    }

    /// Fresh engines on what the disks hold now, with the power back on.
    func restart() {
        for engine in engines { engine.stop() }
        engines = Self.makeEngines(engines.count)
        operationsLeft = nil
        operationsDone = 0
    }

    func powerCut(_ policy: CutPolicy) {
        for disk in disks {
            disk.powerCut(policy) { self.coin() }
        }
        restart()
    }

    private func coin() -> Bool {
        seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return seed >> 63 == 1
    }

    /// - Parameter opening: how often the disk had been opened before: each time is another device.
    func member(_ index: Int, opening: Int = 0) -> Pool.Member {
        precondition(index < Self.diskLimit)
        return Pool.Member(
            device: DeviceDescription(
                index: DeviceIndex(UInt16(index + opening % 8 * Self.diskLimit)),
                sizeBytes: disks[index].sizeBytes, sectorBytes: 512, supportsDiscard: false),
            uuid: PoolUUID(high: 7, low: UInt64(index)), mediaClass: .ssd,
            pathHint: "/disks/\(index)")
    }

    func members(_ numbers: some Sequence<Int>) -> [Pool.Member] { numbers.map { member($0) } }
    var allMembers: [Pool.Member] { members(disks.indices) }

    // MARK: - slow paths

    /// Runs a slow path to its end, or to the power cut: then nil.
    func run<T: Sendable>(
        _ body: @escaping @Sendable (Engine) async throws(PoolError) -> T
    ) -> Result<T, PoolError>? {
        let box = Box<T>()
        let engine = self.engine
        engine.spawn {
            do throws(PoolError) {
                let value = try await body(engine)
                box.result.withLock { $0 = .success(value) }
            } catch {
                box.result.withLock { $0 = .failure(error) }
            }
        }
        while true {
            poll()
            if let result = box.result.withLock({ $0 }) { return result }
            guard turn() else { return nil }
        }
    }

    private final class Box<T: Sendable>: Sendable {
        let result = Mutex<Result<T, PoolError>?>(nil)
    }

    func create(_ range: Range<Int>) -> Result<Pool, PoolError>? {
        let members = members(range)
        return run { engine throws(PoolError) in
            try await Pool.create(engine, name: "tank", uuid: Self.uuid, members: members)
        }
    }

    func open(_ numbers: some Sequence<Int>) -> Result<Pool, PoolError>? {
        let members = members(numbers)
        return run { [witness] engine throws(PoolError) in
            try await Pool.open(engine, members: members, witness: witness)
        }
    }

    func open() -> Result<Pool, PoolError>? { open(disks.indices) }

    // MARK: - the crank

    /// Turns the crank until a request has its reply, or the power went: then nil.
    func reply(_ cookie: UInt64) -> SpaceReply? {
        while true {
            poll()
            if let reply = peek(cookie) { return reply }
            guard turn() else { return nil }
        }
    }

    /// One turn of the crank, without a request to wait for. False: nothing is due.
    func step() -> Bool {
        poll()
        if !isAsked, engines.allSatisfy({ $0.nextDeadlineNs == nil }) { return false }
        return turn()
    }

    /// Carries out all that can be without waiting for a deadline.
    func finishUnderWay() {
        poll()
        while isAsked, turn() { poll() }
    }

    private var isAsked: Bool {
        engines.contains { !($0.operations.isEmpty && $0.witnessOperations.isEmpty) }
    }

    /// The reply, if it has come; time stands still.
    func peek(_ cookie: UInt64) -> SpaceReply? {
        collectReplies()
        return replies.removeValue(forKey: cookie)
    }

    private func collectReplies() {
        for engine in engines {
            for reply in engine.replies { replies[reply.cookie] = reply }
            engine.replies.removeAll()
        }
    }

    /// Lets every engine react, and delivers what they tell each other, until nothing more comes.
    private func poll() {
        repeat {
            for engine in engines { engine.poll(nowNs: nowNs) }
        } while deliverPosts()
    }

    private func deliverPosts() -> Bool {
        let posts = engines.flatMap(\.posts)
        for engine in engines { engine.posts.removeAll() }
        for post in posts { engines[post.shard].receive(post) }
        return !posts.isEmpty
    }

    /// Carries out what the engines ask for. False: the power went.
    private func turn() -> Bool {
        collectReplies()
        let asked = engines.map { (operations: $0.operations, witness: $0.witnessOperations) }
        for engine in engines {
            engine.operations.removeAll()
            engine.witnessOperations.removeAll()
        }
        if asked.allSatisfy({ $0.operations.isEmpty && $0.witness.isEmpty }) {
            guard let deadline = engines.compactMap(\.nextDeadlineNs).min() else {
                preconditionFailure("a slow path waits for nothing")
            }
            nowNs = max(nowNs, deadline)
        }
        for (engine, asked) in zip(engines, asked) {
            guard carryOut(asked.operations, asked.witness, engine) else { return false }
        }
        return true
    }

    private func carryOut(
        _ operations: [DeviceOperation], _ witnessOperations: [WitnessOperation], _ engine: Engine
    ) -> Bool {
        for operation in operations {
            guard spend() else { return false }
            engine.complete(
                DeviceCompletion(token: operation.token, status: carryOut(operation, engine)))
        }
        for operation in witnessOperations {
            guard spend() else { return false }
            if witnessAnswers { witness = operation.version }
            engine.complete(
                WitnessCompletion(token: operation.token, recorded: witnessAnswers))
        }
        return true
    }

    private func spend() -> Bool {
        if let left = operationsLeft {
            guard left > 0 else {
                for engine in engines { engine.stop() }
                return false
            }
            operationsLeft = left - 1
        }
        operationsDone += 1
        return true
    }

    private func carryOut(_ operation: DeviceOperation, _ engine: Engine) -> DeviceStatus {
        let disk = disks[Int(operation.device.rawValue) % Self.diskLimit]
        let count = Int(operation.lengthBytes)
        precondition(operation.offsetBytes % 512 == 0 && operation.offsetBytes <= disk.sizeBytes)
        precondition(operation.lengthBytes <= disk.sizeBytes - operation.offsetBytes)
        switch operation.kind {
        case .read:
            guard let bytes = disk.read(operation.offsetBytes, count) else { return .ioError }
            unsafe engine.arena.bytes(operation.bufferOffset, count).copyBytes(from: bytes)
            return .ok
        case .write:
            let bytes = unsafe [UInt8](engine.arena.bytes(operation.bufferOffset, count))
            return disk.write(operation.offsetBytes, bytes) ? .ok : .ioError
        case .flush: return disk.flush() ? .ok : .ioError
        case .discard: return .unsupported
        }
    }
}

extension Result where Failure == PoolError {
    var error: PoolError? {
        switch self {
        case .success: nil
        case .failure(let error): error
        }
    }
}
