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
///     ring.submitAndWait(timeoutNs: until the earlier of both deadlines)
public final class NBDServer {
    public let exports: ExportTable
    private let ring: Ring
    private let log: @Sendable (String) -> Void
    let shared: SharedResources
    private(set) var connections: [Connection] = []
    private var vacant: [UInt16] = []
    private var listeners: [Listener] = []
    private var isShuttingDown = false
    private var nextCheckNs: UInt64 = 0
    private var mayHaveHandshakes = false

    private static let checkIntervalNs: UInt64 = 1_000_000_000
    private static let acceptRetryNs: UInt64 = 100_000_000

    /// - Parameter pieceCount: requests (of at most a grain) given to the engine and not answered;
    ///   no more than the engine takes.
    public init(
        ring: Ring, exports: ExportTable, pieceCount: Int = 1024,
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        NBDLimits.check()
        self.ring = ring
        self.exports = exports
        self.log = log
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
        for connection in connections { connection.drain() }
    }

    /// Closes every connection at once.
    public func abort() {
        shutdown()
        for connection in connections { connection.fail() }
    }

    /// No connection is left, in any state.
    public var isIdle: Bool { vacant.count == connections.count }

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
        guard let piece = shared.piece(cookie: reply.cookie) else { return }
        let connection = connections[Int(shared.pieces[Int(piece)].connection)]
        connection.pieceCompleted(piece, reply.status)
    }

    /// Does everything that has become possible: parses, answers, receives. New requests are in
    /// ``requests`` afterwards.
    public func poll(nowNs: UInt64) {
        shared.nowNs = nowNs
        retryAccepting()
        turnReady()
        if nowNs >= nextCheckNs {
            checkDeadlines()
            turnReady()
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
                    exports.freeConnections += 1
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
        if mayHaveHandshakes || !shared.waiting.isEmpty { deadline = nextCheckNs }
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
        guard index < connections.count else { return }
        let connection = connections[index]
        // A slot is reused only after both of its operations have come back.
        precondition(connection.generation == UInt32(truncatingIfNeeded: payload))
        switch Connection.Operation(rawValue: payload >> 48) {
        case .receive: connection.receiveCompleted(result)
        case .send: connection.sendCompleted(result)
        case nil: break
        }
    }

    private func acceptCompleted(_ index: Int, _ result: Int32, _ flags: UInt32) {
        if result >= 0 { adopt(result, isTCP: listeners[index].path.isEmpty) }
        guard flags & Ring.moreCompletions == 0 else { return }
        listeners[index].isAccepting = false
        guard !isShuttingDown else { return }
        if result >= 0 || result == -EINTR || result == -ECONNABORTED {
            accept(index)
        } else {
            log("accept failed (errno \(-result)), trying again")
            listeners[index].retryNs = shared.nowNs + Self.acceptRetryNs
        }
    }

    private func retryAccepting() {
        guard !isShuttingDown else { return }
        for index in listeners.indices
        where !listeners[index].isAccepting && shared.nowNs >= listeners[index].retryNs {
            accept(index)
        }
    }

    /// Gives a socket to a vacant connection, or closes it where there is none.
    func adopt(_ socket: Int32, isTCP: Bool) {
        guard !isShuttingDown, let index = vacantIndex() else {
            _ = Glibc.close(socket)
            return
        }
        if isTCP { setOption(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        // A whole batch of replies should fit, so that one send is one copy and one wake-up.
        setOption(socket, SOL_SOCKET, SO_SNDBUF, 2 << 20)
        dropOldestHandshake()
        exports.freeConnections -= 1
        mayHaveHandshakes = true
        connections[Int(index)].begin(socket: socket)
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

    private func dropOldestHandshake() {
        var count = 0
        var oldest: Connection?
        for connection in connections where connection.phase == .handshake {
            count += 1
            if connection.acceptedNs < oldest?.acceptedNs ?? .max { oldest = connection }
        }
        if count >= NBDLimits.handshakes { oldest?.fail() }
    }

    private func checkDeadlines() {
        let now = shared.nowNs
        nextCheckNs = now + Self.checkIntervalNs
        guard mayHaveHandshakes || !shared.waiting.isEmpty else { return }
        mayHaveHandshakes = false
        for connection in connections {
            let idleNs = now - min(now, connection.lastProgressNs)
            switch connection.phase {
            case .handshake:
                mayHaveHandshakes = true
                if now - min(now, connection.acceptedNs) >= NBDLimits.handshakeNs {
                    connection.fail()
                }
            case .open:
                // It holds memory that others wait for, and it is the client who does not move.
                let isStuck = connection.isSending || connection.writePiece >= 0
                if isStuck && idleNs >= NBDLimits.stallNs && !shared.waiting.isEmpty {
                    connection.fail()
                }
            case .draining:
                mayHaveHandshakes = true
                if connection.isSending && idleNs >= NBDLimits.stallNs { connection.fail() }
            case .vacant, .broken: break
            }
        }
    }
}
