/// Reads one journal batch: verified whole when made, then record by record.
///
///     var batch = try unsafe BatchDecoder(bytes, lineage: lineage)
///     while let record = try batch.next() { ... }
///
/// It borrows the bytes: use it only while they live and do not change.
@safe
public struct BatchDecoder {
    public let header: BatchHeader
    /// The batch's own checksum: what its successor names.
    public let checksum: UInt32
    public let lengthBytes: Int
    private let records: UnsafeRawBufferPointer
    private var offset = 0

    /// Verifies header, checksum, lineage and the bounds of every record; a record's content is
    /// verified when it is read.
    ///
    /// - Parameter bytes: at least as many as ``JournalBatch/peek(_:)`` says.
    @unsafe
    public init(
        _ bytes: UnsafeRawBufferPointer, lineage: Lineage
    ) throws(FormatError) {
        // The bounded length first: what lies behind the batch may be megabytes of others.
        let length = try unsafe JournalBatch.peek(bytes)
        guard length <= bytes.count else {
            throw .tooShort(.journalBatch, neededBytes: length, foundBytes: bytes.count)
        }
        let batch = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<length])
        let (page, claim) = try unsafe PageHeader.open(batch, as: .journalBatch)
        let owner = try page.spaceOwner()
        guard owner.lineage == lineage else { throw .wrongOwner(.journalBatch) }
        guard page.kind == PieceKind.journal.rawValue, page.index == 0 else {
            throw .outOfRange(.journalBatch, field: "piece kind", value: UInt64(page.kind))
        }
        var reader = unsafe ByteReader(batch, of: .journalBatch, from: PageHeader.bytes)
        let previousChecksum = try reader.u32()
        let recordCount = try reader.u32()
        let confirmed = try reader.u64()
        let tailSequence = try reader.u64()
        let tailBlock = try reader.u32()
        let recordBytes = try reader.u32()
        header = BatchHeader(
            lineage: lineage, epoch: owner.epoch, sequence: page.sequence,
            previousChecksum: previousChecksum, confirmedSequence: confirmed,
            tailSequence: tailSequence, tailBlock: tailBlock, recordBytes: recordBytes,
            recordCount: recordCount)
        checksum = claim.checksum
        lengthBytes = length
        let end = JournalBatch.headerBytes + Int(recordBytes)
        // Padded to the next block, no further: a batch has one encoding.
        guard end <= length, length - end < JournalBatch.blockBytes else {
            throw .outOfRange(.journalBatch, field: "record bytes", value: UInt64(recordBytes))
        }
        unsafe records = UnsafeRawBufferPointer(rebasing: batch[JournalBatch.headerBytes..<end])
        try checkBounds()
    }

    /// Every record lies within the batch, and there are as many as the header says.
    private func checkBounds() throws(FormatError) {
        var position = 0
        var count: UInt32 = 0
        while unsafe position < records.count {
            position += try head(at: position).lengthBytes
            count += 1
        }
        guard count == header.recordCount else {
            throw .outOfRange(
                .journalBatch, field: "number of records", value: UInt64(header.recordCount))
        }
    }

    private func head(
        at position: Int
    ) throws(FormatError) -> (kind: UInt8, lengthBytes: Int) {
        var reader = unsafe ByteReader(records, of: .journalBatch, from: position)
        let kind = try reader.u8()
        let flags = try reader.u8()
        guard flags == 0 else {
            throw .outOfRange(.journalBatch, field: "record flags", value: UInt64(flags))
        }
        let length = Int(try reader.u16())
        guard length >= JournalRecord.headBytes, length % 8 == 0,
            unsafe length <= records.count - position
        else { throw .outOfRange(.journalBatch, field: "record length", value: UInt64(length)) }
        return (kind, length)
    }

    /// The next record, or nil behind the last.
    public mutating func next() throws(FormatError) -> JournalRecord? {
        guard unsafe offset < records.count else { return nil }
        let (kind, length) = try head(at: offset)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: records[offset..<offset + length])
        offset += length
        var reader = unsafe ByteReader(bytes, of: .journalBatch, from: 4)
        return try JournalRecord.decode(kind: kind, from: &reader)
    }

    /// Whether this batch is the one that comes right after another.
    public func follows(_ previous: BatchHeader, checksum: UInt32) -> Bool {
        header.sequence == previous.sequence &+ 1 && header.previousChecksum == checksum
            && header.epoch >= previous.epoch && header.lineage == previous.lineage
    }
}
