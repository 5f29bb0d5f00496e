/// A page of the index of a space's write-back cache: 256 numbers of 8 bytes at byte 64. Number s of
/// page p says of slot s of the cache's piece p (4 KiB each) which block of the space lies there:
/// its number plus 1, or 0 for none.
///
/// Invariants:
/// 1. A block lies in at most one slot, and then nowhere else: what a stripe has in its place is old.
/// 2. What lies in a slot has the value that the block's checksum page says.
/// 3. The bytes behind the numbers are zero.
///
/// Write order: a block is written to a slot that nothing durable names, and flushed; the `cached`
/// record; then a checkpoint may say so here. A slot is written again only once a record that says
/// that its block lies elsewhere is durable.
public enum CachePage {
    public static let slotsPerPage = Units.blocksPerGrain
    private static let end = PageHeader.bytes + slotsPerPage * 8

    /// nil: none.
    public static func block(in page: PageImage, slot: Int) -> UInt64? {
        precondition(slot >= 0 && slot < slotsPerPage)
        let number = page.u64(PageHeader.bytes + slot * 8)
        return number == 0 ? nil : number - 1
    }

    public static func setBlock(in page: PageImage, slot: Int, _ block: UInt64) {
        precondition(slot >= 0 && slot < slotsPerPage && block < JournalRecord.blockLimit)
        page.setU64(PageHeader.bytes + slot * 8, block + 1)
    }

    static func validateEntries(_ page: PageImage) throws(FormatError) {
        for slot in 0..<slotsPerPage {
            if let block = block(in: page, slot: slot), block >= JournalRecord.blockLimit {
                throw .outOfRange(.cachePage, field: "block", value: block)
            }
        }
        for offset in stride(from: end, to: PageImage.bytes, by: 8) where page.u64(offset) != 0 {
            throw .reservedNotZero(.cachePage, offsetBytes: offset)
        }
    }
}
