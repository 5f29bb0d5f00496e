import PoolFormat

/// Slab and piece tables: read at opening, written page by page.
///
/// 1. The tables in memory change only under the table lock; a grant is visible to its space only
///    once `commitTables` has returned, and a freed slab or piece is granted again only after that.
/// 2. A page goes to the slot that is not current; the current one stays whole until the flush.
/// 3. A metadata slab's piece table is written, empty, to both slots and flushed before the slab
///    table says that the slab is one: whatever lay there before is never taken for a table.
/// 4. A table page of which neither slot is right stops the opening: what it granted is unknown,
///    and granting it again would destroy it.
///
/// A crash before the flush leaves the page before: a grant that nobody was told of, or a free one
/// that is freed again at the next opening because nothing claims it.
extension Pool {
    // MARK: - writing

    /// Makes every change of the tables durable. Under the table lock.
    ///
    /// - Returns: whether every disk took its pages; those that did not are marked as failed.
    func commitTables(during what: String) async throws(PoolError) -> Bool {
        var writes: [PageWrite] = []
        for disk in disks {
            for page in disk.slabs.takeDirtyPages() where disk.serves {
                writes.append(nextSlabPage(disk, page))
            }
            for index in disk.metadataSlabs.indices {
                for page in disk.metadataSlabs[index].table.takeDirtyPages() where disk.serves {
                    writes.append(nextPiecePage(disk, index, page))
                }
            }
        }
        guard !writes.isEmpty else { return true }
        return try await writeDurably(writes, during: what)
    }

    /// The slot moves on at once: nothing reads it before the flush, and if that fails, the disk
    /// is done with.
    private func nextSlabPage(_ disk: Disk, _ page: Int) -> PageWrite {
        disk.slabs.pages[page].slot = 1 - disk.slabs.pages[page].slot
        disk.slabs.pages[page].sequence += 1
        let state = disk.slabs.pages[page]
        return PageWrite(
            disk: disk, offsetBytes: disk.layout.slabTableOffset(page: page, slot: state.slot)
        ) { [self] image in
            encodeSlabPage(disk, page, image)
        }
    }

    private func encodeSlabPage(_ disk: Disk, _ page: Int, _ image: PageImage) {
        for (position, slab) in disk.slabs.indices(ofPage: page).enumerated() {
            SlabTablePage.setEntry(in: image, at: position, disk.slabs[slab])
        }
        SlabTablePage.seal(
            image, pool: uuid, disk: disk.number, page: page,
            sequence: disk.slabs.pages[page].sequence)
    }

    private func nextPiecePage(_ disk: Disk, _ index: Int, _ page: Int) -> PageWrite {
        disk.metadataSlabs[index].table.pages[page].slot =
            1 - disk.metadataSlabs[index].table.pages[page].slot
        disk.metadataSlabs[index].table.pages[page].sequence += 1
        let metadata = disk.metadataSlabs[index]
        let offset = PieceTablePage.slotOffset(
            page: page, slot: metadata.table.pages[page].slot)
        return PageWrite(
            disk: disk, offsetBytes: disk.layout.slabOffset(metadata.slab) + offset
        ) { [uuid] image in
            metadata.encode(page, into: image, pool: uuid, disk: disk.number)
        }
    }

    /// Writes an empty piece table, both slots of each page, and flushes it.
    func writeEmptyPieceTable(_ disk: Disk, _ slab: UInt32) async throws(PoolError) -> Bool {
        var metadata = MetadataSlab(slab: slab)
        var writes: [PageWrite] = []
        for page in 0..<PieceTablePage.pages {
            metadata.table.pages[page].sequence = 1
            let sealed = metadata
            for slot in 0..<2 {
                let offset = PieceTablePage.slotOffset(page: page, slot: slot)
                writes.append(
                    PageWrite(disk: disk, offsetBytes: disk.layout.slabOffset(slab) + offset) {
                        [uuid] image in
                        guard slot == 0 else { return }
                        sealed.encode(page, into: image, pool: uuid, disk: disk.number)
                    })
            }
        }
        guard try await writeDurably(writes, during: "while metadata was laid out") else {
            return false
        }
        disk.insert(metadata)
        return true
    }

    /// Writes a new disk's slab table: every slab free, slot 1 blank. Not flushed.
    func writeEmptySlabTable(_ disk: Disk, _ buffer: Int) async throws(PoolError) -> Bool {
        let pagesPerChunk = Units.grainBytes / (2 * Units.blockBytes)
        for first in stride(from: 0, to: disk.layout.slabTablePages, by: pagesPerChunk) {
            let count = min(pagesPerChunk, disk.layout.slabTablePages - first)
            let bytes = count * 2 * Units.blockBytes
            unsafe engine.arena.bytes(buffer, bytes).initializeMemory(
                as: UInt8.self, repeating: 0)
            for page in first..<first + count {
                disk.slabs.pages[page] = PagedTable<SlabEntry>.Page(slot: 0, sequence: 1)
                let position = buffer + (page - first) * 2 * Units.blockBytes
                let image = unsafe PageImage(engine.arena.bytes(position, Units.blockBytes))
                encodeSlabPage(disk, page, image)
            }
            let io = IOBatch(engine)
            io.write(
                disk.device, at: disk.layout.slabTableOffset(page: first, slot: 0), bytes: bytes,
                from: buffer)
            guard await io.run() else {
                if engine.isStopped { throw .stopped }
                return false
            }
        }
        return true
    }

