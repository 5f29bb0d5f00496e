import PoolFormat
import Testing

/// What holds for every durable structure.
@Suite struct DurabilityTests {
    @Test(arguments: Specimen.all)
    func `What is read and written again has the same bytes`(specimen: Specimen) throws {
        #expect(try specimen.rewrite(Memory(specimen.bytes)) == specimen.bytes)
    }

    @Test(arguments: Specimen.all)
    func `A change of any single byte is detected`(specimen: Specimen) throws {
        let memory = Memory(specimen.bytes)
        for position in 0..<specimen.coveredBytes {
            let bit: UInt8 = 1 << UInt8(position % 8)
            // Of the 64 KiB structures one change a byte: their every try sums up 64 KiB.
            for change: UInt8 in specimen.bytes.count > 4096 ? [bit] : [bit, 0xff] {
                unsafe memory.bytes[position] ^= change
                let accepted = accepts(specimen, memory)
                unsafe memory.bytes[position] ^= change
                try #require(!accepted, "byte \(position) xor \(change)")
            }
        }
        #expect(accepts(specimen, memory))
    }

    @Test(arguments: Specimen.all)
    func `A structure cut short is refused`(specimen: Specimen) {
        let lengths = Array(0..<200) + Array(stride(from: 200, to: specimen.coveredBytes, by: 97))
            + [specimen.coveredBytes - 1]
        for length in lengths where length < specimen.coveredBytes {
            #expect(!accepts(specimen, Memory(Array(specimen.bytes[..<length]))), "\(length)")
        }
    }

    @Test(arguments: Specimen.all)
    func `Zeros are told from damage`(specimen: Specimen) {
        #expect(throws: FormatError.blank(specimen.structure)) {
            try specimen.rewrite(Memory(specimen.bytes.count))
        }
    }

    /// A byte of each structure, behind its header, that this version keeps zero.
    static let reservedBytes: [Structure: Int] = [
        .label: 138, .configuration: 113, .fenceTable: 68, .slabTable: 64 + 23,
        .pieceTable: 64 + 22, .spaceRoot: 72, .directoryPage: 64 + 2, .groupPage: 64 + 1024 + 10,
        .journalBatch: 96 + 4, .cachePage: 64 + 8 * 256,
    ]

    @Test(arguments: Specimen.all)
    func `Reserved bytes are refused while they have no meaning`(specimen: Specimen) {
        for offset in [49, 63, Self.reservedBytes[specimen.structure] ?? 63] {
            let memory = Memory(specimen.bytes)
            unsafe memory.bytes[offset] = 1
            reseal(memory)
            let error = #expect(throws: FormatError.self) { try specimen.rewrite(memory) }
            guard case .reservedNotZero = error else {
                Issue.record("byte \(offset): \(String(describing: error))")
                continue
            }
        }
    }

    @Test(arguments: Specimen.all)
    func `One structure is never taken for another`(specimen: Specimen) {
        for other in Specimen.all where other.structure != specimen.structure {
            let count = max(other.bytes.count, specimen.bytes.count)
            let padded = other.bytes + [UInt8](repeating: 0, count: count - other.bytes.count)
            let memory = Memory(Array(padded[..<specimen.bytes.count]))
            let error = FormatError.wrongMagic(
                specimen.structure, found: other.structure.magic)
            #expect(throws: error) { try specimen.rewrite(memory) }
        }
    }

    /// Hostile content with a good checksum: refused, or read as something that can be written.
    @Test(arguments: Specimen.all)
    func `Random mutations with a good checksum never trap`(specimen: Specimen) throws {
        var random = Seeded(UInt64(specimen.structure.rawValue))
        let memory = Memory(specimen.bytes)
        // Where there is something: most of a structure is zeros.
        let places = specimen.bytes.indices.filter { specimen.bytes[$0] != 0 }
        var read = 0
        for round in 0..<Self.mutations(specimen) {
            var undo: [(Int, UInt8)] = [4, 5, 6, 7].map { ($0, specimen.bytes[$0]) }
            defer { for (position, byte) in undo { unsafe memory.bytes[position] = byte } }
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let near = places[Int.random(in: 0..<places.count, using: &random)]
                let position = min(
                    max(0, near + Int.random(in: -8...8, using: &random)),
                    specimen.coveredBytes - 1)
                undo.append((position, specimen.bytes[position]))
                unsafe memory.bytes[position] = Self.interesting(&random)
            }
            if round % 16 != 0 { reseal(memory) }
            if let rewritten = try? specimen.rewrite(memory) {
                read += 1
                // What was read is written so that it reads the same.
                guard read % 4 == 0 else { continue }
                try #require(try specimen.rewrite(Memory(rewritten)) == rewritten)
            }
        }
        // The mutations reach behind the checksum, or the test tests nothing.
        #expect(read > 0)
    }

    /// 1e5 over all structures; fewer of the 64 KiB ones, where each costs more.
    static func mutations(_ specimen: Specimen) -> Int {
        specimen.bytes.count > 4096 ? 5_000 : 9_000
    }

    static func interesting(_ random: inout Seeded) -> UInt8 {
        let bytes: [UInt8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff]
        return Bool.random(using: &random)
            ? bytes[Int.random(in: 0..<bytes.count, using: &random)]
            : UInt8.random(in: 0...255, using: &random)
    }

    private func accepts(_ specimen: Specimen, _ memory: Memory) -> Bool {
        (try? specimen.rewrite(memory)) != nil
    }
}
