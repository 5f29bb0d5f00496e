import PoolFormat

/// The pages of a space's metadata read back, and the journal's newer batches applied to them.
extension Space {
    typealias Replayed = [(sequence: UInt64, record: JournalRecord)]

    /// The records of a chain, each with its batch's number.
    func decode(_ chain: [JournalScan.Batch]) throws(PoolError) -> Replayed {
        var records: Replayed = []
        for batch in chain {
            let problem = unsafe batch.bytes.withUnsafeBytes { bytes -> FormatError? in
                do throws(FormatError) {
                    var decoder = try unsafe BatchDecoder(bytes, lineage: lineage)
                    while let record = try decoder.next() {
                        records.append((batch.header.sequence, record))
                    }
                    return nil
                } catch {
                    return error
                }
            }
            if let problem { throw .claimRefused(lineage: lineage, what: problem.description) }
        }
        return records
    }

    /// Reads every page of a kind that is there, piece by piece, and hands over the newest valid
    /// slot of each with the batch number it is complete to.
    ///
    /// - Parameter changed: the pages that the journal has changes of.
    func readPages(
        _ kind: PieceKind, pieceCount: Int, changed: Set<UInt32>,
        _ body: (UInt32, PageImage, UInt64) throws(PoolError) -> Void
    ) async throws(PoolError) {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        let io = IOBatch(engine)
        for piece in 0..<UInt32(pieceCount) {
            let first = piece * UInt32(MetadataPage.pagesPerPiece)
            guard kind == .directory || pieces.has(kind, page: first),
                let base = pieces.addresses(kind, page: first, slot: 0)
                    .first(where: { departed.isCurrent($0) })
            else {
                guard kind != .directory, !pieces.has(kind, page: first) else { throw .ioError }
                continue
            }
            io.read(base.device, at: base.offsetBytes, bytes: Units.pieceBytes, into: buffer)
            let isRead = await io.run()
            if engine.isStopped { throw .stopped }
            for within in 0..<MetadataPage.pagesPerPiece {
                let page = first + UInt32(within)
                let pair = buffer + Int(MetadataPage.slotOffset(page: within, slot: 0))
                let isChanged = changed.contains(page)
                if isRead, !isChanged, let (slot, sequence) = undoubted(kind, page, pair) {
                    pieces.setNewerSlot(kind, page, slot)
                    let image = unsafe PageImage(
                        engine.arena.bytes(pair + slot * Units.blockBytes, Units.blockBytes))
                    try body(page, image, sequence)
                    continue
                }
                let found = try await readPage(kind, page, afterCrash: isChanged)
                defer { engine.scratch.give(found.buffer) }
                pieces.setNewerSlot(kind, page, found.slot)
                let image = unsafe PageImage(
                    engine.arena.bytes(found.buffer + found.offset, Units.blockBytes))
                try body(page, image, found.sequence)
            }
        }
    }

    /// The pages of a kind that records change, other than checksum pages.
    private func changedPages(_ kind: PieceKind, _ records: Replayed) -> Set<UInt32> {
        var pages: Set<UInt32> = []
        for (_, record) in records {
            switch (kind, record) {
            case (.directory, .pieceGranted(let slot, _)), (.directory, .pieceReleased(let slot)):
                pages.insert(UInt32(DirectoryPage.place(ofSlot: slot).page))
            case (.group, .groupAdded(let group)): pages.insert(GroupPage.index(ofGroup: group.id))
            case (.group, .groupRemoved(let id)): pages.insert(GroupPage.index(ofGroup: id))
            case (.map, .map(let grain, _)), (.map, .move(let grain, _)), (.map, .unmap(let grain)),
                (.map, .rewrite(let grain, _, _)):
                pages.insert(MapPage.index(ofGrain: grain))
            case (.dirty, .mark(let region)), (.dirty, .clean(let region)),
                (.missed, .missed(let region)):
                pages.insert(UInt32(DirtyPage.place(ofRegion: region).page))
            default: continue
            }
        }
        return pages
    }

    /// The newer slot of a pair of which both are valid, or the second was never written.
    private func undoubted(
        _ kind: PieceKind, _ page: UInt32, _ pair: Int
    ) -> (slot: Int, sequence: UInt64)? {
        guard case .valid(let first) = inspect(kind, page, pair) else { return nil }
        switch inspect(kind, page, pair + Units.blockBytes) {
        case .valid(let second): return second > first ? (1, second) : (0, first)
        case .neverWritten: return (0, first)
        case .damaged: return nil
        }
    }

