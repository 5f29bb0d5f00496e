import PoolFormat

/// Spreads what is there over all disks: slabs on the disks with the least room are replaced by slabs
/// where there is most (`Space/Space+Replace.swift`), one after the other, until no such move brings
/// the two closer that ``Placement/nextMove(_:groups:domains:isRefused:)`` allows.
///
/// Each move lessens the sum of the squares of what the disks have free: it ends.
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
        var stuck: Set<SlabMove> = []
        // Each slab is moved at most twice: others may take what it gave up.
        let most = spaces.reduce(0) { sum, space in
            facts(space).groups.reduce(sum) { $0 + $1.slabs.count * 2 }
        }
        changeJobs({ $0.id == id }) { $0.totalBytes = self.unevenBytes }
        var moves = 0
        while moves < most {
            if isClosed || engine.isStopped { break }
            guard let (space, move) = nextMove(excluding: stuck) else { break }
            let outcome = try? await on(space) { await $0.relocate(move, priority) }
            if outcome == .done {
                moves += 1
                changeJobs({ $0.id == id }) {
                    $0.doneBytes = min($0.totalBytes, $0.doneBytes + UInt64(Units.slabBytes))
                }
            } else {
                stuck.insert(move)
            }
            await refreshStatus()
        }
        changeJobs({ $0.id == id }) { job in
            let isCut = self.isClosed || self.hasLostQuorum
            (job.state, job.reason) = isCut ? (.failed, "the pool was closed") : (.done, "")
            if !isCut { job.doneBytes = job.totalBytes }
        }
    }

    private var takingDisks: [Disk] { disks.filter(\.takesGrants) }

    /// What lies above the even share.
    private var unevenBytes: UInt64 {
        let free = takingDisks.map(\.freeSlabs)
        guard !free.isEmpty else { return 0 }
        let mean = free.reduce(0, +) / free.count
        let slabs = free.reduce(0) { $0 + max(0, mean - $1) }
        return UInt64(slabs) * UInt64(Units.slabBytes)
    }

    private func nextMove(excluding stuck: Set<SlabMove>) -> (space: Space, move: SlabMove)? {
        let rooms = takingDisks.map { Placement.Room(disk: $0.number, slabs: $0.freeSlabs) }
        let groups = spaces.flatMap { space in
            facts(space).groups.map { (space: space, record: $0) }
        }
        func named(_ move: Placement.Move) -> SlabMove {
            SlabMove(
                lineage: groups[move.group].space.lineage, group: groups[move.group].record.id,
                position: move.position, disk: move.disk)
        }
        let move = Placement.nextMove(
            rooms, groups: groups.map { Placement.Group($0.record) }, domains: domains,
            isRefused: { stuck.contains(named($0)) })
        return move.map { (groups[$0.group].space, named($0)) }
    }
}

/// A slab of a group that is to lie on another disk.
struct SlabMove: Hashable, Sendable {
    var lineage: Lineage
    var group: UInt32
    var position: Int
    var disk: DiskNumber
}

extension Space {
    func relocate(_ move: SlabMove, _ priority: RepairPriority) async -> Replaced {
        guard await beginRepairing() else { return .failed }
        defer { endRepairing() }
        // Whatever has become of the group since, the slab there is moved if it lies elsewhere.
        guard let record = groups[move.group]?.record, record.slabs.indices.contains(move.position),
            !record.slabs[move.position].isHole, !groups.isDraining(move.group),
            record.slabs[move.position].address.disk != move.disk
        else { return .failed }
        return await replaceSlab(
            of: move.group, at: move.position, on: move.disk, mayShare: true, priority)
    }
}
