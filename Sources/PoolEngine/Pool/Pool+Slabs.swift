import PoolFormat

/// Slab groups: granted to a space, released by it.
///
/// 1. A slab has one owner: its entry names the lineage, group, column and generation, or nothing.
/// 2. Granted = the slab tables of all its disks are durable; only then is the group returned.
/// 3. While fewer disks serve than a column has copies, or the least stripe has columns, a group is
///    granted with those that can be had; the others are holes, places on no disk, until there is one.
/// 4. Released = the tables are durable without it; only then may it be granted again. The space
///    has made durable before that nothing of its own names the group.
extension Pool {
    /// Takes one slab on each of columns x copies, or columns + parities, distinct disks, durably.
    ///
    /// - Parameters:
    ///   - columns: as the space's record has them; 0 chooses the width from the disks that have room,
    ///     at most 16 columns of data.
    ///   - unitBytes: the interleave of what is no parity.
    /// - Throws: ``PoolError/noSpace`` when no set of disks has the room.
    func grantGroup(
        lineage: Lineage, id: UInt32, layout: ResiliencyKind, columns: Int, unitBytes: UInt32
    ) async throws(PoolError) -> GroupRecord {
        let granted = try await grantGroups(
            lineage: lineage, ids: [id], grains: 1, layout: layout, columns: columns,
            unitBytes: unitBytes)
        guard let record = granted.first else { throw .noSpace }
        return record
    }

    /// Takes groups until they hold `grains` or the ids are used up, all durable with one write of
    /// the tables.
    func grantGroups(
        lineage: Lineage, ids: [UInt32], grains: Int, layout: ResiliencyKind, columns: Int,
        unitBytes: UInt32
    ) async throws(PoolError) -> [GroupRecord] {
        while true {
            try await reserveGenerations()
            let granted = try await holding(tableLock) { () async throws(PoolError) in
                try await grant(
                    lineage: lineage, ids: ids, grains: grains, layout: layout, columns: columns)
            }
            guard let granted else {
                await recordFailures()
                continue
            }
            return granted.map { id, slabs in
                GroupRecord(
                    id: id, layout: layout, mediaClass: mediaClass(of: slabs), slabs: slabs,
                    interleaveBytes: unitBytes)
            }
        }
    }

    /// Under the table lock.
    ///
    /// - Returns: nil when a disk failed: the slabs are free again.
    private func grant(
        lineage: Lineage, ids: [UInt32], grains: Int, layout: ResiliencyKind, columns: Int
    ) async throws(PoolError) -> [(id: UInt32, slabs: [GroupSlab])]? {
        let generation = takeGeneration()
        var granted: [(id: UInt32, slabs: [GroupSlab])] = []
        var lacking = grains
        for id in ids where lacking > 0 {
            guard let chosen = chooseGroup(layout, columns: columns) else {
                takeBack(granted.flatMap(\.slabs))
                throw .noSpace
            }
            let slabs = take(chosen, lineage, group: id, generation)
            granted.append((id, slabs))
            let record = GroupRecord(
                id: id, layout: layout, mediaClass: .hdd, slabs: slabs,
                interleaveBytes: UInt32(Units.grainBytes))
            lacking -= GroupShape(record).grainCount
        }
        if try await commitTables(during: "while a slab was granted") { return granted }
        takeBack(granted.flatMap(\.slabs))
        return nil
    }

    /// Takes one slab more for a group, durably, to take the place of another of its own.
    ///
    /// - Parameters:
    ///   - position: of the other in the group's record.
    ///   - wanted: the disk that it has to lie on; nil: any but those that are avoided.
    ///   - mayShare: as `Placement.chooseSuccessor` says.
    /// - Throws: ``PoolError/noSpace`` when there is none.
    func grantSlab(
        lineage: Lineage, for group: GroupRecord, at position: Int,
        avoiding avoided: Set<DiskNumber>, on wanted: DiskNumber?, mayShare: Bool
    ) async throws(PoolError) -> GroupSlab {
        while true {
            try await reserveGenerations()
            let granted = try await holding(tableLock) { () async throws(PoolError) -> GroupSlab? in
                let rooms = rooms(\.grantableSlabs).filter {
                    !avoided.contains($0.disk) && (wanted ?? $0.disk) == $0.disk
                }
                let chosen = Placement.chooseSuccessor(
                    rooms, for: Placement.Group(group), at: position, mayShare: mayShare,
                    domains: domains)
                guard let chosen, let disk = disk(chosen), let slab = disk.firstFreeSlab() else {
                    throw .noSpace
                }
                let generation = takeGeneration()
                disk.setSlab(
                    slab,
                    SlabEntry(
                        lineage: lineage, group: group.id, column: UInt16(position),
                        generation: generation))
                let granted = GroupSlab(
                    address: SlabAddress(disk: chosen, slab: UInt32(slab)), generation: generation)
                if try await commitTables(during: "while a slab was granted") { return granted }
                takeBack([granted])
                return nil
            }
            if let granted { return granted }
            await recordFailures()
        }
    }

    /// The disks of a group's slabs, column-major. While a disk is away a group may be narrower than
    /// was asked for, and has holes where there is no other way: a pool that lost a disk takes
    /// writes as long as it has room.
    private func chooseGroup(_ layout: ResiliencyKind, columns: Int) -> [DiskNumber]? {
        if layout.isParity { return chooseStripe(layout, columns: columns) }
        let copies = layout.copies
        let slabLimit = engine.limits.groupSlabs
        let rooms = rooms(\.grantableSlabs)
        let choose = { (copies: Int, columns: Int) in
            Placement.chooseGroup(rooms, copies: copies, columns: columns, slabLimit: slabLimit)
        }
        if let whole = choose(copies, columns) { return whole }
        let present = disks.count(where: \.takesGrants)
        guard present > 0, configuration.disks.count >= max(copies, present + 1) else { return nil }
        for narrower in (1..<max(columns, 1)).reversed() {
            if let chosen = choose(copies, narrower) { return chosen }
        }
        guard present < copies else { return nil }
        return choose(present, 1).map { $0 + Array(repeating: .hole, count: copies - present) }
    }

