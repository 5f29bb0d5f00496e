/// One 4 KiB page in memory that something else owns: an arena, a cache, a mapping.
///
/// The safe face of a raw pointer: 4,096 bytes, aligned to 8, alive while this value is used;
/// whoever makes one vouches for that. Accesses are bounds-checked.
@safe
public struct PageImage: @unchecked Sendable {
    public static let bytes = Units.blockBytes
    @usableFromInline let base: UnsafeMutableRawPointer

    @unsafe
    public init(_ bytes: UnsafeMutableRawBufferPointer) {
        guard let start = bytes.baseAddress, bytes.count >= Self.bytes else {
            preconditionFailure("a page has 4,096 bytes")
        }
        unsafe self.init(start)
    }

    /// - Parameter start: of 4,096 bytes, aligned to 8.
    @unsafe
    public init(_ start: UnsafeMutableRawPointer) {
        precondition(UInt(bitPattern: start) & 7 == 0)
        unsafe base = start
    }

    @unsafe
    public var buffer: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: base, count: Self.bytes)
    }

    @unsafe
    public var readOnlyBuffer: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: base, count: Self.bytes)
    }

    /// `count` bytes from `offset`, for a codec.
    @unsafe
    func slice(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        precondition(offset >= 0 && count >= 0 && offset <= Self.bytes - count)
        return unsafe UnsafeMutableRawBufferPointer(start: base + offset, count: count)
    }

    public func zero() {
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.bytes)
    }

    @inlinable @inline(__always)
    func u8(_ offset: Int) -> UInt8 {
        precondition(offset >= 0 && offset < Self.bytes)
        return unsafe base.load(fromByteOffset: offset, as: UInt8.self)
    }

    @inlinable @inline(__always)
    func setU8(_ offset: Int, _ value: UInt8) {
        precondition(offset >= 0 && offset < Self.bytes)
        unsafe base.storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }

    @inlinable @inline(__always)
    func u32(_ offset: Int) -> UInt32 {
        precondition(offset >= 0 && offset & 3 == 0 && offset < Self.bytes)
        return UInt32(littleEndian: unsafe base.load(fromByteOffset: offset, as: UInt32.self))
    }

    @inlinable @inline(__always)
    func setU32(_ offset: Int, _ value: UInt32) {
        precondition(offset >= 0 && offset & 3 == 0 && offset < Self.bytes)
        unsafe base.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
    }

    @inlinable @inline(__always)
    func u64(_ offset: Int) -> UInt64 {
        precondition(offset >= 0 && offset & 7 == 0 && offset < Self.bytes)
        return UInt64(littleEndian: unsafe base.load(fromByteOffset: offset, as: UInt64.self))
    }

    @inlinable @inline(__always)
    func setU64(_ offset: Int, _ value: UInt64) {
        precondition(offset >= 0 && offset & 7 == 0 && offset < Self.bytes)
        unsafe base.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
    }
}
