import PoolFormat

extension Specimen {
    static let pageIndex: UInt64 = 0x0c0d

    static let slabTable: Specimen = {
        let memory = Memory(4096)
        for (index, entry) in Sample.slabs {
            SlabTablePage.setEntry(in: memory.page, at: index, entry)
        }
        @Sendable func seal(_ page: PageImage, _ sequence: UInt64) {
            SlabTablePage.seal(
                page, pool: Sample.pool, disk: DiskNumber(0x0304), page: 0x0d, sequence: sequence)
        }
        seal(memory.page, Sample.sequence)
        return page(.slabTable, memory) { old, new throws(FormatError) in
            let header = try SlabTablePage.validate(
                old, pool: Sample.pool, disk: DiskNumber(0x0304), page: 0x0d)
            for index in 0..<SlabTablePage.entriesPerPage {
                let entry = try SlabTablePage.entry(in: old, at: index)
                SlabTablePage.setEntry(in: new, at: index, entry)
            }
            seal(new, header.sequence)
        }
    }()

    static let pieceTable: Specimen = {
        let memory = Memory(4096)
        for (index, entry) in Sample.pieces {
            PieceTablePage.setEntry(in: memory.page, at: index, entry)
        }
        @Sendable func seal(_ page: PageImage, _ sequence: UInt64) {
            PieceTablePage.seal(
                page, pool: Sample.pool, disk: DiskNumber(0x0304), slab: 0x0102_0304, page: 2,
                sequence: sequence)
        }
        seal(memory.page, Sample.sequence)
        return page(.pieceTable, memory) { old, new throws(FormatError) in
            let header = try PieceTablePage.validate(
                old, pool: Sample.pool, disk: DiskNumber(0x0304), slab: 0x0102_0304, page: 2)
            for index in 0..<PieceTablePage.entriesPerPage {
                let entry = try PieceTablePage.entry(in: old, at: index)
                PieceTablePage.setEntry(in: new, at: index, entry)
            }
            seal(new, header.sequence)
        }
    }()

    static let map = metadata(
        .map,
        { page in
            for (index, entry) in Sample.mapEntries {
                MapPage.setEntry(in: page, at: index, entry)
            }
        },
        copy: { old, new in
            for index in 0..<MapPage.entriesPerPage {
                MapPage.setEntry(in: new, at: index, MapPage.entry(in: old, at: index))
            }
        })

    static let checksum = metadata(
        .checksum,
        { page in
            ChecksumPage.setValue(in: page, grain: 0, block: 0, 0x1c2c_3c4c)
            ChecksumPage.setValue(in: page, grain: 1, block: 2, 0x5c6c_7c8c)
            ChecksumPage.setValue(in: page, grain: 2, block: 255, 0x9cac_bccc)
        },
        copy: { old, new in
            for grain in 0..<3 {
                for block in 0..<256 {
                    ChecksumPage.setValue(
                        in: new, grain: grain, block: block,
                        ChecksumPage.value(in: old, grain: grain, block: block))
                }
            }
        })

    static let dirty = regions(.dirty, [0, 9, 32_255])
    static let missed = regions(.missed, [1, 63, 64, 32_255])

    private static func regions(_ kind: PieceKind, _ regions: [Int]) -> Specimen {
        metadata(
            kind,
            { page in
                for region in regions { DirtyPage.set(in: page, region: region, dirty: true) }
            },
            copy: { old, new in
                var next = DirtyPage.nextDirty(in: old, from: 0)
                while let region = next {
                    let dirty = DirtyPage.isDirty(in: old, region: region)
                    DirtyPage.set(in: new, region: region, dirty: dirty)
                    next = DirtyPage.nextDirty(in: old, from: region + 1)
                }
            })
    }

    static let directory = metadata(
        .directory,
        { page in
            for (index, entry) in Sample.directoryEntries {
                DirectoryPage.setEntry(in: page, at: index, entry)
            }
        },
        copy: { old, new throws(FormatError) in
            for index in 0..<DirectoryPage.entriesPerPage {
                let entry = try DirectoryPage.entry(in: old, at: index)
                DirectoryPage.setEntry(in: new, at: index, entry)
            }
        })

    static let group = metadata(
        .group,
        { page throws(FormatError) in
            try GroupPage.setRecord(in: page, at: 1, Sample.group)
        },
        copy: { old, new throws(FormatError) in
            for index in 0..<GroupPage.recordsPerPage {
                let record = try GroupPage.record(in: old, at: index)
                try GroupPage.setRecord(in: new, at: index, record)
            }
        })

    static let cache = metadata(
        .cacheIndex,
        { page in
            for (slot, block) in Sample.cachedBlocks {
                CachePage.setBlock(in: page, slot: slot, block)
            }
        },
        copy: { old, new in
            for slot in 0..<CachePage.slotsPerPage {
                guard let block = CachePage.block(in: old, slot: slot) else { continue }
                CachePage.setBlock(in: new, slot: slot, block)
            }
        })

    static let batch: Specimen = {
        let memory = Memory(8192, fill: 0xa5)
        var writer = unsafe BatchWriter(memory.bytes)
        for record in Sample.records { precondition(writer.append(record)) }
        let bytes = writer.finish(Sample.batchHeader).bytes
        return Specimen(
            structure: .journalBatch, bytes: Array(memory.content[..<bytes]), coveredBytes: bytes
        ) { memory throws(FormatError) in
            var decoder = try unsafe BatchDecoder(memory.readOnly, lineage: Sample.lineage)
            let copy = Memory(JournalBatch.maximumBytes, fill: 0xa5)
            var writer = unsafe BatchWriter(copy.bytes)
            while let record = try decoder.next() { precondition(writer.append(record)) }
            let bytes = writer.finish(decoder.header).bytes
            return Array(copy.content[..<bytes])
        }
    }()

    private static func page(
        _ structure: Structure, _ memory: Memory,
        copy: @escaping @Sendable (PageImage, PageImage) throws(FormatError) -> Void
    ) -> Specimen {
        Specimen(structure: structure, bytes: memory.content, coveredBytes: 4096) {
            old throws(FormatError) in
            guard unsafe old.bytes.count == 4096 else {
                // A page is always read whole: there is no shorter image.
                throw .tooShort(structure, neededBytes: 4096, foundBytes: 0)
            }
            let new = Memory(4096)
            try copy(old.page, new.page)
            return new.content
        }
    }

    private static func metadata(
        _ kind: PieceKind, _ fill: (PageImage) throws(FormatError) -> Void,
        copy: @escaping @Sendable (PageImage, PageImage) throws(FormatError) -> Void
    ) -> Specimen {
        let memory = Memory(4096)
        do { try fill(memory.page) } catch { preconditionFailure("the sample is valid: \(error)") }
        MetadataPage.seal(
            memory.page, kind: kind, lineage: Sample.lineage, epoch: Sample.epoch,
            index: pageIndex, sequence: Sample.sequence)
        return page(kind.structure, memory) { old, new throws(FormatError) in
            let header = try MetadataPage.validate(
                old, kind: kind, lineage: Sample.lineage, index: pageIndex)
            try copy(old, new)
            MetadataPage.seal(
                new, kind: kind, lineage: Sample.lineage, epoch: header.epoch, index: header.index,
                sequence: header.sequence)
        }
    }
}
