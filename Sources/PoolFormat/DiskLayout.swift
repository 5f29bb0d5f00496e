/// Where everything lies on a disk, from its size alone.
///
///     0 ........ label, head copy (4 KiB)
///     64 KiB ... fence table, slots 0 and 1 (64 KiB each)
///     1 MiB .... pool configuration, slots 0 and 1 (1 MiB each)
///     3 MiB .... slab table: page p, slot s at 3 MiB + (2p + s) x 4 KiB
///     n MiB .... slabs of 256 MiB, from the next MiB boundary
///     last 4 KiB, rounded down to 4 KiB: label, tail copy
///
/// Invariants:
/// 1. Areas are disjoint, in this order, and all within the disk; what is not named is unused.
/// 2. The slab count is the largest with which that holds; the table has an entry for each slab.
/// 3. The layout follows from the size that the label records, never from the device's size today,
///    so a disk that grew keeps its slabs where they are.
public struct DiskLayout: Hashable, Sendable {
    public static let labelHeadOffset: UInt64 = 0
    public static let fenceTableOffset: UInt64 = 64 << 10
    public static let configurationOffset: UInt64 = 1 << 20
    public static let slabTableStart: UInt64 = 3 << 20

    public let diskBytes: UInt64
    public let slabCount: UInt32
    /// Of the slab table, each with two slots.
    public let slabTablePages: Int
    public let slabsOffset: UInt64
    public let labelTailOffset: UInt64

    /// - Throws: ``FormatError/diskTooSmall(bytes:)`` below 1 GiB,
    ///   ``FormatError/diskTooLarge(bytes:)`` above 1 EiB.
    public init(diskBytes: UInt64) throws(FormatError) {
        guard diskBytes >= Units.minimumDiskBytes else { throw .diskTooSmall(bytes: diskBytes) }
        guard diskBytes <= Units.maximumDiskBytes else { throw .diskTooLarge(bytes: diskBytes) }
        let page = UInt64(Units.blockBytes)
        let tail = (diskBytes / page - 1) * page
        // Fewer slabs never need a larger table, so halving finds the largest count that fits.
        var fits: UInt64 = 0
        var tooMany = tail / UInt64(Units.slabBytes) + 1
        while tooMany - fits > 1 {
            let middle = fits + (tooMany - fits) / 2
            let end = Self.slabsOffset(slabCount: middle) + middle * UInt64(Units.slabBytes)
            if end <= tail { fits = middle } else { tooMany = middle }
        }
        self.diskBytes = diskBytes
        slabCount = UInt32(fits)
        slabTablePages = Int(Self.tablePages(slabCount: fits))
        slabsOffset = Self.slabsOffset(slabCount: fits)
        labelTailOffset = tail
    }

    private static func tablePages(slabCount: UInt64) -> UInt64 {
        let entries = UInt64(SlabTablePage.entriesPerPage)
        return (slabCount + entries - 1) / entries
    }

    private static func slabsOffset(slabCount: UInt64) -> UInt64 {
        let tableEnd = slabTableStart + tablePages(slabCount: slabCount) * 2 * 4096
        let mebibyte: UInt64 = 1 << 20
        return (tableEnd + mebibyte - 1) / mebibyte * mebibyte
    }

    /// The byte offset of a slab on the disk.
    @inlinable @inline(__always)
    public func slabOffset(_ slab: UInt32) -> UInt64 {
        precondition(slab < slabCount)
        return slabsOffset + UInt64(slab) << 28
    }

    /// The byte offset of a metadata piece on the disk.
    @inlinable
    public func pieceOffset(slab: UInt32, piece: UInt16) -> UInt64 {
        precondition(Int(piece) < Units.piecesPerSlab)
        return slabOffset(slab) + UInt64(piece) << 20
    }

    public static func fenceTableOffset(slot: Int) -> UInt64 {
        precondition(slot == 0 || slot == 1)
        return fenceTableOffset + UInt64(slot * FenceTable.slotBytes)
    }

    public static func configurationOffset(slot: Int) -> UInt64 {
        precondition(slot == 0 || slot == 1)
        return configurationOffset + UInt64(slot * Configuration.slotBytes)
    }

    public func slabTableOffset(page: Int, slot: Int) -> UInt64 {
        precondition(page >= 0 && page < slabTablePages && (slot == 0 || slot == 1))
        return Self.slabTableStart + UInt64(2 * page + slot) * UInt64(Units.blockBytes)
    }

    /// Whether an address can exist on this disk.
    public func contains(slab: UInt32) -> Bool { slab < slabCount }
}
