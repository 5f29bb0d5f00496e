/// A page of the dirty set: one bit for each of 32,256 regions, at byte 64, lowest bit first.
/// Region r is bit r % 32,256 of page r / 32,256.
///
/// Invariants:
/// 1. A set bit: the copies of the region may differ, or not match their values, after a crash.
/// 2. Bits past the last region of the space are zero.
///
/// Write order: a mark is durable in the journal before the first data write it covers; a region
/// leaves the set only after a flush has succeeded on every copy since its last write and its
/// blocks' values are durable. So after a crash a region with unequal copies is always in the set.
///
/// A page of the missed set has the same bits for other regions: those of which a disk that is away
/// may lack something. While a disk is away a region leaves the dirty set only behind, or in one
/// batch with, its mark here; so what such a disk lacks after a crash lies in one of the two sets.
public enum DirtyPage {
    public static let regionsPerPage = MetadataPage.payloadBytes * 8

    @inlinable @inline(__always)
    public static func place(ofRegion region: UInt64) -> (page: UInt64, region: Int) {
        (region / UInt64(regionsPerPage), Int(region % UInt64(regionsPerPage)))
    }

    @inlinable @inline(__always)
    public static func isDirty(in page: PageImage, region: Int) -> Bool {
        precondition(region >= 0 && region < regionsPerPage)
        return page.u8(64 + region / 8) >> UInt8(region % 8) & 1 == 1
    }

    @inlinable @inline(__always)
    public static func set(in page: PageImage, region: Int, dirty: Bool) {
        precondition(region >= 0 && region < regionsPerPage)
        let offset = 64 + region / 8
        let bit: UInt8 = 1 << UInt8(region % 8)
        page.setU8(offset, dirty ? page.u8(offset) | bit : page.u8(offset) & ~bit)
    }

    /// The first dirty region at or after `region`, or nil.
    public static func nextDirty(in page: PageImage, from region: Int) -> Int? {
        precondition(region >= 0)
        var next = region
        while next < regionsPerPage {
            let word = page.u64(64 + next / 64 * 8) >> UInt64(next % 64)
            if word != 0 { return next + word.trailingZeroBitCount }
            next = (next / 64 + 1) * 64
        }
        return nil
    }
}
