import Glibc
import PoolDevices
import PoolEngine

@testable import PoolNBD

/// A space in memory that answers in whatever order the seed says, and fails where it is told to.
final class MemorySpace {
    var bytes: [UInt8]
    /// Requests touching this range fail.
    var brokenRange: Range<UInt64>?
    var status = RequestStatus.ioError
    /// Nothing is answered while set.
    var isHung = false
    /// Everything pending is answered in each turn, instead of some of it.
    var answersAll = false
    var seen: [SpaceRequest] = []
    /// Which grains take up room, and which 4 KiB blocks hold something: what block status tells.
    private(set) var grains: [Bool]
    private(set) var blocks: [Bool]
    private var pending: [SpaceRequest] = []
    private var random: SplitMix
    private let arena: BufferArena

    init(sizeBytes: Int, arena: BufferArena, seed: UInt64) {
        bytes = [UInt8](repeating: 0, count: sizeBytes)
        grains = [Bool](repeating: false, count: sizeBytes >> 20)
        blocks = [Bool](repeating: false, count: sizeBytes >> 12)
        self.arena = arena
        random = SplitMix(seed: seed)
    }

    var hasWork: Bool { !pending.isEmpty && !isHung }

    func submit(_ request: SpaceRequest) {
        seen.append(request)
        pending.append(request)
    }

    /// Answers some of what is pending.
    func run() -> [SpaceReply] {
        guard hasWork else { return [] }
        let count = answersAll ? pending.count : 1 + random.next(pending.count)
        return (0..<count).map { _ in
            let request = pending.remove(at: random.next(pending.count))
            let status = carryOut(request)
            return SpaceReply(
                cookie: request.cookie, status: status,
                extent: request.kind == .blockStatus && status == .ok
                    ? extent(Int(request.offsetBytes), Int(request.lengthBytes)) : SpaceExtent())
        }
    }

    /// As the engine tells it: unmapped runs over grains, others within theirs.
    func extent(_ start: Int, _ length: Int) -> SpaceExtent {
        var end = start
        let isMapped = grains[start >> 20]
        let isZero = !blocks[start >> 12]
        if isMapped {
            let limit = min(start + length, (start >> 20 + 1) << 20)
            while end < limit, blocks[end >> 12] == !isZero {
                end = min(limit, (end >> 12 + 1) << 12)
            }
        } else {
            let limit = start + length
            while end < limit, !grains[end >> 20] { end = min(limit, (end >> 20 + 1) << 20) }
        }
        return SpaceExtent(
            lengthBytes: UInt32(end - start), isMapped: isMapped, readsAsZeros: isZero)
    }

    /// Notes what a write, or a trim, of a range within a grain changes.
    func mark(_ start: Int, _ count: Int, written: Bool, keepsGrain: Bool) {
        if written {
            for block in start >> 12...(start + count - 1) >> 12 { blocks[block] = true }
            grains[start >> 20] = true
        } else {
            for block in (start + 4095) >> 12..<max((start + 4095) >> 12, (start + count) >> 12) {
                blocks[block] = false
            }
            if count == 1 << 20 { grains[start >> 20] = keepsGrain }
        }
    }

    private func carryOut(_ request: SpaceRequest) -> RequestStatus {
        let start = Int(request.offsetBytes)
        let count = Int(request.lengthBytes)
        if let broken = brokenRange, request.kind != .flush,
            broken.overlaps(request.offsetBytes..<request.offsetBytes + UInt64(count))
        {
            return status
        }
        let hasData = request.kind == .read || request.kind == .write
        let data = unsafe arena.bytes(request.bufferOffset + start % 4096, hasData ? count : 0)
        switch request.kind {
        case .write: mark(start, count, written: true, keepsGrain: true)
        case .trim: mark(start, count, written: false, keepsGrain: false)
        case .writeZeroes: mark(start, count, written: false, keepsGrain: true)
        case .read, .flush, .cache, .blockStatus: break
        }
        switch request.kind {
        case .read:
            unsafe bytes.withUnsafeBytes { source in
                unsafe data.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: source[start..<start + count]))
            }
        case .write:
            unsafe bytes.withUnsafeMutableBytes { target in
                unsafe UnsafeMutableRawBufferPointer(rebasing: target[start..<start + count])
                    .copyMemory(from: UnsafeRawBufferPointer(data))
            }
        case .trim, .writeZeroes:
            unsafe bytes.withUnsafeMutableBytes { target in
                unsafe _ = memset(target.baseAddress! + start, 0, count)
            }
        case .flush, .blockStatus, .cache: break
        }
        return .ok
    }
}

/// A shard's loop around a server and spaces in memory, turned by hand.
final class ServerHarness {
    let arena: BufferArena
    let ring: Ring
    let server: NBDServer
    var spaces: [MemorySpace]
    var nowNs: UInt64 = 1_000_000_000
    private let baseFreeBytes: Int

