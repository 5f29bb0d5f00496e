/// One change of a space. Kinds 64 and above are reserved.
///
///     record:   | kind 1 | flags 1 (zero) | length 2 | ... to a multiple of 8 bytes
///     map:      | 1  0 32   | group 4     | grain 8 | phys. grain 3, state 1 | zero 4 | birth 8 |
///     unmap:    | 2  0 16   | zero 4      | grain 8 |
///     values:   | 3  0 16+8n| count 2, zero 2 | first block 8 | n times: old 4, new 4 |
///     mark:     | 4  0 16   | zero 4      | region 8 |
///     clean:    | 5  0 16   | zero 4      | region 8 |
///     group+:   | 6  0 8+.. | zero 4      | group record without the zeros behind its slabs |
///     group-:   | 7  0 8    | group 4     |
///     piece:    | 8  0 56   | slot 4      | directory entry 48 |
///     activate: | 9  0 16   | zero 4      | epoch 8 |
///     move:     | 10 0 32   | as map      |
///     piece-:   | 11 0 8    | slot 4      |
///     missed:   | 12 0 16   | zero 4      | region 8 |
///     caught up:| 13 0 8    | zero 4      |
///     rewrite:  | 14 0 64+8n| group 4     | grain 8 | phys. grain 3, state 1 | n 2, zero 2 | birth 8 |
///               | a bit for each block 32 | n times: old 4, new 4 |
///     cached:   | 15 0 24+8n| count 2, zero 2 | first block 8 | slot 4, zero 4 | n times: old 4, new 4 |
///
/// Invariants:
/// 1. A record holds absolute values: replaying it twice is replaying it once.
/// 2. `values` stays within one grain; a `map` record has made its blocks UNWRITTEN before it, a
///    `move` record has left them as they were. A `rewrite` is a move and the values of the blocks
///    whose bits are set, both or neither: what lies in the new place has those.
///    Of a space with a write-back cache each says where the blocks that it names lie: in their
///    grain's place, or, `cached`, in as many slots from the first, all of one piece. A block that
///    `cached` gives no value (0) is not named.
/// 3. Grain, block and region numbers are those of a space of at most 2^60 bytes, so arithmetic on
///    them cannot overflow; whether they are inside this space is the reader's to check.
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
    /// The grain lies elsewhere now, its blocks' values are the same.
    case move(grain: UInt64, entry: MapEntry)
    /// The place in the directory is free, its piece is given back.
    case pieceReleased(slot: UInt32)
    /// A disk that is away lacks something of the region.
    case missed(region: UInt64)
    /// No disk is away any more, and none lacks anything of any region.
    case caughtUp
    /// The grain lies elsewhere now, where some of its blocks have new values.
    case rewrite(grain: UInt64, entry: MapEntry, RewrittenBlocks)
    /// A run of blocks within one grain lies in slots of the cache, and has new values there.
    case cached(firstBlock: UInt64, slot: UInt32, changes: [ValueChange])
}

/// Blocks of one grain, ascending, each with its values.
public struct RewrittenBlocks: Hashable, Sendable {
    public private(set) var blocks: [UInt8] = []
    public private(set) var changes: [ValueChange] = []

    public init() {}

    /// - Parameter block: within the grain, behind all that are there.
    public mutating func append(_ block: Int, _ change: ValueChange) {
        precondition(block < Units.blocksPerGrain && block > blocks.last.map { Int($0) } ?? -1)
        blocks.append(UInt8(block))
        changes.append(change)
    }

    /// Those of others that are wanted, behind all that are there.
    public mutating func append(_ others: RewrittenBlocks, where isWanted: (_ block: Int) -> Bool) {
        for (block, change) in zip(others.blocks, others.changes) where isWanted(Int(block)) {
            append(Int(block), change)
        }
    }

    public var count: Int { blocks.count }

    /// The same blocks with other new values.
    public func mapValues(_ new: (_ block: Int, ValueChange) -> UInt32) -> RewrittenBlocks {
        var mapped = self
        for position in changes.indices {
            mapped.changes[position].new = new(Int(blocks[position]), changes[position])
        }
        return mapped
    }
}

public struct ValueChange: Hashable, Sendable {
    public var old: UInt32
    public var new: UInt32
    public init(old: UInt32, new: UInt32) {
        self.old = old
        self.new = new
    }
}

/// The head of one journal batch: what is written, checked and replayed as one.
///
///      0 ..... header (owner: lineage and epoch, sequence, kind: journal, length: whole batch)
///     64       68       72          80         88         92        96
///     +--------+--------+-----------+----------+----------+---------+--------------------+
///     | prev.  | record | confirmed | tail     | tail     | record  | records, zeros to  |
///     | crc32c | count  | sequence  | sequence | block    | bytes   | a multiple of 4096 |
///     +--------+--------+-----------+----------+----------+---------+--------------------+
///
/// Invariants:
/// 1. The checksum covers the whole batch, padding too: a batch counts whole or not at all.
/// 2. Sequences have no gaps, and each batch names the checksum of its predecessor: a batch of an
///    earlier lap of the journal, or of a history that lost, never follows.
/// 3. No batch before `tailSequence` is needed any more; no batch overwrites one that still is.
/// 4. A batch up to `confirmedSequence` is on every current copy: when none has it the space is
///    damaged, not shorter.
///
/// Write order: whatever the records make readable is flushed; the batch on every current copy;
/// flush; only then acknowledgements that depend on it. A crash in between leaves a torn batch,
/// which fails its checksum, or a whole one on some copies, which recovery copies to the others.
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
