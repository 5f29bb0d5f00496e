/// What one space has acknowledged and not made durable yet, in memory that outlives the process
/// but not the machine: a ring of journal records, in the order they happened.
///
///      0          8         16        24        32        40         48        64
///     +----------+---------+---------+---------+---------+----------+---------+-------------+
///     | pldrlog1 | lineage | epoch   | heir    | start   | sequence | pool    | entries ... |
///     +----------+---------+---------+---------+---------+----------+---------+-------------+
///     entry: | crc32c 4 of what follows | ordinal 4 | journal record, a multiple of 8 |
///            The record's flags: 1 where the change was on its way to the disks only.
///     start: offset of the first entry 4 (low), its ordinal 4
///
/// Invariants:
/// 1. From `start` on, entries follow each other with consecutive ordinals; what does not verify,
///    or has another ordinal, is the end. An entry that was being written when the process ended
///    is none, and one of an earlier round never continues a later one.
/// 2. An entry lies in one piece: where the end of the memory is too near, it is at offset 64.
/// 3. `start` is one word, moved over entries only once their changes are durable elsewhere.
/// 4. It speaks of the journal whose newest batch is of an epoch from `epoch` to `heir`: of the one
///    that was written when the process ended, or of one that took over what is here and did not
///    get to its end. A host that had the space in between is seen by its epoch.
/// 5. That batch is at least number `sequence`: on an older copy of the disks nothing here is true.
///
/// Nothing here is meant for another machine, or for the same one started anew: fields are in the
/// byte order of the other structures all the same, and every byte may be foreign.
@safe
public struct RestartLog {
    public static let headerBytes = 64
    private static let magic: UInt64 = 0x3167_6f6c_7264_6c70
    private static let entryHeadBytes = 8
    private static let intentFlag: UInt8 = 1

    /// Whose it is.
    public struct Owner: Hashable, Sendable {
        public var pool: PoolUUID
        public var lineage: Lineage
        public init(pool: PoolUUID, lineage: Lineage) {
            self.pool = pool
            self.lineage = lineage
        }
    }

    public struct Entry: Hashable, Sendable {
        public var record: JournalRecord
        /// It was not acknowledged: what a block may hold, if it does not hold what was.
        public var isIntent: Bool
        public init(_ record: JournalRecord, isIntent: Bool = false) {
            self.record = record
            self.isIntent = isIntent
        }
    }

    /// Between two entries.
    public struct Position: Equatable, Sendable {
        var offset: UInt32
        var ordinal: UInt32
        fileprivate var word: UInt64 { UInt64(ordinal) << 32 | UInt64(offset) }
    }

    private let bytes: UnsafeMutableRawBufferPointer
    /// Where the next entry begins, unless it has to begin anew.
    public private(set) var end: Position
    private var start: Position
    /// From the first entry to the end, with what was skipped.
    public private(set) var usedBytes = 0

    private static let firstPosition = Position(offset: UInt32(headerBytes), ordinal: 1)

    /// Begins an empty log; whatever the memory held is gone.
    ///
    /// - Parameter bytes: a multiple of 8, at least 4 KiB, less than 4 GiB, aligned to 8.
    @unsafe
    public init(
        emptying bytes: UnsafeMutableRawBufferPointer, owner: Owner, epoch: UInt64
    ) {
        unsafe Self.check(bytes)
        unsafe self.bytes = bytes
        (start, end) = (Self.firstPosition, Self.firstPosition)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
        store(owner.pool.low, at: 56)
        store(owner.pool.high, at: 48)
        store(start.word, at: 32)
        store(epoch, at: 24)
        store(epoch, at: 16)
        store(owner.lineage.rawValue, at: 8)
        store(Self.magic, at: 0)
    }

