/// The one seam between the engine and the world: plain values, in batches, both ways.
///
/// The engine appends ``DeviceOperation`` values to ``Engine/operations``; the driver (a ring over
/// real disks, or the simulator's model) takes them in order, carries them out in any order, and
/// hands back one ``DeviceCompletion`` for each.

/// A device the driver has opened for the engine; an index the driver chose, stable while open.
public struct DeviceIndex: Hashable, Sendable, Comparable {
    public var rawValue: UInt16
    public init(_ rawValue: UInt16) { self.rawValue = rawValue }
    public static func < (a: DeviceIndex, b: DeviceIndex) -> Bool { a.rawValue < b.rawValue }
}

/// What the driver knows of a device when it hands it to the engine.
public struct DeviceDescription: Sendable {
    public var index: DeviceIndex
    public var sizeBytes: UInt64
    /// 512 or 4096: the unit a power cut keeps or loses whole. Every operation is aligned to it.
    public var sectorBytes: UInt32
    /// Whether ``DeviceOperation/Kind/discard`` can give space back. A refusal is still handled.
    public var supportsDiscard: Bool
    public init(index: DeviceIndex, sizeBytes: UInt64, sectorBytes: UInt32, supportsDiscard: Bool) {
        self.index = index
        self.sizeBytes = sizeBytes
        self.sectorBytes = sectorBytes
        self.supportsDiscard = supportsDiscard
    }
}

/// One operation on one device.
public struct DeviceOperation: Sendable {
    public enum Kind: UInt8, Sendable {
        case read
        case write
        /// Makes durable every write of this device that had completed when this was submitted. Once
        /// one has failed, whichever shard had asked for it, every other one fails that has not ended
        /// before, until the device is opened anew: what it was to make durable may be lost.
        case flush
        /// Gives the range back; what it reads as afterwards is undefined, never relied upon.
        case discard
    }

    public var kind: Kind
    public var device: DeviceIndex
    /// Comes back in the completion; unique among operations in flight.
    public var token: UInt32
    public var offsetBytes: UInt64
    /// 0 for a flush. A read or write is at most 1 MiB.
    public var lengthBytes: UInt64
    /// Where the bytes are or go, from the start of the ``BufferArena``; 4 KiB aligned.
    public var bufferOffset: Int

    public init(
        kind: Kind, device: DeviceIndex, token: UInt32, offsetBytes: UInt64, lengthBytes: UInt64,
        bufferOffset: Int
    ) {
        self.kind = kind
        self.device = device
        self.token = token
        self.offsetBytes = offsetBytes
        self.lengthBytes = lengthBytes
        self.bufferOffset = bufferOffset
    }
}

public enum DeviceStatus: UInt8, Sendable {
    case ok
    /// The device failed the operation, or moved fewer bytes than asked.
    case ioError
    /// The device cannot do this kind of operation (a discard): not a failure of the device.
    case unsupported
    /// The engine was stopped (a simulated power cut, a shutdown): nothing is known of the outcome.
    case aborted
}

public struct DeviceCompletion: Sendable {
    public var token: UInt32
    public var status: DeviceStatus
    public init(token: UInt32, status: DeviceStatus) {
        self.token = token
        self.status = status
    }
}