    /// Likewise, with P and Q anywhere among them: they are in another place for each grain.
    private func chooseStripe(_ layout: ResiliencyKind, columns: Int) -> [DiskNumber]? {
        let parity = layout.parityColumns
        let rooms = rooms(\.grantableSlabs)
        let choose = { [limit = engine.limits.groupSlabs] (dataColumns: Int) in
            Placement.chooseStripe(
                rooms, parity: parity, dataColumns: dataColumns, slabLimit: limit)
        }
        let asked = columns == 0 ? 0 : columns - parity
        if let whole = choose(asked) { return whole }
        let present = disks.count(where: \.takesGrants)
        let least = layout.leastDisks
        guard configuration.disks.count >= max(least, present + 1) else { return nil }
        let fewest = Units.parityDataColumns.lowerBound
        for narrower in (fewest..<max(asked, fewest)).reversed() {
            if let chosen = choose(narrower) { return chosen }
        }
        guard present < least, present >= fewest,
            let chosen = Placement.chooseGroup(
                rooms, copies: present, columns: 1, slabLimit: engine.limits.groupSlabs)
        else { return nil }
        return chosen + Array(repeating: .hole, count: least - present)
    }

    private func takeBack(_ slabs: [GroupSlab]) {
        for slab in slabs { disk(slab.address.disk)?.freeSlab(Int(slab.address.slab)) }
    }

    /// In memory: one slab on each of the disks.
    private func take(
        _ chosen: [DiskNumber], _ lineage: Lineage, group: UInt32, _ generation: UInt64
    ) -> [GroupSlab] {
        chosen.enumerated().map { column, number in
            guard number != .hole else {
                return GroupSlab(address: SlabAddress(disk: .hole, slab: 0), generation: 0)
            }
            guard let disk = disk(number), let slab = disk.firstFreeSlab() else {
                preconditionFailure("a disk with room has a free slab")
            }
            disk.setSlab(
                slab,
                SlabEntry(
                    lineage: lineage, group: group, column: UInt16(column),
                    generation: generation))
            return GroupSlab(
                address: SlabAddress(disk: number, slab: UInt32(slab)), generation: generation)
        }
    }

    /// As the disks' owner says now, which need not be what their labels said at first.
    private func mediaClass(of slabs: [GroupSlab]) -> MediaClass {
        let media = Dictionary(
            configuration.disks.map { ($0.number, $0.mediaClass) },
            uniquingKeysWith: { first, _ in first })
        return slabs.allSatisfy { $0.isHole || media[$0.address.disk] == .ssd } ? .ssd : .hdd
    }

    /// Gives a group's slabs back, durably. The slabs of a disk that failed stay as they are.
    func releaseGroup(_ group: GroupRecord, lineage: Lineage) async throws(PoolError) {
        try await holding(tableLock) { () async throws(PoolError) in
            for slab in group.slabs where places.contains(slab.address) {
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
                for (column, slab) in group.slabs.enumerated() where !slab.isHole {
                    let wanted = SlabEntry(
                        lineage: lineage, group: group.id, column: UInt16(column),
                        generation: slab.generation)
                    // What a disk says that is not here will be seen when it comes back.
                    let isConfirmed =
                        disk(slab.address.disk).map {
                            places.contains(slab.address)
                                && $0.slabs[Int(slab.address.slab)] == wanted
                        } ?? places.has(slab.address.disk)
                    guard isConfirmed else { throw Self.refused(lineage, slab.address, "slab") }
                    guard claimedSlabs.insert(slab.address).inserted else {
                        throw Self.refused(lineage, slab.address, "slab")
                    }
                }
            }
            var claimedPieces: Set<PieceAddress> = []
            for piece in pieces {
                let isConfirmed =
                    disk(piece.disk).map { $0.entry(of: piece)?.lineage == lineage }
                    ?? places.has(piece.disk)
                guard isConfirmed, claimedPieces.insert(piece).inserted else {
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
    ///
    /// - Parameter freed: nil: every disk that serves.
    func free(
        on freed: [Disk]? = nil, slabs isFreed: (SlabEntry, SlabAddress) -> Bool,
        pieces isPieceFreed: (PieceEntry, PieceAddress) -> Bool
    ) {
        for disk in freed ?? servingDisks {
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

extension Placement.Group {
    init(_ record: GroupRecord) {
        // No two columns of a stripe may share a disk: they are like copies of one.
        self.init(
            disks: record.slabs.map(\.address.disk),
            copies: record.layout.isParity ? record.slabs.count : max(1, Int(record.copies)))
    }
}

extension GroupRecord {
    /// A group on these slabs.
    ///
    /// - Parameter interleaveBytes: of one that is no parity.
    init(
        id: UInt32, layout: ResiliencyKind, mediaClass: MediaClass, slabs: [GroupSlab],
        interleaveBytes: UInt32
    ) {
        let parity = layout.parityColumns
        let columns = (slabs.count - parity) / layout.copies
        self.init(
            id: id, layout: layout, mediaClass: mediaClass, copies: UInt8(layout.copies),
            columns: UInt16(columns),
            unitBytes: layout.isParity
                ? UInt32(Self.parityUnitBytes(dataColumns: columns)) : interleaveBytes,
            rotation: layout.isParity ? Self.parityRotation : 0,
            parityGenerator: layout.isParity ? Self.parityPolynomial : 0, birth: 1, slabs: slabs)
    }
}
