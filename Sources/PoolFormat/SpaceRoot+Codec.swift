extension SpaceRoot {
    public static let slotBytes = 64 << 10
    /// 1.5 GiB of journal.
    public static let journalPieceLimit = 1536
    /// A directory for more than 2 million pieces.
    public static let directoryPieceLimit = 256
    static let entriesOffset = 96

    /// Bytes from the start of the root piece.
    public static func slotOffset(_ slot: Int) -> UInt64 {
        precondition(slot == 0 || slot == 1)
        return UInt64(slot * slotBytes)
    }

    public func validate() throws(FormatError) {
        try Self.validate(journal, "journal pieces", limit: Self.journalPieceLimit)
        try Self.validate(directory, "directory pieces", limit: Self.directoryPieceLimit)
    }

    private static func validate(
        _ pieces: [[PieceAddress]], _ field: String, limit: Int
    ) throws(FormatError) {
        guard pieces.count <= limit else {
            throw .tooMany(.spaceRoot, field: field, count: pieces.count, limit: limit)
        }
        for copies in pieces {
            guard !copies.isEmpty else {
                throw .outOfRange(.spaceRoot, field: "number of copies", value: 0)
            }
            try copies.validate(.spaceRoot, "copies")
        }
    }

    /// Writes the root into 65,536 bytes.
    public func encode(into slot: UnsafeMutableRawBufferPointer) throws(FormatError) {
        try validate()
        precondition(slot.count == Self.slotBytes)
        var writer = unsafe ByteWriter(slot, at: PageHeader.bytes)
        writer.count(journal.count)
        writer.count(directory.count)
        writer.zeros(Self.entriesOffset - writer.offset)
        for copies in journal + directory {
            writer.u8(UInt8(copies.count))
            writer.zeros(7)
            copies.encodeFixed(into: &writer)
        }
        writer.fillWithZeros()
        let header = PageHeader(
            structure: .spaceRoot, owner: .space(lineage, epoch: epoch), sequence: sequence,
            index: 0, kind: PieceKind.root.rawValue)
        unsafe header.seal(slot, lengthBytes: Self.slotBytes)
    }

    /// Reads a root from 65,536 bytes.
    ///
    /// - Throws: ``FormatError/wrongOwner(_:)`` when it is another space's.
    public static func decode(
        _ slot: UnsafeRawBufferPointer, lineage: Lineage
    ) throws(FormatError) -> SpaceRoot {
        let (header, claim) = try unsafe PageHeader.open(slot, as: .spaceRoot)
        guard claim.lengthBytes == slotBytes else {
            throw .wrongLength(.spaceRoot, found: UInt64(claim.lengthBytes))
        }
        let owner = try header.spaceOwner()
        guard owner.lineage == lineage else { throw .wrongOwner(.spaceRoot) }
        var reader = unsafe ByteReader(slot, of: .spaceRoot, from: PageHeader.bytes)
        let journalCount = try reader.count("journal pieces", limit: journalPieceLimit)
        let directoryCount = try reader.count("directory pieces", limit: directoryPieceLimit)
        try reader.reserved(entriesOffset - reader.offset)
        let root = SpaceRoot(
            lineage: lineage, epoch: owner.epoch, sequence: header.sequence,
            journal: try pieces(journalCount, from: &reader),
            directory: try pieces(directoryCount, from: &reader))
        try root.validate()
        return root
    }

    private static func pieces(
        _ count: Int, from reader: inout ByteReader
    ) throws(FormatError) -> [[PieceAddress]] {
        var pieces: [[PieceAddress]] = []
        pieces.reserveCapacity(count)
        for _ in 0..<count {
            let copies = Int(try reader.u8())
            try reader.reserved(7)
            pieces.append(try [PieceAddress].decodeFixed(count: copies, from: &reader))
        }
        return pieces
    }
}
