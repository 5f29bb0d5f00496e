import CISAL

/// CRC32C (Castagnoli; RFC 3720, appendix B.4) of everything durable, at memory speed by ISA-L.
public enum Checksum {
    /// The only algorithm so far, as the label names it.
    public static let algorithm: UInt8 = 1

    /// CRC32C of the bytes. `seed` is the CRC of what came before: the CRC of a concatenation is
    /// the CRC of its second part seeded with that of the first. At most 2^31 - 1 bytes.
    public static func crc32c(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
        guard let base = bytes.baseAddress else { return seed }
        precondition(bytes.count <= Int(Int32.max))
        // ISA-L reads only: its prototype lacks the const.
        let start = unsafe UnsafeMutableRawPointer(mutating: base)
            .assumingMemoryBound(to: UInt8.self)
        return ~(unsafe crc32_iscsi(start, Int32(truncatingIfNeeded: bytes.count), ~seed))
    }

    /// The durable value of one 4 KiB block: its CRC32C seeded with whose block it is and where.
    ///
    /// Never ``BlockValue/unwritten``. Takes a quarter of a microsecond at most, allocates nothing.
    @inline(__always)
    public static func blockValue(
        _ block: UnsafeRawBufferPointer, lineage: Lineage, block number: UInt64
    ) -> UInt32 {
        precondition(block.count == Units.blockBytes)
        let value = unsafe crc32c(block, seed: blockSeed(lineage: lineage, block: number))
        return value == BlockValue.unwritten ? BlockValue.present : value
    }

    /// Mixes lineage and block number into 32 bits. CRC is linear, so equal bytes have equal values
    /// at two addresses exactly if these agree. For one lineage and one value of the block number's
    /// high half this is a bijection of its low half: no two blocks of an aligned 16 TiB agree.
    @inlinable
    public static func blockSeed(lineage: Lineage, block number: UInt64) -> UInt32 {
        var wide = lineage.rawValue &* 0x9e37_79b9_7f4a_7c15 ^ number >> 32
        // The finalizers of MurmurHash3 (Appleby, public domain): 64 bits, then 32.
        wide = (wide ^ wide >> 33) &* 0xff51_afd7_ed55_8ccd
        wide = (wide ^ wide >> 33) &* 0xc4ce_b9fe_1a85_ec53
        var mix = UInt32(truncatingIfNeeded: wide ^ wide >> 32)
        mix ^= UInt32(truncatingIfNeeded: number)
        mix = (mix ^ mix >> 16) &* 0x85eb_ca6b
        mix = (mix ^ mix >> 13) &* 0xc2b2_ae35
        return mix ^ mix >> 16
    }
}

/// What the checksum pages say of a block.
public enum BlockValue {
    /// Never written, or trimmed: it reads as zeros, whatever the disks hold.
    public static let unwritten: UInt32 = 0
    /// Written, in a space without checksums. Also the value of the one block in 2^32 whose CRC is
    /// 0, so a space with checksums may hold it too.
    public static let present: UInt32 = 1
}
