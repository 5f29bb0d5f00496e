/// The paged metadata of a space: map, checksum, dirty, directory, group and cache pages, 4 KiB each,
/// 128 in a piece, each with two alternating slots.
///
///     page i of a piece, slot s: (2i + s) x 4 KiB from the start of the piece
///     page n of a kind: page n % 128 of piece n / 128 of that kind
///
///      0 ..... header (owner: lineage and epoch, index: n, kind: PieceKind)
///     64 ..... 4,032 bytes of entries, as each kind says
///
/// Invariants:
/// 1. A valid page names its lineage, kind and number: a page of another space, or one written to
///    the wrong place, is never taken for it.
/// 2. `sequence` is that of the last journal batch whose records the page contains. All of them,
///    and no later one's.
/// 3. The epoch is the one under which it was written, at most the space's.
///
/// Write order: the batches a page contains are durable on every current copy; then the slot that
/// is not current is written, and flushed; then the batches may retire. A crash in between leaves
/// the older slot and the batches that lead from it to the newer. Both slots bad is a lost page:
/// the other copy has it.
public enum MetadataPage {
    public static let pagesPerPiece = 128
    /// Behind the header.
    public static let payloadBytes = PageImage.bytes - PageHeader.bytes

    /// Bytes from the start of the piece. `page` counts within the piece.
    public static func slotOffset(page: Int, slot: Int) -> UInt64 {
        precondition(page >= 0 && page < pagesPerPiece && (slot == 0 || slot == 1))
        return UInt64(2 * page + slot) * UInt64(Units.blockBytes)
    }

    /// Which piece of its kind holds a page, and as which of its pages.
    public static func place(of index: UInt64) -> (piece: UInt64, page: Int) {
        (index / UInt64(pagesPerPiece), Int(index % UInt64(pagesPerPiece)))
    }

    /// Makes the image ready to be written: puts the header in front of the entries.
    ///
    /// - Returns: the page's checksum.
    @discardableResult
    public static func seal(
        _ page: PageImage, kind: PieceKind, lineage: Lineage, epoch: UInt64, index: UInt64,
        sequence: UInt64
    ) -> UInt32 {
        precondition(kind.isPaged)
        let header = PageHeader(
            structure: kind.structure, owner: .space(lineage, epoch: epoch), sequence: sequence,
            index: index, kind: kind.rawValue)
        return unsafe header.seal(page.buffer, lengthBytes: PageImage.bytes)
    }

    /// Verifies a page that was read; for every kind but heat and pins (whose entries come with
    /// a later version) its entries too, so that the accessors need not.
    public static func validate(
        _ page: PageImage, kind: PieceKind, lineage: Lineage, index: UInt64
    ) throws(FormatError) -> PageHeader {
        precondition(kind.isPaged)
        let structure = kind.structure
        let (header, claim) = try unsafe PageHeader.open(page.readOnlyBuffer, as: structure)
        guard claim.lengthBytes == PageImage.bytes else {
            throw .wrongLength(structure, found: UInt64(claim.lengthBytes))
        }
        guard header.kind == kind.rawValue else {
            throw .outOfRange(structure, field: "piece kind", value: UInt64(header.kind))
        }
        guard try header.spaceOwner().lineage == lineage else { throw .wrongOwner(structure) }
        guard header.index == index else {
            throw .wrongIndex(structure, expected: index, found: header.index)
        }
        switch kind {
        case .map: try MapPage.validateEntries(page)
        case .directory: try DirectoryPage.validateEntries(page)
        case .group: try GroupPage.validateEntries(page)
        case .cacheIndex: try CachePage.validateEntries(page)
        case .checksum, .dirty, .missed: break  // every bit pattern is a value
        case .pins, .heat: break
        case .root, .journal, .cache: break  // refused above: not paged
        }
        return header
    }
}

extension PieceKind {
    /// Whether pieces of this kind consist of ``MetadataPage``s.
    public var isPaged: Bool {
        switch self {
        case .root, .journal, .cache: false
        case .directory, .map, .checksum, .dirty, .group, .missed, .pins, .heat, .cacheIndex: true
        }
    }
}
