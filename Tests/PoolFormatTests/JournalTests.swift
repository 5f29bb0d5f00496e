import PoolFormat
import Testing

@Suite struct JournalTests {
    private func decoded(_ bytes: [UInt8]) throws -> (BatchDecoder, [JournalRecord]) {
        let memory = Memory(bytes)
        var decoder = try unsafe BatchDecoder(memory.readOnly, lineage: Sample.lineage)
        var records: [JournalRecord] = []
        while let record = try decoder.next() { records.append(record) }
        withExtendedLifetime(memory) {}
        return (decoder, records)
    }

    @Test func `Header and records come back equal`() throws {
        let (decoder, records) = try decoded(Specimen.batch.bytes)
        #expect(records == Sample.records)
        #expect(decoder.header == Sample.batchHeader)
        #expect(records.map(\.encodedBytes).reduce(0, +) == Int(Sample.batchHeader.recordBytes))
    }

    @Test func `The ways without a record value write the same bytes`() {
        let first = Memory(8192)
        let second = Memory(8192, fill: 0xff)
        let changes = (0..<256).map { ValueChange(old: UInt32($0), new: ~UInt32($0)) }
        let entry = Sample.mapEntries[251] ?? .unmapped
        var writer = unsafe BatchWriter(first.bytes)
        expect(writer.append(.map(grain: 4, entry: entry)))
        expect(writer.append(.values(firstBlock: 1024, changes: changes)))
        expect(writer.append(.mark(region: 8)))
        expect(writer.append(.clean(region: 9)))
        expect(writer.append(.unmap(grain: 10)))
        expect(writer.append(.cached(firstBlock: 2048, slot: 512, changes: changes)))
        var direct = unsafe BatchWriter(second.bytes)
        expect(direct.appendMap(grain: 4, entry: entry))
        expect(
            unsafe changes.withUnsafeBufferPointer {
                unsafe direct.appendValues(firstBlock: 1024, changes: $0)
            })
        expect(direct.appendMark(region: 8))
        expect(direct.appendClean(region: 9))
        expect(direct.appendUnmap(grain: 10))
        expect(
            unsafe changes.withUnsafeBufferPointer {
                unsafe direct.appendCached(firstBlock: 2048, slot: 512, changes: $0)
            })
        let one = writer.finish(Sample.batchHeader)
        let two = direct.finish(Sample.batchHeader)
        #expect(one == two && one.bytes == 8192)
        #expect(first.content[..<one.bytes] == second.content[..<two.bytes])
    }

    @Test func `A full batch refuses and stays as it was`() throws {
        let memory = Memory(1 << 20, fill: 0xa5)
        var writer = unsafe BatchWriter(memory.bytes)
        let changes = Array(repeating: ValueChange(old: 1, new: 2), count: 256)
        var count: UInt32 = 0
        while writer.append(.values(firstBlock: 256 * UInt64(count), changes: changes)) {
            count += 1
        }
        // 2,064 bytes each: 126 fit into 256 KiB less the header.
        #expect(count == 126 && writer.recordCount == 126 && writer.freeBytes == 1984)
        expect(writer.append(.groupRemoved(id: 1)))
        while writer.appendMark(region: 1) {}
        #expect(writer.freeBytes == 8)
        expect(!writer.appendMap(grain: 0, entry: Sample.mapEntries[251] ?? .unmapped))
        expect(writer.append(.groupRemoved(id: 2)))
        expect(!writer.append(.groupRemoved(id: 3)))
        let (bytes, checksum) = writer.finish(Sample.batchHeader)
        #expect(bytes == JournalBatch.maximumBytes)
        #expect(memory.content[bytes...].allSatisfy { $0 == 0xa5 })
        // What lies behind the batch belongs to others.
        let (decoder, records) = try decoded(memory.content)
        #expect(decoder.checksum == checksum && decoder.lengthBytes == bytes)
        #expect(records.count == Int(writer.recordCount))
        #expect(records.last == .groupRemoved(id: 2))
        writer.reset()
        #expect(writer.isEmpty && writer.recordBytes == 0)
        expect(writer.finish(Sample.batchHeader).bytes == 4096)
        #expect(try decoded(memory.content).1.isEmpty)
    }