    /// Exports "tank/0", "tank/1" ... of 64 MiB each.
    ///
    /// - Parameter spacesShard: where they are said to be served, if not here.
    init(
        spaceCount: Int = 1, counts: [Int] = [512, 128, 64, 32], pieceCount: Int = 1024,
        shard: Int = 0, spacesShard: Int? = nil, seed: UInt64 = 1
    ) throws {
        arena = BufferArena(counts: counts)
        var options = Ring.Options()
        options.entries = 256
        options.spinNs = 0
        // As the end-to-end tests do: the same tests say the same of the other engine.
        let engine = unsafe getenv("POOLD_ENGINE").map { unsafe String(cString: $0) }
        if let engine = engine.flatMap(DiskEngine.init) { options.engine = engine }
        let arena = arena
        ring = try Ring(arena: arena, options: options)
        let exports = ExportTable()
        spaces = (0..<spaceCount).map {
            MemorySpace(sizeBytes: 64 << 20, arena: arena, seed: seed + UInt64($0))
        }
        for index in 0..<spaceCount {
            exports.publish(
                name: "tank/\(index)", space: SpaceHandle(index: UInt32(index), serial: 1),
                sizeBytes: 64 << 20, isReadOnly: false, shard: spacesShard ?? shard)
        }
        server = NBDServer(ring: ring, exports: exports, shard: shard, pieceCount: pieceCount)
        baseFreeBytes = arena.freeBytes
    }

    /// Whether every buffer and piece is back.
    var holdsNothing: Bool {
        arena.freeBytes == baseFreeBytes && server.shared.freePieces == server.shared.pieces.count
    }

    /// Whether a space has something to answer in the next turn.
    var hasWork: Bool { spaces.contains { $0.hasWork } }

    func turn(waitNs: UInt64 = 1_000_000) {
        nowNs += 1
        ring.forEachCompletion { server.complete(userData: $0, result: $1, flags: $2) }
        for space in spaces { for reply in space.run() { server.complete(reply) } }
        server.poll(nowNs: nowNs)
        let requests = server.requests
        server.requests.removeAll()
        for request in requests { spaces[Int(request.space.index)].submit(request) }
        ring.submitAndWait(timeoutNs: hasWork ? 0 : waitNs)
    }

    /// Turns until nothing has happened for a while.
    func settle() { for _ in 0..<8 { turn() } }

    /// Turns until every client is gone; what is not gone by then stays.
    func becomeIdle() { for _ in 0..<400 where !server.isIdle { turn(waitNs: 100_000) } }

    func connect() -> TestClient {
        var pair: [Int32] = [0, 0]
        let kind = Int32(SOCK_STREAM.rawValue)
        precondition(unsafe socketpair(AF_UNIX, kind, 0, &pair) == 0)
        let flags = fcntl(pair[1], F_GETFL)
        precondition(fcntl(pair[1], F_SETFL, flags | O_NONBLOCK) == 0)
        server.accepted(pair[0], isTCP: false)
        return TestClient(socket: pair[1], harness: self)
    }
}

/// A client whose waits turn the server.
final class TestClient {
    private(set) var socket: Int32
    /// Whose server is turned while the client waits; set it when the connection changes shards.
    var harness: ServerHarness
    private(set) var isAtEnd = false
    private var inbox: [UInt8] = []
    private var inboxStart = 0

    init(socket: Int32, harness: ServerHarness) {
        self.socket = socket
        self.harness = harness
    }

    deinit { hangUp() }

    func hangUp() {
        guard socket >= 0 else { return }
        _ = close(socket)
        socket = -1
    }

    /// - Parameters:
    ///   - chunkBytes: the server has a turn after each so many bytes.
    ///   - listens: takes what the server says meanwhile, as a client has to.
    /// - Returns: bytes that went out before the server stopped taking any.
    @discardableResult
    func write(_ bytes: [UInt8], chunkBytes: Int = .max, listens: Bool = true) -> Int {
        var done = 0
        var idleTurns = 0
        while done < bytes.count && idleTurns < 50 {
            let count = min(chunkBytes, bytes.count - done)
            let sent = unsafe bytes.withUnsafeBytes { memory in
                unsafe Glibc.send(
                    socket, memory.baseAddress! + done, count, Int32(MSG_NOSIGNAL))
            }
            if sent > 0 {
                done += sent
                idleTurns = 0
                if chunkBytes != .max { harness.turn(waitNs: 0) }
            } else if errno == EPIPE || errno == ECONNRESET {
                return done
            } else {
                if listens && receive() { idleTurns = 0 } else { idleTurns += 1 }
                harness.turn(waitNs: idleTurns > 1 ? 1_000_000 : 0)
            }
        }
        return done
    }

    /// Whether the server has closed, as far as that has arrived.
    func hasEnded() -> Bool {
        while !isAtEnd, receive() {}
        return isAtEnd
    }

