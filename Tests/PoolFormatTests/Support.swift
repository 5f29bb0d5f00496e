import PoolFormat
import Testing

/// Page-aligned memory that a test owns.
@safe
final class Memory {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ count: Int, fill: UInt8 = 0) {
        unsafe bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: fill)
    }

    convenience init(_ content: [UInt8]) {
        self.init(content.count)
        unsafe bytes.copyBytes(from: content)
    }

    deinit { unsafe bytes.deallocate() }

    var readOnly: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(bytes) }
    var content: [UInt8] { unsafe Array(bytes) }
    var page: PageImage { unsafe PageImage(bytes) }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed gives the same test everywhere.
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    init(_ seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
}

/// CRC32C bit by bit, from its definition: what ISA-L's result is compared with.
enum ReferenceCRC {
    static let polynomial: UInt32 = 0x82f6_3b78

    static func register(_ bytes: some Sequence<UInt8>, from start: UInt32) -> UInt32 {
        var register = start
        for byte in bytes {
            register ^= UInt32(byte)
            for _ in 0..<8 {
                register = register & 1 == 1 ? register >> 1 ^ polynomial : register >> 1
            }
        }
        return register
    }

    static func crc(_ bytes: some Sequence<UInt8>, seed: UInt32 = 0) -> UInt32 {
        ~register(bytes, from: ~seed)
    }

    /// The four bytes that bring a register to `target`.
    static func suffix(from start: UInt32, to target: UInt32) -> [UInt8] {
        var word = target
        for _ in 0..<32 {
            word = word >> 31 == 1 ? (word ^ polynomial) << 1 | 1 : word << 1
        }
        word ^= start
        return (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * UInt32($0))) }
    }
}

/// Bytes written as hex words; `zN` stands for N zero bytes.
func unpackGolden(_ text: String) -> [UInt8] {
    var bytes: [UInt8] = []
    for token in text.split(whereSeparator: \.isWhitespace) {
        if token.first == "z" {
            bytes += [UInt8](repeating: 0, count: Int(token.dropFirst()) ?? 0)
            continue
        }
        var digits = token[...]
        while !digits.isEmpty {
            bytes.append(UInt8(digits.prefix(2), radix: 16) ?? 0)
            digits = digits.dropFirst(2)
        }
    }
    return bytes
}

/// Makes a page's checksum right again after a test has changed what it covers, so that the change
/// reaches the code behind the checksum.
func reseal(_ memory: Memory) {
    let count = unsafe memory.bytes.count
    guard count >= PageHeader.bytes else { return }
    let length = unsafe memory.bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self)
    let claimed = Int(UInt32(littleEndian: length))
    guard claimed >= PageHeader.bytes, claimed <= count else { return }
    let covered = unsafe UnsafeRawBufferPointer(rebasing: memory.readOnly[8..<claimed])
    let checksum = unsafe Checksum.crc32c(covered)
    unsafe memory.bytes.storeBytes(of: checksum.littleEndian, toByteOffset: 4, as: UInt32.self)
}

/// `#expect` of a condition that mutates, which the macro cannot take apart.
func expect(_ condition: Bool, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(condition, sourceLocation: sourceLocation)
}
