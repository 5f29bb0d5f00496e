import Glibc
import PoolEngine

/// What a result of the kernel means for an operation, decided without touching anything.
enum OperationOutcome: Hashable {
    case done
    /// So many bytes were moved; the rest is asked for again.
    case moreAfter(bytes: Int)
    /// Not begun: asked for again, a bounded number of times.
    case retry
    /// The file ended before the range did.
    case endOfFile
    case failed(errno: Int32)

    static let attemptLimit: UInt8 = 8

    /// Of a read or write of which `remainingBytes` were still to be moved.
    ///
    /// Part of a sector moved is a failure: going on inside a sector is not legal with O_DIRECT,
    /// and a sector is what a power cut keeps or loses whole.
    static func ofTransfer(
        result: Int32, remainingBytes: Int, sectorBytes: Int, attempts: UInt8
    ) -> OperationOutcome {
        if result < 0 { return ofError(-result, attempts: attempts) }
        let moved = Int(result)
        if moved == remainingBytes { return .done }
        if moved == 0 { return .endOfFile }
        guard moved < remainingBytes, moved % sectorBytes == 0 else { return .failed(errno: EIO) }
        return .moreAfter(bytes: moved)
    }

    /// Of a flush: nothing about it is ever asked again, a second flush would look clean.
    static func ofFlush(result: Int32) -> OperationOutcome {
        result < 0 ? .failed(errno: -result) : .done
    }

    private static func ofError(_ code: Int32, attempts: UInt8) -> OperationOutcome {
        // The two that say that nothing was begun.
        if code == EAGAIN || code == EINTR, attempts < attemptLimit { return .retry }
        return .failed(errno: code)
    }
}

/// How a device takes ranges back: tried from the first on, each refusal is remembered.
enum DiscardMethod: UInt8 {
    /// `BLOCK_URING_CMD_DISCARD`: block devices, Linux 6.12.
    case blockCommand
    /// fallocate(2) with PUNCH_HOLE: files, and block devices that can write zeroes cheaply.
    case punchHole
    case none

    var next: DiscardMethod {
        switch self {
        case .blockCommand: .punchHole
        case .punchHole, .none: .none
        }
    }

    enum Refusal: Hashable {
        /// Never going to work on this device.
        case method
        /// Not now (a full file system needs a block to free one); nothing is broken.
        case once
        case failure
        case retry
    }

    static func refusal(_ code: Int32, attempts: UInt8) -> Refusal {
        switch code {
        case EOPNOTSUPP, EINVAL, ENOTTY, ENOSYS, EPERM: .method
        case ENOSPC, EDQUOT, ENOMEM, ETXTBSY: .once
        case EAGAIN, EINTR: attempts < OperationOutcome.attemptLimit ? .retry : .failure
        default: .failure
        }
    }
}