    func recoverDirectory(_ records: Replayed) async throws(PoolError) {
        var found: [UInt32: DirectoryEntry] = [:]
        try await readPages(
            .directory, pieceCount: pieces.rootDirectory.count,
            changed: changedPages(.directory, records)
        ) {
            page, image, _ throws(PoolError) in
            for position in 0..<DirectoryPage.entriesPerPage {
                guard let entry = try? DirectoryPage.entry(in: image, at: position),
                    entry.kind != nil
                else { continue }
                found[page * UInt32(DirectoryPage.entriesPerPage) + UInt32(position)] = entry
            }
        }
        for (sequence, record) in records {
            let slot: UInt32
            switch record {
            case .pieceGranted(let granted, let entry):
                slot = granted
                found[slot] = entry
            case .pieceReleased(let released):
                slot = released
                found[slot] = nil
            default: continue
            }
            guard DirectoryPage.place(ofSlot: slot).page < directoryPages else {
                throw .claimRefused(lineage: lineage, what: "piece \(slot) cannot be")
            }
            pieces.markDirty(
                .directory, UInt32(DirectoryPage.place(ofSlot: slot).page), since: sequence)
        }
        let resolver = Resolver(places: places, lineage: lineage)
        for slot in found.keys.sorted() {
            guard let entry = found[slot] else { continue }
            guard isUsable(entry, slot: slot) else {
                let kind = entry.kind.map { "\($0)" } ?? "unknown"
                throw .claimRefused(
                    lineage: lineage, what: "piece \(slot) (\(kind) \(entry.index)) cannot be")
            }
            pieces.add(entry, slot: slot, bases: try resolver.bases([entry.copies])[0])
        }
    }

    /// What the directory's tables are sized by: sound bytes may still name a piece past the end.
    /// Dirty and group pieces are granted before the space grows into what they describe.
    private func isUsable(_ entry: DirectoryEntry, slot: UInt32) -> Bool {
        let pages: UInt64
        let grains = UInt64(map.grainCount)
        let mostGrains = Units.maximumSpaceBytes / UInt64(Units.grainBytes)
        switch entry.kind {
        case .map: pages = grains / UInt64(MapPage.entriesPerPage) + 1
        case .checksum: pages = grains / UInt64(ChecksumPage.grainsPerPage) + 1
        case .dirty, .missed:
            pages = mostGrains / UInt64(DirtyPage.regionsPerPage * Units.grainsPerRegion) + 1
        case .group: pages = UInt64(Self.groupLimit) / UInt64(GroupPage.recordsPerPage) + 1
        case .cacheIndex: pages = UInt64(Self.cachePieceLimit)
        case .cache:
            return Int(entry.index) < Self.cachePieceLimit
                && DirectoryPage.place(ofSlot: slot).page < directoryPages
        case nil, .root, .journal, .directory, .pins, .heat: return false
        }
        let pieceLimit = pages / UInt64(MetadataPage.pagesPerPiece) + 1
        return UInt64(entry.index) < pieceLimit
            && DirectoryPage.place(ofSlot: slot).page < directoryPages
    }

    private var directoryPages: UInt64 {
        UInt64(pieces.rootDirectory.count * MetadataPage.pagesPerPiece)
    }

    func recoverGroups(_ records: Replayed) async throws(PoolError) {
        var found: [UInt32: GroupRecord] = [:]
        var complete: [UInt32: UInt64] = [:]
        try await readPages(
            .group, pieceCount: pieces.pieceCount(.group),
            changed: changedPages(.group, records)
        ) {
            page, image, sequence throws(PoolError) in
            complete[page] = sequence
            for position in 0..<GroupPage.recordsPerPage {
                guard let record = try? GroupPage.record(in: image, at: position) else { continue }
                found[record.id] = record
            }
        }
        for (sequence, record) in records {
            let id: UInt32
            switch record {
            case .groupAdded(let group): id = group.id
            case .groupRemoved(let removed): id = removed
            default: continue
            }
            let page = GroupPage.index(ofGroup: id)
            guard sequence > complete[page] ?? 0 else { continue }
            pieces.markDirty(.group, page, since: sequence)
            if case .groupAdded(let group) = record { found[id] = group } else { found[id] = nil }
        }
        for id in found.keys.sorted() {
            guard let record = found[id] else { continue }
            guard isUsable(record, id: id) else {
                throw .claimRefused(lineage: lineage, what: "slab group \(id) cannot be")
            }
            adopt(record)
        }
    }

