import PoolFormat
import Testing

@Suite struct LabelTests {
    /// The sample's bytes with some changed behind a good checksum.
    private func decode(changing changes: [Int: UInt8]) throws -> Label {
        let memory = Memory(Specimen.label.bytes)
        for (offset, byte) in changes { unsafe memory.bytes[offset] = byte }
        reseal(memory)
        return try unsafe Label.decode(memory.readOnly)
    }

    @Test func `Unknown incompatible features are refused by number, before anything else`() {
        #expect(throws: FormatError.unknownFeatures(1 << 5 | 1 << 63)) {
            // With a grain size that would be refused too, were it looked at.
            try decode(changing: [96: 1 | 1 << 5, 103: 1 << 7, 108: 0xff])
        }
        #expect(FormatError.unknownFeatures(1 << 5 | 1 << 63).description.hasSuffix("bits 5, 63"))
    }

    @Test func `Another draft is refused, and so is a label that is no draft`() {
        #expect(throws: FormatError.otherDraft(found: 2, supported: 1)) {
            try decode(changing: [104: 2])
        }
        #expect(throws: FormatError.otherDraft(found: 1, supported: 1)) {
            try decode(changing: [96: 0])
        }
    }

    @Test func `Compatible features do not matter, read-only ones forbid writing`() throws {
        let label = try decode(changing: [80: 0xff])
        #expect(label.compatibleFeatures & 0xff == 0xff)
        #expect(label.requiresReadOnly)
        let writable = try decode(changing: [88: 0, 89: 0, 90: 0, 91: 0])
        #expect(!writable.requiresReadOnly)
    }

    @Test func `What this version does not serve cannot be written either`() {
        let changes: [@Sendable (inout Label) -> Void] = [
            { $0.slabBytes = 1 << 30 }, { $0.grainBytes = 4096 }, { $0.sectorBytes = 520 },
            { $0.checksumAlgorithm = 2 }, { $0.diskBytes = 1 << 20 }, { $0.draft = 0 },
            { $0.incompatibleFeatures = 3 }, { $0.poolName = String(repeating: "é", count: 33) },
        ]
        for change in changes {
            var label = Sample.label
            change(&label)
            let memory = Memory(4096)
            #expect(throws: FormatError.self) { try unsafe label.encode(into: memory.bytes) }
        }
    }

    @Test func `The longest name fits`() throws {
        var label = Sample.label
        label.poolName = String(repeating: "é", count: 32)
        let memory = Memory(4096)
        try unsafe label.encode(into: memory.bytes)
        #expect(try unsafe Label.decode(memory.readOnly) == label)
    }
}
