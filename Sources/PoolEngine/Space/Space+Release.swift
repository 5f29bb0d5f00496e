import PoolFormat

/// What is not needed any more goes back: grains to the space, slab groups to the pool.
///
/// Order, each step durable before the next: nothing names the grain (its unmapping, or its move,
/// is committed) ─► it is discarded ─► it may be handed out again. Of a group without a grain in
/// use: out of the free list ─► its removal is committed ─► its slabs are free in their tables.
extension Space {
    /// Gives unmapped grains back. Nothing durable names them, and their readers left before they
    /// were unmapped: a trim, like the end of a move, holds the range alone.
    func release(_ freed: [GrainMap.Entry]) async {
        defer {
            releasesUnderWay -= 1
            released.fire()
        }
        lastReleaseNs = engine.nowNs
        skippedGroups.removeAll(keepingCapacity: true)
        let io = IOBatch(engine)
        for start in stride(from: 0, to: freed.count, by: 256) {
            let some = freed[start..<min(start + 256, freed.count)]
            for entry in some { addDiscards(io, entry) }
            // A refused discard costs nothing but the space it would have given back.
            _ = await io.run()
            if engine.isStopped { return }
            engine.discardRefused.formUnion(io.devices(with: .unsupported))
            for entry in some { groups.release(entry) }
            wake(&grainWaiters)
        }
        await releaseEmptyGroups()
        retryParked()
        compactionWanted.fire()
    }

    private func addDiscards(_ io: IOBatch, _ entry: GrainMap.Entry) {
        for copy in 0..<copies {
            groups.forEachRun(
                entry, copy: copy, offsetBytes: 0, lengthBytes: Units.grainBytes
            ) { base, _, bytes in
                if !engine.discardRefused.contains(base.device) {
                    io.discard(base.device, at: base.offsetBytes, bytes: UInt64(bytes))
                }
            }
        }
    }

    /// Slab groups without a mapped grain go back to the pool: out of the free list, then the
    /// record durable, then the slab tables.
    func releaseEmptyGroups() async {
        guard !isGrowing, grainWaiters.isEmpty, readOnlyReason == nil else { return }
        let removed = groups.removeEmpty()
        guard !removed.isEmpty else { return }
        for group in removed {
            pending.records.append(.groupRemoved(id: group.id))
            pieces.markDirty(
                .group, GroupPage.index(ofGroup: group.id), since: firstUnwrittenSequence)
        }
        guard await commit() else { return }
        // A slab that could not be given back is found unclaimed when the space is next opened.
        for group in removed { try? await pool.releaseGroup(group, lineage: lineage) }
    }
}
