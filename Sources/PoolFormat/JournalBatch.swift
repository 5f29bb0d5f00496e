/// The sizes of a journal batch, and how to tell its length before it is read whole.
public enum JournalBatch {
    public static let headerBytes = 96
    /// Batches start and end on these.
    public static let blockBytes = Units.blockBytes
    public static let maximumBytes = 256 << 10
    /// Most bytes of records in one batch.
    public static let maximumRecordBytes = maximumBytes - headerBytes

    /// The length of the batch whose first 4 KiB these are: a multiple of 4 KiB, at most 256 KiB.
    /// Only a claim: ``BatchDecoder`` verifies it.
    public static func peek(_ firstBlock: UnsafeRawBufferPointer) throws(FormatError) -> Int {
        let (_, claim) = try unsafe PageHeader.peek(
            firstBlock, as: .journalBatch, limit: maximumBytes)
        try check(lengthBytes: claim.lengthBytes)
        return claim.lengthBytes
    }

    static func check(lengthBytes: Int) throws(FormatError) {
        guard lengthBytes >= blockBytes, lengthBytes % blockBytes == 0,
            lengthBytes <= maximumBytes
        else { throw .wrongLength(.journalBatch, found: UInt64(lengthBytes)) }
    }
}

/// Builds one batch in memory that the caller owns, record by record, without allocating.
///
/// It borrows the memory: use it only while that lives. `append...` return false when the batch is
/// full and leave it as it was; `finish` makes it ready to be written; `reset` starts the next.
@safe
public struct BatchWriter {
    private let bytes: UnsafeMutableRawBufferPointer
    private let capacityBytes: Int
    private var writer: ByteWriter
    public private(set) var recordCount: UInt32 = 0

    /// - Parameter bytes: a multiple of 4 KiB; more than 256 KiB of it is not used.
    @unsafe
    public init(_ bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= JournalBatch.blockBytes)
        precondition(bytes.count % JournalBatch.blockBytes == 0)
        unsafe self.bytes = bytes
        capacityBytes = min(bytes.count, JournalBatch.maximumBytes)
        writer = unsafe ByteWriter(bytes, at: JournalBatch.headerBytes)
    }

    public mutating func reset() {
        writer = unsafe ByteWriter(bytes, at: JournalBatch.headerBytes)
        recordCount = 0
    }

    public var isEmpty: Bool { recordCount == 0 }
    /// Bytes of records so far.
    public var recordBytes: Int { writer.offset - JournalBatch.headerBytes }
    public var freeBytes: Int { capacityBytes - writer.offset }

    public mutating func append(_ record: JournalRecord) -> Bool {
        guard record.encodedBytes <= freeBytes else { return false }
        record.encode(into: &writer)
        recordCount += 1
        return true
    }

    /// A `values` record: 1 to 256 blocks from `firstBlock`, all of one grain.
    public mutating func appendValues(
        firstBlock: UInt64, changes: UnsafeBufferPointer<ValueChange>
    ) -> Bool {
        let needed = JournalRecord.valuesHeadBytes + changes.count * JournalRecord.valueBytes
        guard needed <= freeBytes else { return false }
        unsafe JournalRecord.encodeValues(
            firstBlock: firstBlock, changes: changes, into: &writer)
        recordCount += 1
        return true
    }

    /// A `cached` record: likewise, with as many slots of one piece from `slot`.
    public mutating func appendCached(
        firstBlock: UInt64, slot: UInt32, changes: UnsafeBufferPointer<ValueChange>
    ) -> Bool {
        let needed = JournalRecord.cachedHeadBytes + changes.count * JournalRecord.valueBytes
        guard needed <= freeBytes else { return false }
        unsafe JournalRecord.encodeCached(
            firstBlock: firstBlock, slot: slot, changes: changes, into: &writer)
        recordCount += 1
        return true
    }

    public mutating func appendMap(grain: UInt64, entry: MapEntry) -> Bool {
        appendMap(.map, grain, entry)
    }

    public mutating func appendMove(grain: UInt64, entry: MapEntry) -> Bool {
        appendMap(.move, grain, entry)
    }

    private mutating func appendMap(
        _ kind: RecordKind, _ grain: UInt64, _ entry: MapEntry
    ) -> Bool {
        guard JournalRecord.mapBytes <= freeBytes else { return false }
        JournalRecord.encodeMap(kind, grain: grain, entry: entry, into: &writer)
        recordCount += 1
        return true
    }

    public mutating func appendUnmap(grain: UInt64) -> Bool {
        precondition(grain < JournalRecord.grainLimit)
        return appendNumber(.unmap, grain)
    }

    public mutating func appendMark(region: UInt64) -> Bool {
        precondition(region < JournalRecord.regionLimit)
        return appendNumber(.mark, region)
    }

    public mutating func appendClean(region: UInt64) -> Bool {
        precondition(region < JournalRecord.regionLimit)
        return appendNumber(.clean, region)
    }

    private mutating func appendNumber(_ kind: RecordKind, _ number: UInt64) -> Bool {
        guard JournalRecord.numberBytes <= freeBytes else { return false }
        JournalRecord.encodeNumber(kind, number, into: &writer)
        recordCount += 1
        return true
    }

    /// Pads, puts the header in front and checksums the whole. The header's `recordBytes` and
    /// `recordCount` are the writer's own, whatever it says.
    ///
    /// - Returns: how many bytes to write, and the checksum that the next batch names.
    public mutating func finish(_ header: BatchHeader) -> (bytes: Int, checksum: UInt32) {
        let recordBytes = self.recordBytes
        let block = JournalBatch.blockBytes
        let lengthBytes = (writer.offset + block - 1) / block * block
        writer.zeros(lengthBytes - writer.offset)
        var head = unsafe ByteWriter(bytes, at: PageHeader.bytes)
        head.u32(header.previousChecksum)
        head.u32(recordCount)
        head.u64(header.confirmedSequence)
        head.u64(header.tailSequence)
        head.u32(header.tailBlock)
        head.u32(UInt32(recordBytes))
        let page = PageHeader(
            structure: .journalBatch, owner: .space(header.lineage, epoch: header.epoch),
            sequence: header.sequence, index: 0, kind: PieceKind.journal.rawValue)
        let checksum = unsafe page.seal(bytes, lengthBytes: lengthBytes)
        return (lengthBytes, checksum)
    }
}
