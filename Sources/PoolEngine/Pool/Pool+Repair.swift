import PoolFormat

/// The pool heals itself: what disks that stay away held, and what lies on disks that are retired,
/// is put elsewhere (`Space/Space+Repair.swift`), space by space.
///
/// A disk is *given up* when it has been away for the repair delay, at once when its owner says so,
/// or when it is retired; one that was put offline is not. Once no space has anything on it any more
/// its departures go; a retired disk leaves the configuration, and then loses its label.
extension Pool {
    /// Runs for as long as the pool is open.
    func supervise() async {
        while !isClosed, !engine.isStopped {
            isSuperviseWanted = false
            noteWhoIsAway()
            await repairWhatIsDue()
            if isClosed || engine.isStopped { return }
            if isSuperviseWanted { continue }
            if let due = nextRepairNs { engine.fire(superviseWanted, atNs: due) }
            await superviseWanted.wait()
        }
    }

    /// Something has changed that repair may wait for.
    func wantSupervision() {
        isSuperviseWanted = true
        superviseWanted.fire()
    }

    private func noteWhoIsAway() {
        for record in configuration.disks {
            let isAway = disk(record.number)?.serves != true && record.state != .offline
            if !isAway {
                awaySinceNs[record.number] = nil
            } else if awaySinceNs[record.number] == nil {
                awaySinceNs[record.number] = engine.nowNs
            }
        }
        for number in awaySinceNs.keys
        where !configuration.disks.contains(where: { $0.number == number }) {
            awaySinceNs[number] = nil
        }
    }

    private var repairDelayNs: UInt64 {
        let seconds =
            configuration.settings.repairDelaySeconds ?? PoolSettings.defaultRepairDelaySeconds
        return UInt64(seconds) * 1_000_000_000
    }

    /// When the next disk that is away will have been so for the repair delay.
    private var nextRepairNs: UInt64? {
        awaySinceNs.values.map { $0 &+ repairDelayNs }.filter { $0 > engine.nowNs }.min()
    }

    private func repairPlan(isForced: Bool) -> Space.RepairPlan {
        let now = engine.nowNs
        let away = awaySinceNs.filter { isForced || now >= $0.value &+ repairDelayNs }.keys
        let retired = configuration.disks.filter { $0.state == .retired }.map(\.number)
        let serving = disks.count(where: \.takesGrants)
        return Space.RepairPlan(
            givenUp: Set(away).union(retired), serving: serving,
            priority: configuration.settings.repairPriority ?? .normal)
    }

    private func repairWhatIsDue() async {
        let isForced = jobList.contains {
            $0.kind == .repair && $0.disk == nil && !$0.state.isOver
        }
        let plan = repairPlan(isForced: isForced)
        guard !hasLostQuorum else { return endRepairs(plan, .failed) }
        var lacking: [Space] = []
        for space in spaces {
            let needs = try? await on(space) { $0.needsRepair(plan) }
            if needs ?? false { lacking.append(space) }
        }
        guard !engine.isStopped, !isClosed else { return }
        noteRepairsBegin(plan, isNeeded: !lacking.isEmpty)
        var outcome = Space.RepairOutcome.done
        for space in lacking where !isClosed && !engine.isStopped {
            repairing = space
            let done = (try? await on(space) { await $0.repair(plan) }) ?? .failed
            repairing = nil
            if done != .done, outcome != .failed { outcome = done }
            repairedBytes += (try? await on(space) { $0.repairProgress.movedBytes }) ?? 0
        }
        if isClosed || engine.isStopped { return }
        if outcome == .done, await !letGo(plan.givenUp) {
            outcome = spaces.contains { $0.copies > plan.serving } ? .noRoom : .failed
        }
        endRepairs(plan, outcome)
    }

    // MARK: - disks that are given up

    /// Nothing of any space is left on these disks: nobody has departed from them any more, and
    /// those that are retired leave the pool.
    ///
    /// - Returns: whether that is so.
    private func letGo(_ givenUp: Set<DiskNumber>) async -> Bool {
        var isLetGo = true
        for number in givenUp.sorted() {
            guard spaces.count == configuration.spaces.count else { return false }
            for space in spaces {
                let isFree = try? await on(space) { await $0.hasDurablyNothing(on: number) }
                if isFree != true { isLetGo = false }
            }
            guard isLetGo else { continue }
            do throws(PoolError) {
                try await letGo(number)
            } catch {
                isLetGo = false
            }
        }
        return isLetGo
    }

    private func letGo(_ number: DiskNumber) async throws(PoolError) {
        let isRetired = configuration.disks.contains {
            $0.number == number && $0.state == .retired
        }
        let hasDeparted = configuration.departures.contains { $0.disk == number }
        guard isRetired || hasDeparted else { return }
        try await changeConfiguration { next in
            next.departures.removeAll { $0.disk == number }
            guard isRetired else { return }
            next.disks.removeAll { $0.number == number }
            next.voters.removeAll { $0 == number }
        }
        for space in spaces { try await on(space) { $0.noteLetGo(number) } }
        guard isRetired else { return }
        guard let disk = disk(number) else { return removePlace(number) }
        if disk.serves { _ = try await wipeLabels([disk], during: "while its label was wiped") }
        detach(disk)
    }
}

extension Space {
    /// What a repair is to achieve.
    struct RepairPlan: Sendable {
        /// Disks whose contents are to be had elsewhere; those that serve are read.
        var givenUp: Set<DiskNumber>
        /// Disks that may take copies.
        var serving: Int
        var priority: RepairPriority
    }

    func hasNothing(on number: DiskNumber) -> Bool {
        let claims = claims(on: number)
        return claims.slabs.isEmpty && claims.pieces.isEmpty
            || Mutant.isActive(.retireForgetsGroup)
    }

    /// Likewise after any crash.
    func hasDurablyNothing(on number: DiskNumber) async -> Bool {
        guard hasNothing(on: number) else { return false }
        if Mutant.isActive(.letGoUndurably) { return true }
        return await commit()
    }

    /// The disk is nothing to it any more.
    func noteLetGo(_ number: DiskNumber) {
        guard hasNothing(on: number) else { return }
        departed.remove(number)
        forgetMissed()
    }
}
