/// What a client (an NBD connection, the simulator's client) asks of a space.
///
/// A request never crosses a grain (1 MiB) boundary: ``GrainPieces`` cuts larger ones. Offsets and
/// lengths are multiples of 512. The payload lies in the arena so that block boundaries fall on
/// page boundaries: byte `offsetBytes` of the space is at
/// `bufferOffset + Int(offsetBytes % 4096)`, `bufferOffset` is 4 KiB aligned, and the buffer holds
/// every 4 KiB block the request touches, whole (the engine fills and uses the edges).
public struct SpaceRequest: Sendable {
    public enum Kind: UInt8, Sendable {
        case read
        case write
        case trim
        /// Reads as zeros afterwards; with ``Flags/noHole`` the range stays allocated.
        case writeZeroes
        /// Makes durable every write acknowledged before it, of every client; no range.
        case flush
    }

    public struct Flags: OptionSet, Sendable {
        public var rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// Force unit access: durable before it is acknowledged.
        public static let fua = Flags(rawValue: 1)
        public static let noHole = Flags(rawValue: 2)
    }

    public var kind: Kind
    public var flags: Flags
    public var space: SpaceHandle
    public var offsetBytes: UInt64
    public var lengthBytes: UInt32
    public var bufferOffset: Int
    /// Comes back in the reply.
    public var cookie: UInt64

    public init(
        kind: Kind, flags: Flags = [], space: SpaceHandle, offsetBytes: UInt64, lengthBytes: UInt32,
        bufferOffset: Int, cookie: UInt64
    ) {
        self.kind = kind
        self.flags = flags
        self.space = space
        self.offsetBytes = offsetBytes
        self.lengthBytes = lengthBytes
        self.bufferOffset = bufferOffset
        self.cookie = cookie
    }
}

/// An open space of one engine: an index with a serial, so that a closed space's handle is refused.
public struct SpaceHandle: Hashable, Sendable {
    public var index: UInt32
    public var serial: UInt32
    public init(index: UInt32, serial: UInt32) {
        self.index = index
        self.serial = serial
    }
}

public enum RequestStatus: UInt8, Sendable {
    case ok
    case ioError
    case noSpace
    case readOnly
    case invalid
    /// The space was closed, or the engine stopped.
    case shutdown
}

public struct SpaceReply: Sendable {
    public var cookie: UInt64
    public var status: RequestStatus
    public init(cookie: UInt64, status: RequestStatus) {
        self.cookie = cookie
        self.status = status
    }
}

/// Cuts a byte range of a space into pieces that each lie within one grain.
public struct GrainPieces: Sequence, IteratorProtocol, Sendable {
    public private(set) var offsetBytes: UInt64
    public private(set) var remainingBytes: UInt64

    public init(offsetBytes: UInt64, lengthBytes: UInt64) {
        self.offsetBytes = offsetBytes
        self.remainingBytes = lengthBytes
    }

    public mutating func next() -> (offsetBytes: UInt64, lengthBytes: UInt32)? {
        guard remainingBytes > 0 else { return nil }
        let grainBytes: UInt64 = 1 << 20
        let piece = Swift.min(remainingBytes, grainBytes - offsetBytes % grainBytes)
        defer {
            offsetBytes += piece
            remainingBytes -= piece
        }
        return (offsetBytes, UInt32(piece))
    }
}