    /// More than a space of the largest size has.
    private static let groupLimit: UInt32 = 1 << 22

    /// What the address arithmetic relies on.
    private func isUsable(_ record: GroupRecord, id: UInt32) -> Bool {
        guard record.id == id, id < Self.groupLimit, record.layout == resiliency,
            Int(record.copies) == copies, record.columns > 0,
            record.slabs.count == Int(record.columns) * copies + resiliency.parityColumns,
            record.slabs.allSatisfy({ $0.isHole || places.contains($0.address) })
        else { return false }
        // Its decoder has looked at what else makes a stripe.
        if isParity { return record.slabs.count { !$0.isHole } >= record.columns }
        return Int(record.unitBytes) >= Units.minimumInterleaveBytes
            && record.unitBytes.nonzeroBitCount == 1
            && Int(record.unitBytes) <= Units.slabBytes
            && stride(from: 0, to: record.slabs.count, by: copies).allSatisfy { column in
                record.slabs[column..<column + copies].contains { !$0.isHole }
            }
    }

    func recoverMap(_ records: Replayed) async throws(PoolError) {
        var complete: [UInt32: UInt64] = [:]
        try await readPages(
            .map, pieceCount: pieces.pieceCount(.map),
            changed: changedPages(.map, records)
        ) {
            page, image, sequence throws(PoolError) in
            complete[page] = sequence
            let first = UInt64(page) * UInt64(MapPage.entriesPerPage)
            for position in 0..<MapPage.entriesPerPage {
                let entry = GrainMap.Entry(MapPage.entry(in: image, at: position))
                guard entry.isMapped else { continue }
                guard first + UInt64(position) < UInt64(map.grainCount) else {
                    throw .claimRefused(lineage: lineage, what: "its map is too long")
                }
                map[first + UInt64(position)] = entry
            }
        }
        for (sequence, record) in records {
            let change: (grain: UInt64, entry: GrainMap.Entry)
            switch record {
            case .map(let grain, let entry), .move(let grain, let entry),
                .rewrite(let grain, let entry, _):
                change = (grain, GrainMap.Entry(entry))
            case .unmap(let grain): change = (grain, .unmapped)
            default: continue
            }
            guard change.grain < UInt64(map.grainCount) else {
                throw .claimRefused(lineage: lineage, what: "its journal maps past its end")
            }
            let page = MapPage.index(ofGrain: change.grain)
            guard sequence > complete[page] ?? 0 else { continue }
            map[change.grain] = change.entry
            pieces.markDirty(.map, page, since: sequence)
        }
        try claimGrains()
    }

    /// Every mapped grain takes its physical grain, which nobody else may have.
    private func claimGrains() throws(PoolError) {
        for grains in map.populated {
            for grain in grains {
                guard grain < map.grainCount else { break }
                let entry = map[UInt64(grain)]
                guard entry.isMapped else { continue }
                guard groups.isFree(entry) else {
                    throw .claimRefused(
                        lineage: lineage,
                        what: "grain \(grain) lies in grain \(entry.physicalGrain) of slab group "
                            + "\(entry.group), which \(reason(entry))")
                }
                groups.take(entry.group, entry.physicalGrain)
            }
        }
    }

    private func reason(_ entry: GrainMap.Entry) -> String {
        guard let group = groups[entry.group] else { return "does not exist" }
        return entry.physicalGrain < group.grainCount ? "is taken" : "has no such grain"
    }

    /// The regions that pages of a kind name, and up to which batch each page is complete.
    private func readRegions(
        _ kind: PieceKind, _ records: Replayed
    ) async throws(PoolError) -> (regions: Set<UInt64>, complete: [UInt32: UInt64]) {
        var regions: Set<UInt64> = []
        var complete: [UInt32: UInt64] = [:]
        try await readPages(
            kind, pieceCount: pieces.pieceCount(kind), changed: changedPages(kind, records)
        ) {
            page, image, sequence throws(PoolError) in
            complete[page] = sequence
            var next = DirtyPage.nextDirty(in: image, from: 0)
            while let position = next {
                regions.insert(UInt64(page) * UInt64(DirtyPage.regionsPerPage) + UInt64(position))
                next = DirtyPage.nextDirty(in: image, from: position + 1)
            }
        }
        return (regions, complete)
    }