    /// What another process left here: nil if that is nothing, or nothing of this space, or not of
    /// its journal, whose newest batch has this epoch and number.
    ///
    /// - Parameter bytes: as above.
    @unsafe
    public init?(
        resuming bytes: UnsafeMutableRawBufferPointer, owner: Owner, journalEpoch: UInt64,
        journalSequence: UInt64
    ) {
        unsafe Self.check(bytes)
        unsafe self.bytes = bytes
        (start, end) = (Self.firstPosition, Self.firstPosition)
        guard load(at: 0) == Self.magic, load(at: 8) == owner.lineage.rawValue,
            load(at: 48) == owner.pool.high, load(at: 56) == owner.pool.low,
            load(at: 16) <= journalEpoch, journalEpoch <= load(at: 24),
            load(at: 40) <= journalSequence
        else { return nil }
        let word = load(at: 32)
        let offset = UInt32(truncatingIfNeeded: word)
        guard offset % 8 == 0, Int(offset) >= Self.headerBytes, Int(offset) <= bytes.count
        else { return nil }
        start = Position(offset: offset, ordinal: UInt32(truncatingIfNeeded: word >> 32))
        end = start
    }

    private static func check(_ bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= 4096 && bytes.count % 8 == 0)
        precondition(bytes.count < Int(UInt32.max))
        precondition(UInt(bitPattern: bytes.baseAddress) % 8 == 0)
    }

    private func store(_ value: UInt64, at offset: Int) {
        unsafe bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
    }

    private func load(at offset: Int) -> UInt64 {
        UInt64(littleEndian: unsafe bytes.load(fromByteOffset: offset, as: UInt64.self))
    }

    // MARK: - taking over

    /// Whose changes these are.
    public var epoch: UInt64 { load(at: 16) }

    /// From now on a journal that `epoch` has begun is one that was given what is here.
    public func setHeir(epoch: UInt64) { store(epoch, at: 24) }

    /// Everything from the start to the end.
    public func readAll() -> [Entry] {
        var entries: [Entry] = []
        var at = start
        while let (entry, next) = entry(from: at) {
            entries.append(entry)
            at = next
            // A ring that continues for ever would be one entry read twice.
            if unsafe entries.count > bytes.count / Self.entryHeadBytes { break }
        }
        return entries
    }

    /// The entry that begins at a position, or at the front of the memory.
    private func entry(from position: Position) -> (Entry, Position)? {
        entry(at: position)
            ?? entry(at: Position(offset: UInt32(Self.headerBytes), ordinal: position.ordinal))
    }

    private func entry(at position: Position) -> (Entry, Position)? {
        let offset = Int(position.offset)
        let head = Self.entryHeadBytes
        guard unsafe offset + head + JournalRecord.headBytes <= bytes.count else { return nil }
        let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset...])
        let checksum = UInt32(littleEndian: unsafe rest.load(as: UInt32.self))
        let ordinal = UInt32(littleEndian: unsafe rest.load(fromByteOffset: 4, as: UInt32.self))
        let kind = unsafe rest[head]
        let flags = unsafe rest[head + 1]
        let length = Int(
            UInt16(littleEndian: unsafe rest.load(fromByteOffset: head + 2, as: UInt16.self)))
        guard ordinal == position.ordinal, length >= JournalRecord.headBytes, length % 8 == 0,
            flags <= Self.intentFlag, length <= rest.count - head,
            unsafe Checksum.crc32c(UnsafeRawBufferPointer(rebasing: rest[4..<head + length]))
                == checksum
        else { return nil }
        let record = unsafe UnsafeRawBufferPointer(rebasing: rest[head..<head + length])
        var reader = unsafe ByteReader(record, of: .journalBatch, from: 4)
        guard let decoded = try? JournalRecord.decode(kind: kind, from: &reader) else { return nil }
        return (
            Entry(decoded, isIntent: flags == Self.intentFlag),
            Position(offset: UInt32(offset + head + length), ordinal: ordinal &+ 1)
        )
    }

    // MARK: - going on

    /// Bytes that an entry with a record of so many takes.
    public static func entryBytes(recordBytes: Int) -> Int { entryHeadBytes + recordBytes }
    public static let mapEntryBytes = entryBytes(recordBytes: JournalRecord.mapBytes)

    public static func valuesEntryBytes(blocks: Int) -> Int {
        entryBytes(
            recordBytes: JournalRecord.valuesHeadBytes + blocks * JournalRecord.valueBytes)
    }

    public static func rewriteEntryBytes(blocks: Int) -> Int {
        entryBytes(recordBytes: JournalRecord.rewriteBytes(blocks: blocks))
    }

    /// Of so many `cached` records, with so many blocks in all.
    public static func cachedEntriesBytes(runs: Int, blocks: Int) -> Int {
        runs * entryBytes(recordBytes: JournalRecord.cachedHeadBytes)
            + blocks * JournalRecord.valueBytes
    }

    public var capacityBytes: Int { unsafe bytes.count - Self.headerBytes }

    /// Appends the `count` bytes of record that `write` writes. False: there is no room, and nothing
    /// changes.
    @inline(__always)
    private mutating func append(
        _ count: Int, isIntent: Bool = false, _ write: (inout ByteWriter) -> Void
    ) -> Bool {
        let length = Self.entryHeadBytes + count
        let left = unsafe bytes.count - Int(end.offset)
        let beginsAnew = left < length
        let needed = beginsAnew ? left + length : length
        guard usedBytes + needed <= capacityBytes else { return false }
        let offset = beginsAnew ? Self.headerBytes : Int(end.offset)
        let entry = unsafe UnsafeMutableRawBufferPointer(
            rebasing: bytes[offset..<offset + length])
        var writer = unsafe ByteWriter(entry, at: 4)
        writer.u32(end.ordinal)
        write(&writer)
        if isIntent { unsafe entry[Self.entryHeadBytes + 1] = Self.intentFlag }
        let checksum = unsafe Checksum.crc32c(UnsafeRawBufferPointer(rebasing: entry[4...]))
        unsafe entry.storeBytes(of: checksum.littleEndian, as: UInt32.self)
        end = Position(offset: UInt32(offset + length), ordinal: end.ordinal &+ 1)
        usedBytes += needed
        return true
    }

    public mutating func append(_ record: JournalRecord) -> Bool {
        append(record.encodedBytes) { record.encode(into: &$0) }
    }

    /// A `values` record: 1 to 256 blocks from `firstBlock`, all of one grain.
    public mutating func appendValues(
        firstBlock: UInt64, changes: UnsafeBufferPointer<ValueChange>, isIntent: Bool = false
    ) -> Bool {
        let bytes = JournalRecord.valuesHeadBytes + changes.count * JournalRecord.valueBytes
        return append(bytes, isIntent: isIntent) { writer in
            unsafe JournalRecord.encodeValues(
                firstBlock: firstBlock, changes: changes, into: &writer)
        }
    }

    /// A `cached` record: likewise, with as many slots of one piece from `slot`.
    public mutating func appendCached(
        firstBlock: UInt64, slot: UInt32, changes: UnsafeBufferPointer<ValueChange>
    ) -> Bool {
        append(JournalRecord.cachedHeadBytes + changes.count * JournalRecord.valueBytes) { writer in
            unsafe JournalRecord.encodeCached(
                firstBlock: firstBlock, slot: slot, changes: changes, into: &writer)
        }
    }

    /// Everything before `position`, which was once the end, is durable: in the journal's batches up
    /// to number `sequence`, all of which are.
    public mutating func release(to position: Position, sequence: UInt64) {
        store(sequence, at: 40)
        guard position != start else { return }
        store(position.word, at: 32)
        var released = Int(position.offset) - Int(start.offset)
        if released <= 0 { unsafe released += bytes.count - Self.headerBytes }
        usedBytes -= released
        start = position
    }
}