    /// Takes so many bytes at most and forgets them.
    func take(_ count: Int) -> Int {
        unsafe withUnsafeTemporaryAllocation(byteCount: count, alignment: 16) { memory in
            unsafe recv(socket, memory.baseAddress!, count, 0)
        }
    }

    /// Takes what has arrived; false when that is nothing.
    private func receive() -> Bool {
        let room = 1 << 20
        let received = unsafe withUnsafeTemporaryAllocation(byteCount: room, alignment: 16) {
            memory in
            let received = unsafe recv(socket, memory.baseAddress!, room, 0)
            if received > 0 {
                unsafe inbox.append(
                    contentsOf: UnsafeRawBufferPointer(rebasing: memory[..<received]))
            }
            return received
        }
        if received == 0 || (received < 0 && errno == ECONNRESET) { isAtEnd = true }
        return received > 0
    }

    /// Reads exactly so many bytes, fewer only at the end of the stream or when nothing comes.
    func read(_ count: Int) -> [UInt8] {
        var idleTurns = 0
        while inbox.count - inboxStart < count && idleTurns < 200 && !isAtEnd {
            if receive() || harness.hasWork { idleTurns = 0 } else { idleTurns += 1 }
            harness.turn(waitNs: idleTurns > 1 ? 1_000_000 : 0)
        }
        let end = min(inbox.count, inboxStart + count)
        let bytes = Array(inbox[inboxStart..<end])
        inboxStart = end
        if inboxStart == inbox.count {
            inbox.removeAll(keepingCapacity: true)
            inboxStart = 0
        }
        return bytes
    }

    /// Shakes hands up to the transmission phase.
    func open(_ name: String = "tank/0", structured: Bool = false, allocation: Bool = false) {
        _ = read(18)
        write(ClientBytes.flags())
        if structured || allocation {
            write(ClientBytes.option(8))
            _ = read(20)
        }
        if allocation {
            let queries = [Wire.Allocation.name]
            write(ClientBytes.option(10, ClientBytes.contextData(Array(name.utf8), queries)))
            _ = read(20 + 4 + 15 + 20)
        }
        write(ClientBytes.option(7, ClientBytes.infoData(Array(name.utf8))))
        _ = read(20 + 12 + 20)
    }

    struct Reply: Equatable {
        var cookie: UInt64
        var error: UInt32
        var data: [UInt8] = []
    }

    /// One simple reply. `length` tells how many bytes follow a success.
    func simpleReply(_ length: (UInt64) -> Int = { _ in 0 }) -> Reply? {
        let head = read(16)
        guard head.count == 16, head.span.bigEndian(0, as: UInt32.self) == Wire.simpleReplyMagic
        else { return nil }
        var reply = Reply(
            cookie: head.span.bigEndian(8, as: UInt64.self),
            error: head.span.bigEndian(4, as: UInt32.self))
        if reply.error == 0 {
            let count = length(reply.cookie)
            reply.data = read(count)
            if reply.data.count < count { return nil }
        }
        return reply
    }

    struct Chunk: Equatable {
        var cookie: UInt64
        var isDone: Bool
        var type: UInt16
        var offset: UInt64 = 0
        var error: UInt32 = 0
        var data: [UInt8] = []
        var extents: [Extent] = []
    }

    struct Extent: Equatable {
        var length: Int
        var flags: UInt32
    }

    /// One message of a connection with structured replies; a simple one comes as type 0xffff.
    func chunk() -> Chunk? {
        let head = read(16)
        guard head.count == 16 else { return nil }
        let cookie = head.span.bigEndian(8, as: UInt64.self)
        if head.span.bigEndian(0, as: UInt32.self) == Wire.simpleReplyMagic {
            return Chunk(
                cookie: cookie, isDone: true, type: 0xffff,
                error: head.span.bigEndian(4, as: UInt32.self))
        }
        guard head.span.bigEndian(0, as: UInt32.self) == Wire.structuredReplyMagic else {
            return nil
        }
        let length = Int(read(4).span.bigEndian(0, as: UInt32.self))
        let payload = read(length)
        guard payload.count == length else { return nil }
        var chunk = Chunk(
            cookie: cookie, isDone: head.span.bigEndian(4, as: UInt16.self) & 1 != 0,
            type: head.span.bigEndian(6, as: UInt16.self))
        switch chunk.type {
        case Wire.Chunk.offsetData:
            chunk.offset = payload.span.bigEndian(0, as: UInt64.self)
            chunk.data = Array(payload[8...])
        case Wire.Chunk.blockStatus:
            precondition(payload.span.bigEndian(0, as: UInt32.self) == Wire.Allocation.contextID)
            for at in stride(from: 4, to: payload.count, by: 8) {
                chunk.extents.append(
                    Extent(
                        length: Int(payload.span.bigEndian(at, as: UInt32.self)),
                        flags: payload.span.bigEndian(at + 4, as: UInt32.self)))
            }
        case Wire.Chunk.error: chunk.error = payload.span.bigEndian(0, as: UInt32.self)
        default: break
        }
        return chunk
    }
}
