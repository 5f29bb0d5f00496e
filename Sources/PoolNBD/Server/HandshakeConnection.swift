import Glibc
import PoolDevices

/// One client between accept and the end of its handshake.
///
///     .vacant --accept--> .talking --GO or EXPORT_NAME answered, the answer sent whole--> leaves
///        ^                    |
///        |        error, end, deadline, too many others
///        |                    v
///        +--kernel done--- .ending
///
/// A client that leaves takes its socket with it; the slot is vacant at once, for at most one
/// operation is in the kernel's hands, and none when it leaves. Memory: its staging, and the answer
/// to one option.
@safe final class HandshakeConnection {
    enum Phase { case vacant, talking, ending }

    enum Outcome {
        case stays
        /// The slot is vacant, the socket closed.
        case ended
        /// The slot is vacant, the socket somebody else's.
        case leaves(Departure)
    }

    private let index: UInt16
    private let ring: Ring
    private let exports: ExportTable

    private(set) var phase = Phase.vacant
    private(set) var generation: UInt32 = 0
    /// The order in which clients came.
    private(set) var serial: UInt64 = 0
    var isReady = false
    /// When it was accepted, and last sent or took a byte. `.max`: not known before its next turn.
    private(set) var acceptedNs = UInt64.max
    private(set) var progressNs: UInt64 = 0
    private var hasProgressed = false

    private var file = RingFile(descriptor: -1)
    private var handshake = Handshake()
    private var staging = Staging(capacity: NBDLimits.handshakeStagingBytes)
    private var output = HandshakeOutput()
    private var isReceiving = false
    private var isSending = false
    private var isAtEnd = false
    /// Nothing more is taken in; it ends once its last answer is sent.
    private var isOver = false
    /// What it chose; counted as a connection of it.
    private var export: Export?

    init(index: UInt16, ring: Ring, exports: ExportTable) {
        self.index = index
        self.ring = ring
        self.exports = exports
    }

    func begin(socket: Int32, serial: UInt64) {
        precondition(phase == .vacant)
        generation &+= 1
        self.serial = serial
        phase = .talking
        file = ring.register(socket)
        acceptedNs = .max
        progressNs = .max
        hasProgressed = false
        handshake = Handshake()
        (isAtEnd, isOver) = (false, false)
        output.load(Handshake.greeting)
    }

    /// Does what has become possible.
    func turn(nowNs: UInt64) -> Outcome {
        if acceptedNs == .max { (acceptedNs, progressNs) = (nowNs, nowNs) }
        if hasProgressed { progressNs = nowNs }
        hasProgressed = false
        switch phase {
        case .vacant: return .stays
        case .talking:
            if let departure = talk() { return .leaves(departure) }
        case .ending: break
        }
        guard phase == .ending, !isReceiving, !isSending else { return .stays }
        vacate()
        _ = Glibc.close(file.descriptor)
        return .ended
    }

    /// Ends at once.
    func fail() {
        guard phase == .talking else { return }
        phase = .ending
        _ = Glibc.shutdown(file.descriptor, Int32(SHUT_RDWR))
    }

    /// Steps until the client or the kernel has to do something first.
    private func talk() -> Departure? {
        while phase == .talking && !isSending && !isReceiving {
            if let rest = unsafe output.rest {
                isSending = true
                unsafe ring.send(file, rest.start, count: rest.count, userData: userData(.send))
                return nil
            }
            if let export { return leave(export) }
            if isOver {
                fail()
            } else if !takeStep() {
                if isAtEnd { fail() } else { receive() }
            }
        }
        return nil
    }

    /// - Returns: false where more input is needed.
    private func takeStep() -> Bool {
        var bytes: [UInt8] = []
        let step = staging.withBytes { handshake.step($0, exports: exports, output: &bytes) }
        staging.consume(step.consumedBytes)
        output.load(bytes)
        switch step.outcome {
        case .needsInput: return step.consumedBytes > 0 && staging.count > 0
        case .answered: break
        case .ends: isOver = true
        case .begins(let export):
            self.export = export
            exports.attach(export.usage)
        }
        return true
    }

    private func receive() {
        let room = unsafe staging.room()
        guard unsafe room.count > 0 else { return fail() }
        isReceiving = true
        unsafe ring.receive(file, into: room.start, count: room.count, userData: userData(.receive))
    }

    private func leave(_ export: Export) -> Departure {
        let unread = staging.withBytes { $0.array($0.indices) }
        let departure = Departure(
            socket: file.descriptor, export: export, terms: handshake.terms, unread: unread)
        vacate()
        return departure
    }

    /// The caller sees to the descriptor.
    private func vacate() {
        ring.unregister(file)
        output.removeAll()
        staging.forget()
        if let export { exports.detach(export.usage) }
        export = nil
        phase = .vacant
    }

    // MARK: - what the kernel reports

    enum Operation: UInt64 {
        case receive = 2
        case send = 3
    }

    private func userData(_ operation: Operation) -> UInt64 {
        RingUserData.make(
            .connection,
            operation.rawValue << 48 | UInt64(index) << 32 | UInt64(generation))
    }

    func completed(_ operation: Operation, _ result: Int32) {
        switch operation {
        case .receive: isReceiving = false
        case .send: isSending = false
        }
        if result == -EAGAIN || result == -EINTR { return }
        guard result > 0 else {
            // The end of the stream is not an error while options wait to be answered.
            isAtEnd = true
            if result < 0 || operation == .send { fail() }
            return
        }
        hasProgressed = true
        switch operation {
        case .receive: staging.received(Int(result))
        case .send: output.sent(Int(result))
        }
    }
}
