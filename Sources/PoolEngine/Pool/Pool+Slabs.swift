import PoolFormat

/// Slab groups: granted to a space, released by it.
///
/// 1. A slab has one owner: its entry names the lineage, group, column and generation, or nothing.
/// 2. Granted = the slab tables of all its disks are durable; only then is the group returned.
/// 3. Released = the tables are durable without it; only then may it be granted again. The space
///    has made durable before that nothing of its own names the group.
extension Pool {
    /// Takes one slab on each of columns x copies distinct disks, durably.
    ///
    /// - Parameter columns: 0 chooses the width from the disks that have room, at most 16.
    /// - Throws: ``PoolError/noSpace`` when no set of disks has the room.
    func grantGroup(
        lineage: Lineage, id: UInt32, layout: ResiliencyKind, copies: Int, columns: Int,
        unitBytes: UInt32
    ) async throws(PoolError) -> GroupRecord {
        while true {
            try await reserveGenerations()
            let granted = try await holding(tableLock) { () async throws(PoolError) in
                let rooms = rooms(\.grantableSlabs)
                guard
                    let chosen = Placement.chooseGroup(
                        rooms, copies: copies, columns: columns,
                        slabLimit: engine.limits.groupSlabs)
                else { throw .noSpace }
                return try await grant(chosen, lineage: lineage, group: id)
            }
            guard let granted else {
                await recordFailures()
                continue
            }
            // As its owner says now, which need not be what its label said at first.
            let media = Dictionary(
                configuration.disks.map { ($0.number, $0.mediaClass) },
                uniquingKeysWith: { first, _ in first })
            let isSolid = granted.allSatisfy { media[$0.address.disk] == .ssd }
            return GroupRecord(
                id: id, layout: layout, mediaClass: isSolid ? .ssd : .hdd, copies: UInt8(copies),
                columns: UInt16(granted.count / copies), unitBytes: unitBytes, rotation: 0,
                parityGenerator: 0, birth: 1, slabs: granted)
        }
    }

    /// - Returns: nil when a disk failed: its slabs, and those of the others, are free again.
    private func grant(
        _ chosen: [DiskNumber], lineage: Lineage, group: UInt32
    ) async throws(PoolError) -> [GroupSlab]? {
        let generation = takeGeneration()
        var granted: [GroupSlab] = []
        for (column, number) in chosen.enumerated() {
            guard let disk = disk(number), let slab = disk.firstFreeSlab() else {
                preconditionFailure("a disk with room has a free slab")
            }
            disk.setSlab(
                slab,
                SlabEntry(
                    lineage: lineage, group: group, column: UInt16(column),
                    generation: generation))
            granted.append(
                GroupSlab(
                    address: SlabAddress(disk: number, slab: UInt32(slab)),
                    generation: generation))
        }
        if try await commitTables(during: "while a slab was granted") { return granted }
        for slab in granted { disk(slab.address.disk)?.freeSlab(Int(slab.address.slab)) }
        return nil
    }

    /// Gives a group's slabs back, durably. The slabs of a disk that failed stay as they are.
    func releaseGroup(_ group: GroupRecord, lineage: Lineage) async throws(PoolError) {
        try await holding(tableLock) { () async throws(PoolError) in
            for slab in group.slabs where contains(slab.address) {
                guard let disk = disk(slab.address.disk) else { continue }
                let entry = disk.slabs[Int(slab.address.slab)]
                guard entry.lineage == lineage, entry.generation == slab.generation else {
                    continue
                }
                disk.freeSlab(Int(slab.address.slab))
            }
            _ = try await commitTables(during: "while a slab was released")
        }
        await recordFailures()
        roomMayHaveReturned()
    }

    // MARK: - what is claimed, and what is not

    /// After a space has replayed its journal: frees what the tables grant it and it does not
    /// claim, left by a crash between grant and journal, or between journal and release.
    ///
    /// - Throws: ``PoolError/claimRefused(lineage:what:)`` for a claim the tables do not confirm.
    func reconcile(
        lineage: Lineage, groups: [GroupRecord], pieces: [PieceAddress]
    ) async throws(PoolError) {
        try await holding(tableLock) { () async throws(PoolError) in
            var claimedSlabs: Set<SlabAddress> = []
            for group in groups {
                for (column, slab) in group.slabs.enumerated() {
                    let wanted = SlabEntry(
                        lineage: lineage, group: group.id, column: UInt16(column),
                        generation: slab.generation)
                    guard contains(slab.address), let disk = disk(slab.address.disk),
                        disk.slabs[Int(slab.address.slab)] == wanted
                    else { throw Self.refused(lineage, slab.address, "slab") }
                    guard claimedSlabs.insert(slab.address).inserted else {
                        throw Self.refused(lineage, slab.address, "slab")
                    }
                }
            }
            var claimedPieces: Set<PieceAddress> = []
            for piece in pieces {
                guard disk(piece.disk)?.entry(of: piece)?.lineage == lineage,
                    claimedPieces.insert(piece).inserted
                else {
                    let slab = SlabAddress(disk: piece.disk, slab: piece.slab)
                    throw Self.refused(lineage, slab, "piece \(piece.piece) of slab")
                }
            }
            free { entry, address in
                entry.lineage == lineage && !claimedSlabs.contains(address)
            } pieces: { entry, address in
                entry.lineage == lineage && !claimedPieces.contains(address)
            }
            _ = try await commitTables(during: "while unclaimed slabs were freed")
        }
        await recordFailures()
    }

    private static func refused(
        _ lineage: Lineage, _ address: SlabAddress, _ what: String
    ) -> PoolError {
        .claimRefused(
            lineage: lineage,
            what: "it names \(what) \(address.slab) of disk\(address.disk.rawValue), "
                + "which is not granted to it")
    }

    /// Frees everything of lineages that the configuration in effect does not have.
    func freeForgottenLineages() async throws(PoolError) {
        let known = Set(configuration.spaces.map(\.lineage)).union([.metadata, .none])
        try await holding(tableLock) { () async throws(PoolError) in
            free { entry, _ in
                !known.contains(entry.lineage)
            } pieces: { entry, _ in
                !known.contains(entry.lineage)
            }
            _ = try await commitTables(during: "while forgotten slabs were freed")
        }
        await recordFailures()
        roomMayHaveReturned()
    }

    /// In memory, under the table lock.
    private func free(
        slabs isFreed: (SlabEntry, SlabAddress) -> Bool,
        pieces isPieceFreed: (PieceEntry, PieceAddress) -> Bool
    ) {
        for disk in disks where disk.serves {
            for slab in disk.slabs.entries.indices where !disk.slabs[slab].isFree {
                let address = SlabAddress(disk: disk.number, slab: UInt32(slab))
                if isFreed(disk.slabs[slab], address) { disk.freeSlab(slab) }
            }
            for index in disk.metadataSlabs.indices {
                let slab = disk.metadataSlabs[index].slab
                for piece in MetadataSlab.pieceNumbers {
                    let entry = disk.metadataSlabs[index][piece]
                    let address = PieceAddress(
                        disk: disk.number, slab: slab, piece: UInt16(piece))
                    if !entry.isFree, isPieceFreed(entry, address) {
                        disk.freePiece(index, piece)
                    }
                }
            }
            disk.freeEmptyMetadataSlabs()
        }
    }
}
