import PoolFormat

/// Pieces of metadata slabs: 1 MiB each, handed out to spaces for their own metadata.
///
/// 1. A piece has one owner: its entry names lineage, kind, index and generation, or nothing.
/// 2. Granted = the piece tables, and the slab tables of new metadata slabs, are durable. The two
///    may become durable in either order: a piece of a slab that the slab table does not name is
///    nobody's, and a metadata slab without pieces is given back.
/// 3. Released = durable without it, before it is granted again.
extension Pool {
    /// Takes `count` pieces in a row, each with one copy on every one of `disks`; another disk
    /// stands in for one that is full or has failed.
    ///
    /// - Returns: one entry for each piece, its copies on distinct disks, all of one generation.
    /// - Throws: ``PoolError/noMetadataSpace`` when some copy finds no disk.
    func grantPieces(
        lineage: Lineage, kind: PieceKind, firstIndex: UInt32, count: Int, disks: [DiskNumber]
    ) async throws(PoolError) -> [DirectoryEntry] {
        precondition(!disks.isEmpty && disks.count <= Units.maximumPieceCopies && count > 0)
        while true {
            try await reserveGenerations()
            let granted = try await holding(tableLock) { () async throws(PoolError) in
                try await grant(
                    lineage: lineage, kind: kind, firstIndex: firstIndex, count: count,
                    wanted: disks)
            }
            if let granted { return granted }
            await recordFailures()
        }
    }

    /// - Returns: nil when a disk failed: nothing is granted then.
    private func grant(
        lineage: Lineage, kind: PieceKind, firstIndex: UInt32, count: Int, wanted: [DiskNumber],
        avoiding avoided: Set<DiskNumber> = []
    ) async throws(PoolError) -> [DirectoryEntry]? {
        let generation = takeGeneration()
        var taken: [PieceAddress] = []
        do throws(PoolError) {
            var entries: [DirectoryEntry] = []
            for offset in 0..<count {
                let index = firstIndex + UInt32(offset)
                let entry = PieceEntry(
                    lineage: lineage, kind: kind, index: index, generation: generation)
                var copies: [PieceAddress] = []
                // With fewer disks than copies, those that can be had: repair adds the others.
                for disk in wanted.prefix(max(1, disks.count(where: \.takesGrants))) {
                    let copy = try await take(
                        entry, preferring: disk, avoiding: avoided.union(copies.map(\.disk)))
                    guard let copy else {
                        takeBack(taken)
                        return nil
                    }
                    copies.append(copy)
                    taken.append(copy)
                }
                entries.append(
                    DirectoryEntry(
                        kind: kind, index: index, generation: generation, copies: copies))
            }
            if try await commitTables(during: "while metadata was granted") {
                updateReserves()
                return entries
            }
        } catch {
            takeBack(taken)
            throw error
        }
        takeBack(taken)
        return nil
    }

    /// A piece of a space's write-back cache: on SSDs, if there are enough, else on any disks; by turns.
    ///
    /// - Throws: ``PoolError/noMetadataSpace`` also where fewer disks than copies serve.
    func grantCachePiece(
        lineage: Lineage, index: UInt32, copies: Int
    ) async throws(PoolError) -> DirectoryEntry {
        let open = disks.filter { $0.takesGrants && $0.unreservedPieceRoom > 0 }
        let ssds = Set(
            configuration.disks.lazy.filter { $0.mediaClass == .ssd }.map(\.number))
        let fast = open.filter { ssds.contains($0.number) }
        let suited = (fast.count >= copies ? fast : open).map(\.number).sorted()
        guard suited.count >= copies else { throw .noMetadataSpace }
        let wanted = (0..<copies).map { suited[(Int(index) + $0) % suited.count] }
        let granted = try await grantPieces(
            lineage: lineage, kind: .cache, firstIndex: index, count: 1, disks: wanted)
        guard let entry = granted.first else { throw .noMetadataSpace }
        return entry
    }

    /// More copies of a piece, each on a disk of its own.
    ///
    /// - Parameter avoiding: disks that have a copy, or are not to have one.
    /// - Returns: at most `count`; fewer where no more disks serve.
    /// - Throws: ``PoolError/noMetadataSpace`` when none of the others has room.
    func grantPieceCopies(
        lineage: Lineage, kind: PieceKind, index: UInt32, count: Int,
        avoiding avoided: Set<DiskNumber>
    ) async throws(PoolError) -> [PieceAddress] {
        while true {
            let open = disks.filter { $0.takesGrants && !avoided.contains($0.number) }
            guard !open.isEmpty else { return [] }
            let roomy = open.filter { $0.unreservedPieceRoom > 0 }
                .sorted { ($1.pieceRoom, $0.number) < ($0.pieceRoom, $1.number) }
            guard !roomy.isEmpty else { throw .noMetadataSpace }
            try await reserveGenerations()
            let wanted = roomy.prefix(count).map(\.number)
            let granted = try await holding(tableLock) { () async throws(PoolError) in
                try await grant(
                    lineage: lineage, kind: kind, firstIndex: index, count: 1, wanted: wanted,
                    avoiding: avoided)
            }
            if let granted { return granted.first?.copies ?? [] }
            await recordFailures()
        }
    }

