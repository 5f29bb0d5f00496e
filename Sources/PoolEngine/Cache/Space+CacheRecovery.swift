import PoolFormat

/// The index of the write-back cache, read back after a clean end or a crash.
///
/// Each record says where the blocks that it names lie: `cached` in slots, `values` and `rewrite` in
/// their grain's place; `map` and `unmap` say so of the whole grain. The page of a slot is complete up
/// to some batch, so of a later one what it says of the slot is applied, and of an earlier one nothing:
/// what an older record says of a slot that was given to another block since is not true any more.
extension Space {
    /// - Parameter records: the journal's, and behind them what a killed process had left, as it is
    ///   durable now.
    func recoverCache(_ records: Replayed) async throws(PoolError) {
        // Most spaces have none, and long journals.
        let mayHave = pieces.pieceCount(.cacheIndex) > 0
        let records = mayHave ? records : records.filter(\.record.isCached)
        for piece in 0..<UInt32(pieces.pieceCount(.cache)) {
            guard let found = pieces.piece(.cache, piece) else { continue }
            guard isParity, found.bases.count == cache.copies else {
                throw .claimRefused(
                    lineage: lineage, what: "piece \(piece) of its cache cannot be")
            }
            cache.add(piece: piece, bases: found.bases)
        }
        var index = RecoveredIndex()
        // Which page a block leaves is not known before: all of them may be.
        let isChanged = records.contains { $0.record.movesBlocks }
        let pageCount = UInt32(pieces.pieceCount(.cacheIndex) * MetadataPage.pagesPerPiece)
        try await readPages(
            .cacheIndex, pieceCount: pieces.pieceCount(.cacheIndex),
            changed: isChanged ? Set(0..<pageCount) : []
        ) {
            page, image, sequence throws(PoolError) in
            index.complete[page] = sequence
            for within in 0..<CachePage.slotsPerPage {
                guard let block = CachePage.block(in: image, slot: within) else { continue }
                index.add(page * UInt32(CachePage.slotsPerPage) + UInt32(within), block)
            }
        }
        for (sequence, record) in records { try apply(record, sequence, to: &index) }
        for (slot, block) in index.slots.sorted(by: { $0.key < $1.key }) {
            let grain = block / UInt64(Units.blocksPerGrain)
            guard grain < UInt64(map.grainCount), map[grain].isMapped,
                cache.recover(slot, block: block)
            else {
                throw .claimRefused(
                    lineage: lineage,
                    what: "block \(block) cannot lie in slot \(slot) of its cache")
            }
        }
    }

    private func apply(
        _ record: JournalRecord, _ sequence: UInt64, to index: inout RecoveredIndex
    ) throws(PoolError) {
        let perGrain = UInt64(Units.blocksPerGrain)
        var left: [UInt64] = []
        switch record {
        // Whatever it is, it moves nothing that lies here.
        case _ where index.isEmpty && !record.isCached: return
        case .cached(let first, let slot, let changes):
            for (position, change) in changes.enumerated()
            where change.new != BlockValue.unwritten {
                let block = first + UInt64(position)
                leave(block, sequence, &index)
                try enter(slot + UInt32(position), block, sequence, &index)
            }
        case .values(let first, let changes):
            left = changes.indices.map { first + UInt64($0) }
        case .rewrite(let grain, _, let rewritten):
            left = rewritten.blocks.map { grain * perGrain + UInt64($0) }
        case .map(let grain, _), .unmap(let grain): left = index.blocks(ofGrain: grain)
        case .move, .mark, .clean, .groupAdded, .groupRemoved, .pieceGranted, .pieceReleased,
            .activation, .missed, .caughtUp:
            return
        }
        if Mutant.isActive(.replayKeepsCached) { return }
        for block in left { leave(block, sequence, &index) }
    }

    private func leave(_ block: UInt64, _ sequence: UInt64, _ index: inout RecoveredIndex) {
        for slot in index.slots(ofBlock: block) where index.isOlder(slot, than: sequence) {
            index.remove(slot, block)
            pieces.markDirty(.cacheIndex, RecoveredIndex.page(slot), since: sequence)
        }
    }

    private func enter(
        _ slot: UInt32, _ block: UInt64, _ sequence: UInt64, _ index: inout RecoveredIndex
    ) throws(PoolError) {
        let page = RecoveredIndex.page(slot)
        guard pieces.has(.cacheIndex, page: page) else {
            throw .claimRefused(lineage: lineage, what: "its cache has no slot \(slot)")
        }
        guard index.isOlder(slot, than: sequence) else { return }
        if let other = index.slots[slot], other != block {
            throw .claimRefused(
                lineage: lineage, what: "slot \(slot) of its cache has two blocks")
        }
        index.add(slot, block)
        pieces.markDirty(.cacheIndex, page, since: sequence)
    }
}

/// What pages and records say, while they are put together.
private struct RecoveredIndex {
    private(set) var slots: [UInt32: UInt64] = [:]
    /// By grain, and block: two slots of a block may be told of, until it is known which is older.
    private var holders: [UInt64: [UInt64: Set<UInt32>]] = [:]
    /// Up to which batch each page is complete.
    var complete: [UInt32: UInt64] = [:]

    var isEmpty: Bool { slots.isEmpty }

    static func page(_ slot: UInt32) -> UInt32 { slot / UInt32(CachePage.slotsPerPage) }
    private static func grain(_ block: UInt64) -> UInt64 { block / UInt64(Units.blocksPerGrain) }

    func isOlder(_ slot: UInt32, than sequence: UInt64) -> Bool {
        complete[Self.page(slot)] ?? 0 < sequence
    }

    func slots(ofBlock block: UInt64) -> Set<UInt32> { holders[Self.grain(block)]?[block] ?? [] }

    func blocks(ofGrain grain: UInt64) -> [UInt64] { holders[grain].map { Array($0.keys) } ?? [] }

    mutating func add(_ slot: UInt32, _ block: UInt64) {
        slots[slot] = block
        holders[Self.grain(block), default: [:]][block, default: []].insert(slot)
    }

    mutating func remove(_ slot: UInt32, _ block: UInt64) {
        slots[slot] = nil
        holders[Self.grain(block)]?[block]?.remove(slot)
    }
}

extension JournalRecord {
    fileprivate var isCached: Bool {
        if case .cached = self { true } else { false }
    }

    /// It may say where a block lies.
    fileprivate var movesBlocks: Bool {
        switch self {
        case .cached, .values, .rewrite, .map, .unmap: true
        case .move, .mark, .clean, .groupAdded, .groupRemoved, .pieceGranted, .pieceReleased,
            .activation, .missed, .caughtUp: false
        }
    }
}
