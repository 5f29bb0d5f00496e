import PoolFormat
import Synchronization
import Testing

@testable import PoolEngine

/// A disk in memory with a volatile cache: what was not flushed may be lost, 512 bytes at a time.
final class MemoryDisk {
    let sizeBytes: UInt64
    private var durable: [UInt64: [UInt8]] = [:]
    private var cached: [(offset: UInt64, bytes: [UInt8])] = []
    /// Writes and flushes fail from now on.
    var isBroken = false
    /// It breaks after so many more writes.
    var writesUntilBroken = Int.max
    /// 4 KiB blocks that cannot be read.
    var unreadable: Set<UInt64> = []
    /// Byte 0 of every block that was never written: nothing may be taken for zeros.
    private static let garbage = [UInt8](repeating: 0xA5, count: 4096)

    init(sizeBytes: UInt64) { self.sizeBytes = sizeBytes }

    func read(_ offset: UInt64, _ count: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        for block in stride(from: offset, to: offset + UInt64(count), by: 4096) {
            if unreadable.contains(block) { return nil }
            bytes += durable[block] ?? Self.garbage
        }
        for write in cached {
            let (start, end) = (write.offset, write.offset + UInt64(write.bytes.count))
            let low = max(start, offset)
            let high = min(end, offset + UInt64(count))
            if low < high {
                bytes.replaceSubrange(
                    Int(low - offset)..<Int(high - offset),
                    with: write.bytes[Int(low - start)..<Int(high - start)])
            }
        }
        return bytes
    }

    func write(_ offset: UInt64, _ bytes: [UInt8]) -> Bool {
        writesUntilBroken -= 1
        if writesUntilBroken < 0 { isBroken = true }
        if isBroken { return false }
        cached.append((offset, bytes))
        return true
    }

    func flush() -> Bool {
        if isBroken { return false }
        for write in cached { commit(write.offset, write.bytes[...]) }
        cached.removeAll()
        return true
    }

    private func commit(_ offset: UInt64, _ bytes: ArraySlice<UInt8>) {
        var at = bytes.startIndex
        while at < bytes.endIndex {
            let address = offset + UInt64(at - bytes.startIndex)
            let block = address / 4096 * 4096
            let within = Int(address - block)
            let count = min(4096 - within, bytes.endIndex - at)
            durable[block, default: Self.garbage]
                .replaceSubrange(within..<within + count, with: bytes[at..<at + count])
            at += count
        }
    }

    /// The power goes: of each unflushed sector `keeps` says whether it made it.
    func powerCut(_ policy: CutPolicy, _ keeps: () -> Bool) {
        switch policy {
        case .dropAll: cached.removeAll()
        case .keepAll: for write in cached { commit(write.offset, write.bytes[...]) }
        case .mixed: break
        }
        for write in cached where policy == .mixed {
            for sector in stride(from: 0, to: write.bytes.count, by: 512) where keeps() {
                commit(
                    write.offset + UInt64(sector), write.bytes[sector..<sector + 512])
            }
        }
        cached.removeAll()
    }

    /// Rot: flips a byte that is durable.
    func corrupt(_ offset: UInt64) {
        guard var bytes = read(offset / 4096 * 4096, 4096) else { return }
        bytes[Int(offset % 4096)] ^= 0xff
        commit(offset / 4096 * 4096, bytes[...])
    }
}

