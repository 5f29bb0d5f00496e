import PoolFormat

/// Finds the journal of a space on its copies and makes all of them the same again.
///
/// The newest batch whose whole chain is there, back to the tail it names, is the head: every batch
/// names its predecessor by number and checksum. What follows a gap was never confirmed, unless a
/// batch says it was: then something durable is lost, and the space must not be made shorter. So it
/// may be where the place behind the head cannot be read on any copy. Where one of them can, and has
/// no batch there, none was confirmed: that takes all of them.
///
/// Order: the copies are merged batch by batch; what a copy lacks is written to it; all are
/// flushed; only then is anything of it applied. A crash in between finds the same chain again: a
/// batch is only written where nothing of the chain lies.
///
/// Sound bytes may still be nonsense. A chain that is returned lies in the ring as a journal writes
/// one: batch behind batch, blocks skipped only at a piece's end, at most once round.
package struct JournalScan {
    package struct Batch {
        package var header: BatchHeader
        package var checksum: UInt32
        package var firstBlock: Int
        package var bytes: [UInt8]
        /// Bit `c`: copy `c` has it.
        package var copies: UInt8
        package var blocks: Int { bytes.count / Units.blockBytes }
    }

    /// What tells one batch from another, whichever copy it was found on.
    private struct Identity: Hashable {
        var firstBlock: Int
        var checksum: UInt32
        var header: BatchHeader
    }

    private let blockCount: Int
    private var batches: [Batch] = []
    private var known: [Identity: Int] = [:]
    /// Copies of each piece.
    private var added: [Int]
    /// Where a batch may begin that could not be read: on so many copies.
    private var unread: [Int: Int] = [:]

    /// - Parameter pieceCount: the journal's pieces, at least one.
    package init(pieceCount: Int) {
        blockCount = pieceCount * Journal.blocksPerPiece
        added = Array(repeating: 0, count: pieceCount)
    }

    /// Adds what one copy of one piece holds. Batches never cross pieces.
    ///
    /// - Parameters:
    ///   - piece: the piece, or as much of its front as is known.
    ///   - unreadable: blocks of it that could not be read; zeros.
    package mutating func add(
        _ piece: UnsafeRawBufferPointer, firstBlock: Int, copy: Int, lineage: Lineage,
        unreadable: Set<Int> = []
    ) {
        added[firstBlock / Journal.blocksPerPiece] += 1
        var block = 0
        while block < min(Journal.blocksPerPiece, piece.count / Units.blockBytes) {
            let rest = unsafe UnsafeRawBufferPointer(
                rebasing: piece[(block * Units.blockBytes)...])
            guard let batch = unsafe try? BatchDecoder(rest, lineage: lineage) else {
                if !unreadable.isEmpty {
                    let blocks = unsafe ((try? JournalBatch.peek(rest)) ?? 0) / Units.blockBytes
                    if !unreadable.isDisjoint(with: block..<block + max(1, blocks)) {
                        unread[firstBlock + block, default: 0] += 1
                    }
                }
                block += 1
                continue
            }
            note(
                batch, bytes: unsafe Array(rest[..<batch.lengthBytes]),
                firstBlock: firstBlock + block, copy: copy)
            block += batch.lengthBytes / Units.blockBytes
        }
    }

    private mutating func note(
        _ batch: BatchDecoder, bytes: [UInt8], firstBlock: Int, copy: Int
    ) {
        let bit = UInt8(1) << UInt8(copy)
        let identity = Identity(
            firstBlock: firstBlock, checksum: batch.checksum, header: batch.header)
        if let index = known[identity] {
            batches[index].copies |= bit
            return
        }
        known[identity] = batches.count
        batches.append(
            Batch(
                header: batch.header, checksum: batch.checksum, firstBlock: firstBlock,
                bytes: bytes, copies: bit))
    }

    package enum Outcome {
        case chain([Batch])
        /// A batch that was confirmed is on no copy.
        case lost(sequence: UInt64)
        case empty
    }

    /// The batches from the tail to the head, oldest first.
    package func chain() -> Outcome {
        let newestFirst = batches.sorted {
            ($0.header.epoch, $0.header.sequence) > ($1.header.epoch, $1.header.sequence)
        }
        guard let newest = newestFirst.first else { return .empty }
        var bySequence: [UInt64: [Batch]] = [:]
        for batch in batches { bySequence[batch.header.sequence, default: []].append(batch) }
        let confirmed = batches.map(\.header.confirmedSequence).max() ?? 0
        for head in newestFirst {
            guard let chain = chain(to: head, bySequence) else { continue }
            let isWhole = head.header.sequence >= confirmed && !mayBeFollowed(head)
            return isWhole ? .chain(chain) : .lost(sequence: head.header.sequence + 1)
        }
        return .lost(sequence: newest.header.tailSequence)
    }

    /// Whether no copy could tell that there is no batch behind this one.
    private func mayBeFollowed(_ head: Batch) -> Bool {
        if unread.isEmpty { return false }
        let end = (head.firstBlock + head.blocks) % blockCount
        let left = Journal.blocksPerPiece - end % Journal.blocksPerPiece
        let places = left < Journal.batchBlocks ? [end, (end + left) % blockCount] : [end]
        return places.contains { unread[$0] ?? 0 == added[$0 / Journal.blocksPerPiece] }
    }

    private func chain(to head: Batch, _ bySequence: [UInt64: [Batch]]) -> [Batch]? {
        var chain = [head]
        var at = head
        var blocks = head.blocks
        while at.header.sequence > head.header.tailSequence {
            var skipped: Int?
            let before = bySequence[at.header.sequence - 1]?.first {
                guard $0.checksum == at.header.previousChecksum,
                    $0.header.epoch <= at.header.epoch
                else { return false }
                skipped = skippedBlocks(from: $0, to: at)
                return skipped != nil
            }
            guard let before, let skipped else { return nil }
            blocks += skipped + before.blocks
            guard blocks <= blockCount else { return nil }
            chain.append(before)
            at = before
        }
        return chain.reversed()
    }

    /// Blocks left out between two batches, nil where a journal does not put the one behind the
    /// other.
    private func skippedBlocks(from before: Batch, to batch: Batch) -> Int? {
        let end = (before.firstBlock + before.blocks) % blockCount
        let skipped = (batch.firstBlock - end + blockCount) % blockCount
        let startsPiece = batch.firstBlock % Journal.blocksPerPiece == 0
        return skipped == 0 || (startsPiece && skipped < batch.blocks) ? skipped : nil
    }
}

