import PoolEngine
import PoolFormat
import Synchronization

/// A pool as a power cut left it, on disks in memory, for an input to change before an engine of
/// its own opens it again.
///
/// What may be changed are the structures on the disks, not the clients' data: one that lies in
/// several places in the same form is changed in all of them, or the other copy would win.
final class HostilePool {
    /// Where one structure lies, and how long it is.
    struct Place {
        var disk: Int
        var offsetBytes: UInt64
        var lengthBytes: Int
    }

    private typealias Blocks = [UInt64: [UInt8]]

    private static let diskCount = 2
    private static let diskBytes: UInt64 = 1 << 30
    private static let block = UInt64(Units.blockBytes)
    /// What was never written is not zero.
    private static let garbage = [UInt8](repeating: 0xa5, count: Units.blockBytes)
    /// No slow path of a pool this small takes more turns.
    private static let turnLimit = 100_000

    /// What the disks held at the power cut, and what was written since.
    private var left: [Blocks] = Array(repeating: [:], count: diskCount)
    private var changed: [Blocks] = Array(repeating: [:], count: diskCount)
    private var witnessLeft: ConfigurationVersion?
    private var witness: ConfigurationVersion?
    private let arena = BufferArena(counts: [64, 16, 4, 16])
    private var engine: Engine
    private var nowNs: UInt64 = 0
    private var replies: [UInt64: SpaceReply] = [:]
    private var nextCookie: UInt64 = 1
    private(set) var structures: [[Place]] = []

    init() {
        engine = Engine(arena: arena, limits: Self.limits)
        do throws(FuzzFinding) { try makePool() } catch {
            preconditionFailure("a fresh pool works: \(error)")
        }
        engine.stop()
        left = changed
        witnessLeft = witness
        structures = findStructures()
    }

    /// The last writes are in the journal alone, their regions marked dirty.
    private func makePool() throws(FuzzFinding) {
        let made = try run { engine throws(PoolError) in
            let pool = try await Pool.create(
                engine, name: "tank", uuid: Specimen.pool, members: Self.members)
            try await pool.createSpace(
                Pool.SpaceParameters(name: "vm", sizeBytes: 512 << 20, resiliency: .mirror2))
            return pool
        }
        guard let space = (try? made.get())?.space(named: "vm") else {
            throw FuzzFinding("\(made)")
        }
        // One slab group is full, but for what a trim gives back: the next needs another.
        for grain in 0..<UInt64(Units.grainsPerSlab) {
            try perform(.write, space, grain << 20, 8192)
        }
        try perform(.flush, space)
        try perform(.write, space, 4096, 4096)
        try perform(.trim, space, 5 << 20, 1 << 20)
        try perform(.flush, space)
    }

    private static var limits: Limits {
        var limits = Limits()
        limits.requestsInFlight = 32
        limits.checksumPages = 32
        limits.unflushedBlocks = 1024
        limits.restartLogBytes = 32 << 10
        limits.journalPieces = 2
        limits.scratchPages = 32
        limits.scratchPairs = 8
        limits.scratchGrains = 8
        limits.scratchBands = 1
        (limits.repairMovers, limits.repairGroups) = (4, 2)
        return limits
    }

    private static var members: [Pool.Member] {
        (0..<diskCount).map {
            Pool.Member(
                device: DeviceDescription(
                    index: DeviceIndex(UInt16($0)), sizeBytes: diskBytes, sectorBytes: 512,
                    supportsDiscard: true),
                uuid: PoolUUID(high: 7, low: UInt64($0)), mediaClass: .ssd, pathHint: "")
        }
    }

    /// One entry for each different structure, those that have been written more than once first.
    private func findStructures() -> [[Place]] {
        let magics = Set(Structure.allCases.map(\.magic))
        var found: [[UInt8]: [Place]] = [:]
        var order: [[UInt8]] = []
        for disk in left.indices {
            var end: UInt64 = 0
            for offset in left[disk].keys.sorted() where offset >= end {
                let head = Image(left[disk][offset] ?? Self.garbage)
                let magic = unsafe head.bytes.load(as: UInt32.self).littleEndian
                let length = unsafe head.bytes.load(fromByteOffset: 12, as: UInt32.self)
                guard magics.contains(magic), length <= Configuration.slotBytes else { continue }
                let place = Place(
                    disk: disk, offsetBytes: offset, lengthBytes: Int(length.littleEndian))
                end = offset + UInt64(place.lengthBytes)
                let bytes = read(place)
                if found[bytes] == nil { order.append(bytes) }
                found[bytes, default: []].append(place)
            }
        }
        func sequence(_ bytes: [UInt8]) -> UInt8 { bytes[32] }
        let blank = order.filter { sequence($0) == 0 }
        return (order.filter { sequence($0) != 0 } + blank).compactMap { found[$0] }
    }

    private func read(_ place: Place) -> [UInt8] {
        let image = Image(place.lengthBytes)
        unsafe read(place.disk, place.offsetBytes, into: image.bytes)
        return image.content
    }

    // MARK: - one run

    /// Forgets the run before. The power is back, no engine runs yet.
    func restart() {
        engine.stop()
        arena.reset()
        engine = Engine(arena: arena, limits: Self.limits)
        replies.removeAll()
        witness = witnessLeft
        changed = Array(repeating: [:], count: Self.diskCount)
        nowNs = 0
    }

