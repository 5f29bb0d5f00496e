/// One page of a disk's slab table: to whom 126 slabs are granted. Slab n stands in entry n % 126
/// of page n / 126; each page has two alternating slots.
///
///      0 ..... header (owner: pool UUID, index: disk number << 48 | page)
///     64 ..... 126 entries of 32 bytes
///     +---------+------------+-------+--------+-------+-----------+
///     | lineage | generation | group | column | state | zero      |
///     +---------+------------+-------+--------+-------+-----------+
///      0         8            16      20       22      23 .. 32
///
/// Invariants:
/// 1. State 1 is granted, state 0 free; a free entry has no lineage but keeps its generation, so
///    that the next grant's is higher. A zeroed entry is a slab never granted.
/// 2. Lineage 0 is granted: a metadata slab.
/// 3. Only the node that serves the disk writes the table.
///
/// Write order: grant = this page flushed, then the space's journal, then use; free = journal
/// durable on all copies, in-flight I/O drained, then this page, then reuse. So a slab that a space
/// uses is always granted to it here; a crash in between leaves a granted slab that nobody claims,
/// which the space's owner frees after replay.
public enum SlabTablePage {
    public static let entriesPerPage = 126
    static let entryBytes = 32

    public static func index(disk: DiskNumber, page: Int) -> UInt64 {
        precondition(page >= 0 && page < 1 << 32)
        return UInt64(disk.rawValue) << 48 | UInt64(page)
    }

    public static func entry(
        in page: PageImage, at index: Int
    ) throws(FormatError) -> SlabEntry {
        precondition(index >= 0 && index < entriesPerPage)
        let bytes = unsafe page.slice(PageHeader.bytes + index * entryBytes, entryBytes)
        var reader = unsafe ByteReader(UnsafeRawBufferPointer(bytes), of: .slabTable)
        let lineage = try reader.u64()
        let generation = try reader.u64()
        let group = try reader.u32()
        let column = try reader.u16()
        let state = try reader.u8()
        try reader.reserved(9)
        guard state <= 1, state == 1 || (lineage == 0 && group == 0 && column == 0) else {
            throw .outOfRange(.slabTable, field: "entry state", value: UInt64(state))
        }
        guard lineage != Lineage.none.rawValue else {
            throw .outOfRange(.slabTable, field: "lineage", value: lineage)
        }
        return SlabEntry(
            lineage: state == 1 ? Lineage(lineage) : .none, group: group, column: column,
            generation: generation)
    }

    /// A free entry (``Lineage/none``) keeps nothing but its generation.
    public static func setEntry(in page: PageImage, at index: Int, _ entry: SlabEntry) {
        precondition(index >= 0 && index < entriesPerPage)
        let isFree = entry.lineage == .none
        let bytes = unsafe page.slice(PageHeader.bytes + index * entryBytes, entryBytes)
        var writer = unsafe ByteWriter(bytes)
        writer.u64(isFree ? 0 : entry.lineage.rawValue)
        writer.u64(entry.generation)
        writer.u32(isFree ? 0 : entry.group)
        writer.u16(isFree ? 0 : entry.column)
        writer.u8(isFree ? 0 : 1)
        writer.fillWithZeros()
    }

    /// Makes the image ready to be written.
    public static func seal(
        _ page: PageImage, pool: PoolUUID, disk: DiskNumber, page number: Int, sequence: UInt64
    ) {
        let header = PageHeader(
            structure: .slabTable, owner: .pool(pool), sequence: sequence,
            index: index(disk: disk, page: number))
        unsafe header.seal(page.buffer, lengthBytes: PageImage.bytes)
    }

    /// Verifies a page that was read, every entry included.
    public static func validate(
        _ page: PageImage, pool: PoolUUID, disk: DiskNumber, page number: Int
    ) throws(FormatError) -> PageHeader {
        let header = try page.open(
            as: .slabTable, pool: pool, index: index(disk: disk, page: number))
        for position in 0..<entriesPerPage { _ = try entry(in: page, at: position) }
        return header
    }
}

extension SlabEntry {
    /// A slab never granted.
    public static let free = SlabEntry(lineage: .none, group: 0, column: 0, generation: 0)
    public var isFree: Bool { lineage == .none }
}

extension PageImage {
    /// Verifies a whole 4 KiB page of a disk's table.
    func open(
        as structure: Structure, pool: PoolUUID, index: UInt64
    ) throws(FormatError) -> PageHeader {
        let (header, claim) = try unsafe PageHeader.open(readOnlyBuffer, as: structure)
        guard claim.lengthBytes == Self.bytes else {
            throw .wrongLength(structure, found: UInt64(claim.lengthBytes))
        }
        guard header.owner == .pool(pool) else { throw .wrongOwner(structure) }
        guard header.index == index else {
            throw .wrongIndex(structure, expected: index, found: header.index)
        }
        return header
    }
}
