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
            (isSuperviseWanted, repairRetryNs) = (false, nil)
            noteWhoIsAway()
            await repairWhatIsDue()
            if isClosed || engine.isStopped { return }
            if isSuperviseWanted { continue }
            let due = [nextRepairNs, repairRetryNs].compactMap { $0 }.min()
            if let due { engine.fire(superviseWanted, atNs: due) }
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
            // One that comes and goes and is never made equal is away all the time.
            let isBehind = configuration.departures.contains { $0.disk == record.number }
            if !isAway {
                if !isBehind { awaySinceNs[record.number] = nil }
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

    /// The disks that are away now, and since when they have been, or have come and gone.
    private var away: [DiskNumber: UInt64] {
        awaySinceNs.filter { disk($0.key)?.serves != true }
    }

    /// When the next disk that is away will have been so for the repair delay.
    private var nextRepairNs: UInt64? {
        away.values.map { $0 &+ repairDelayNs }.filter { $0 > engine.nowNs }.min()
    }

    private func repairPlan() -> Space.RepairPlan {
        let jobs = jobList.filter { $0.isRepair && !$0.state.isOver }
        let isForced = jobs.contains { $0.kind == .repair && $0.disk == nil }
        let now = engine.nowNs
        let away = away.filter { isForced || now >= $0.value &+ repairDelayNs }.keys
        let retired = configuration.disks.filter { $0.state == .retired }.map(\.number)
        let serving = disks.count(where: \.takesGrants)
        return Space.RepairPlan(
            givenUp: Set(away).union(retired), serving: serving,
            priority: configuration.settings.repairPriority ?? .normal, jobs: Set(jobs.map(\.id)))
    }

    private func repairWhatIsDue() async {
        let plan = repairPlan()
        let departuresBefore = departuresChanged
        // What has failed fails again, unless somebody asks for it or a disk has come or gone.
        if plan.jobs.isEmpty, let failedRepair, failedRepair == (plan.givenUp, departuresBefore) {
            return
        }
        // Who asks for a repair from here on gets another.
        changeJobs({ plan.jobs.contains($0.id) && $0.state == .waiting }) { $0.state = .running }
        guard !hasLostQuorum else {
            return endRepairs(plan.jobs, .failed, "the pool's disks take no more changes")
        }
        var lacking: [Space] = []
        for space in spaces {
            let needs = try? await on(space) { $0.needsRepair(plan) }
            if needs ?? false { lacking.append(space) }
        }
        guard !engine.isStopped, !isClosed else { return }
        let jobs = lacking.isEmpty ? plan.jobs : noteRepairsBegin(plan)
        var outcome = Space.RepairOutcome.done
        for space in lacking where !isClosed && !engine.isStopped {
            repairing = space
            let done = (try? await on(space) { await $0.repair(plan) }) ?? .failed
            repairing = nil
            outcome = outcome.and(done)
            repairedBytes += (try? await on(space) { $0.repairProgress.doneBytes }) ?? 0
        }
        if isClosed || engine.isStopped { return }
        // Disk by disk: what is left on one keeps nothing from another's leaving.
        if await !letGo(plan.givenUp), outcome == .done {
            let isTooFew = spaces.contains {
                max($0.mostCopies, $0.resiliency.leastDisks) > plan.serving
            }
            outcome = isTooFew ? .noRoom : .failed
            // What was being granted there is claimed soon: another round finds it.
            if outcome == .failed, unfinishedRepairs < 3 {
                unfinishedRepairs += 1
                repairRetryNs = engine.nowNs &+ 100_000_000
                return
            }
        }
        unfinishedRepairs = 0
        await refreshStatus()
        // A disk has left, or come, meanwhile: the next round goes on with these jobs.
        if outcome == .failed, departuresChanged != departuresBefore { return wantSupervision() }
        if outcome == .failed, let number = behind(plan) {
            return blockRepairs(
                jobs, "\(diskName(number)) is away, or is being made equal: until that is over what "
                    + "is moved might have fewer copies than now")
        }
        failedRepair = outcome == .failed ? (plan.givenUp, departuresBefore) : nil
        endRepairs(jobs, outcome)
    }

    /// A disk that some space is without, and that is not given up.
    private func behind(_ plan: Space.RepairPlan) -> DiskNumber? {
        configuration.departures.map(\.disk).first { !plan.givenUp.contains($0) }
    }

    // MARK: - disks that are given up

    /// Nothing of any space is left on these disks: nobody has departed from them any more, and
    /// those that are retired leave the pool.
    ///
    /// - Returns: whether that is so.
    private func letGo(_ givenUp: Set<DiskNumber>) async -> Bool {
        var areLetGo = true
        for number in givenUp.sorted() {
            let isLetGo = try? await holding(administrationLock) { () async throws(PoolError) in
                try await letGo(number)
            }
            if isLetGo != true { areLetGo = false }
        }
        return areLetGo
    }

    private func letGo(_ number: DiskNumber) async throws(PoolError) -> Bool {
        // What a space claims that is not open nobody knows.
        guard !isClosed, spaces.count == configuration.spaces.count else { return false }
        for space in spaces {
            guard try await on(space, { await $0.hasDurablyNothing(on: number) }) else {
                return false
            }
        }
        // What is being granted there nobody claims yet.
        if let disk = disk(number), disk.serves,
            configuration.spaces.contains(where: { disk.holds($0.lineage) }),
            !Mutant.isActive(.retireForgetsGroup)
        {
            return false
        }
        let isRetired = configuration.disks.contains {
            $0.number == number && $0.state == .retired
        }
        let hasDeparted = configuration.departures.contains { $0.disk == number }
        guard isRetired || hasDeparted else { return true }
        // One that has come back meanwhile is given up no more.
        guard isRetired || disk(number)?.serves != true else { return true }
        try await changeConfiguration { next in
            next.departures.removeAll { $0.disk == number }
            guard isRetired else { return }
            next.disks.removeAll { $0.number == number }
            next.voters.removeAll { $0 == number }
        }
        for space in spaces { try await on(space) { $0.noteLetGo(number) } }
        guard isRetired else { return true }
        guard let disk = disk(number) else {
            removePlace(number)
            return true
        }
        if disk.serves { _ = try await wipeLabels([disk], during: "while its label was wiped") }
        detach(disk)
        return true
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
        /// What it answers: jobs that come later are another's.
        var jobs: Set<UInt64> = []
    }

    func hasNothing(on number: DiskNumber) -> Bool {
        claims(on: number).isEmpty || Mutant.isActive(.retireForgetsGroup)
    }

    /// Likewise after any crash.
    func hasDurablyNothing(on number: DiskNumber) async -> Bool {
        hasNothing(on: number) ? await commit() : false
    }

    /// The disk is nothing to it any more.
    func noteLetGo(_ number: DiskNumber) {
        guard hasNothing(on: number) else { return }
        departed.remove(number)
        forgetMissed()
    }
}