    // MARK: - reading

    /// Reads a disk's slab table and the piece tables of its metadata slabs.
    func loadTables(_ disk: Disk) async throws(PoolError) {
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        let pagesPerChunk = Units.grainBytes / (2 * Units.blockBytes)
        for first in stride(from: 0, to: disk.layout.slabTablePages, by: pagesPerChunk) {
            let count = min(pagesPerChunk, disk.layout.slabTablePages - first)
            try await loadSlabPages(disk, first..<first + count, buffer)
        }
        disk.recountSlabs()
        for (slab, entry) in disk.slabs.entries.enumerated() where entry.lineage == .metadata {
            try await loadPieceTable(disk, UInt32(slab), buffer)
        }
    }

    private func loadSlabPages(
        _ disk: Disk, _ pages: Range<Int>, _ buffer: Int
    ) async throws(PoolError) {
        let readable = try await readBlocks(
            disk.device, at: disk.layout.slabTableOffset(page: pages.lowerBound, slot: 0),
            bytes: pages.count * 2 * Units.blockBytes, into: buffer)
        for page in pages {
            let pair = 2 * (page - pages.lowerBound)
            let images = imagePair(buffer + pair * Units.blockBytes)
            do throws(FormatError) {
                let choice = try SlotChoice.choose(
                    readable: (readable[pair], readable[pair + 1]), structure: .slabTable
                ) { slot throws(FormatError) in
                    try SlabTablePage.validate(
                        images[slot], pool: uuid, disk: disk.number, page: page
                    ).sequence
                }
                var loaded: [SlabEntry] = []
                for position in disk.slabs.indices(ofPage: page).indices {
                    let offset = position - disk.slabs.indices(ofPage: page).lowerBound
                    let entry = try SlabTablePage.entry(in: images[choice.slot], at: offset)
                    try checkGeneration(entry.generation, .slabTable)
                    loaded.append(entry)
                }
                disk.slabs.load(
                    page: page, slot: choice.slot, sequence: choice.sequence, loaded)
                if choice.isOtherDamaged { disk.slabs.markDirty(page: page) }
            } catch {
                throw .damaged(disk: disk.name, what: error.description)
            }
        }
    }

    private func loadPieceTable(
        _ disk: Disk, _ slab: UInt32, _ buffer: Int
    ) async throws(PoolError) {
        var metadata = MetadataSlab(slab: slab)
        let readable = try await readBlocks(
            disk.device, at: disk.layout.slabOffset(slab),
            bytes: PieceTablePage.pages * 2 * Units.blockBytes, into: buffer)
        for page in 0..<PieceTablePage.pages {
            let images = imagePair(buffer + 2 * page * Units.blockBytes)
            do throws(FormatError) {
                let choice = try SlotChoice.choose(
                    readable: (readable[2 * page], readable[2 * page + 1]), structure: .pieceTable
                ) { slot throws(FormatError) in
                    try PieceTablePage.validate(
                        images[slot], pool: uuid, disk: disk.number, slab: slab, page: page
                    ).sequence
                }
                var loaded: [PieceEntry] = []
                for position in 0..<metadata.table.indices(ofPage: page).count {
                    let entry = try PieceTablePage.entry(in: images[choice.slot], at: position)
                    try checkGeneration(entry.generation, .pieceTable)
                    loaded.append(entry)
                }
                metadata.table.load(
                    page: page, slot: choice.slot, sequence: choice.sequence, loaded)
                if choice.isOtherDamaged { metadata.table.markDirty(page: page) }
            } catch {
                throw .damaged(disk: disk.name, what: error.description)
            }
        }
        metadata.recount()
        disk.insert(metadata)
    }

    private func imagePair(_ offset: Int) -> [PageImage] {
        [0, 1].map {
            unsafe PageImage(
                engine.arena.bytes(offset + $0 * Units.blockBytes, Units.blockBytes))
        }
    }

    /// Generations come from the configuration: one beyond what it reserved is nobody's grant.
    private func checkGeneration(
        _ generation: UInt64, _ structure: Structure
    ) throws(FormatError) {
        guard generation < generationLimit else {
            throw .outOfRange(structure, field: "generation", value: generation)
        }
    }
}

extension MetadataSlab {
    func encode(_ page: Int, into image: PageImage, pool: PoolUUID, disk: DiskNumber) {
        for (position, piece) in table.indices(ofPage: page).enumerated() {
            PieceTablePage.setEntry(in: image, at: position, table[piece])
        }
        PieceTablePage.seal(
            image, pool: pool, disk: disk, slab: slab, page: page,
            sequence: table.pages[page].sequence)
    }
}
