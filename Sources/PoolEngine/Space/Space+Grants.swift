import PoolFormat

/// Room from the pool: slab groups for data, pieces for metadata; and pages brought into memory.
///
/// Order, each step durable before the next: the disk's slab or piece table names this space; an
/// empty image lies in a new piece; the grant is in the space's journal; a checkpoint or a grain
/// relies on it. A crash in between leaves a table entry that nothing claims: opening frees it.
extension Space {
    /// Another slab group, for the requests that found no free grain.
    func grow() async {
        var status = RequestStatus.ok
        let returns = roomReturns
        // A fixed space has them all: one that was trimmed will do.
        if isFixed, await hasGrainsAfterAll() {
            isGrowing = false
            return wake(&grainWaiters)
        }
        await groupLock.acquire(engine)
        do throws(PoolError) {
            try await addGroup()
        } catch {
            status = error.requestStatus
        }
        groupLock.release()
        if status == .noSpace, await hasGrainsAfterAll() { status = .ok }
        // Slabs have come back meanwhile, its own perhaps: they are asked for again.
        if status == .noSpace, roomReturns != returns { status = .ok }
        let isReclaiming = status == .noSpace ? await askForRoom() : false
        isGrowing = false
        if status == .ok { return wake(&grainWaiters) }
        turnAway(&grainWaiters, status, isReclaiming: isReclaiming, since: returns)
    }

    /// Under the group lock.
    func addGroup() async throws(PoolError) {
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        let id = groups.nextID
        try await ensurePiece(.group, page: GroupPage.index(ofGroup: id))
        var record = try await grantGroup(id)
        while isLost(record) {
            await release([record])
            record = try await grantGroup(id)
        }
        adopt(record)
        addRecord(.groupAdded(record))
        pieces.markDirty(.group, GroupPage.index(ofGroup: id), since: firstUnwrittenSequence)
    }

    /// The pool has no room; the space may have: in a group that was being emptied, or once the
    /// trims that nobody has flushed are durable.
    private func hasGrainsAfterAll() async -> Bool {
        groups.stopDraining()
        if groups.freeGrains <= relocationReserve { await releaseFreed() }
        return groups.freeGrains > relocationReserve
    }

    private func grantGroup(_ id: UInt32) async throws(PoolError) -> GroupRecord {
        assert(claimsChanging > 0, "a disk that comes back would be freed of it")
        let (lineage, layout) = (lineage, resiliency)
        let (columns, unitBytes) = (columns, interleaveBytes)
        let granted = try await atHome { pool async throws(PoolError) in
            let record = try await pool.grantGroup(
                lineage: lineage, id: id, layout: layout, columns: columns, unitBytes: unitBytes)
            return (record: record, places: pool.places)
        }
        places = granted.places
        return granted.record
    }

    /// A simple space may have said of a disk that failed meanwhile that it uses nothing there: nor
    /// does it from here on.
    func isLost(_ record: GroupRecord) -> Bool {
        !isRedundant && record.slabs.contains { isLost(places.base($0.address)) }
    }

    func isLost(_ base: SlabGroups.Base) -> Bool {
        base.device == DiskPlaces.nowhere || engine.failedDevices.contains(base.device)
    }

    func adopt(_ record: GroupRecord) {
        groups.add(record) { places.base($0.address) }
        if record.slabs.contains(where: \.isHole) { departed.hasHoles = true }
    }

    /// The checksum piece of a page, and the map piece over the same grains, exist.
    func ensureValuePieces(page: UInt32) async throws(PoolError) {
        let grain = UInt64(page) * UInt64(ChecksumPage.grainsPerPage)
        try await ensurePiece(.map, page: MapPage.index(ofGrain: grain))
        try await ensurePiece(.checksum, page: page)
    }

    func ensurePiece(_ kind: PieceKind, page: UInt32) async throws(PoolError) {
        if pieces.has(kind, page: page) { return }
        await grantLock.acquire(engine)
        defer { grantLock.release() }
        claimsChanging += 1
        defer { claimsChanging -= 1 }
        if engine.isStopped { throw .stopped }
        if pieces.has(kind, page: page) { return }
        guard let slot = pieces.freeSlot() else { throw .noSpace }
        try await grantPiece(kind, page: page, slot: slot)
    }

