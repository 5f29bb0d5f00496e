import PoolFormat

/// Positions in a space's journal: a ring of 4 KiB blocks over 1 MiB pieces, mirrored.
///
/// 1. Batches are numbered without gaps; each names its predecessor by checksum.
/// 2. A batch lies within one piece; blocks skipped at a piece's end belong to the batch behind.
/// 3. A batch is written only when everything before it is confirmed, or lies in the same commit.
/// 4. Blocks are reused only behind the tail: the oldest batch with a change that no flushed
///    checkpoint page holds.
struct Journal {
    static let blocksPerPiece = Units.pieceBytes / Units.blockBytes
    static let batchBlocks = 64

    struct Entry {
        var sequence: UInt64
        var firstBlock: Int
        var blocks: Int
        /// Blocks skipped in front of it, to the next piece.
        var skipped: Int
    }

    /// One list of copies for each piece.
    private(set) var pieces: [[SlabGroups.Base]]
    /// The devices its copies lie on.
    private(set) var devices = DeviceSet()
    private(set) var nextSequence: UInt64
    private(set) var nextBlock: Int
    /// Where the oldest batch begins that the newest names as its tail.
    private var namedTailBlock: Int
    private(set) var previousChecksum: UInt32
    var confirmedSequence: UInt64
    private var entries: [Entry] = []
    private var first = 0
    private(set) var usedBlocks = 0

    var blockCount: Int { pieces.count * Self.blocksPerPiece }
    var freeBlocks: Int { blockCount - usedBlocks }

    init(
        pieces: [[SlabGroups.Base]], nextSequence: UInt64, nextBlock: Int,
        previousChecksum: UInt32, live: [Entry]
    ) {
        self.pieces = pieces
        for base in pieces.joined() where base.device != DiskPlaces.nowhere {
            devices.insert(base.device)
        }
        self.nextSequence = nextSequence
        self.nextBlock = nextBlock
        self.previousChecksum = previousChecksum
        confirmedSequence = nextSequence - 1
        entries = live
        namedTailBlock = live.first?.firstBlock ?? nextBlock
        usedBlocks = live.reduce(0) { $0 + $1.blocks + $1.skipped }
    }

    /// A disk has come back, as another device.
    mutating func find(_ disk: DiskNumber, on device: DeviceIndex) {
        replacePieces(pieces.map { $0.found(disk, on: device) })
    }

    /// Its copies lie elsewhere from here on, its blocks as they were.
    mutating func replacePieces(_ pieces: [[SlabGroups.Base]]) {
        self.pieces = pieces
        devices = DeviceSet()
        for base in pieces.joined() where base.device != DiskPlaces.nowhere {
            devices.insert(base.device)
        }
    }

    /// The oldest batch that replay would need: none older is behind the tail.
    var tail: (sequence: UInt64, block: Int) {
        first < entries.count
            ? (entries[first].sequence, entries[first].firstBlock) : (nextSequence, nextBlock)
    }

    /// The tail that a batch of `blocks` names when it is written now: itself, where none is needed.
    func newTail(blocks: Int) -> (sequence: UInt64, block: Int) {
        let tail = tail
        return tail.sequence == nextSequence
            ? (tail.sequence, place(blocks: blocks).firstBlock) : tail
    }

    /// The blocks of a piece that replay would read now, ascending: from the tail that the newest
    /// batch names, which may have moved on since, to its end.
    func liveBlocks(ofPiece piece: Int) -> [Int] {
        let live = (nextBlock - namedTailBlock + blockCount - 1) % blockCount + 1
        return (0..<Self.blocksPerPiece).filter { block in
            let at = piece * Self.blocksPerPiece + block
            return (at - namedTailBlock + blockCount) % blockCount < live
        }
    }

    /// Whether batches of `bytes` in all surely fit, whatever is skipped at the pieces' ends.
    func hasRoom(bytes: Int) -> Bool {
        let blocks = (bytes + Units.blockBytes - 1) / Units.blockBytes
        return freeBlocks > blocks + blocks / 2 + 2 * Self.batchBlocks
    }

    /// Where a batch of `blocks` begins, when it is written now.
    func place(blocks: Int) -> (firstBlock: Int, skipped: Int) {
        precondition(blocks <= Self.batchBlocks)
        let left = Self.blocksPerPiece - nextBlock % Self.blocksPerPiece
        let skipped = left < blocks ? left : 0
        return ((nextBlock + skipped) % blockCount, skipped)
    }

    mutating func append(blocks: Int, checksum: UInt32) -> Entry {
        let (firstBlock, skipped) = place(blocks: blocks)
        precondition(freeBlocks >= blocks + skipped, "the journal's reserve was overrun")
        namedTailBlock = newTail(blocks: blocks).block
        let entry = Entry(
            sequence: nextSequence, firstBlock: firstBlock, blocks: blocks, skipped: skipped)
        entries.append(entry)
        usedBlocks += blocks + skipped
        nextSequence += 1
        nextBlock = (firstBlock + blocks) % blockCount
        previousChecksum = checksum
        return entry
    }

    /// Frees the blocks of every batch below `sequence`.
    mutating func retire(below sequence: UInt64) {
        while first < entries.count, entries[first].sequence < sequence {
            usedBlocks -= entries[first].blocks + entries[first].skipped
            first += 1
        }
        if first > 1024 {
            entries.removeFirst(first)
            first = 0
        }
    }

    /// The copies of a block of the journal.
    func addresses(ofBlock block: Int) -> [SlabGroups.Base] {
        pieces[block / Self.blocksPerPiece].map {
            SlabGroups.Base(
                device: $0.device, disk: $0.disk,
                offsetBytes: $0.offsetBytes
                    + UInt64(block % Self.blocksPerPiece * Units.blockBytes))
        }
    }
}
