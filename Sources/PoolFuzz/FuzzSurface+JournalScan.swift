import PoolEngine
import PoolFormat

/// A journal of two pieces on two copies, with whatever batches the input puts there.
extension FuzzSurface {
    private static let pieceCount = 2
    private static let copyCount = 2
    private static let blocksPerPiece = Units.pieceBytes / Units.blockBytes

    /// One batch as the input describes it, and what became of it.
    private struct Draft {
        var header: BatchHeader
        var firstBlock: Int
        var blocks: Int
        /// Bit `c`: on copy `c`. None: it was lost.
        var copies: UInt8
        var bytes: [UInt8]
        var checksum: UInt32
    }

    /// Input: batches of a few bytes each, in the order in which they are written.
    func runJournalScan(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        var drafts: [Draft] = []
        while reader.remainingBytes > 0, drafts.count < 12 {
            drafts.append(Self.draft(&reader, after: drafts, memory))
        }
        var scan = JournalScan(pieceCount: Self.pieceCount)
        for piece in 0..<Self.pieceCount {
            for copy in 0..<Self.copyCount {
                Self.add(drafts, to: &scan, piece: piece, copy: copy, memory.journalPiece)
            }
        }
        switch scan.chain() {
        case .empty: return false
        case .lost(let sequence):
            try promise(sequence > 0 || !drafts.isEmpty, "batch 0 of nothing is lost")
            return false
        case .chain(let chain):
            try check(chain)
            return true
        }
    }

    private static func add(
        _ drafts: [Draft], to scan: inout JournalScan, piece: Int, copy: Int, _ image: Image
    ) {
        let within = piece * blocksPerPiece..<(piece + 1) * blocksPerPiece
        let here = drafts.filter {
            within.contains($0.firstBlock) && $0.copies >> UInt8(copy) & 1 == 1
        }
        if here.isEmpty { return }
        func offset(_ draft: Draft) -> Int {
            draft.firstBlock % blocksPerPiece * Units.blockBytes
        }
        for draft in here { image.overlay(draft.bytes, at: offset(draft)) }
        // Behind the last batch nothing is found: leaving it out saves most of the time.
        let end = here.map { offset($0) + $0.bytes.count }.max() ?? 0
        unsafe scan.add(
            UnsafeRawBufferPointer(image.prefix(end)), firstBlock: piece * blocksPerPiece, copy: copy,
            lineage: Specimen.lineage)
        for draft in here { image.clear(offset(draft), draft.bytes.count) }
    }

    /// The bits of the first byte say what is out of order; without any the batch is the next one.
    private static func draft(
        _ reader: inout InputReader, after drafts: [Draft], _ memory: FuzzMemory
    ) -> Draft {
        let odd = reader.u8()
        let before = drafts.last
        var header = Specimen.batchHeader
        header.sequence = (before?.header.sequence ?? 9) &+ 1
        header.epoch = before?.header.epoch ?? 1
        header.tailSequence = before?.header.tailSequence ?? header.sequence
        header.confirmedSequence = before?.header.sequence ?? 0
        header.previousChecksum = before?.checksum ?? 0
        var firstBlock = before.map { $0.firstBlock + $0.blocks } ?? 0
        var copies: UInt8 = 0b11
        if odd & 1 != 0 { copies = reader.u8() }
        if odd & 2 != 0 { header.sequence = reader.number() }
        if odd & 4 != 0 { header.tailSequence = reader.number() }
        if odd & 8 != 0 { header.confirmedSequence = reader.number() }
        if odd & 16 != 0 { header.epoch = reader.number() }
        if odd & 32 != 0 { firstBlock = Int(reader.u16()) }
        if odd & 64 != 0, !drafts.isEmpty {
            header.previousChecksum = drafts[Int(reader.u8()) % drafts.count].checksum
        }
        var records = 1
        if odd & 128 != 0 { records = 1 + Int(reader.u8()) * 8 }
        firstBlock %= pieceCount * blocksPerPiece

        let bytes = unsafe memory.copy.prefix(4 * Units.blockBytes)
        var writer = unsafe BatchWriter(bytes)
        for _ in 0..<records where writer.freeBytes >= 16 {
            _ = writer.appendMark(region: header.sequence % 1000)
        }
        let (byteCount, checksum) = writer.finish(header)
        let blocks = byteCount / Units.blockBytes
        // A journal puts no batch across the end of a piece.
        if firstBlock % blocksPerPiece + blocks > blocksPerPiece {
            firstBlock = (firstBlock / blocksPerPiece + 1) % pieceCount * blocksPerPiece
        }
        return Draft(
            header: header, firstBlock: firstBlock, blocks: blocks, copies: copies & 0b11,
            bytes: unsafe Array(bytes[..<byteCount]), checksum: checksum)
    }

    /// What replay and the journal that goes on behind it rely on.
    private func check(_ chain: [JournalScan.Batch]) throws(FuzzFinding) {
        guard let first = chain.first, let last = chain.last else {
            throw FuzzFinding("a chain has no batch")
        }
        try promise(
            first.header.sequence <= max(last.header.tailSequence, last.header.sequence),
            "a chain begins behind its tail")
        try promise(last.header.sequence < 1 << 62, "a chain ends where no number follows")
        let blockCount = Self.pieceCount * Self.blocksPerPiece
        var used = 0
        var next = first.firstBlock
        var previous: JournalScan.Batch?
        for batch in chain {
            try promise(batch.copies != 0 && batch.blocks > 0, "a batch of a chain is nowhere")
            let end = batch.firstBlock % Self.blocksPerPiece + batch.blocks
            try promise(end <= Self.blocksPerPiece, "a batch lies across two pieces")
            used += (batch.firstBlock - next + blockCount) % blockCount + batch.blocks
            next = (batch.firstBlock + batch.blocks) % blockCount
            if let previous {
                try promise(
                    batch.header.sequence == previous.header.sequence + 1
                        && batch.header.previousChecksum == previous.checksum
                        && batch.header.epoch >= previous.header.epoch,
                    "batch \(batch.header.sequence) does not follow the one before it")
            }
            previous = batch
        }
        try promise(used <= blockCount, "a chain of \(used) blocks overruns the journal")
    }
}