    func recoverRegions(_ records: Replayed) async throws(PoolError) {
        let read = try await readRegions(.dirty, records)
        var dirty = read.regions
        for (sequence, record) in records {
            let change: (region: UInt64, isDirty: Bool)
            switch record {
            case .mark(let region): change = (region, true)
            case .clean(let region): change = (region, false)
            default: continue
            }
            let page = UInt32(DirtyPage.place(ofRegion: change.region).page)
            guard sequence > read.complete[page] ?? 0 else { continue }
            if change.isDirty { dirty.insert(change.region) } else { dirty.remove(change.region) }
            pieces.markDirty(.dirty, page, since: sequence)
        }
        try await recoverMissed(records, dirty)
        for region in dirty.sorted() {
            guard region < UInt64(regions.count) else {
                throw .claimRefused(lineage: lineage, what: "a region past its end is dirty")
            }
            regions.setMark(region, .dirty)
            if Mutant.isActive(.skipResync) { continue }
            regions[region].settledGrains = unmappedGrains(of: region)
            regions[region].isCrashed = regions[region].settledGrains != .max
        }
    }

    /// What the disks that are away lack: what is recorded, and whatever was dirty when it ended.
    private func recoverMissed(
        _ records: Replayed, _ dirty: Set<UInt64>
    ) async throws(PoolError) {
        let read = try await readRegions(.missed, records)
        var missed = read.regions
        for (sequence, record) in records {
            switch record {
            case .missed(let region):
                let page = UInt32(DirtyPage.place(ofRegion: region).page)
                guard sequence > read.complete[page] ?? 0 else { continue }
                missed.insert(region)
                pieces.markDirty(.missed, page, since: sequence)
            case .caughtUp:
                for region in missed {
                    let page = UInt32(DirtyPage.place(ofRegion: region).page)
                    guard sequence > read.complete[page] ?? 0 else { continue }
                    missed.remove(region)
                    pieces.markDirty(.missed, page, since: sequence)
                }
            default: continue
            }
        }
        missedRegions = missed.filter { $0 < UInt64(regions.count) }
        for index in departed.disks.indices {
            // Regions that were dirty stay so until they are recorded as missed.
            let known = Mutant.isActive(.forgetDirtyWhenAway) ? [] : dirty
            for region in missedRegions.union(known) {
                departed[index].missed.insert(region: region)
            }
        }
    }

    /// What is mapped after the crash has nothing to settle.
    private func unmappedGrains(of region: UInt64) -> UInt16 {
        var bits: UInt16 = 0
        for position in 0..<Units.grainsPerRegion {
            let grain = region * UInt64(Units.grainsPerRegion) + UInt64(position)
            if grain >= UInt64(map.grainCount) || !map[grain].isMapped { bits |= 1 << position }
        }
        return bits
    }

    func overlayValues(_ records: Replayed) {
        for (sequence, record) in records {
            switch record {
            case .map(let grain, _):
                if Mutant.isActive(.replayKeepsValues) { continue }
                guard grain < UInt64(map.grainCount),
                    pieces.has(.checksum, page: ChecksumPage.index(ofGrain: grain))
                else { continue }
                overlay.add(
                    .reset(grain: grain), page: ChecksumPage.index(ofGrain: grain),
                    sequence: sequence)
            case .values(let firstBlock, let changes):
                for (position, change) in changes.enumerated() {
                    overlayValue(change.new, block: firstBlock + UInt64(position), sequence)
                }
            case .rewrite(let grain, _, let rewritten):
                for (block, change) in zip(rewritten.blocks, rewritten.changes) {
                    let number = grain * UInt64(Units.blocksPerGrain) + UInt64(block)
                    overlayValue(change.new, block: number, sequence)
                }
            case .cached(let firstBlock, _, let changes):
                for (position, change) in changes.enumerated()
                where change.new != BlockValue.unwritten {
                    overlayValue(change.new, block: firstBlock + UInt64(position), sequence)
                }
            case .unmap, .move, .mark, .clean, .groupAdded, .groupRemoved, .pieceGranted,
                .pieceReleased, .activation, .missed, .caughtUp:
                continue
            }
        }
    }

    private func overlayValue(_ value: UInt32, block: UInt64, _ sequence: UInt64) {
        let grain = block / UInt64(Units.blocksPerGrain)
        let page = ChecksumPage.index(ofGrain: grain)
        // Without its piece none of the page's grains is mapped any more.
        guard grain < UInt64(map.grainCount), pieces.has(.checksum, page: page) else { return }
        overlay.add(.value(block: block, value), page: page, sequence: sequence)
    }
}
