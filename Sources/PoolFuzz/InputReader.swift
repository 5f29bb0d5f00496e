/// Takes an input apart from its front. Behind its end there are zeros, so that every input stands
/// for something.
@safe
struct InputReader {
    // Safe: borrowed for one run, and only read within bounds.
    private let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

    var remainingBytes: Int { unsafe bytes.count - offset }

    mutating func u8() -> UInt8 {
        guard remainingBytes > 0 else { return 0 }
        defer { offset += 1 }
        return unsafe bytes[offset]
    }

    mutating func u16() -> UInt16 { UInt16(u8()) | UInt16(u8()) << 8 }

    mutating func u64() -> UInt64 {
        (0..<8).reduce(0) { value, _ in value >> 8 | UInt64(u8()) << 56 }
    }

    /// A number that is small, or lies at an edge.
    mutating func number() -> UInt64 {
        let byte = u8()
        switch byte {
        case 0..<240: return UInt64(byte)
        case 240..<248: return 1 << (UInt64(byte - 239) * 8 - 1)
        case 248: return UInt64(UInt32.max)
        case 249: return 1 << 62 - 1
        case 250: return 1 << 62
        case 251: return UInt64(Int64.max)
        case 252: return UInt64.max - 1
        case 253: return UInt64.max
        default: return u64()
        }
    }

    /// All that is left.
    mutating func rest() -> [UInt8] {
        defer { offset = unsafe bytes.count }
        return unsafe Array(bytes[offset...])
    }

    /// All that is left, as text; what is no UTF-8 is replaced.
    mutating func restText() -> String { String(decoding: rest(), as: UTF8.self) }
}
