import PoolFormat
import Testing

@Suite struct ChecksumTests {
    /// RFC 3720, appendix B.4, and the check value of the CRC catalogues.
    static let vectors: [(bytes: [UInt8], crc: UInt32)] = [
        ([UInt8]("123456789".utf8), 0xe306_9283),
        ([UInt8](repeating: 0, count: 32), 0x8a91_36aa),
        ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43),
        ([UInt8](0..<32), 0x46dd_794e),
        ([UInt8]((0..<32).reversed()), 0x113f_db5c),
        ([], 0),
    ]

    @Test(arguments: vectors)
    func `Published vectors`(bytes: [UInt8], expected: UInt32) {
        #expect(unsafe bytes.withUnsafeBytes { unsafe Checksum.crc32c($0) } == expected)
        #expect(ReferenceCRC.crc(bytes) == expected)
    }

    @Test func `Any length and seed agrees with the definition, and parts chain`() {
        var random = Seeded(1)
        for length in [1, 3, 7, 8, 63, 64, 65, 255, 1000, 4095, 4096] {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
            let seed = UInt32.random(in: 0...UInt32.max, using: &random)
            let whole = unsafe bytes.withUnsafeBytes { unsafe Checksum.crc32c($0, seed: seed) }
            #expect(whole == ReferenceCRC.crc(bytes, seed: seed))
            let cut = Int.random(in: 0...length, using: &random)
            let head = unsafe bytes[..<cut].withUnsafeBytes {
                unsafe Checksum.crc32c($0, seed: seed)
            }
            let chained = unsafe bytes[cut...].withUnsafeBytes {
                unsafe Checksum.crc32c($0, seed: head)
            }
            #expect(chained == whole)
        }
    }

    /// Made independently of the code; the values are on disks: they must never change.
    static let goldenValues: [(lineage: UInt64, block: UInt64, seed: UInt32, value: UInt32)] = [
        (1, 0, 0x9b3a_61cb, 0xa8d0_0cec),
        (1, 1, 0x35de_47dd, 0xb288_1ec5),
        (2, 0, 0x05a6_ae87, 0xfee1_5912),
        (0x0102_0304_0506_0708, 0x12_3456_789a, 0x379a_3e17, 0x8ce7_66ec),
    ]

    @Test func `Golden seeds and values of a zero block`() {
        let zeros = Memory(4096)
        for golden in Self.goldenValues {
            let lineage = Lineage(golden.lineage)
            #expect(Checksum.blockSeed(lineage: lineage, block: golden.block) == golden.seed)
            let value = unsafe Checksum.blockValue(
                zeros.readOnly, lineage: lineage, block: golden.block)
            #expect(value == golden.value)
        }
    }

    @Test func `Neighbours and other spaces never share a seed`() {
        var seen: Set<UInt32> = []
        for block in 0..<UInt64(4096) {
            #expect(seen.insert(Checksum.blockSeed(lineage: Lineage(7), block: block)).inserted)
        }
        // 2^32 blocks on, or in another space, the mix is another one.
        for block: UInt64 in [0, 1, 1 << 32, 1 << 33] {
            for lineage: UInt64 in 8..<64 {
                #expect(
                    Checksum.blockSeed(lineage: Lineage(lineage), block: block)
                        != Checksum.blockSeed(lineage: Lineage(7), block: block))
            }
        }
        #expect(
            Checksum.blockSeed(lineage: Lineage(7), block: 5)
                != Checksum.blockSeed(lineage: Lineage(7), block: 5 + 1 << 32))
    }

    @Test func `A block whose CRC is zero does not look unwritten`() {
        let lineage = Lineage(3)
        let seed = Checksum.blockSeed(lineage: lineage, block: 9)
        let head = (0..<4092).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let register = ReferenceCRC.register(head, from: ~seed)
        let block = Memory(head + ReferenceCRC.suffix(from: register, to: .max))
        #expect(unsafe Checksum.crc32c(block.readOnly, seed: seed) == 0)
        #expect(
            unsafe Checksum.blockValue(block.readOnly, lineage: lineage, block: 9)
                == BlockValue.present)
    }
}
