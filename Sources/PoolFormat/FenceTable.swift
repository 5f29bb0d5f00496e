/// A disk's fence table: for each lineage the lowest epoch that may still write here.
/// Two alternating slots of 64 KiB.
///
///      0 ..... header (owner: pool UUID, index: disk number)
///     64       68       96
///     +--------+--------+-------------------------------------------+
///     | count  | zero   | count entries of 32 bytes, zeros behind   |
///     +--------+--------+-------------------------------------------+ 65536
///     entry:  | lineage 8 | epoch 8 | owner UUID 16 |
///
/// Invariants:
/// 1. A lineage stands here at most once, and never as ``Lineage/none``.
/// 2. A lineage's epoch only grows; the entry goes only when the lineage is destroyed.
///
/// Write order: refuse new writes below the epoch, drain those submitted, write the slot that is
/// not current, flush, then answer. A crash before the flush leaves the older table: the fence was
/// not answered, so nobody relies on it.
public struct FenceTable: Hashable, Sendable {
    public static let slotBytes = 64 << 10
    public static let entryBytes = 32
    static let entriesOffset = 96
    public static let entryLimit = (slotBytes - entriesOffset) / entryBytes

    public var poolUUID: PoolUUID
    public var disk: DiskNumber
    public var sequence: UInt64
    public var entries: [FenceEntry]

    public init(poolUUID: PoolUUID, disk: DiskNumber, sequence: UInt64, entries: [FenceEntry]) {
        self.poolUUID = poolUUID
        self.disk = disk
        self.sequence = sequence
        self.entries = entries
    }

    public func validate() throws(FormatError) {
        guard entries.count <= Self.entryLimit else {
            throw .tooMany(
                .fenceTable, field: "entries", count: entries.count, limit: Self.entryLimit)
        }
        var seen: Set<Lineage> = [.none]
        for entry in entries {
            guard seen.insert(entry.lineage).inserted else {
                throw .duplicate(.fenceTable, field: "lineage", value: entry.lineage.rawValue)
            }
        }
    }

    /// Writes the table into 65,536 bytes.
    public func encode(into slot: UnsafeMutableRawBufferPointer) throws(FormatError) {
        try validate()
        precondition(slot.count == Self.slotBytes)
        var writer = unsafe ByteWriter(slot, at: PageHeader.bytes)
        writer.count(entries.count)
        writer.zeros(Self.entriesOffset - writer.offset)
        for entry in entries {
            writer.u64(entry.lineage.rawValue)
            writer.u64(entry.epoch)
            writer.uuid(entry.owner)
        }
        writer.fillWithZeros()
        let header = PageHeader(
            structure: .fenceTable, owner: .pool(poolUUID), sequence: sequence,
            index: UInt64(disk.rawValue))
        unsafe header.seal(slot, lengthBytes: Self.slotBytes)
    }

    /// Reads a table from 65,536 bytes. The caller compares pool and disk with the label's.
    public static func decode(_ slot: UnsafeRawBufferPointer) throws(FormatError) -> FenceTable {
        let (header, claim) = try unsafe PageHeader.open(slot, as: .fenceTable)
        guard claim.lengthBytes == slotBytes else {
            throw .wrongLength(.fenceTable, found: UInt64(claim.lengthBytes))
        }
        guard let disk = UInt16(exactly: header.index) else {
            throw .outOfRange(.fenceTable, field: "disk number", value: header.index)
        }
        var reader = unsafe ByteReader(slot, of: .fenceTable, from: PageHeader.bytes)
        let count = try reader.count("entries", limit: entryLimit)
        try reader.reserved(entriesOffset - reader.offset)
        var entries: [FenceEntry] = []
        entries.reserveCapacity(count)
        for _ in 0..<count {
            entries.append(
                FenceEntry(
                    lineage: Lineage(try reader.u64()), epoch: try reader.u64(),
                    owner: try reader.uuid()))
        }
        let table = FenceTable(
            poolUUID: try header.poolUUID(), disk: DiskNumber(disk), sequence: header.sequence,
            entries: entries)
        try table.validate()
        return table
    }
}