    /// The root of a space lies elsewhere from here on.
    func changeRoot(of lineage: Lineage, to copies: [PieceAddress]) async throws(PoolError) {
        try await changeConfiguration { next in
            for index in next.spaces.indices where next.spaces[index].lineage == lineage {
                next.spaces[index].root = copies
                next.spaces[index].currentCopies = UInt8((1 << copies.count) - 1)
            }
        }
    }

    /// In memory; the tables on disk follow with the next commit, or at the next opening.
    private func takeBack(_ pieces: [PieceAddress]) {
        for piece in pieces {
            guard let disk = disk(piece.disk),
                let index = disk.metadataIndex(ofSlab: piece.slab)
            else { continue }
            disk.freePiece(index, Int(piece.piece))
        }
    }

    /// Takes one piece in memory; makes a metadata slab where no piece is free.
    ///
    /// - Returns: nil when the disk failed.
    private func take(
        _ entry: PieceEntry, preferring wanted: DiskNumber, avoiding used: Set<DiskNumber>
    ) async throws(PoolError) -> PieceAddress? {
        let isUsed = { (number: DiskNumber) in used.contains(number) }
        let isReserved = isFixed(entry.lineage)
        let room = { (disk: Disk) in isReserved ? disk.pieceRoom : disk.unreservedPieceRoom }
        var chosen = disk(wanted)
        if chosen.map(room) ?? 0 == 0 || isUsed(wanted) {
            let others = disks.filter { room($0) > 0 && !isUsed($0.number) }
            // Where no new metadata slab is needed, if there is such a disk.
            let ready = others.filter { $0.freePieces > 0 }
            chosen = (ready.isEmpty ? others : ready)
                .max { ($0.pieceRoom, $1.number) < ($1.pieceRoom, $0.number) }
        }
        guard let chosen else { throw .noMetadataSpace }
        if chosen.freePieces == 0 {
            guard let slab = chosen.firstFreeSlab() else { throw .noMetadataSpace }
            guard try await writeEmptyPieceTable(chosen, UInt32(slab)) else { return nil }
            chosen.setSlab(
                slab,
                SlabEntry(
                    lineage: .metadata, group: 0, column: 0, generation: entry.generation))
        }
        for index in chosen.metadataSlabs.indices {
            guard let piece = chosen.metadataSlabs[index].firstFreePiece() else { continue }
            chosen.metadataSlabs[index][piece] = entry
            return PieceAddress(
                disk: chosen.number, slab: chosen.metadataSlabs[index].slab,
                piece: UInt16(piece))
        }
        preconditionFailure("a disk with free pieces has one")
    }

    /// Gives pieces of a space back, durably; metadata slabs that become empty go back to the disk.
    /// One that has been given back already, and granted to another, stays.
    func releasePieces(_ pieces: [PieceAddress], of lineage: Lineage) async throws(PoolError) {
        try await holding(tableLock) { () async throws(PoolError) in
            for piece in pieces {
                guard let disk = disk(piece.disk), disk.entry(of: piece)?.lineage == lineage,
                    let index = disk.metadataIndex(ofSlab: piece.slab)
                else { continue }
                disk.freePiece(index, Int(piece.piece))
            }
            for disk in disks { disk.freeEmptyMetadataSlabs() }
            _ = try await commitTables(during: "while metadata was released")
        }
        await recordFailures()
    }

    // MARK: - what fixed spaces will need

    private func isFixed(_ lineage: Lineage) -> Bool {
        configuration.spaces.contains { $0.lineage == lineage && $0.flags.contains(.fixed) }
    }

    /// Map and checksum pieces of a whole space of this size, for each copy.
    static func fullPieces(sizeBytes: UInt64) -> Int {
        let grains = Int(sizeBytes / UInt64(Units.grainBytes))
        return [MapPage.entriesPerPage, ChecksumPage.grainsPerPage].reduce(0) { sum, perPage in
            let pages = (grains + perPage - 1) / perPage
            return sum + (pages + MetadataPage.pagesPerPiece - 1) / MetadataPage.pagesPerPiece
        }
    }

    /// Counts anew what the fixed spaces may still take of each disk.
    func updateReserves() {
        let fixed = configuration.spaces.filter { $0.flags.contains(.fixed) }
        for disk in disks {
            disk.reservedPieces = 0
            guard !fixed.isEmpty else { continue }
            let taken = disk.valuePieces
            for space in fixed where space.root.contains(where: { $0.disk == disk.number }) {
                let needed = Self.fullPieces(sizeBytes: space.sizeBytes)
                disk.reservedPieces += max(0, needed - (taken[space.lineage] ?? 0))
            }
        }
    }

    /// Whether the disks have room for all that their fixed spaces may still take.
    var reservesFit: Bool {
        disks.allSatisfy { !$0.serves || $0.reservedPieces <= $0.pieceRoom }
    }
}

extension Disk {
    /// Map and checksum pieces here, of each space.
    fileprivate var valuePieces: [Lineage: Int] {
        var count: [Lineage: Int] = [:]
        for slab in metadataSlabs {
            for entry in slab.table.entries where entry.kind == .map || entry.kind == .checksum {
                count[entry.lineage, default: 0] += 1
            }
        }
        return count
    }
}