    /// Changes bytes of one structure wherever it lies, and makes its checksum right again.
    func change(_ structure: Int, _ changes: [(offset: Int, value: UInt8)]) {
        let places = structures[structure % structures.count]
        for place in places {
            let image = Image(read(place))
            for change in changes where change.offset < image.count {
                image.overlay([change.value], at: change.offset)
            }
            image.repair()
            write(place.disk, place.offsetBytes, image.content)
        }
    }

    func open() throws(FuzzFinding) -> Result<Pool, PoolError> {
        let witness = self.witness
        return try run { engine throws(PoolError) in
            try await Pool.open(engine, members: Self.members, witness: witness)
        }
    }

    /// Runs a slow path to its end.
    func run<T: Sendable>(
        _ body: @escaping @Sendable (Engine) async throws(PoolError) -> T
    ) throws(FuzzFinding) -> Result<T, PoolError> {
        let outcome = Outcome<T>()
        let engine = self.engine
        engine.spawn {
            do throws(PoolError) {
                let value = try await body(engine)
                outcome.result.withLock { $0 = .success(value) }
            } catch {
                outcome.result.withLock { $0 = .failure(error) }
            }
        }
        for _ in 0..<Self.turnLimit {
            engine.poll(nowNs: nowNs)
            if let result = outcome.result.withLock({ $0 }) { return result }
            try turn()
        }
        throw FuzzFinding("a slow path does not end: \(engine.waiting)")
    }

    private final class Outcome<T: Sendable>: Sendable {
        let result = Mutex<Result<T, PoolError>?>(nil)
    }

    /// Carries out a request, whatever its status.
    func perform(
        _ kind: SpaceRequest.Kind, _ space: Space, _ offsetBytes: UInt64 = 0,
        _ lengthBytes: UInt32 = 0
    ) throws(FuzzFinding) {
        let cookie = nextCookie
        nextCookie += 1
        var buffer: Int?
        if kind == .read || kind == .write {
            guard let taken = arena.take(bytes: Int(lengthBytes) + 8192) else {
                throw FuzzFinding("the engine holds every buffer")
            }
            unsafe arena.bytes(taken, Int(lengthBytes)).initializeMemory(
                as: UInt8.self, repeating: 0x5a)
            buffer = taken
        }
        defer { if let buffer { arena.give(buffer) } }
        engine.submit(
            SpaceRequest(
                kind: kind, space: space.handle, offsetBytes: offsetBytes,
                lengthBytes: lengthBytes, bufferOffset: buffer ?? 0, cookie: cookie))
        for _ in 0..<Self.turnLimit {
            engine.poll(nowNs: nowNs)
            takeReplies()
            if replies.removeValue(forKey: cookie) != nil { return }
            try turn()
        }
        throw FuzzFinding("a \(kind) is never answered: \(engine.waiting)")
    }

    private func takeReplies() {
        for reply in engine.replies { replies[reply.cookie] = reply }
        engine.replies.removeAll()
    }

    /// Carries out what the engine asks for.
    private func turn() throws(FuzzFinding) {
        let operations = engine.operations
        engine.operations.removeAll()
        let records = engine.witnessOperations
        engine.witnessOperations.removeAll()
        takeReplies()
        if operations.isEmpty && records.isEmpty {
            guard let deadline = engine.nextDeadlineNs else {
                throw FuzzFinding("the engine waits for nothing: \(engine.waiting)")
            }
            nowNs = max(nowNs, deadline)
        }
        for operation in operations {
            engine.complete(
                DeviceCompletion(token: operation.token, status: try carryOut(operation)))
        }
        for record in records {
            witness = record.version
            engine.complete(WitnessCompletion(token: record.token, recorded: true))
        }
    }

    private func carryOut(_ operation: DeviceOperation) throws(FuzzFinding) -> DeviceStatus {
        let disk = Int(operation.device.rawValue)
        let (end, overflow) = operation.offsetBytes.addingReportingOverflow(operation.lengthBytes)
        try promise(
            disk < Self.diskCount && !overflow && end <= Self.diskBytes,
            "a \(operation.kind) past the end of a disk")
        let count = Int(operation.lengthBytes)
        switch operation.kind {
        case .read:
            unsafe read(
                disk, operation.offsetBytes, into: arena.bytes(operation.bufferOffset, count))
        case .write:
            let bytes = unsafe Array(arena.bytes(operation.bufferOffset, count))
            write(disk, operation.offsetBytes, bytes)
        case .flush, .discard: break
        }
        return .ok
    }

    // MARK: - the disks

    private func read(_ disk: Int, _ offset: UInt64, into target: UnsafeMutableRawBufferPointer) {
        var done = 0
        while done < target.count {
            let at = offset + UInt64(done)
            let block = at / Self.block * Self.block
            let within = Int(at - block)
            let count = min(Units.blockBytes - within, target.count - done)
            let bytes = changed[disk][block] ?? left[disk][block] ?? Self.garbage
            unsafe UnsafeMutableRawBufferPointer(rebasing: target[done..<done + count])
                .copyBytes(from: bytes[within..<within + count])
            done += count
        }
    }

    private func write(_ disk: Int, _ offset: UInt64, _ bytes: [UInt8]) {
        var done = 0
        while done < bytes.count {
            let at = offset + UInt64(done)
            let block = at / Self.block * Self.block
            let within = Int(at - block)
            let count = min(Units.blockBytes - within, bytes.count - done)
            if count == Units.blockBytes {
                changed[disk][block] = Array(bytes[done..<done + count])
            } else {
                var whole = changed[disk][block] ?? left[disk][block] ?? Self.garbage
                whole.replaceSubrange(within..<within + count, with: bytes[done..<done + count])
                changed[disk][block] = whole
            }
            done += count
        }
    }
}
