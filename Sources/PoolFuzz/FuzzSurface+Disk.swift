import PoolFormat

/// The structures that belong to a disk or a pool.
extension FuzzSurface {
    func runLabel(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.label)
        guard let label = unsafe try? Label.decode(image.readOnly) else { return false }
        _ = label.requiresReadOnly
        try checkFollowed(label.sequence)
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
        try checkFollowed(value.version.sequence)
        for space in value.spaces { try checkGroups(of: space) }
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

    /// What the engine makes of the record when the space needs room can be recorded.
    private func checkGroups(of space: SpaceRecord) throws(FuzzFinding) {
        let slabs = max(1, Int(space.columns)) * Int(space.copies)
        let address = SlabAddress(disk: Specimen.disk, slab: 0)
        let group = GroupRecord(
            id: 0, layout: space.resiliency, mediaClass: .hdd, copies: space.copies,
            columns: max(1, space.columns), unitBytes: max(4096, space.interleaveBytes),
            rotation: 0, parityGenerator: 0, birth: 1,
            slabs: Array(repeating: GroupSlab(address: address, generation: 1), count: slabs))
        let image = Image(PageImage.bytes)
        let isRecorded = withExtendedLifetime(image) {
            (try? GroupPage.setRecord(in: image.page, at: 0, group)) != nil
        }
        try promise(isRecorded, "space '\(space.name)' asks for groups that cannot be")
        switch space.resiliency {
        case .simple, .mirror2, .mirror3:
            try promise(
                space.interleaveBytes >= Units.minimumInterleaveBytes
                    && space.interleaveBytes.nonzeroBitCount == 1,
                "space '\(space.name)' has an interleave of \(space.interleaveBytes) bytes")
        case .parity1, .parity2: break
        }
    }

    func runFenceTable(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.fenceTable)
        guard let table = unsafe try? FenceTable.decode(image.readOnly) else { return false }
        try checkFollowed(table.sequence)
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
        try checkFollowed(header.sequence)
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
        try checkFollowed(header.sequence)
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
        try checkFollowed(root.sequence)
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

    /// Whoever writes the next version adds one.
    func checkFollowed(_ sequence: UInt64) throws(FuzzFinding) {
        try promise(sequence < UInt64.max, "no number follows the sequence \(sequence)")
    }

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
