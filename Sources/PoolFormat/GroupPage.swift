/// A page of a space's slab groups: 3 records of 1,024 bytes at byte 64.
///
///     record: +----+--------+-------+--------+-------+---------+------+------------+
///             | id | layout | media | copies | slabs | columns | zero | unit bytes |
///             +----+--------+-------+--------+-------+---------+------+------------+
///              0    4        5       6        7       8         10     12
///             +----------+------------------+-------+------+-----------------------+
///             | rotation | parity generator | birth | zero | up to 60 group slabs  |
///             +----------+------------------+-------+------+-----------------------+
///              16         20                 24      32     64 .. 1024
///     group slab: | disk 2 | zero 2 | slab 4 | generation 8 |
///
/// Invariants:
/// 1. A free record is all zero (a layout is never 0).
/// 2. slabs = columns x copies, column-major, at most 60; copies are those of the layout. Those of a
///    parity are 2 to 16 columns of data and one or two more, its unit and the other fields what
///    ``GroupRecord`` says.
/// 3. The slab at position p (column c, copy k: c x copies + k) is granted in its disk's slab table to
///    this lineage, this group and position p, with this generation.
///
/// Write order: slabs granted in every slab table and flushed, then the journal record, then use;
/// the other way about when the group goes.
public enum GroupPage {
    public static let recordsPerPage = 3
    public static let recordBytes = 1024

    public static func place(ofRecord record: UInt32) -> (page: UInt64, record: Int) {
        (UInt64(record) / UInt64(recordsPerPage), Int(record) % recordsPerPage)
    }

    /// nil for a free record.
    public static func record(
        in page: PageImage, at index: Int
    ) throws(FormatError) -> GroupRecord? {
        precondition(index >= 0 && index < recordsPerPage)
        let bytes = unsafe page.slice(PageHeader.bytes + index * recordBytes, recordBytes)
        guard unsafe bytes.contains(where: { $0 != 0 }) else { return nil }
        var reader = unsafe ByteReader(UnsafeRawBufferPointer(bytes), of: .groupPage)
        let record = try GroupRecord.decode(from: &reader)
        try reader.reserved(reader.remainingBytes)
        return record
    }

    /// - Throws: ``FormatError`` for a group that breaks invariant 2.
    public static func setRecord(
        in page: PageImage, at index: Int, _ record: GroupRecord?
    ) throws(FormatError) {
        precondition(index >= 0 && index < recordsPerPage)
        try record?.validate(.groupPage)
        let bytes = unsafe page.slice(PageHeader.bytes + index * recordBytes, recordBytes)
        var writer = unsafe ByteWriter(bytes)
        record?.encode(into: &writer)
        writer.fillWithZeros()
    }

    static func validateEntries(_ page: PageImage) throws(FormatError) {
        for index in 0..<recordsPerPage { _ = try record(in: page, at: index) }
    }
}

extension GroupRecord {
    static let headBytes = 64
    static let slabBytes = 16

    var encodedBytes: Int { Self.headBytes + slabs.count * Self.slabBytes }

    func validate(_ structure: Structure) throws(FormatError) {
        guard slabs.count >= 1, slabs.count <= Units.maximumGroupSlabs else {
            throw .tooMany(
                structure, field: "slabs of a group", count: slabs.count,
                limit: Units.maximumGroupSlabs)
        }
        guard Int(copies) == layout.copies else {
            throw .outOfRange(structure, field: "number of copies", value: UInt64(copies))
        }
        guard slabs.count == Int(columns) * Int(copies) + layout.parityColumns else {
            throw .outOfRange(structure, field: "number of columns", value: UInt64(columns))
        }
        if layout.isParity { try validateParity(structure) }
        guard unitBytes > 0, unitBytes % UInt32(Units.blockBytes) == 0,
            unitBytes <= UInt32(Units.grainBytes)
        else { throw .outOfRange(structure, field: "unit size", value: UInt64(unitBytes)) }
    }

    private func validateParity(_ structure: Structure) throws(FormatError) {
        guard Units.parityDataColumns.contains(Int(columns)) else {
            throw .outOfRange(structure, field: "number of columns", value: UInt64(columns))
        }
        guard Int(unitBytes) == Self.parityUnitBytes(dataColumns: Int(columns)) else {
            throw .outOfRange(structure, field: "unit size", value: UInt64(unitBytes))
        }
        guard rotation == Self.parityRotation else {
            throw .outOfRange(structure, field: "rotation", value: UInt64(rotation))
        }
        guard parityGenerator == Self.parityPolynomial else {
            throw .outOfRange(structure, field: "parity generator", value: UInt64(parityGenerator))
        }
    }

    /// Writes ``encodedBytes`` bytes of a valid record.
    func encode(into writer: inout ByteWriter) {
        precondition(slabs.count <= Units.maximumGroupSlabs)
        writer.u32(id)
        writer.u8(layout.rawValue)
        writer.u8(mediaClass.rawValue)
        writer.u8(copies)
        writer.u8(UInt8(slabs.count))
        writer.u16(columns)
        writer.u16(0)
        writer.u32(unitBytes)
        writer.u32(rotation)
        writer.u32(parityGenerator)
        writer.u64(birth)
        writer.zeros(32)
        for slab in slabs {
            writer.u16(slab.address.disk.rawValue)
            writer.u16(0)
            writer.u32(slab.address.slab)
            writer.u64(slab.generation)
        }
    }

    static func decode(from reader: inout ByteReader) throws(FormatError) -> GroupRecord {
        let id = try reader.u32()
        let layout = try reader.choice("layout", ResiliencyKind.self)
        let mediaClass = try reader.choice("media class", MediaClass.self)
        let copies = try reader.u8()
        let slabCount = Int(try reader.u8())
        let columns = try reader.u16()
        try reader.reserved(2)
        let unitBytes = try reader.u32()
        let rotation = try reader.u32()
        let generator = try reader.u32()
        let birth = try reader.u64()
        try reader.reserved(32)
        guard slabCount <= Units.maximumGroupSlabs else {
            throw .tooMany(
                reader.structure, field: "slabs of a group", count: slabCount,
                limit: Units.maximumGroupSlabs)
        }
        var slabs: [GroupSlab] = []
        slabs.reserveCapacity(slabCount)
        for _ in 0..<slabCount {
            let disk = DiskNumber(try reader.u16())
            try reader.reserved(2)
            let address = SlabAddress(disk: disk, slab: try reader.u32())
            slabs.append(GroupSlab(address: address, generation: try reader.u64()))
        }
        let record = GroupRecord(
            id: id, layout: layout, mediaClass: mediaClass, copies: copies, columns: columns,
            unitBytes: unitBytes, rotation: rotation, parityGenerator: generator, birth: birth,
            slabs: slabs)
        try record.validate(reader.structure)
        return record
    }
}
