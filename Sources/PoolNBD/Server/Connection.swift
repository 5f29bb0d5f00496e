import Glibc
import PoolDevices
import PoolEngine

/// One client in the transmission phase.
///
///     .vacant --shaken hands--> .open --DISC, EOF, shutdown--> .draining --idle--+
///        ^                        |                                |             |
///        |                        +--------------error-------------+             |
///        |                                          v                            |
///        +------nothing is held any more------- .broken <------------------------+
///
/// `.open`: requests are received, answered and sent. `.draining`: nothing more is received, what
/// is under way is finished and its answers are sent. `.broken`: the socket is shut down, nothing
/// is sent; what the kernel or the engine still holds comes back, then the slot is free, and its
/// memory the kernel's.
///
/// At most one receive and one send are in the kernel's hands. Events (completions, the engine's
/// replies) only change state and put the connection on the ready list; ``turn()`` then does what
/// has become possible, once a wake-up, so that parsing and sending come in batches.
@safe final class Connection {
    enum Phase { case vacant, open, draining, broken }

    /// What the next received byte belongs to.
    enum Intake {
        case header
        /// The payload of the WRITE in `writeRequest`.
        case payload
        /// The rest of a refused WRITE's payload.
        case discard(remainingBytes: UInt64)
    }

    /// What the client was told, and may ask for.
    struct Session {
        var space: SpaceHandle
        var sizeBytes: UInt64
        var isReadOnly: Bool
        var terms: SessionTerms
    }

    let index: UInt16
    let shared: SharedResources
    let ring: Ring
    let exports: ExportTable
    let requests = FixedTable<RequestRecord>(count: NBDLimits.requestsPerConnection)
    // Safe: allocated here, freed in deinit, which comes only when no operation uses them.
    let messages: UnsafeMutablePointer<msghdr>
    let vectors: UnsafeMutablePointer<iovec>

    var phase = Phase.vacant
    var isReady = false
    var isWaiting = false
    /// Of one that waits: not only for the next turn of the loop.
    var waitsForMemory = false
    var generation: UInt32 = 0
    var file = RingFile(descriptor: -1)
    var session: Session?
    var usesStructuredReplies: Bool { session?.terms.usesStructuredReplies ?? false }
    var usage = ExportUsage()
    /// Times as of the turn that follows the event: completions come before the clock is read.
    var lastProgressNs: UInt64 = 0
    var hasProgressed = false

    var staging = Staging(capacity: NBDLimits.stagingBytes)
    var isReceiving = false
    var isAtEnd = false
    var intake = Intake.header
    /// The last request was a large WRITE, so the next one probably is: receive no more than its
    /// header into staging, its payload then needs no copy.
    var expectsBulk = false
    var writeRequest: Int16 = -1
    /// The piece that the payload is being received into; -1: none yet.
    var writePiece: Int32 = -1
    var writeFilledBytes = 0
    /// Bytes of the receive in flight that land in the piece; the rest lands in staging.
    var directBytes = 0

    var freeRequests = RequestList()
    var activeRequests = 0
    /// Records with pieces to issue and none held.
    var starved = RequestList()
    /// BLOCK_STATUS requests that had their share of this turn.
    var yielded = RequestList()
    /// Records whose answer waits for the end of `streamRequest`'s.
    var deferred = RequestList()
    /// The READ whose simple reply is going out in parts; -1: none.
    var streamRequest: Int16 = -1
    var holdings = Holdings()
    var heldPieces: Int { holdings.pieces }

    var replies = ReplyQueue()
    var isSending = false
    /// What the kernel had not delivered when a long send was last looked at.
    var queuedBytes: Int32 = -1

    init(index: UInt16, shared: SharedResources, ring: Ring, exports: ExportTable) {
        self.index = index
        self.shared = shared
        self.ring = ring
        self.exports = exports
        unsafe messages = .allocate(capacity: 2)
        unsafe messages.initialize(repeating: unsafe msghdr(), count: 2)
        unsafe vectors = .allocate(capacity: 2)
        unsafe vectors.initialize(repeating: unsafe iovec(), count: 2)
    }

    deinit {
        unsafe messages.deallocate()
        unsafe vectors.deallocate()
    }

    // MARK: - life

