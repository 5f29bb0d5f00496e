import PoolEngine
import PoolFormat

/// Disks go away and come back, as an administrator sees it.
extension Site {
    /// The disk vanishes, whatever is under way.
    func pull(_ index: Int) {
        machine.set(.unreachable, disk: index)
        noteFault()
    }

    /// The disk keeps what it is given, and ends none of it.
    func hang(_ index: Int) {
        // Nothing else of it is slow, so nobody has to wait to tell the one from the other.
        machine.stallAfterNs = 2_000_000_000
        machine.set(.hang(untilNs: nil), disk: index)
        noteFault()
    }

    /// The disk is there again, and the pool is told; not if it has not missed it.
    ///
    /// - Parameter policy: what has become of its cache; nil: it has kept it.
    func plugIn(_ index: Int, losingCache policy: CutPolicy? = nil) -> Bool {
        if machine.disks[index].carries(.hang) { machine.takeBack(.hang, disk: index) }
        // What was under way there fails, and is noticed, before it is there again: also what is
        // begun meanwhile. Whoever notices waits for the other disks, too.
        if isOpen {
            repeat {
                guard machine.endOperations() else { return false }
            } while machine.disks[index].operationsInFlight > 0
        }
        if let policy, !isOpen || !serves(index) {
            machine.reconnect(disk: index, losingCache: policy)
        } else {
            machine.takeBack(.unreachable, disk: index)
        }
        machine.reopen(disk: index)
        // What was begun meanwhile fails even now, and the pool may notice only by that.
        if isOpen, !machine.endOperations() { return false }
        guard isOpen, !serves(index), let number = number(of: index) else { return true }
        return bringBack(index, number)
    }

    private func bringBack(_ index: Int, _ number: DiskNumber) -> Bool {
        noteReopened(index)
        let again = member(index)
        let result = control(
            "disk \(index) online",
            allowing: {
                if case .diskServes = $0 { return true }
                return false
            },
            { pool async throws(PoolError) in try await pool.onlineDisk(number, again) })
        return result != nil
    }

    /// As the pool sees it.
    func serves(_ index: Int) -> Bool {
        guard let pool, let number = number(of: index) else { return false }
        return pool.status().disks.contains { disk in
            disk.number == number && (disk.state == .online || disk.state == .rebuilding)
        }
    }

    /// It serves, be it only until it is empty.
    func isHere(_ index: Int) -> Bool {
        guard let pool, let number = number(of: index) else { return false }
        return pool.status().disks.contains {
            $0.number == number && $0.device != nil && $0.failure.isEmpty
        }
    }

    func number(of index: Int) -> DiskNumber? {
        let uuid = Self.diskUUID(index)
        return pool?.configuration.disks.first { $0.uuid == uuid }?.number
    }

    /// Every disk serves, and none lacks anything.
    var isWhole: Bool {
        guard let pool else { return false }
        return pool.configuration.departures.isEmpty
            && pool.status().disks.allSatisfy { $0.state == .online } && !pool.lacksRedundancy
    }

    /// Whatever is away comes back, and is made equal.
    ///
    /// - Parameter isThorough: a scrub has to find nothing then.
    func heal(isThorough: Bool = true) -> Bool {
        for index in members {
            for kind in [DiskFault.Kind.writeErrors, .flushError, .slow, .hang] {
                machine.takeBack(kind, disk: index)
            }
        }
        // What is retired may need disks that are away.
        let lacking = members.filter { machine.disks[$0].isUnreachable || !serves($0) }
        let isOutcast = { (index: Int) in self.outcasts.contains(index) || self.isRetired(index) }
        for index in lacking.filter({ !isOutcast($0) }) + lacking.filter(isOutcast) {
            guard isOutcast(index) ? castOut(index) : plugIn(index) else { return false }
        }
        guard waitUntilWhole() else { return false }
        if isSpoiled { guard scrub() else { return false } }
        return isThorough || isSpoiled ? findsNothing() : true
    }

    /// A scrub of a pool that is whole, and of which nobody has spoilt anything, finds nothing: the
    /// copies are equal, and match their values.
    private func findsNothing() -> Bool {
        // What an opening has found unequal is put right first.
        while machine.disks.contains(where: { $0.operationsInFlight > 0 }) {
            guard machine.step() else { break }
        }
        guard scrub() else { return false }
        let found = pool?.jobs.last { $0.kind == .scrub }?.repairedBlocks ?? 0
        if found > 0 { machine.fail("\(found) blocks are not the same on all disks") }
        return machine.violation == nil
    }

