import PoolFormat

/// Work that goes on behind a pool's back, and what starts it.
extension Pool {
    /// Work that goes on behind a pool's back.
    public struct Job: Hashable, Sendable {
        public enum Kind: String, Sendable, CaseIterable {
            case resync, repair, retire, replace, rebalance, scrub
        }

        public enum State: String, Sendable, CaseIterable {
            case waiting, running, paused, blocked, done, failed

            public var isOver: Bool {
                switch self {
                case .done, .failed: true
                case .waiting, .running, .paused, .blocked: false
                }
            }
        }

        /// Grows; unique while the daemon runs.
        public var id: UInt64
        public var kind: Kind
        /// nil: the whole pool.
        public var disk: DiskNumber?
        public var state: State
        /// Why it waits, is blocked or has failed, for people; empty otherwise.
        public var reason: String
        public var doneBytes: UInt64
        /// 0 while unknown.
        public var totalBytes: UInt64
        /// Of a scrub, a resync, a repair: blocks of 4 KiB found wrong and put right.
        public var repairedBlocks: UInt64
        /// Blocks that no copy has right.
        public var lostBlocks: UInt64
        /// Engine time.
        public var startedNs: UInt64

        /// What lies on some disk is put elsewhere.
        var isRepair: Bool {
            switch kind {
            case .repair, .retire, .replace: true
            case .resync, .rebalance, .scrub: false
            }
        }

        public init(
            id: UInt64, kind: Kind, disk: DiskNumber?, state: State, reason: String = "",
            doneBytes: UInt64 = 0, totalBytes: UInt64 = 0, repairedBlocks: UInt64 = 0,
            lostBlocks: UInt64 = 0, startedNs: UInt64 = 0
        ) {
            self.id = id
            self.kind = kind
            self.disk = disk
            self.state = state
            self.reason = reason
            self.doneBytes = doneBytes
            self.totalBytes = totalBytes
            self.repairedBlocks = repairedBlocks
            self.lostBlocks = lostBlocks
            self.startedNs = startedNs
        }
    }

    /// Those under way, and the last 32 that ended; ascending by id. As current as ``status()``.
    public var jobs: [Job] {
        jobList.map { job in
            var shown = job
            switch job.kind {
            case .repair, .retire, .replace, .rebalance: addRepairs(to: &shown)
            case .resync: addResync(to: &shown)
            case .scrub: break
            }
            return shown
        }
    }

    private func addRepairs(to job: inout Job) {
        guard job.state == .running, let repairing else { return }
        let progress = facts(repairing).repair
        job.doneBytes = min(job.totalBytes, repairedBytes + progress.doneBytes)
    }

    private func addResync(to job: inout Job) {
        guard job.state == .running, let number = job.disk else { return }
        var left = 0
        for space in spaces { left += facts(space).missedGrains[number] ?? 0 }
        let leftBytes = UInt64(left) * UInt64(Units.grainBytes)
        job.doneBytes = job.totalBytes > leftBytes ? job.totalBytes - leftBytes : 0
    }

    // MARK: - the list

    @discardableResult
    func addJob(_ kind: Job.Kind, disk: DiskNumber? = nil, _ state: Job.State = .waiting) -> UInt64 {
        let id = nextJobID
        nextJobID += 1
        jobList.append(
            Job(id: id, kind: kind, disk: disk, state: state, startedNs: engine.nowNs))
        let over = jobList.filter(\.state.isOver)
        if over.count > 32, let oldest = over.first { jobList.removeAll { $0.id == oldest.id } }
        return id
    }

    func changeJobs(_ isMeant: (Job) -> Bool, _ change: (inout Job) -> Void) {
        for index in jobList.indices where !jobList[index].state.isOver && isMeant(jobList[index]) {
            change(&jobList[index])
        }
    }

    /// Where nobody has asked for a repair, it gets a job of its own.
    ///
    /// - Returns: the jobs that it is the work of.
    func noteRepairsBegin(_ plan: Space.RepairPlan) -> Set<UInt64> {
        repairedBytes = 0
        var jobs = plan.jobs
        if jobs.isEmpty, !plan.givenUp.isEmpty {
            jobs.insert(addJob(.repair, disk: plan.givenUp.count == 1 ? plan.givenUp.first : nil))
        }
        let total = spaces.reduce(UInt64(0)) { sum, space in
            sum + facts(space).repair.totalBytes
        }
        changeJobs({ jobs.contains($0.id) }) { job in
            (job.state, job.reason, job.totalBytes) = (.running, "", max(job.totalBytes, total))
        }
        return jobs
    }

