import PoolFormat

/// The structures that belong to a disk or a pool.
extension FuzzSurface {
    func runLabel(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.label)
        guard let label = unsafe try? Label.decode(image.readOnly) else { return false }
        _ = label.requiresReadOnly
        try checkLayout(diskBytes: label.diskBytes)
        let copy = Image(Label.bytes)
        try encoded("label") { () throws(FormatError) in
            try unsafe label.encode(into: copy.bytes)
        }
        try promise(
            unsafe (try? Label.decode(copy.readOnly)) == label,
            "a label reads back as another")
        return true
    }

    /// What is computed from a disk's size stays on the disk, in its order.
    private func checkLayout(diskBytes: UInt64) throws(FuzzFinding) {
        guard let layout = try? DiskLayout(diskBytes: diskBytes), layout.slabCount > 0 else {
            throw FuzzFinding("an accepted size of \(diskBytes) bytes has no layout")
        }
        let tableEnd =
            layout.slabTableOffset(page: layout.slabTablePages - 1, slot: 1)
            + UInt64(Units.blockBytes)
        let last = layout.slabCount - 1
        let slabsEnd = layout.slabOffset(last) + UInt64(Units.slabBytes)
        let pieceEnd =
            layout.pieceOffset(slab: last, piece: UInt16(Units.piecesPerSlab - 1))
            + UInt64(Units.pieceBytes)
        let tailEnd = layout.labelTailOffset + UInt64(Units.blockBytes)
        try promise(
            tableEnd <= layout.slabsOffset && slabsEnd <= layout.labelTailOffset
                && pieceEnd == slabsEnd && tailEnd <= diskBytes,
            "the layout of \(diskBytes) bytes overlaps or ends past the disk")
    }

    func runConfiguration(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.configuration)
        if let toRead = unsafe try? Configuration.peek(image.readOnly) {
            try promise(
                toRead % Units.blockBytes == 0 && toRead <= Configuration.slotBytes,
                "a configuration asks for \(toRead) bytes")
        }
        guard let value = unsafe try? Configuration.decode(image.readOnly) else { return false }
        let copy = memory.copy
        var written = 0
        try encoded("configuration") { () throws(FormatError) in
            written = try unsafe value.encode(into: copy.bytes)
        }
        try promise(
            unsafe (try? Configuration.peek(copy.readOnly)) == written,
            "a configuration is written with one length and claims another")
        let prefix = unsafe UnsafeRawBufferPointer(rebasing: copy.readOnly[..<written])
        try promise(
            unsafe (try? Configuration.decode(prefix)) == value,
            "a configuration reads back as another")
        return true
    }

    func runFenceTable(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.fenceTable)
        guard let table = unsafe try? FenceTable.decode(image.readOnly) else { return false }
        let copy = unsafe memory.copy.prefix(FenceTable.slotBytes)
        try encoded("fence table") { () throws(FormatError) in
            try unsafe table.encode(into: copy)
        }
        try promise(
            unsafe (try? FenceTable.decode(UnsafeRawBufferPointer(copy))) == table,
            "a fence table reads back as another")
        return true
    }

    func runSlabTable(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.slabTable, padded: true)
        let (pool, disk) = (Specimen.pool, Specimen.disk)
        guard
            let header = try? SlabTablePage.validate(image.page, pool: pool, disk: disk, page: 0)
        else { return false }
        let copy = Image(PageImage.bytes)
        for index in 0..<SlabTablePage.entriesPerPage {
            guard let entry = try? SlabTablePage.entry(in: image.page, at: index) else {
                throw FuzzFinding("entry \(index) of a valid slab table page cannot be read")
            }
            SlabTablePage.setEntry(in: copy.page, at: index, entry)
        }
        SlabTablePage.seal(copy.page, pool: pool, disk: disk, page: 0, sequence: header.sequence)
        try checkSame(image, copy, from: PageHeader.bytes, "slab table page")
        return true
    }

    func runPieceTable(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.pieceTable, padded: true)
        let (pool, disk) = (Specimen.pool, Specimen.disk)
        guard
            let header = try? PieceTablePage.validate(
                image.page, pool: pool, disk: disk, slab: 1, page: 0)
        else { return false }
        let copy = Image(PageImage.bytes)
        for index in 0..<PieceTablePage.entriesPerPage {
            guard let entry = try? PieceTablePage.entry(in: image.page, at: index) else {
                throw FuzzFinding("entry \(index) of a valid piece table page cannot be read")
            }
            PieceTablePage.setEntry(in: copy.page, at: index, entry)
        }
        PieceTablePage.seal(
            copy.page, pool: pool, disk: disk, slab: 1, page: 0, sequence: header.sequence)
        try checkSame(image, copy, from: PageHeader.bytes, "piece table page")
        return true
    }

    func runSpaceRoot(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.spaceRoot)
        let lineage = Specimen.lineage
        guard let root = unsafe try? SpaceRoot.decode(image.readOnly, lineage: lineage) else {
            return false
        }
        let copy = unsafe memory.copy.prefix(SpaceRoot.slotBytes)
        try encoded("space root") { () throws(FormatError) in
            try unsafe root.encode(into: copy)
        }
        let again = unsafe try? SpaceRoot.decode(UnsafeRawBufferPointer(copy), lineage: lineage)
        try promise(
            again == root,
            "a space root reads back as another")
        return true
    }

    // MARK: - what they share

    /// What could be read can be written.
    func encoded(
        _ what: String, _ encode: () throws(FormatError) -> Void
    ) throws(FuzzFinding) {
        do throws(FormatError) { try encode() } catch {
            throw FuzzFinding("a \(what) can be read and not be written: \(error)")
        }
    }

    /// Structures whose every byte has a meaning have one encoding.
    func checkSame(
        _ image: Image, _ copy: Image, from offset: Int, _ what: String
    ) throws(FuzzFinding) {
        let same = unsafe image.readOnly[offset...].elementsEqual(copy.readOnly[offset...])
        try promise(same, "a \(what) is written back as other bytes")
    }
}
