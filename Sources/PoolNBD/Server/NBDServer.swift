import Glibc
import PoolDevices
import PoolEngine

/// The NBD face of one shard: listens, shakes hands, turns requests into ``SpaceRequest`` values
/// and the engine's replies into answers. Confined to the shard's thread.
///
/// It calls nothing but the ring; requests and replies cross as plain values. A turn of the loop:
///
///     ring.forEachCompletion { ... server.complete(userData: $0, result: $1, flags: $2) ... }
///     engine.poll(nowNs: now)
///     for reply in engine.replies { server.complete(reply) }     // then clear them
///     server.poll(nowNs: now)
///     if server.submitRequests(to: engine) { again: engine.poll, replies ... }
///     for departure in server.departures { hand it to its shard }   // then clear them
///     ring.submitAndWait(timeoutNs: until the earlier of both deadlines)
///
/// A client shakes hands where it was accepted and is served where its space is:
///
///     accept --> HandshakeTable --GO answered--> Connection            (a space of this shard)
///                                     |
///                                     +--> departures --> adopt(_:) of another shard's server
public final class NBDServer {
    public let exports: ExportTable
    /// The shard whose spaces it serves.
    public let shard: Int
    /// Clients that have shaken hands here and belong to other shards. Whoever takes them over
    /// removes them.
    public var departures: [Departure] = []
    private let handshakes: HandshakeTable
    private let ring: Ring
    private let log: @Sendable (String) -> Void
    let shared: SharedResources
    private(set) var connections: [Connection] = []
    private var vacant: [UInt16] = []
    private var listeners: [Listener] = []
    private var isShuttingDown = false
    private var nextCheckNs: UInt64 = 0
    /// Somebody's time runs out, or may.
    private var wantsChecks = false

    private static let checkIntervalNs: UInt64 = 1_000_000_000
    private static let acceptRetryNs: UInt64 = 100_000_000

    /// - Parameter pieceCount: requests (of at most a grain) given to the engine and not answered;
    ///   no more than the engine takes.
    public init(
        ring: Ring, exports: ExportTable, shard: Int = 0, pieceCount: Int = 1024,
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        NBDLimits.check()
        self.ring = ring
        self.exports = exports
        self.shard = shard
        self.log = log
        handshakes = HandshakeTable(ring: ring, exports: exports)
        shared = SharedResources(arena: ring.arena, pieceCount: pieceCount)
        connections.reserveCapacity(NBDLimits.connections)
        vacant.reserveCapacity(NBDLimits.connections)
    }

    // MARK: - listening

    /// Listens on a Unix socket (mode 0660). A socket already there is replaced: whoever calls
    /// this has made sure, by a lock, that nobody serves it.
    public func listen(unixPath: String) throws(ListenError) {
        try add(.unix(path: unixPath))
    }

    /// - Parameter port: 0 lets the system choose.
    /// - Returns: the port.
    @discardableResult
    public func listen(host: String, port: UInt16) throws(ListenError) -> UInt16 {
        let listener = try Listener.tcp(host: host, port: port)
        add(listener)
        return listener.port
    }

    private func add(_ listener: Listener) {
        listeners.append(listener)
        accept(listeners.count - 1)
    }

    private func accept(_ index: Int) {
        listeners[index].isAccepting = true
        ring.accept(
            listeners[index].file, userData: RingUserData.make(.listener, UInt64(index)))
    }

    /// Stops listening, finishes what is under way, then closes each connection. Done when
    /// ``isIdle``; ``abort()`` ends what does not end by itself.
    public func shutdown() {
        guard !isShuttingDown else { return }
        isShuttingDown = true
        for (index, listener) in listeners.enumerated() {
            if listener.isAccepting {
                ring.cancel(RingUserData.make(.listener, UInt64(index)))
            }
            listener.close()
        }
        handshakes.endAll()
        for departure in departures { departure.close() }
        departures.removeAll()
        for connection in connections { connection.drain() }
    }