    func endRepairs(
        _ jobs: Set<UInt64>, _ outcome: Space.RepairOutcome,
        _ reason: String = "some of it cannot be read, or written elsewhere"
    ) {
        changeJobs({ jobs.contains($0.id) }) { job in
            switch outcome {
            case .done:
                job.state = .done
                job.totalBytes = max(job.totalBytes, repairedBytes)
                job.doneBytes = job.totalBytes
                if job.kind == .repair, job.disk == nil, let number = self.offlineAndMissed {
                    (job.state, job.reason) = (
                        .failed,
                        "what \(self.diskName(number)) has is not copied while it is offline: bring it "
                            + "online, or retire it"
                    )
                }
                if let number = job.disk, job.kind != .repair, self.isRetired(number) {
                    (job.state, job.reason) = (.failed, "something is left on it")
                }
            case .noRoom:
                job.state = .blocked
                job.reason = "the other disks are too few, or too full, for the copies"
            case .failed:
                // A disk that could be let go all the same.
                if let number = job.disk, job.kind != .repair, !self.isRetired(number) {
                    job.state = .done
                } else {
                    (job.state, job.reason) = (.failed, reason)
                }
            }
        }
    }

    func blockRepairs(_ jobs: Set<UInt64>, _ reason: String) {
        changeJobs({ jobs.contains($0.id) }) { ($0.state, $0.reason) = (.blocked, reason) }
    }

    private func isRetired(_ number: DiskNumber) -> Bool {
        configuration.disks.contains { $0.number == number && $0.state == .retired }
    }

    /// A disk that its owner has put offline, and that a space would be more redundant with.
    private var offlineAndMissed: DiskNumber? {
        configuration.disks.first { record in
            record.state == .offline
                && configuration.departures.contains { $0.disk == record.number }
        }?.number
    }

    /// For people.
    func diskName(_ number: DiskNumber) -> String {
        Disk.name(number, configuration.disks.first { $0.number == number }?.pathHint ?? "")
    }

    /// A disk has come back: its resync is under way until no space lacks anything there.
    func noteResyncs() {
        let returning = Set(configuration.departures.map(\.disk)).filter {
            disk($0)?.serves ?? false
        }
        for number in returning.sorted() {
            let isKnown = jobList.contains {
                $0.kind == .resync && $0.disk == number && !$0.state.isOver
            }
            guard !isKnown else { continue }
            addJob(.resync, disk: number, .running)
            let missed = spaces.reduce(0) { $0 + (facts($1).missedGrains[number] ?? 0) }
            let total = UInt64(missed) * UInt64(Units.grainBytes)
            changeJobs({ $0.kind == .resync && $0.disk == number }) { $0.totalBytes = total }
        }
        changeJobs({ $0.kind == .resync }) { job in
            guard let number = job.disk, !returning.contains(number) else { return }
            let isAway = disk(number)?.serves != true
            (job.state, job.reason) =
                isAway ? (.failed, "the disk has left again") : (.done, "")
            if !isAway { job.doneBytes = job.totalBytes }
        }
    }

    // MARK: - what starts it

    /// Empties a disk onto the others; then it is no longer the pool's.
    ///
    /// - Returns: the job's id.
    public func retireDisk(_ number: DiskNumber) async throws(PoolError) -> UInt64 {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            return try await retire(number, as: .retire)
        }
    }

    private func retire(_ number: DiskNumber, as kind: Job.Kind) async throws(PoolError) -> UInt64 {
        guard let record = configuration.disks.first(where: { $0.number == number }) else {
            throw .diskUnknown(number)
        }
        let running = jobList.first {
            ($0.kind == .retire || $0.kind == .replace) && $0.disk == number && !$0.state.isOver
        }
        if let running { return running.id }
        let others = servingDisks.filter { $0.number != number && !$0.isRetired }
        guard !others.isEmpty else { throw .lastDisk(disk: Disk.name(number, record.pathHint)) }
        try await changeConfiguration { next in
            for index in next.disks.indices where next.disks[index].number == number {
                next.disks[index].state = .retired
            }
        }
        disk(number)?.isRetired = true
        let id = addJob(kind, disk: number)
        wantSupervision()
        return id
    }

    /// Puts a new disk in a disk's place: it joins, and the old one is retired.
    ///
    /// - Returns: the job's id.
    public func replaceDisk(
        _ number: DiskNumber, with member: Member
    ) async throws(PoolError) -> UInt64 {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard configuration.disks.contains(where: { $0.number == number }) else {
                throw .diskUnknown(number)
            }
            try await add([member])
            return try await retire(number, as: .replace)
        }
    }

    /// Rebuilds at once what lacks redundancy, without waiting for the repair delay.
    ///
    /// - Returns: the job's id.
    public func repair() async throws(PoolError) -> UInt64 {
        try requireOpen()
        // One that is under way may not know of what has left since it began.
        let waiting = jobList.first { $0.kind == .repair && $0.disk == nil && $0.state == .waiting }
        if let waiting { return waiting.id }
        let id = addJob(.repair)
        wantSupervision()
        return id
    }
}
