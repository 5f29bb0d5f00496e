import PoolEngine
import PoolFormat

/// Jobs of the pool, as an administrator starts them and waits for them.
extension Site {
    /// Starts a job and runs the machine until it has ended.
    private func finish(
        _ what: String, allowing isAllowed: (PoolError) -> Bool = { _ in false },
        _ start: @escaping @Sendable (Pool) async throws(PoolError) -> UInt64
    ) -> Bool {
        let begun = Outcome<UInt64>()
        let result = control(what, allowing: isAllowed) { pool async throws(PoolError) in
            begun.value = try await start(pool)
        }
        if case .refused(let error) = result, isAllowed(error) { return true }
        guard let id = begun.value else { return false }
        var patience = 400_000
        // What blocks for a moment only, while a disk is made equal, is no news.
        var blockedFor = 0
        while machine.violation == nil, !machine.isCutDue, let pool {
            guard let job = pool.jobs.first(where: { $0.id == id }) else {
                machine.fail("\(what): its job is gone")
                break
            }
            if job.state == .done { return true }
            blockedFor = job.state == .blocked ? blockedFor + 1 : 0
            if job.state == .failed || blockedFor > 20_000 {
                if acceptsErrors { return false }
                machine.fail("\(what): \(job.state), \(job.reason)\n\(machine.waiting)")
            }
            patience -= 1
            machine.onStep?()
            if patience == 0 || !machine.step() {
                machine.fail("\(what) never ends: \(job)\n\(machine.waiting)")
            }
        }
        return false
    }

    /// What disks that are away held is rebuilt at once.
    func rebuild() -> Bool {
        finish("repair") { pool async throws(PoolError) in try await pool.repair() }
    }

    /// The same, with too few disks perhaps: whatever the job comes to.
    func rebuildAsFarAsPossible() {
        let result = control("repair") { pool async throws(PoolError) in _ = try await pool.repair() }
        guard case .done = result else { return }
        var patience = 400_000
        while machine.violation == nil, patience > 0,
            let job = pool?.jobs.last(where: { $0.kind == .repair }),
            !job.state.isOver, job.state != .blocked
        {
            patience -= 1
            machine.onStep?()
            guard machine.step() else { break }
        }
        if patience == 0 { machine.fail("repair never ends\n\(machine.waiting)") }
    }

    func scrub() -> Bool {
        let isThrough = finish("scrub") { pool async throws(PoolError) in
            try await pool.scrub(bytesPerSecond: nil)
        }
        if isThrough { isSpoiled = false }
        return isThrough
    }

    func rebalance() -> Bool {
        finish("rebalance") { pool async throws(PoolError) in try await pool.rebalance() }
    }

    /// Empties a disk; afterwards it is nobody's.
    func retire(_ index: Int) -> Bool {
        guard let number = number(of: index) else { return false }
        hasHadRetirement = true
        noteFault()
        // It may just have left: a crash has come between that and its job's end.
        let isGone = finish(
            "retire disk \(index)",
            allowing: {
                if case .diskUnknown = $0 { true } else { false }
            },
            { pool async throws(PoolError) in try await pool.retireDisk(number) })
        if isGone {
            removeMember(index)
            outcasts.remove(index)
        }
        return isGone
    }

    /// Begins to empty a disk, and does not wait for the end of that.
    func beginRetiring(_ index: Int) -> Bool {
        guard let number = number(of: index) else { return false }
        hasHadRetirement = true
        noteFault()
        let result = control("begin to retire disk \(index)") { pool async throws(PoolError) in
            _ = try await pool.retireDisk(number)
        }
        return result != nil
    }

    /// Likewise, with another disk in its place.
    func beginReplacing(_ index: Int, with spare: Int) -> Bool {
        guard let number = number(of: index) else { return false }
        hasHadRetirement = true
        noteFault()
        return join(spare, "replace disk \(index) by \(spare)") {
            pool, added async throws(PoolError) in
            _ = try await pool.replaceDisk(number, with: added)
        }
    }

    /// Disks that were retired may be nobody's by now.
    func noteDisksGone() {
        guard isOpen, hasHadRetirement else { return }
        for index in members where number(of: index) == nil { removeMember(index) }
    }

    /// A disk's slabs, as far as a copy of each byte lies elsewhere.
    private func slabs(of index: Int) -> [Range<UInt64>] {
        guard let pool, let number = number(of: index) else { return [] }
        return pool.configuration.spaces.flatMap { record in
            pool.groups(ofSpace: record.name).filter { $0.layout.tolerance > 0 }.flatMap { group in
                group.slabs.filter { $0.address.disk == number }.compactMap { slab in
                    let layout = try? DiskLayout(diskBytes: machine.disks[index].fullSizeBytes)
                    return layout.map {
                        let start = $0.slabOffset(slab.address.slab)
                        return start..<start + UInt64(Units.slabBytes)
                    }
                }
            }
        }
    }

    /// Where something was written that has a copy elsewhere: of each slab the first grains.
    func spoilable(_ index: Int) -> [Range<UInt64>] {
        slabs(of: index).flatMap { slab in
            machine.disks[index].written(slab.lowerBound..<slab.lowerBound + 16 << 20)
        }
    }

    /// Blocks of grains that are in use cannot be read any more.
    ///
    /// - Parameter grains: of each slab, so many from its start.
    func makeUnreadable(_ index: Int, grains: UInt64 = 8) {
        noteFault()
        isSpoiled = true
        for slab in slabs(of: index) {
            for grain in 0..<grains {
                let start = slab.lowerBound + grain << 20
                machine.set(
                    .latentSectors([start..<start + 8192, start + 16_384..<start + 40_960]),
                    disk: index)
            }
        }
    }

    /// Bits turn over all over the grains that are in use, behind the pool's back.
    func spoil(_ index: Int) {
        noteFault()
        isSpoiled = true
        for slab in slabs(of: index) {
            for grain in 0..<UInt64(8) {
                let start = slab.lowerBound + grain << 20
                machine.set(.rot([start + 1..<start + 5, start + 16_384..<start + 20_480]), disk: index)
            }
        }
        guard let pool, let number = number(of: index) else { return }
        for piece in pool.cacheExtents(onDisk: number) {
            machine.set(.rot([piece.lowerBound..<piece.lowerBound + 65_536]), disk: index)
        }
    }
}
