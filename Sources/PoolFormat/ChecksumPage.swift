/// A page of checksums and validity: the values of the 256 blocks of each of 3 grains, at byte 64.
/// Grain g is grain g % 3 of page g / 3.
///
///      0 ..... header
///     64 ..... 3 x 256 values of 4 bytes
///     3136 ... zeros
///
/// Invariants:
/// 1. A value is ``BlockValue/unwritten``, or what ``Checksum/blockValue(_:lineage:block:)`` says
///    of the block's bytes, or ``BlockValue/present`` in a space without checksums.
/// 2. Values of an unmapped grain mean nothing: a map record makes all 256 UNWRITTEN.
///
/// Why the order is safe: see ``MetadataPage``. Bytes that a value makes readable were flushed
/// before the record of that value was written.
public enum ChecksumPage {
    public static let grainsPerPage = 3

    @inlinable @inline(__always)
    public static func place(ofGrain grain: UInt64) -> (page: UInt64, grain: Int) {
        (grain / UInt64(grainsPerPage), Int(grain % UInt64(grainsPerPage)))
    }

    @inlinable @inline(__always)
    static func offset(grain: Int, block: Int) -> Int {
        precondition(grain >= 0 && grain < grainsPerPage)
        precondition(block >= 0 && block < Units.blocksPerGrain)
        return 64 + (grain * Units.blocksPerGrain + block) * 4
    }

    @inlinable @inline(__always)
    public static func value(in page: PageImage, grain: Int, block: Int) -> UInt32 {
        page.u32(offset(grain: grain, block: block))
    }

    @inlinable @inline(__always)
    public static func setValue(in page: PageImage, grain: Int, block: Int, _ value: UInt32) {
        page.setU32(offset(grain: grain, block: block), value)
    }

    /// Gives all 256 blocks of a grain one value.
    public static func fill(in page: PageImage, grain: Int, with value: UInt32) {
        for block in 0..<Units.blocksPerGrain {
            setValue(in: page, grain: grain, block: block, value)
        }
    }
}