/// What a power cut does to unflushed sectors.
enum CutPolicy: CaseIterable {
    case dropAll, keepAll, mixed
}

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
    private var nextCookie: UInt64 = 1

    static let uuid = PoolUUID(high: 0x1111, low: 0x2222)

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
        limits.journalPieces = 2
        limits.scratchPages = 32
        limits.scratchPairs = 8
        limits.scratchGrains = 8
        return (0..<shards).map {
            Engine(
                arena: BufferArena(counts: [64, 16, 4, 12]), limits: limits, shard: $0,
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

    func member(_ index: Int) -> Pool.Member {
        Pool.Member(
            device: DeviceDescription(
                index: DeviceIndex(UInt16(index)), sizeBytes: disks[index].sizeBytes,
                sectorBytes: 512, supportsDiscard: false),
            uuid: PoolUUID(high: 7, low: UInt64(index)), mediaClass: .ssd,
            pathHint: "/disks/\(index)")
    }

    func members(_ range: Range<Int>) -> [Pool.Member] { range.map(member) }
    var allMembers: [Pool.Member] { members(disks.indices) }

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
        let disk = disks[Int(operation.device.rawValue)]
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

    private final class Box<T: Sendable>: Sendable {
        let result = Mutex<Result<T, PoolError>?>(nil)
    }

    // MARK: - requests

    /// Submits a request without waiting for it.
    ///
    /// - Parameter data: of a write: 512-byte multiple, within a grain. Of a read only its length.
    /// - Returns: its cookie, and where its bytes lie in the arena; that buffer is never given back.
    func submit(
        _ kind: SpaceRequest.Kind, _ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32,
        flags: SpaceRequest.Flags = [], data: UInt8 = 0
    ) -> (cookie: UInt64, buffer: Int) {
        let cookie = nextCookie
        nextCookie += 1
        var buffer = 0
        if kind == .read || kind == .write {
            guard let taken = space.engine.arena.take(bytes: Int(lengthBytes) + 8192) else {
                preconditionFailure("the world's arena is used up")
            }
            buffer = taken
            let start = buffer + Int(offsetBytes % 4096)
            unsafe space.engine.arena.bytes(start, Int(lengthBytes))
                .initializeMemory(as: UInt8.self, repeating: data)
        }
        space.engine.submit(
            SpaceRequest(
                kind: kind, flags: flags, space: space.handle, offsetBytes: offsetBytes,
                lengthBytes: lengthBytes, bufferOffset: buffer, cookie: cookie))
        return (cookie, buffer)
    }

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

    /// Submits and waits; the buffer is given back.
    @discardableResult
    func perform(
        _ kind: SpaceRequest.Kind, _ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32 = 0,
        flags: SpaceRequest.Flags = [], data: UInt8 = 0
    ) -> RequestStatus? {
        let (cookie, buffer) = submit(
            kind, space, offsetBytes, lengthBytes, flags: flags, data: data)
        let status = reply(cookie)?.status
        if kind == .read || kind == .write { space.engine.arena.give(buffer) }
        return status
    }

    /// The bytes of a range within a grain; nil: the read failed.
    func bytes(_ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32) -> [UInt8]? {
        let (cookie, buffer) = submit(.read, space, offsetBytes, lengthBytes, data: 0xee)
        defer { space.engine.arena.give(buffer) }
        guard reply(cookie)?.status == .ok else { return nil }
        return unsafe [UInt8](
            space.engine.arena.bytes(buffer + Int(offsetBytes % 4096), Int(lengthBytes)))
    }

    /// What block status says of a range: one entry for each answer.
    func extents(_ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32) -> [SpaceExtent] {
        var extents: [SpaceExtent] = []
        var done: UInt32 = 0
        while done < lengthBytes {
            let asked = submit(
                .blockStatus, space, offsetBytes + UInt64(done), lengthBytes - done)
            guard let answer = reply(asked.cookie), answer.status == .ok,
                answer.extent.lengthBytes > 0
            else { break }
            extents.append(answer.extent)
            done += answer.extent.lengthBytes
        }
        return extents
    }

    // MARK: - the pool's own verbs

    func create(_ range: Range<Int>) -> Result<Pool, PoolError>? {
        let members = members(range)
        return run { engine throws(PoolError) in
            try await Pool.create(engine, name: "tank", uuid: Self.uuid, members: members)
        }
    }

    func open(_ range: Range<Int>? = nil) -> Result<Pool, PoolError>? {
        let members = members(range ?? disks.indices)
        return run { [witness] engine throws(PoolError) in
            try await Pool.open(engine, members: members, witness: witness)
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

extension PoolWorld {
    /// Runs `change` on a freshly prepared world again and again, cut after 0, 1, 2... operations,
    /// until it runs to its end. `check` sees the world after the cut, and whether it ended.
    ///
    /// - Parameter stride: more than 1 leaves out cuts in between.
    static func atEveryCut<State: Sendable>(
        _ sizesMiB: [Int], shards: Int = 1, every stride: Int = 1,
        prepare: (PoolWorld) throws -> State,
        change: @escaping @Sendable (State, Engine) async throws(PoolError) -> Void,
        check: (PoolWorld, State, _ cut: Int, _ ended: Bool) throws -> Void
    ) throws {
        for policy in CutPolicy.allCases {
            var cut = 0
            while true {
                let world = PoolWorld(sizesMiB, seed: UInt64(cut) &* 77 &+ 5, shards: shards)
                let state = try prepare(world)
                world.operationsLeft = cut
                let result = world.run { engine throws(PoolError) in
                    try await change(state, engine)
                }
                if let error = result?.error { throw error }
                world.powerCut(policy)
                try check(world, state, cut, result != nil)
                if result != nil { break }
                cut += stride
            }
            #expect(cut >= 4, "the change does nothing durable")
        }
    }
}
