import PoolFormat
import Testing

@Suite struct PageTests {
    @Test func `A page of another space, number or kind is refused`() throws {
        let memory = Memory(Specimen.map.bytes)
        let page = memory.page
        let index = Specimen.pageIndex
        let header = try MetadataPage.validate(
            page, kind: .map, lineage: Sample.lineage, index: index)
        #expect(header.sequence == Sample.sequence && header.epoch == Sample.epoch)
        #expect(throws: FormatError.wrongOwner(.mapPage)) {
            try MetadataPage.validate(page, kind: .map, lineage: Lineage(5), index: index)
        }
        #expect(throws: FormatError.wrongIndex(.mapPage, expected: 1, found: index)) {
            try MetadataPage.validate(page, kind: .map, lineage: Sample.lineage, index: 1)
        }
        #expect(throws: FormatError.self) {
            try MetadataPage.validate(page, kind: .dirty, lineage: Sample.lineage, index: index)
        }
    }

    @Test func `A table page of another disk, slab or pool is refused`() throws {
        let memory = Memory(Specimen.slabTable.bytes)
        let slabs = memory.page
        let disk = DiskNumber(0x0304)
        _ = try SlabTablePage.validate(slabs, pool: Sample.pool, disk: disk, page: 0x0d)
        #expect(throws: FormatError.self) {
            try SlabTablePage.validate(slabs, pool: Sample.pool, disk: DiskNumber(1), page: 0x0d)
        }
        #expect(throws: FormatError.wrongOwner(.slabTable)) {
            try SlabTablePage.validate(slabs, pool: Sample.diskUUID, disk: disk, page: 0x0d)
        }
        let pieceMemory = Memory(Specimen.pieceTable.bytes)
        let pieces = pieceMemory.page
        #expect(throws: FormatError.self) {
            try PieceTablePage.validate(
                pieces, pool: Sample.pool, disk: disk, slab: 0x0102_0305, page: 2)
        }
    }

    @Test func `A freed slab keeps its generation, a zeroed entry is free`() throws {
        let memory = Memory(4096)
        #expect(try SlabTablePage.entry(in: memory.page, at: 7) == .free)
        var entry = SlabEntry(lineage: Lineage(3), group: 4, column: 5, generation: 6)
        SlabTablePage.setEntry(in: memory.page, at: 7, entry)
        #expect(try SlabTablePage.entry(in: memory.page, at: 7) == entry)
        entry.lineage = .none
        SlabTablePage.setEntry(in: memory.page, at: 7, entry)
        let freed = try SlabTablePage.entry(in: memory.page, at: 7)
        #expect(freed.isFree && freed.generation == 6 && freed.group == 0)
        let blank = Memory(4096)
        #expect(try PieceTablePage.entry(in: blank.page, at: 0).isFree)
    }

    @Test func `Checksum values do not overlap, and fill touches one grain`() {
        let memory = Memory(4096)
        func mark(_ grain: Int, _ block: Int) -> UInt32 { UInt32(grain << 16 | block | 1 << 30) }
        for grain in 0..<3 {
            for block in 0..<256 {
                ChecksumPage.setValue(
                    in: memory.page, grain: grain, block: block, mark(grain, block))
            }
        }
        ChecksumPage.fill(in: memory.page, grain: 1, with: BlockValue.unwritten)
        for grain in 0..<3 {
            for block in 0..<256 {
                let expected: UInt32 = grain == 1 ? 0 : mark(grain, block)
                #expect(
                    ChecksumPage.value(in: memory.page, grain: grain, block: block) == expected)
            }
        }
        #expect(memory.content[..<64].allSatisfy { $0 == 0 })
        #expect(memory.content[3136...].allSatisfy { $0 == 0 })
    }

    @Test func `Map entries do not overlap`() {
        let memory = Memory(4096)
        let entries = (0..<252).map {
            MapEntry(
                group: UInt32($0) | 1 << 31, physicalGrain: 0xff_ff00 | UInt32($0), state: .mapped,
                birth: .max - UInt64($0))
        }
        for (index, entry) in entries.enumerated() {
            MapPage.setEntry(in: memory.page, at: index, entry)
        }
        #expect(entries.indices.map { MapPage.entry(in: memory.page, at: $0) } == entries)
        MapPage.setEntry(in: memory.page, at: 100, .unmapped)
        #expect(MapPage.entry(in: memory.page, at: 99) == entries[99])
        #expect(MapPage.entry(in: memory.page, at: 100).state == .unmapped)
        #expect(MapPage.entry(in: memory.page, at: 101) == entries[101])
    }

    @Test func `Dirty regions are found in order, and only those`() {
        let memory = Memory(4096)
        var random = Seeded(4)
        var expected = Set([0, 63, 64, DirtyPage.regionsPerPage - 1])
        for _ in 0..<200 {
            expected.insert(Int.random(in: 0..<DirtyPage.regionsPerPage, using: &random))
        }
        for region in expected { DirtyPage.set(in: memory.page, region: region, dirty: true) }
        let cleaned = expected.sorted()[50]
        DirtyPage.set(in: memory.page, region: cleaned, dirty: false)
        expected.remove(cleaned)
        var found: [Int] = []
        while let next = DirtyPage.nextDirty(in: memory.page, from: (found.last ?? -1) + 1) {
            found.append(next)
        }
        #expect(found == expected.sorted())
        #expect(DirtyPage.nextDirty(in: memory.page, from: DirtyPage.regionsPerPage) == nil)
        #expect(memory.content[..<64].allSatisfy { $0 == 0 })
    }

    @Test func `Cached blocks do not overlap, and a slot that names none has none`() {
        let memory = Memory(4096)
        let slots = 0..<CachePage.slotsPerPage
        let blocks = slots.map { UInt64($0) << 40 | UInt64(255 - $0) }
        #expect(slots.allSatisfy { CachePage.block(in: memory.page, slot: $0) == nil })
        for slot in slots { CachePage.setBlock(in: memory.page, slot: slot, blocks[slot]) }
        #expect(slots.compactMap { CachePage.block(in: memory.page, slot: $0) } == blocks)
        #expect(slots.count == 256)
        #expect(memory.content[..<64].allSatisfy { $0 == 0 })
        #expect(memory.content[2112...].allSatisfy { $0 == 0 })
    }

    @Test func `A cached block past the largest space is refused`() {
        // The sample's last slot has the last block.
        let impossible: [(Int, UInt8, UInt64)] = [
            (2104, 1, 0x0001_0000_0000_0000), (2111, 0x80, 0x8000_ffff_ffff_ffff),
            (79, 0xff, 0xff00_0000_0000_0000),
        ]
        for (offset, value, block) in impossible {
            let memory = Memory(Specimen.cache.bytes)
            unsafe memory.bytes[offset] = value
            reseal(memory)
            let error = FormatError.outOfRange(.cachePage, field: "block", value: block)
            #expect(throws: error) { try cachePage(memory) }
        }
    }

    @Test func `Bytes behind the last cached block are refused`() throws {
        for offset in [2112, 2119, 4095] {
            let memory = Memory(Specimen.cache.bytes)
            _ = try cachePage(memory)
            unsafe memory.bytes[offset] = 1
            reseal(memory)
            #expect(throws: FormatError.self, "byte \(offset)") { try cachePage(memory) }
        }
    }

    private func cachePage(_ memory: Memory) throws -> PageHeader {
        try MetadataPage.validate(
            memory.page, kind: .cacheIndex, lineage: Sample.lineage, index: Specimen.pageIndex)
    }

    @Test func `The last grain, region, slot and page lie where the format says`() {
        #expect(MapPage.place(ofGrain: 252) == (1, 0))
        #expect(ChecksumPage.place(ofGrain: 5) == (1, 2))
        #expect(DirtyPage.place(ofRegion: 32_256) == (1, 0))
        #expect(DirtyPage.regionsPerPage == 32_256)
        #expect(DirectoryPage.place(ofSlot: 84) == (1, 0))
        #expect(GroupPage.place(ofRecord: 5) == (1, 2))
        #expect(MetadataPage.place(of: 129) == (1, 1))
        #expect(MetadataPage.slotOffset(page: 127, slot: 1) == 1 << 20 - 4096)
        #expect(PieceTablePage.pages == 3)
        #expect(SpaceRoot.slotOffset(1) == 65_536)
    }

    @Test func `A group with impossible geometry is not written`() {
        let changes: [@Sendable (inout GroupRecord) -> Void] = [
            { $0.slabs = [] }, { $0.slabs.removeLast() }, { $0.copies = 3 }, { $0.columns = 4 },
            { $0.unitBytes = 0 }, { $0.unitBytes = 100 }, { $0.unitBytes = 2 << 20 },
            { group in
                group.columns = 31
                group.slabs = Array(repeating: group.slabs[0], count: 62)
            },
        ]
        for change in changes {
            var group = Sample.group
            change(&group)
            let memory = Memory(4096)
            #expect(throws: FormatError.self) {
                try GroupPage.setRecord(in: memory.page, at: 0, group)
            }
        }
    }

    @Test func `The largest group fits its record and its journal record`() throws {
        var group = Sample.group
        group.columns = 30
        group.slabs = (0..<60).map {
            GroupSlab(
                address: SlabAddress(disk: DiskNumber(UInt16($0)), slab: .max), generation: .max)
        }
        let memory = Memory(4096)
        for index in 0..<3 { try GroupPage.setRecord(in: memory.page, at: index, group) }
        #expect(try GroupPage.record(in: memory.page, at: 2) == group)
        try GroupPage.setRecord(in: memory.page, at: 1, nil)
        #expect(try GroupPage.record(in: memory.page, at: 1) == nil)
        #expect(try GroupPage.record(in: memory.page, at: 0) == group)
        #expect(JournalRecord.groupAdded(group).encodedBytes == 8 + 64 + 960)
    }

    @Test func `The largest root fits its slot`() throws {
        let copies = (1...3).map { Sample.address(UInt16($0)) }
        var root = Sample.root
        root.journal = Array(repeating: copies, count: SpaceRoot.journalPieceLimit)
        root.directory = Array(repeating: copies, count: SpaceRoot.directoryPieceLimit)
        let memory = Memory(SpaceRoot.slotBytes)
        try unsafe root.encode(into: memory.bytes)
        #expect(try unsafe SpaceRoot.decode(memory.readOnly, lineage: Sample.lineage) == root)
        root.journal.append(copies)
        #expect(throws: FormatError.self) { try unsafe root.encode(into: memory.bytes) }
        root.journal = [[]]
        #expect(throws: FormatError.self) { try unsafe root.encode(into: memory.bytes) }
    }

    @Test func `The largest fence table fits its slot, and no lineage stands twice`() throws {
        var table = Sample.fences
        table.entries = (0..<FenceTable.entryLimit).map {
            FenceEntry(lineage: Lineage(UInt64($0)), epoch: .max, owner: Sample.pool)
        }
        let memory = Memory(FenceTable.slotBytes)
        try unsafe table.encode(into: memory.bytes)
        #expect(try unsafe FenceTable.decode(memory.readOnly) == table)
        #expect(FenceTable.entryLimit >= Configuration.spaceLimit)
        table.entries[1].lineage = table.entries[0].lineage
        #expect(throws: FormatError.self) { try unsafe table.encode(into: memory.bytes) }
    }
}
