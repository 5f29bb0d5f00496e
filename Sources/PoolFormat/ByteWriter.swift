/// Writes little-endian fields in order into memory of a stated size.
///
/// Running over the end is a programmer's error and traps: whoever encodes has validated the value
/// and knows its size. It borrows the bytes: use it only while they live.
@safe
public struct ByteWriter {
    private let bytes: UnsafeMutableRawBufferPointer
    /// Bytes written so far.
    public private(set) var offset: Int

    public init(_ bytes: UnsafeMutableRawBufferPointer, at offset: Int = 0) {
        precondition(offset >= 0 && offset <= bytes.count)
        unsafe self.bytes = bytes
        self.offset = offset
    }

    public var remainingBytes: Int { unsafe bytes.count - offset }

    @inline(__always)
    private mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        precondition(MemoryLayout<T>.size <= remainingBytes)
        unsafe bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
        offset += MemoryLayout<T>.size
    }

    public mutating func u8(_ value: UInt8) { integer(value) }
    public mutating func u16(_ value: UInt16) { integer(value) }
    public mutating func u32(_ value: UInt32) { integer(value) }
    public mutating func u64(_ value: UInt64) { integer(value) }
    /// A number of things to follow.
    public mutating func count(_ value: Int) { integer(UInt32(value)) }

    /// 16 bytes in the order of the UUID's text (RFC 9562).
    public mutating func uuid(_ value: PoolUUID) {
        integer(value.high.byteSwapped)
        integer(value.low.byteSwapped)
    }

    /// A 16-bit length, then the bytes of UTF-8.
    public mutating func text(_ value: String) {
        u16(UInt16(value.utf8.count))
        rawText(value)
    }

    /// The bytes of UTF-8 without their length.
    public mutating func rawText(_ value: String) {
        for byte in value.utf8 { integer(byte) }
    }

    public mutating func zeros(_ count: Int) {
        precondition(count >= 0 && count <= remainingBytes)
        guard count > 0, let base = unsafe bytes.baseAddress else { return }
        unsafe (base + offset).initializeMemory(as: UInt8.self, repeating: 0, count: count)
        offset += count
    }

    /// Zeros to the end.
    public mutating func fillWithZeros() { zeros(remainingBytes) }
}

extension String {
    /// Throws unless the text fits its field.
    func checkFits(
        _ limit: Int, _ structure: Structure, _ field: String
    ) throws(FormatError) {
        guard utf8.count <= limit else { throw .badText(structure, field: field) }
    }
}
