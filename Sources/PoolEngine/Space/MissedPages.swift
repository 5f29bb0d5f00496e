import PoolFormat

/// One of the two slots of a metadata page: block `block` of a piece.
struct PageSlot: Sendable {
    var piece: PieceName
    var block: Int

    init(_ kind: PieceKind, page: UInt32, slot: Int) {
        let place = MetadataPage.place(of: UInt64(page))
        piece = PieceName(kind: kind, index: UInt32(place.piece))
        block = Int(MetadataPage.slotOffset(page: place.page, slot: slot)) / Units.blockBytes
    }
}

/// Slots of metadata pages that a disk which is away lacks.
///
/// 1. A slot that is not surely as it should be on the disk, flushed, is in here; but for the older
///    slot of a page whose newer one is: what is there is older still, or no page of this place.
/// 2. It grows by what is written without the disk and, at the instant the disk leaves, by what is
///    being written: whoever writes a slot flushes it before it relies on it (`beginPageWrite`).
/// 3. Nobody knows of a disk that was away before the space was opened: all of it is missed.
struct MissedPages: Sendable {
    private var blocks: [PieceName: MissedBlocks.Mask] = [:]
    let isEverything: Bool

    static let everything = MissedPages(isEverything: true)
    static let nothing = MissedPages(isEverything: false)

    private init(isEverything: Bool) { self.isEverything = isEverything }

    mutating func insert(_ slot: PageSlot) {
        if isEverything { return }
        blocks[slot.piece, default: MissedBlocks.Mask(0..<0)]
            .formUnion(MissedBlocks.Mask(slot.block..<slot.block + 1))
    }

    /// Whether a slot of the page is.
    func contains(_ kind: PieceKind, page: UInt32) -> Bool {
        if isEverything { return true }
        let first = PageSlot(kind, page: page, slot: 0)
        let pair = MissedBlocks.Mask(first.block..<first.block + 2)
        return blocks[first.piece]?.intersects(pair) ?? false
    }

    /// The blocks of a piece that are missed, ascending.
    func blocks(of piece: PieceName) -> [Int] {
        let all = 0..<Units.pieceBytes / Units.blockBytes
        if isEverything { return Array(all) }
        guard let mask = blocks[piece] else { return [] }
        return all.filter { mask.contains($0) }
    }
}

extension Space {
    /// Slots of pages are about to be written, at this instant to the copies that take them. The
    /// others miss them, and so does a disk that leaves before `endPageWrite`.
    ///
    /// - Returns: what to end it with, once they are flushed, or have failed.
    func beginPageWrite(_ slots: [PageSlot]) -> Int {
        for index in departed.disks.indices where !departed[index].takesPages {
            miss(index, slots)
        }
        nextPageWrite += 1
        pageWrites[nextPageWrite] = slots
        return nextPageWrite
    }

    func endPageWrite(_ number: Int) { pageWrites[number] = nil }

    /// A disk leaves at this instant.
    func missPagesUnderWay(_ index: Int) {
        if Mutant.isActive(.forgetPagesUnderWay) { return }
        for slots in pageWrites.values { miss(index, slots) }
    }

    private func miss(_ index: Int, _ slots: [PageSlot]) {
        for slot in slots where !Mutant.isActive(.forgetMissedPages) {
            departed[index].missedPages.insert(slot)
        }
    }
}