    @Test func `Its first block tells how much to read`() throws {
        let memory = Memory(Specimen.batch.bytes)
        #expect(try unsafe JournalBatch.peek(memory.readOnly) == 4096)
        for length: UInt32 in [0, 64, 96, 4095, 4097, 256 << 10 + 4096, .max] {
            unsafe memory.bytes.storeBytes(of: length, toByteOffset: 12, as: UInt32.self)
            #expect(throws: FormatError.wrongLength(.journalBatch, found: UInt64(length))) {
                try unsafe JournalBatch.peek(memory.readOnly)
            }
        }
    }

    @Test func `A batch of another space is refused`() {
        let memory = Memory(Specimen.batch.bytes)
        #expect(throws: FormatError.wrongOwner(.journalBatch)) {
            _ = try unsafe BatchDecoder(memory.readOnly, lineage: Lineage(5))
        }
    }

    @Test func `A batch follows only the one it names`() throws {
        let decoder = try decoded(Specimen.batch.bytes).0
        var previous = Sample.batchHeader
        previous.sequence -= 1
        #expect(decoder.follows(previous, checksum: 0x1b2b_3b4b))
        #expect(!decoder.follows(previous, checksum: 0x1b2b_3b4c))
        var other = previous
        other.sequence -= 1
        #expect(!decoder.follows(other, checksum: 0x1b2b_3b4b))
        other = previous
        other.epoch += 1
        #expect(!decoder.follows(other, checksum: 0x1b2b_3b4b))
    }

    /// Record heads and fields with impossible values, behind a good checksum.
    static let impossible: [(Int, UInt8)] = [
        // (byte of the batch, its new value): offsets follow from the sample's record sizes.
        (96, 0), (96, 10), (96, 64), (96, 255),  // kind
        (97, 1),  // flags
        (98, 0), (98, 8), (98, 17), (98, 24), (99, 0xff),  // length
        (92, 8), (93, 1), (93, 0xff), (68, 14), (68, 16),  // record bytes and count
        (319, 0x80), (323, 2),  // a grain past the largest space, a grain state
        (351, 0x80),  // a region past the largest space
        (356, 0), (357, 1), (367, 0x80),  // no values, more than a grain's, a block too far
        (466, 24), (468, 1), (479, 0x80),  // missed: length, reserved, a region too far
        (482, 16), (484, 1),  // caught up: length, reserved
        (568, 3), (568, 16), (570, 32), (570, 48), (571, 1),  // cached: kind, length
        (572, 0), (572, 1), (573, 1),  // no values, fewer than there are, more than a grain's
        (574, 1), (588, 1), (591, 0x80),  // reserved
        (583, 0x80), (584, 0xff),  // a block too far, slots of two pieces
    ]

    @Test(arguments: impossible)
    func `Impossible records are refused`(offset: Int, value: UInt8) throws {
        let memory = Memory(Specimen.batch.bytes)
        unsafe memory.bytes[offset] = value
        reseal(memory)
        #expect(throws: FormatError.self) { try decoded(memory.content) }
    }

    @Test func `Values that leave their grain are refused`() throws {
        var bytes = Specimen.batch.bytes
        let offset = 96 + 16 + 56 + 136 + 32 + 16 + 8
        #expect(bytes[offset] == 0xfe)
        bytes[offset] = 0xff
        let memory = Memory(bytes)
        reseal(memory)
        #expect(
            throws: FormatError.outOfRange(.journalBatch, field: "number of values", value: 2)
        ) { try decoded(memory.content) }
    }

    /// The sample's are the last of their grain and of their piece.
    @Test func `Cached blocks of two grains, or in slots of two pieces, are refused`() {
        let record = 96 + Int(Sample.batchHeader.recordBytes) - (24 + 2 * 8)
        let impossible: [(Int, FormatError)] = [
            (record + 8, .outOfRange(.journalBatch, field: "number of values", value: 2)),
            (record + 16, .outOfRange(.journalBatch, field: "slot", value: 0x6e7e_8eff)),
        ]
        for (offset, error) in impossible {
            var bytes = Specimen.batch.bytes
            #expect(bytes[offset] == 0xfe)
            bytes[offset] = 0xff
            let memory = Memory(bytes)
            reseal(memory)
            #expect(throws: error) { try decoded(memory.content) }
        }
    }
}