    /// Closes every connection at once.
    public func abort() {
        shutdown()
        for connection in connections { connection.fail() }
    }

    /// No connection is left, in any state.
    public var isIdle: Bool { vacant.count == connections.count && handshakes.isEmpty }

    // MARK: - the loop's face

    /// Takes a completion of kind `.listener` or `.connection`.
    public func complete(userData: UInt64, result: Int32, flags: UInt32) {
        let payload = RingUserData.payload(userData)
        switch RingUserData.kind(userData) {
        case .listener: acceptCompleted(Int(payload), result, flags)
        case .connection: connectionCompleted(payload, result)
        case .ignored, .disk, .wakeup, .timer, nil: break
        }
    }

    /// Takes the engine's reply to one of ``requests``.
    public func complete(_ reply: SpaceReply) {
        guard let piece = shared.piece(cookie: reply.cookie) else {
            if let buffer = reply.movedTo { shared.arena.give(buffer) }
            return
        }
        if let buffer = reply.movedTo { shared.pieces[Int(piece)].bufferOffset = buffer }
        let connection = connections[Int(shared.pieces[Int(piece)].connection)]
        connection.pieceCompleted(piece, reply)
    }

    /// Does everything that has become possible: parses, answers, receives. New requests are in
    /// ``requests`` afterwards.
    public func poll(nowNs: UInt64) {
        shared.beginTurn(nowNs: nowNs)
        retryAccepting()
        shakeHands()
        turnReady()
        if nowNs >= nextCheckNs {
            checkDeadlines()
            shakeHands()
            turnReady()
        }
    }

    private func shakeHands() {
        handshakes.poll(nowNs: shared.nowNs) { departure in
            if departure.shard == shard {
                adopt(departure)
            } else if isShuttingDown {
                departure.close()
            } else {
                departures.append(departure)
            }
        }
    }

    private func turnReady() {
        repeat {
            wakeWaiting()
            var next = 0
            while next < shared.ready.count {
                let index = shared.ready[next]
                next += 1
                connections[Int(index)].isReady = false
                if connections[Int(index)].turn() {
                    vacant.append(index)
                }
            }
            shared.ready.removeAll(keepingCapacity: true)
        } while shared.hasFreed && !shared.waiting.isEmpty
    }

    /// Requests for the engine, oldest first. Whoever hands them over removes them.
    public var requests: [SpaceRequest] {
        _read { yield shared.requests }
        _modify { yield &shared.requests }
    }

    /// When ``poll(nowNs:)`` wants to be called though nothing completes; nil: not at all.
    public var nextDeadlineNs: UInt64? {
        var deadline: UInt64?
        if wantsChecks || !handshakes.isEmpty || !shared.waiting.isEmpty { deadline = nextCheckNs }
        // Those that had their share go on in the next turn, and nothing else may start it.
        if shared.turnShare == 0 && !shared.waiting.isEmpty { deadline = shared.nowNs }
        for listener in listeners where !listener.isAccepting && !isShuttingDown {
            deadline = min(deadline ?? .max, listener.retryNs)
        }
        return deadline
    }

    /// The waiting get their turn, in the order in which they came.
    private func wakeWaiting() {
        guard shared.hasFreed else { return }
        shared.hasFreed = false
        for index in shared.waiting {
            connections[Int(index)].isWaiting = false
            connections[Int(index)].markReady()
        }
        shared.waiting.removeAll(keepingCapacity: true)
    }

    // MARK: - completions

    private func connectionCompleted(_ payload: UInt64, _ result: Int32) {
        let index = Int((payload >> 32) & 0xffff)
        let generation = UInt32(truncatingIfNeeded: payload)
        let operation = Connection.Operation(rawValue: payload >> 48)
        guard let operation else {
            handshakes.complete(payload >> 48, index: index, generation: generation, result)
            return
        }
        guard index < connections.count else { return }
        let connection = connections[index]
        // A slot is reused only after both of its operations have come back.
        precondition(connection.generation == generation)
        switch operation {
        case .receive: connection.receiveCompleted(result)
        case .send: connection.sendCompleted(result)
        }
    }