    /// - Parameter usage: counts this connection already.
    func begin(_ departure: Departure, usage: ExportUsage) {
        precondition(phase == .vacant)
        generation &+= 1
        phase = .open
        file = ring.register(departure.socket)
        session = Session(
            space: departure.space, sizeBytes: departure.sizeBytes,
            isReadOnly: departure.isReadOnly, terms: departure.terms)
        self.usage = usage
        hasProgressed = true
        queuedBytes = -1
        isAtEnd = false
        intake = .header
        expectsBulk = false
        freeRequests = RequestList()
        for record in 0..<requests.count {
            requests[record] = RequestRecord()
            freeRequests.append(Int16(record), requests)
        }
        activeRequests = 0
        starved = RequestList()
        yielded = RequestList()
        deferred = RequestList()
        streamRequest = -1
        staging.append(departure.unread)
        markReady()
    }

    func markReady() {
        guard !isReady else { return }
        isReady = true
        shared.ready.append(index)
    }

    /// Waits for memory or pieces that others hold, or for the next turn.
    func waitForShared() {
        guard !isWaiting else { return }
        isWaiting = true
        waitsForMemory = shared.turnShare > 0
        shared.waiting.append(index)
    }

    /// Does what has become possible.
    ///
    /// - Returns: whether the connection is over and its slot vacant.
    func turn() -> Bool {
        if hasProgressed { lastProgressNs = shared.nowNs }
        hasProgressed = false
        switch phase {
        case .vacant: return false
        case .open, .draining: transmissionTurn()
        case .broken: break
        }
        return phase == .broken && vacateIfIdle()
    }

    private func transmissionTurn() {
        issueYielded()
        issueStarved()
        if phase == .open {
            parse()
            if isAtEnd && wantsInput { drain() }
        }
        send()
        switch phase {
        case .open: receive()
        case .draining:
            abandonWrite()
            if activeRequests == 0 && replies.count == 0 && !isSending && !isReceiving { fail() }
        case .vacant, .broken: break
        }
    }

    /// Receives nothing more; ends once everything under way is answered.
    func drain() {
        guard phase == .open else { return }
        phase = .draining
        // A receive in flight ends with what is there, or with nothing.
        if isReceiving { _ = Glibc.shutdown(file.descriptor, Int32(SHUT_RD)) }
        abandonWrite()
        markReady()
    }

    /// Ends at once. Also the end of every orderly close: the socket has nothing to say then.
    func fail() {
        guard phase != .broken && phase != .vacant else { return }
        phase = .broken
        // Wakes the operations in flight, and tells the client even while the engine holds pieces.
        _ = Glibc.shutdown(file.descriptor, Int32(SHUT_RDWR))
        releaseWaitingPieces()
        markReady()
    }

    /// In `.broken`: takes back what the kernel no longer uses.
    private func vacateIfIdle() -> Bool {
        guard !isReceiving && !isSending else { return false }
        abandonWrite()
        while let piece = replies.popUnsent() {
            if piece >= 0 { release(piece) }
        }
        guard heldPieces == 0 else { return false }
        ring.unregister(file)
        _ = Glibc.close(file.descriptor)
        file = RingFile(descriptor: -1)
        session = nil
        exports.detach(usage)
        usage = ExportUsage()
        requests.forget()
        replies.forget()
        staging.forget()
        phase = .vacant
        return true
    }

    /// Gives up a WRITE whose payload will not be complete. Its earlier pieces stay written: a
    /// client that breaks off in the middle of a request has no say in how much of it arrives.
    private func abandonWrite() {
        guard !isReceiving else { return }
        if writePiece >= 0 {
            release(writePiece)
            writePiece = -1
        }
        guard writeRequest >= 0 else { return }
        let record = writeRequest
        writeRequest = -1
        intake = .header
        requests[Int(record)].isReceiving = false
        requests[Int(record)].nextOffset = requests[Int(record)].endOffset
        // Nobody waits for the answer.
        requests[Int(record)].isAnswered = true
        releaseIfDone(record)
    }

    // MARK: - what the kernel reports

    func receiveCompleted(_ result: Int32) {
        isReceiving = false
        markReady()
        if result <= 0 {
            if result == -EAGAIN || result == -EINTR { return }
            // The end of the stream is an orderly one only between requests; `drain` sees to both.
            isAtEnd = true
            if result < 0 { fail() }
            return
        }
        hasProgressed = true
        let direct = min(Int(result), directBytes)
        writeFilledBytes += direct
        directBytes = 0
        staging.received(Int(result) - direct)
    }

    func sendCompleted(_ result: Int32) {
        isSending = false
        markReady()
        if result <= 0 {
            if result != -EAGAIN && result != -EINTR { fail() }
            return
        }
        hasProgressed = true
        guard phase != .broken else { return }
        replies.advance(Int(result))
        while let piece = replies.popSent() {
            if piece >= 0 { pieceSent(piece) }
        }
    }
}