extension Space {
    /// Reads every copy of the journal.
    static func scanJournal(
        _ pool: Pool, _ engine: Engine, lineage: Lineage, pieces: [[SlabGroups.Base]]
    ) async throws(PoolError) -> JournalScan {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        var scan = JournalScan(pieceCount: pieces.count)
        for (index, copies) in pieces.enumerated() {
            for (copy, base) in copies.enumerated() {
                let isRead = try await Pool.readBlocks(
                    engine, base.device, at: base.offsetBytes, bytes: Units.pieceBytes,
                    into: buffer
                ) { pool.noteReadError(base.device, from: engine) }
                unsafe scan.add(
                    UnsafeRawBufferPointer(engine.arena.bytes(buffer, Units.pieceBytes)),
                    firstBlock: index * Journal.blocksPerPiece, copy: copy, lineage: lineage,
                    unreadable: Set(isRead.indices.filter { !isRead[$0] }))
            }
        }
        return scan
    }

    /// Writes every batch of the chain to the copies that lack it, and flushes them all.
    static func mergeJournal(
        _ pool: Pool, _ engine: Engine, pieces: [[SlabGroups.Base]], chain: [JournalScan.Batch]
    ) async throws(PoolError) {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        let io = IOBatch(engine)
        for batch in chain {
            let copies = pieces[batch.firstBlock / Journal.blocksPerPiece]
            let within = UInt64(batch.firstBlock % Journal.blocksPerPiece * Units.blockBytes)
            unsafe engine.arena.bytes(buffer, batch.bytes.count).copyBytes(from: batch.bytes)
            for (copy, base) in copies.enumerated() where batch.copies >> UInt8(copy) & 1 == 0 {
                io.write(
                    base.device, at: base.offsetBytes + within, bytes: batch.bytes.count,
                    from: buffer)
            }
            try await pool.runOrFail(io, during: "journal write")
        }
        var devices = DeviceSet()
        for base in pieces.joined() { devices.insert(base.device) }
        devices.forEach { io.flush($0) }
        try await pool.runOrFail(io, during: "flush")
    }
}
