/// Reads little-endian fields in order; every read is bounds-checked and throws, none traps.
///
/// It borrows the bytes: use it only while they live and do not change.
@safe
public struct ByteReader {
    private let bytes: UnsafeRawBufferPointer
    /// What is being read, for the errors.
    public let structure: Structure
    /// Bytes consumed so far.
    public private(set) var offset = 0

    public init(_ bytes: UnsafeRawBufferPointer, of structure: Structure, from offset: Int = 0) {
        unsafe self.bytes = bytes
        self.structure = structure
        precondition(offset >= 0)
        self.offset = offset
    }

    public var remainingBytes: Int { max(0, unsafe bytes.count - offset) }

    @inline(__always)
    private mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type
    ) throws(FormatError) -> T {
        let start = try advance(MemoryLayout<T>.size)
        // In bounds: `advance` has checked.
        return T(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: start, as: T.self))
    }

    /// Claims the next `count` bytes and returns where they start.
    @inline(__always)
    private mutating func advance(_ count: Int) throws(FormatError) -> Int {
        guard count >= 0, count <= remainingBytes else {
            throw .tooShort(structure, neededBytes: count, foundBytes: remainingBytes)
        }
        defer { offset += count }
        return offset
    }

    public mutating func u8() throws(FormatError) -> UInt8 { try integer(UInt8.self) }
    public mutating func u16() throws(FormatError) -> UInt16 { try integer(UInt16.self) }
    public mutating func u32() throws(FormatError) -> UInt32 { try integer(UInt32.self) }
    public mutating func u64() throws(FormatError) -> UInt64 { try integer(UInt64.self) }

    /// A number of things to follow, at most `limit`.
    public mutating func count(_ field: String, limit: Int) throws(FormatError) -> Int {
        let value = Int(try u32())
        guard value <= limit else {
            throw .tooMany(structure, field: field, count: value, limit: limit)
        }
        return value
    }

    /// 16 bytes in the order of the UUID's text (RFC 9562), so that a hex dump shows it as is.
    public mutating func uuid() throws(FormatError) -> PoolUUID {
        let high = UInt64(bigEndian: try integer(UInt64.self).littleEndian)
        let low = UInt64(bigEndian: try integer(UInt64.self).littleEndian)
        return PoolUUID(high: high, low: low)
    }

    /// A 16-bit length, then that many bytes of UTF-8.
    public mutating func text(_ field: String, limit: Int) throws(FormatError) -> String {
        let count = Int(try u16())
        guard count <= limit else { throw .badText(structure, field: field) }
        return try text(field, bytes: count)
    }

    /// Exactly `count` bytes of UTF-8.
    public mutating func text(_ field: String, bytes count: Int) throws(FormatError) -> String {
        let start = try advance(count)
        let slice = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<start + count])
        guard let text = unsafe String(validating: slice, as: UTF8.self) else {
            throw .badText(structure, field: field)
        }
        return text
    }

    /// Bytes kept zero for later versions.
    public mutating func reserved(_ count: Int) throws(FormatError) {
        let start = try advance(count)
        for position in start..<start + count {
            guard unsafe bytes[position] == 0 else {
                throw .reservedNotZero(structure, offsetBytes: position)
            }
        }
    }

    /// A raw value of an enumeration; anything else is out of range.
    @inline(__always)
    public mutating func choice<T: RawRepresentable>(
        _ field: String, _ type: T.Type
    ) throws(FormatError) -> T where T.RawValue == UInt8 {
        let raw = try u8()
        guard let value = T(rawValue: raw) else {
            throw .outOfRange(structure, field: field, value: UInt64(raw))
        }
        return value
    }

    /// The end must have been reached.
    public func finish() throws(FormatError) {
        guard remainingBytes == 0 else {
            throw .wrongLength(structure, found: UInt64(unsafe bytes.count))
        }
    }
}