    private func acceptCompleted(_ index: Int, _ result: Int32, _ flags: UInt32) {
        if result >= 0 {
            listeners[index].failures = 0
            accepted(result, isTCP: listeners[index].path.isEmpty)
        }
        guard flags & Ring.moreCompletions == 0 else { return }
        listeners[index].isAccepting = false
        guard !isShuttingDown else { return }
        if result >= 0 || result == -EINTR || result == -ECONNABORTED { return accept(index) }
        if listeners[index].failures == 0 {
            log("accept failed (errno \(-result)), trying again ten times a second")
        }
        listeners[index].failures += 1
        listeners[index].retryNs = shared.nowNs + Self.acceptRetryNs
        // Descriptors have run out: those who only talk give one back.
        if result == -EMFILE || result == -ENFILE { handshakes.endIdlest() }
    }

    private func retryAccepting() {
        guard !isShuttingDown else { return }
        for index in listeners.indices
        where !listeners[index].isAccepting && shared.nowNs >= listeners[index].retryNs {
            accept(index)
        }
    }

    /// Begins a handshake.
    func accepted(_ socket: Int32, isTCP: Bool) {
        guard !isShuttingDown else {
            _ = Glibc.close(socket)
            return
        }
        handshakes.adopt(socket)
        guard isTCP else { return }
        setOption(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        keepAlive(socket)
    }

    /// Goes on with a client that has shaken hands, here or on another shard.
    ///
    /// - Returns: false where it cannot be served, and has been closed: the space is gone or not
    ///   this shard's, or there is no room for another connection.
    @discardableResult
    public func adopt(_ departure: Departure) -> Bool {
        let name = Array(departure.exportName.utf8)
        guard !isShuttingDown, departure.shard == shard,
            departure.unread.count <= NBDLimits.handshakeStagingBytes,
            let export = exports.find(name.span), export.space == departure.space,
            exports.admits(export), let index = vacantIndex()
        else {
            departure.close()
            return false
        }
        // A whole batch of replies should fit, so that one send is one copy and one wake-up.
        setOption(departure.socket, SOL_SOCKET, SO_SNDBUF, 2 << 20)
        exports.attach(export.usage)
        connections[Int(index)].begin(departure, usage: export.usage)
        return true
    }

    private func vacantIndex() -> UInt16? {
        if let index = vacant.popLast() { return index }
        guard connections.count < NBDLimits.connections else { return nil }
        let index = UInt16(connections.count)
        connections.append(
            Connection(index: index, shared: shared, ring: ring, exports: exports))
        return index
    }

    // MARK: - deadlines

    private func checkDeadlines() {
        let now = shared.nowNs
        nextCheckNs = now + Self.checkIntervalNs
        handshakes.endOverdue()
        wantsChecks = false
        let isShort = shared.waiting.contains { connections[Int($0)].waitsForMemory }
        for connection in connections {
            switch connection.phase {
            case .open, .draining: check(connection, now, isShort)
            case .vacant, .broken: break
            }
        }
    }

    /// Ends a connection that keeps what it holds because its client does not move.
    private func check(_ connection: Connection, _ now: UInt64, _ isMemoryShort: Bool) {
        var idleNs = now - min(now, connection.lastProgressNs)
        if connection.isSending && idleNs >= Self.checkIntervalNs {
            // One that has just begun is looked at when the ring's own wake-up comes.
            wantsChecks = true
            if connection.hasClientTakenBytes() { idleNs = 0 }
            if idleNs >= NBDLimits.unreadNs { return connection.fail() }
        }
        // It holds memory that others wait for, or the server wants to end.
        let isStuck = connection.isSending || connection.writePiece >= 0
        let isInTheWay = isMemoryShort || connection.phase == .draining
        if connection.phase == .draining { wantsChecks = true }
        if isStuck && isInTheWay && idleNs >= NBDLimits.stallNs { connection.fail() }
    }
}