    /// Under the grant lock.
    private func grantPiece(
        _ kind: PieceKind, page: UInt32, slot: UInt32
    ) async throws(PoolError) {
        assert(claimsChanging > 0, "a disk that comes back would be freed of it")
        let index = page / UInt32(MetadataPage.pagesPerPiece)
        let (lineage, disks) = (lineage, metadataDisks)
        let granted = try await atHome { pool async throws(PoolError) in
            let entries = try await pool.grantPieces(
                lineage: lineage, kind: kind, firstIndex: index, count: 1, disks: disks)
            return (entries: entries, places: pool.places)
        }
        places = granted.places
        guard let entry = granted.entries.first else { throw .noSpace }
        let bases = places.bases(of: entry.copies)
        do throws(PoolError) {
            try await Self.writeEmptyPages(
                pool, engine, kind: kind, piece: index, lineage: lineage, epoch: epoch,
                bases: bases)
        } catch {
            // Nothing names the piece yet. Where a disk has left, another takes its place.
            try? await atHome { pool async throws(PoolError) in
                try await pool.releasePieces(entry.copies, of: lineage)
            }
            guard error != .stopped, isRedundant, await departuresAreDurable() else { throw error }
            return try await grantPiece(kind, page: page, slot: slot)
        }
        pieces.add(entry, slot: slot, bases: bases)
        pieces.markDirty(
            .directory, UInt32(DirectoryPage.place(ofSlot: slot).page),
            since: firstUnwrittenSequence)
        addRecord(.pieceGranted(slot: slot, entry))
    }

    /// 128 empty pages of sequence 0 in slot 0, flushed: a page that was never written is never
    /// confused with one that has rotted.
    static func writeEmptyPages(
        _ pool: Pool, _ engine: Engine, kind: PieceKind, piece: UInt32, lineage: Lineage,
        epoch: UInt64, bases: [SlabGroups.Base]
    ) async throws(PoolError) {
        let buffer = await engine.scratch.take(bytes: Units.pieceBytes)
        defer { engine.scratch.give(buffer) }
        let first = UInt64(piece) * UInt64(MetadataPage.pagesPerPiece)
        unsafe engine.arena.bytes(buffer, Units.pieceBytes)
            .initializeMemory(as: UInt8.self, repeating: 0)
        for page in 0..<MetadataPage.pagesPerPiece {
            let offset = buffer + Int(MetadataPage.slotOffset(page: page, slot: 0))
            let image = unsafe PageImage(engine.arena.bytes(offset, Units.blockBytes))
            MetadataPage.seal(
                image, kind: kind, lineage: lineage, epoch: epoch, index: first + UInt64(page),
                sequence: 0)
        }
        let io = IOBatch(engine)
        for base in bases {
            io.write(base.device, at: base.offsetBytes, bytes: Units.pieceBytes, from: buffer)
        }
        try await pool.runOrFail(io, during: "write of metadata")
        var devices = DeviceSet()
        for base in bases { devices.insert(base.device) }
        devices.forEach { io.flush($0) }
        try await pool.runOrFail(io, during: "flush of metadata")
    }

    // MARK: - checksum pages

    /// Brings a checksum page into a frame, with what the journal still has for it.
    func loadValues(page: UInt32) async throws(PoolError) {
        if await isLoaded(page: page) { return }
        let frame = try await takeFrame()
        // Another slow path may have begun to load it meanwhile.
        if pageFrames[Int(page)] >= 0 {
            frames.give(frame)
            return try await loadValues(page: page)
        }
        defer { valuesLoaded.fire() }
        frames[frame] = PageFrames.Frame()
        frames[frame].space = handle.index
        frames[frame].page = page
        frames[frame].isLoading = true
        frames[frame].recentlyUsed = true
        pageFrames[Int(page)] = frame
        do throws(PoolError) {
            let found = try await readPage(.checksum, page, afterCrash: overlay.has(page: page))
            defer { engine.scratch.give(found.buffer) }
            unsafe frames.image(frame).copyMemory(
                from: UnsafeRawBufferPointer(
                    engine.arena.bytes(found.buffer + found.offset, Units.blockBytes)))
            frames[frame].slot = UInt8(found.slot)
            overlay.apply(page: page, pageSequence: found.sequence, frames: frames, frame)
            frames[frame].isLoading = false
        } catch {
            pageFrames[Int(page)] = -1
            frames.give(frame)
            engine.frameReleased.fire()
            throw error
        }
    }

    /// Waits while another slow path loads the page. False: nobody does, and it is not there.
    private func isLoaded(page: UInt32) async -> Bool {
        while true {
            let frame = pageFrames[Int(page)]
            if frame < 0 { return false }
            if !frames[frame].isLoading || engine.isStopped { return true }
            await valuesLoaded.wait()
        }
    }

    /// A frame to load into; while all are in use, commits and checkpoints make some clean.
    private func takeFrame() async throws(PoolError) -> Int32 {
        engine.framesWanted += 1
        defer { engine.framesWanted -= 1 }
        while true {
            if engine.isStopped { throw .stopped }
            let taken = frames.take { space, page in
                engine.spaces[Int(space)]?.pageFrames[Int(page)] = -1
            }
            if let frame = taken { return frame }
            if readOnlyReason != nil { throw .ioError }
            for space in engine.spaces {
                space?.wantCommit()
                space?.wantCheckpoint()
            }
            await engine.frameReleased.wait()
        }
    }

    struct FoundPage {
        /// A scratch buffer, the caller's to give back; the page lies at `offset` in it.
        var buffer: Int
        var offset: Int
        var slot: Int
        var sequence: UInt64
    }