    // MARK: - disks that are refused

    /// A disk that is to be refused is refused, and what it held is put elsewhere.
    func castOut(_ index: Int) -> Bool {
        guard isOpen, let number = number(of: index) else { return machine.violation == nil }
        // A crash may have come between its leaving and its retirement's end.
        if !isRetired(index) { guard isRefused(index, number) else { return false } }
        // A crash may have come before another disk had joined that can take its place.
        if members.count - 1 <= tolerance,
            let spare = machine.disks.indices.first(where: { !members.contains($0) })
        {
            guard addDisk(spare) else { return false }
        }
        return retire(index)
    }

    private func isRetired(_ index: Int) -> Bool {
        let uuid = Self.diskUUID(index)
        return pool?.configuration.disks.contains { $0.uuid == uuid && $0.state == .retired } ?? false
    }

    /// How many disks every space can do without.
    var tolerance: Int {
        clients.spaces.map { $0.parameters.resiliency.tolerance }.min() ?? 0
    }

    private func isRefused(_ index: Int, _ number: DiskNumber) -> Bool {
        machine.reopen(disk: index)
        noteReopened(index)
        let again = member(index)
        let result = control(
            "disk \(index) online",
            allowing: {
                switch $0 {
                case .olderTime, .otherHistory: true
                default: false
                }
            },
            { pool async throws(PoolError) in try await pool.onlineDisk(number, again) })
        if case .done = result { machine.fail("disk \(index), which is to be refused, is taken back") }
        if result == nil { return false }
        return machine.violation == nil
    }

    /// The disk is there again, restored from the image it was remembered as.
    func restore(_ index: Int) {
        outcasts.insert(index)
        machine.comeBackAsRemembered(disk: index)
        noteFault()
    }

    /// An administrator takes a disk out of use.
    func putOffline(_ index: Int) -> Bool {
        guard let number = number(of: index) else { return false }
        noteFault()
        let result = control("disk \(index) offline") { pool async throws(PoolError) in
            try await pool.offlineDisk(number, force: true)
        }
        return result != nil
    }

    /// With nothing to say how new the newest is, what is here is too little.
    func isRefusedWithoutWitness() -> Bool {
        let isThrough = recover(forgetsWitness: true, allowing: Self.isDetached)
        if isOpen || !isThrough { machine.fail("a pool is opened by fewer than its voters") }
        cutPower(.keepAll)
        return machine.violation == nil
    }

    /// What an opening says that finds too little, or too old, to go on with.
    static func isDetached(_ error: PoolError) -> Bool {
        switch error {
        case .detached, .witnessNewer: true
        default: false
        }
    }

    func waitUntilWhole() -> Bool {
        var patience = 200_000
        while machine.violation == nil, !machine.isCutDue, isOpen {
            if isWhole { return true }
            patience -= 1
            machine.onStep?()
            if patience > 0, machine.step() { continue }
            // One that failed while it came back comes back again.
            let away = members.filter { !serves($0) }
            if patience <= 0 || away.isEmpty {
                machine.fail("the disks are never made equal\n\(machine.waiting)")
            }
            for index in away {
                guard plugIn(index) else { return false }
            }
        }
        return false
    }

    /// Each disk in turn is pulled, and the pool is opened without it; all of what the others have
    /// has to be right, their metadata and their journals too.
    ///
    /// - Parameter byKill: it is not closed before: its journal is needed.
    func compareOpenings(_ seed: UInt64, byKill: Bool) -> Bool {
        var random = SeededRandom(seed: seed)
        for index in members {
            for space in clients.spaces.indices {
                clients.submit(.flush, space: space, sectors: 0..<0)
            }
            clients.finish()
            guard machine.violation == nil, !machine.isCutDue else { return false }
            pull(index)
            if byKill { killProcess() } else { guard close(export: false) else { return false } }
            guard recover(), verify(.touched, sample: &random), plugIn(index), waitUntilWhole()
            else { return false }
        }
        return true
    }

    /// Each disk in turn is pulled, and what the others have is read; all of it has to be right.
    func compareMembers(_ seed: UInt64) -> Bool {
        var random = SeededRandom(seed: seed)
        for index in members {
            clients.finish()
            pull(index)
            guard verify(.touched, sample: &random) else { return false }
            // Reads alone may not have told.
            guard plugIn(index), waitUntilWhole() else { return false }
        }
        return true
    }
}
