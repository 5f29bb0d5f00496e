/// What a client (an NBD connection, the simulator's client) asks of a space.
///
/// A request never crosses a grain (1 MiB) boundary: ``GrainPieces`` cuts larger ones; only a
/// ``Kind/blockStatus`` may. Offsets and lengths are multiples of 512. The payload of a read or a
/// write lies in the arena so that block boundaries fall on
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
        /// What lies at the start of the range: the reply's ``SpaceReply/extent``.
        case blockStatus
        /// Brings the range's metadata into memory, so that a read of it costs one disk access.
        case cache
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
    /// Of a ``SpaceRequest/Kind/blockStatus`` that succeeded; empty for everything else.
    public var extent: SpaceExtent
    /// Of a read whose own buffer a slow device still has: the arena's buffer that has taken its
    /// place, of the same size and with the same bytes up to the range's end. It is whose the other
    /// was; that one goes back to the arena by itself.
    public var movedTo: Int?
    public init(
        cookie: UInt64, status: RequestStatus, extent: SpaceExtent = SpaceExtent(),
        movedTo: Int? = nil
    ) {
        self.cookie = cookie
        self.status = status
        self.extent = extent
        self.movedTo = movedTo
    }
}

/// A run of addresses of one kind, from the start of a ``SpaceRequest/Kind/blockStatus``.
///
/// It ends no later than the request. A run of unmapped addresses may span grains, any other ends
/// with its grain, so the next may be of the same kind.
public struct SpaceExtent: Hashable, Sendable {
    public var lengthBytes: UInt32
    /// Room of the pool is taken up for it.
    public var isMapped: Bool
    /// Never written, or trimmed: exact to the 4 KiB block.
    public var readsAsZeros: Bool
    public init(lengthBytes: UInt32 = 0, isMapped: Bool = false, readsAsZeros: Bool = false) {
        self.lengthBytes = lengthBytes
        self.isMapped = isMapped
        self.readsAsZeros = readsAsZeros
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
