/// One change of a space. Kinds 64 and above are reserved: redo, cached data, invalidation, missed.
public enum JournalRecord: Hashable, Sendable {
    /// The grain is mapped afresh: its 256 blocks are UNWRITTEN.
    case map(grain: UInt64, entry: MapEntry)
    /// The grain is unmapped: it reads as zeros, its physical grain is free.
    case unmap(grain: UInt64)
    /// A run of blocks within one grain: absolute new values, with the ones they replace.
    case values(firstBlock: UInt64, changes: [ValueChange])
    /// The region may differ between copies, or from its values, after a crash.
    case mark(region: UInt64)
    case clean(region: UInt64)
    case groupAdded(GroupRecord)
    case groupRemoved(id: UInt32)
    case pieceGranted(slot: UInt32, DirectoryEntry)
    /// First record of an epoch.
    case activation(epoch: UInt64)
}

public struct ValueChange: Hashable, Sendable {
    public var old: UInt32
    public var new: UInt32
    public init(old: UInt32, new: UInt32) {
        self.old = old
        self.new = new
    }
}

/// The head of one journal batch.
public struct BatchHeader: Hashable, Sendable {
    public var lineage: Lineage
    public var epoch: UInt64
    /// Batches of a space are numbered without gaps.
    public var sequence: UInt64
    /// CRC32C of the batch before this one: a record names its predecessor.
    public var previousChecksum: UInt32
    /// Highest sequence known durable on every current copy when this was written.
    public var confirmedSequence: UInt64
    /// The oldest batch replay needs, and the 4 KiB block of the journal where it starts.
    public var tailSequence: UInt64
    public var tailBlock: UInt32
    /// Bytes of records behind the header.
    public var recordBytes: UInt32
    public var recordCount: UInt32

    public init(
        lineage: Lineage, epoch: UInt64, sequence: UInt64, previousChecksum: UInt32,
        confirmedSequence: UInt64, tailSequence: UInt64, tailBlock: UInt32, recordBytes: UInt32,
        recordCount: UInt32
    ) {
        self.lineage = lineage
        self.epoch = epoch
        self.sequence = sequence
        self.previousChecksum = previousChecksum
        self.confirmedSequence = confirmedSequence
        self.tailSequence = tailSequence
        self.tailBlock = tailBlock
        self.recordBytes = recordBytes
        self.recordCount = recordCount
    }
}
