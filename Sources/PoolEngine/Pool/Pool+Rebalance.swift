import PoolFormat

/// Spreads what is there over all disks: slab groups on the disks with the least room are moved to
/// where there is most, one after the other, until no such move brings the two closer.
///
/// A new group takes the disks with the most room (`Placement.swift`), so each move lessens the sum
/// of the squares of what the disks have free: it ends.
extension Pool {
    /// - Returns: the job's id.
    public func rebalance() async throws(PoolError) -> UInt64 {
        try requireOpen()
        let running = jobList.first { $0.kind == .rebalance && !$0.state.isOver }
        if let running { return running.id }
        let id = addJob(.rebalance, .running)
        engine.spawn { [self] in await rebalance(id) }
        return id
    }

    private func rebalance(_ id: UInt64) async {
        let priority = configuration.settings.repairPriority ?? .normal
        await refreshStatus()
        var stuck: Set<GroupName> = []
        // Each group is moved at most twice: others may take what it gave up.
        let most = spaces.reduce(0) { $0 + facts($1).groups.count } * 2
        changeJobs({ $0.id == id }) { $0.totalBytes = self.unevenBytes }
        for _ in 0..<most {
            if isClosed || engine.isStopped { break }
            guard let (space, group) = nextMove(excluding: stuck) else { break }
            let outcome = try? await on(space) { await $0.relocate(group, priority) }
            switch outcome {
            case .done:
                let slabs = space.copies
                changeJobs({ $0.id == id }) {
                    $0.doneBytes = min(
                        $0.totalBytes, $0.doneBytes + UInt64(slabs * Units.slabBytes))
                }
            case .noRoom:
                return changeJobs({ $0.id == id }) {
                    ($0.state, $0.reason) = (.failed, "there is no room to move anything into")
                }
            case .failed, nil: stuck.insert(GroupName(lineage: space.lineage, id: group))
            }
            await refreshStatus()
        }
        changeJobs({ $0.id == id }) { job in
            let isCut = self.isClosed || self.hasLostQuorum
            (job.state, job.reason) = isCut ? (.failed, "the pool was closed") : (.done, "")
            if !isCut { job.doneBytes = job.totalBytes }
        }
    }

    private var takingDisks: [Disk] {
        disks.filter(\.takesGrants).sorted { ($0.freeSlabs, $0.number) < ($1.freeSlabs, $1.number) }
    }

    /// What lies above the even share.
    private var unevenBytes: UInt64 {
        let free = takingDisks.map(\.freeSlabs)
        guard !free.isEmpty else { return 0 }
        let mean = free.reduce(0, +) / free.count
        let slabs = free.reduce(0) { $0 + max(0, mean - $1) }
        return UInt64(slabs) * UInt64(Units.slabBytes)
    }

    /// A group to be moved off a disk with little room, to one with much.
    private func nextMove(excluding stuck: Set<GroupName>) -> (space: Space, group: UInt32)? {
        let ordered = takingDisks
        for full in ordered {
            for empty in ordered.reversed() where empty.freeSlabs - full.freeSlabs >= 2 {
                for space in spaces {
                    let group = facts(space).groups.first { group in
                        let on = group.slabs.map(\.address.disk)
                        return on.contains(full.number) && !on.contains(empty.number)
                            && !stuck.contains(GroupName(lineage: space.lineage, id: group.id))
                    }
                    if let group { return (space, group.id) }
                }
            }
        }
        return nil
    }
}

/// A slab group of a pool.
private struct GroupName: Hashable {
    var lineage: Lineage
    var id: UInt32
}

extension Space {
    /// Moves everything of a group into others.
    func relocate(_ group: UInt32, _ priority: RepairPriority) async -> RepairOutcome {
        guard await beginRepairing() else { return .failed }
        defer { endRepairing() }
        guard groups[group] != nil, !groups.isDraining(group) else { return .failed }
        return await empty(group, priority)
    }
}