    /// The newest valid slot of a page: from the first copy whose slots are both beyond doubt,
    /// else from all copies together. Of a copy, one slot may be damaged by a write that a power
    /// cut tore: the journal still has what it held. Or it has rotted: another copy has it.
    ///
    /// - Parameter afterCrash: the journal has changes of the page. Its checkpoint may have come to
    ///   one copy and not to another; it is brought to all of them, or the journal, which then holds
    ///   nothing newer than the page, would be retired with one copy behind.
    func readPage(
        _ kind: PieceKind, _ page: UInt32, afterCrash: Bool = false
    ) async throws(PoolError) -> FoundPage {
        let pair = 2 * Units.blockBytes
        let buffer = await engine.scratch.take(bytes: 2 * pair)
        let io = IOBatch(engine)
        var best: FoundPage?
        var slots: [(base: SlabGroups.Base, sequences: [UInt64?])] = []
        for base in copiesToRead(pieces.addresses(kind, page: page, slot: 0)) {
            // The best so far stays in one half of the buffer, the other is read into.
            let half = best.map { $0.offset < pair ? pair : 0 } ?? 0
            io.read(base.device, at: base.offsetBytes, bytes: pair, into: buffer + half)
            guard await io.run() else {
                if engine.isStopped { break }
                noteReadError(base.device)
                slots.append((base, [nil, nil]))
                continue
            }
            let (sequences, isBeyondDoubt) = inspectPair(kind, page, buffer + half)
            for (slot, sequence) in sequences.enumerated() {
                guard let sequence, best.map({ sequence > $0.sequence }) ?? true else { continue }
                best = FoundPage(
                    buffer: buffer, offset: half + slot * Units.blockBytes, slot: slot,
                    sequence: sequence)
            }
            slots.append((base, sequences))
            if isBeyondDoubt, !afterCrash { break }
        }
        guard let best, !engine.isStopped else {
            engine.scratch.give(buffer)
            throw failure
        }
        if afterCrash, readOnlyReason == nil, !Mutant.isActive(.leaveCopiesBehind) {
            let behind = slots.filter { $0.sequences[best.slot] != best.sequence }
            guard await bring(best, PageSlot(kind, page: page, slot: best.slot), to: behind.map(\.base))
            else {
                engine.scratch.give(buffer)
                throw failure
            }
        }
        return best
    }

    /// Those that are current; last the ones on disks that keep reads for long.
    private func copiesToRead(_ bases: [SlabGroups.Base]) -> [SlabGroups.Base] {
        let current = bases.filter { departed.isCurrent($0) }
        if engine.readLatency.isNoneLate(nowNs: engine.nowNs) { return current }
        let isLate = { [engine] (base: SlabGroups.Base) in
            engine.readLatency.isLate(base.device, nowNs: engine.nowNs)
        }
        return current.filter { !isLate($0) } + current.filter(isLate)
    }

    /// Writes a page into the same slot of other copies, flushed. Their other slot stays.
    private func bring(
        _ page: FoundPage, _ slot: PageSlot, to copies: [SlabGroups.Base]
    ) async -> Bool {
        let pageWrite = beginPageWrite([slot])
        defer { endPageWrite(pageWrite) }
        if copies.isEmpty { return true }
        let io = IOBatch(engine)
        var devices = DeviceSet()
        for base in copies {
            io.write(
                base.device, at: base.offsetBytes + UInt64(page.slot * Units.blockBytes),
                bytes: Units.blockBytes, from: page.buffer + page.offset)
            devices.insert(base.device)
        }
        if await !io.run(), await !goOn(without: io, during: "write of metadata") { return false }
        return await flush(devices)
    }

    /// What both slots of a page hold: nil where that is not the page. It is beyond doubt where neither
    /// is damaged.
    func inspectPair(
        _ kind: PieceKind, _ page: UInt32, _ offset: Int
    ) -> (sequences: [UInt64?], isBeyondDoubt: Bool) {
        var isBeyondDoubt = true
        var sequences: [UInt64?] = [nil, nil]
        for slot in 0..<2 {
            switch inspect(kind, page, offset + slot * Units.blockBytes) {
            case .valid(let sequence): sequences[slot] = sequence
            case .neverWritten: if slot == 0 { isBeyondDoubt = false }
            case .damaged: isBeyondDoubt = false
            }
        }
        return (sequences, isBeyondDoubt)
    }

    enum Slot {
        case valid(sequence: UInt64)
        case neverWritten
        case damaged
    }

    func inspect(_ kind: PieceKind, _ page: UInt32, _ offset: Int) -> Slot {
        let image = unsafe PageImage(engine.arena.bytes(offset, Units.blockBytes))
        do throws(FormatError) {
            let header = try MetadataPage.validate(
                image, kind: kind, lineage: lineage, index: UInt64(page))
            return .valid(sequence: header.sequence)
        } catch {
            if case .blank = error { return .neverWritten }
            return .damaged
        }
    }
}

extension GroupPage {
    static func index(ofGroup id: UInt32) -> UInt32 { UInt32(place(ofRecord: id).page) }
}
