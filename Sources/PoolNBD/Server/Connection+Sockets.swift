import Glibc
import PoolDevices

/// What a connection asks of the kernel.
extension Connection {
    enum Operation: UInt64 {
        case receive = 0
        case send
    }

    private func userData(_ operation: Operation) -> UInt64 {
        RingUserData.make(
            .connection,
            operation.rawValue << 48 | UInt64(index) << 32 | UInt64(generation))
    }

    /// Receives what the intake expects, if there is room for it.
    func receive() {
        guard !isReceiving && !isAtEnd else { return }
        var vectorCount = 0
        directBytes = 0
        if phase == .open {
            guard wantsInput else { return }
            switch intake {
            case .header:
                guard canTakeRequest else { return }
            case .payload:
                let piece = shared.pieces[Int(writePiece)]
                directBytes = Int(piece.lengthBytes) - writeFilledBytes
                let target = unsafe shared.arena.bytes(
                    piece.dataOffset + writeFilledBytes, directBytes)
                unsafe vectors[0] = unsafe iovec(
                    iov_base: target.baseAddress, iov_len: directBytes)
                vectorCount = 1
                lastProgressNs = shared.nowNs
            case .discard: break
            }
        }
        let room = unsafe staging.room()
        var window = unsafe room.count
        if expectsBulk && !isDiscarding {
            window = min(window, max(0, RequestHeader.bytes - staging.count))
        }
        guard window > 0 else { return }
        unsafe vectors[vectorCount] = unsafe iovec(iov_base: room.start, iov_len: window)
        vectorCount += 1
        unsafe messages[0].msg_iov = vectors
        unsafe messages[0].msg_iovlen = vectorCount
        isReceiving = true
        unsafe ring.receiveMessage(file, messages, userData: userData(.receive))
    }

    private var isDiscarding: Bool {
        switch intake {
        case .header, .payload: false
        case .discard: true
        }
    }

    /// Sends as much of what is queued as one message should carry.
    func send() {
        guard !isSending && replies.count > 0 && (phase == .open || phase == .draining) else {
            return
        }
        let byteCount = unsafe replies.fill(&messages[1], shared.arena.baseAddress)
        precondition(byteCount > 0)
        isSending = true
        lastProgressNs = shared.nowNs
        unsafe ring.sendMessage(file, messages + 1, userData: userData(.send))
        watchSend()
    }

    /// Whether the client has taken anything since this was last asked: a send completes only with
    /// its last byte, which may take a slow client long.
    func hasClientTakenBytes() -> Bool {
        var queued: Int32 = 0
        guard unsafe ioctl(file.descriptor, UInt(TIOCOUTQ), &queued) == 0,
            queued != queuedBytes
        else { return false }
        queuedBytes = queued
        lastProgressNs = shared.nowNs
        return true
    }

    /// Should every client fall silent while this send goes nowhere, somebody has to look: a
    /// wake-up that is renewed only while there are sends costs less than a deadline for each.
    private func watchSend() {
        guard shared.nowNs >= shared.wakesAtNs else { return }
        shared.wakesAtNs = shared.nowNs + NBDLimits.sendWatchNs
        ring.timeout(afterNs: NBDLimits.sendWatchNs, userData: RingUserData.make(.timer, 0))
    }
}
