/// A page of a space's directory: 84 entries of 48 bytes at byte 64. Slot n is entry n % 84 of page
/// n / 84. It says where every piece of the space's paged metadata lies.
///
///     +------+--------+------+-------+------------+----------------------+------+
///     | kind | copies | zero | index | generation | 3 piece addresses    | zero |
///     +------+--------+------+-------+------------+----------------------+------+
///      0      1        2      4       8            16                     40 .. 48
///     piece address: | disk 2 | piece 2 | slab 4 |, zeros where there is no copy
///
/// Invariants:
/// 1. A free entry is all zero; any other has 1 to 3 copies.
/// 2. (kind, index) stands in at most one entry of the directory.
/// 3. No address names piece 0 of a slab: that is the piece table.
///
/// Write order: piece granted in the piece table and flushed, its pages made blank on every copy,
/// then the journal record, then use; the entry itself follows at a checkpoint.
public enum DirectoryPage {
    public static let entriesPerPage = 84
    public static let entryBytes = 48

    public static func place(ofSlot slot: UInt32) -> (page: UInt64, entry: Int) {
        (UInt64(slot) / UInt64(entriesPerPage), Int(slot) % entriesPerPage)
    }

    public static func entry(
        in page: PageImage, at index: Int
    ) throws(FormatError) -> DirectoryEntry {
        precondition(index >= 0 && index < entriesPerPage)
        let bytes = unsafe page.slice(PageHeader.bytes + index * entryBytes, entryBytes)
        var reader = unsafe ByteReader(UnsafeRawBufferPointer(bytes), of: .directoryPage)
        return try DirectoryEntry.decode(from: &reader)
    }

    public static func setEntry(in page: PageImage, at index: Int, _ entry: DirectoryEntry) {
        precondition(index >= 0 && index < entriesPerPage)
        let bytes = unsafe page.slice(PageHeader.bytes + index * entryBytes, entryBytes)
        var writer = unsafe ByteWriter(bytes)
        entry.encode(into: &writer)
    }

    static func validateEntries(_ page: PageImage) throws(FormatError) {
        for index in 0..<entriesPerPage { _ = try entry(in: page, at: index) }
    }
}

extension DirectoryEntry {
    public static let free = DirectoryEntry(kind: nil, index: 0, generation: 0, copies: [])

    /// Writes 48 bytes. At most three copies.
    func encode(into writer: inout ByteWriter) {
        guard let kind else {
            writer.zeros(DirectoryPage.entryBytes)
            return
        }
        precondition((1...Units.maximumPieceCopies).contains(copies.count))
        writer.u8(kind.rawValue)
        writer.u8(UInt8(copies.count))
        writer.u16(0)
        writer.u32(index)
        writer.u64(generation)
        copies.encodeFixed(into: &writer)
        writer.u64(0)
    }

    static func decode(from reader: inout ByteReader) throws(FormatError) -> DirectoryEntry {
        let kind = try reader.u8()
        guard kind != 0 else {
            try reader.reserved(DirectoryPage.entryBytes - 1)
            return .free
        }
        guard let known = PieceKind(rawValue: kind) else {
            throw .outOfRange(reader.structure, field: "piece kind", value: UInt64(kind))
        }
        let count = Int(try reader.u8())
        guard count >= 1 else {
            throw .outOfRange(reader.structure, field: "number of copies", value: 0)
        }
        try reader.reserved(2)
        let index = try reader.u32()
        let generation = try reader.u64()
        let copies = try [PieceAddress].decodeFixed(count: count, from: &reader)
        try reader.reserved(8)
        return DirectoryEntry(kind: known, index: index, generation: generation, copies: copies)
    }
}

extension PieceAddress {
    static let encodedBytes = 8

    func encode(into writer: inout ByteWriter) {
        writer.u16(disk.rawValue)
        writer.u16(piece)
        writer.u32(slab)
    }

    static func decode(from reader: inout ByteReader) throws(FormatError) -> PieceAddress {
        let disk = DiskNumber(try reader.u16())
        let piece = try reader.u16()
        let slab = try reader.u32()
        guard piece >= 1, Int(piece) < Units.piecesPerSlab else {
            throw .outOfRange(reader.structure, field: "piece", value: UInt64(piece))
        }
        return PieceAddress(disk: disk, slab: slab, piece: piece)
    }
}

extension [PieceAddress] {
    /// Three places of 8 bytes, zeros behind the last address.
    func encodeFixed(into writer: inout ByteWriter) {
        precondition(count <= Units.maximumPieceCopies)
        for address in self { address.encode(into: &writer) }
        writer.zeros((Units.maximumPieceCopies - count) * PieceAddress.encodedBytes)
    }

    static func decodeFixed(
        count: Int, from reader: inout ByteReader
    ) throws(FormatError) -> [PieceAddress] {
        guard count <= Units.maximumPieceCopies else {
            throw .tooMany(
                reader.structure, field: "copies", count: count, limit: Units.maximumPieceCopies)
        }
        var addresses: [PieceAddress] = []
        addresses.reserveCapacity(count)
        for _ in 0..<count { addresses.append(try PieceAddress.decode(from: &reader)) }
        try reader.reserved((Units.maximumPieceCopies - count) * PieceAddress.encodedBytes)
        return addresses
    }

    /// Throws unless every address can be encoded.
    func validate(_ structure: Structure, _ field: String) throws(FormatError) {
        guard count <= Units.maximumPieceCopies else {
            throw .tooMany(
                structure, field: field, count: count, limit: Units.maximumPieceCopies)
        }
        for address in self {
            guard address.piece >= 1, Int(address.piece) < Units.piecesPerSlab else {
                throw .outOfRange(structure, field: "piece", value: UInt64(address.piece))
            }
        }
    }
}
