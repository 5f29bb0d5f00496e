/// One page of a metadata slab's piece table: to whom 126 of its 256 pieces are handed out. Piece n
/// stands in entry n % 126 of page n / 126; page p, slot s lies at (2p + s) x 4 KiB of piece 0.
///
///      0 ..... header (owner: pool UUID, index: disk number << 48 | slab << 16 | page)
///     64 ..... 126 entries of 32 bytes
///     +---------+------------+-------+------+-------+-----------+
///     | lineage | generation | index | kind | state | zero      |
///     +---------+------------+-------+------+-------+-----------+
///      0         8            16      20     21      22 .. 32
///
/// Invariants:
/// 1. State 1 is granted, state 0 free; a free entry has no lineage but keeps its generation.
/// 2. Entry 0 of page 0 is the table itself and stays free: it is never handed out. Entries past
///    the last piece stay free too.
///
/// Write order: as the slab table's. A piece that a root or directory names is always granted to it
/// here; the opposite, a granted piece that nobody names, is what a crash may leave.
public enum PieceTablePage {
    public static let entriesPerPage = 126
    public static let pages = (Units.piecesPerSlab + entriesPerPage - 1) / entriesPerPage
    static let entryBytes = 32

    public static func index(disk: DiskNumber, slab: UInt32, page: Int) -> UInt64 {
        precondition(page >= 0 && page < pages)
        return UInt64(disk.rawValue) << 48 | UInt64(slab) << 16 | UInt64(page)
    }

    /// Bytes from the start of the metadata slab.
    public static func slotOffset(page: Int, slot: Int) -> UInt64 {
        precondition(page >= 0 && page < pages && (slot == 0 || slot == 1))
        return UInt64(2 * page + slot) * UInt64(Units.blockBytes)
    }

    public static func entry(
        in page: PageImage, at index: Int
    ) throws(FormatError) -> PieceEntry {
        precondition(index >= 0 && index < entriesPerPage)
        let bytes = unsafe page.slice(PageHeader.bytes + index * entryBytes, entryBytes)
        var reader = unsafe ByteReader(UnsafeRawBufferPointer(bytes), of: .pieceTable)
        let lineage = try reader.u64()
        let generation = try reader.u64()
        let number = try reader.u32()
        let kind = try reader.u8()
        let state = try reader.u8()
        try reader.reserved(10)
        guard state == 1 else {
            guard state == 0, lineage == 0, number == 0, kind == 0 else {
                throw .outOfRange(.pieceTable, field: "entry state", value: UInt64(state))
            }
            var free = PieceEntry.free
            free.generation = generation
            return free
        }
        guard lineage != Lineage.none.rawValue else {
            throw .outOfRange(.pieceTable, field: "lineage", value: lineage)
        }
        guard let known = PieceKind(rawValue: kind) else {
            throw .outOfRange(.pieceTable, field: "piece kind", value: UInt64(kind))
        }
        return PieceEntry(
            lineage: Lineage(lineage), kind: known, index: number, generation: generation)
    }

    /// A free entry (``Lineage/none``) keeps nothing but its generation.
    public static func setEntry(in page: PageImage, at index: Int, _ entry: PieceEntry) {
        precondition(index >= 0 && index < entriesPerPage)
        let isFree = entry.lineage == .none
        let bytes = unsafe page.slice(PageHeader.bytes + index * entryBytes, entryBytes)
        var writer = unsafe ByteWriter(bytes)
        writer.u64(isFree ? 0 : entry.lineage.rawValue)
        writer.u64(entry.generation)
        writer.u32(isFree ? 0 : entry.index)
        writer.u8(isFree ? 0 : entry.kind.rawValue)
        writer.u8(isFree ? 0 : 1)
        writer.fillWithZeros()
    }

    /// Makes the image ready to be written.
    public static func seal(
        _ page: PageImage, pool: PoolUUID, disk: DiskNumber, slab: UInt32, page number: Int,
        sequence: UInt64
    ) {
        let header = PageHeader(
            structure: .pieceTable, owner: .pool(pool), sequence: sequence,
            index: index(disk: disk, slab: slab, page: number))
        unsafe header.seal(page.buffer, lengthBytes: PageImage.bytes)
    }

    /// Verifies a page that was read, every entry included.
    public static func validate(
        _ page: PageImage, pool: PoolUUID, disk: DiskNumber, slab: UInt32, page number: Int
    ) throws(FormatError) -> PageHeader {
        let header = try page.open(
            as: .pieceTable, pool: pool, index: index(disk: disk, slab: slab, page: number))
        for position in 0..<entriesPerPage { _ = try entry(in: page, at: position) }
        return header
    }
}

extension PieceEntry {
    /// A piece never handed out; its kind means nothing.
    public static let free = PieceEntry(lineage: .none, kind: .root, index: 0, generation: 0)
    public var isFree: Bool { lineage == .none }
}
