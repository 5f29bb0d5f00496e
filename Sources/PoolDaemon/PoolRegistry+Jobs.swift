import PoolControl
import PoolEngine
import PoolFormat

/// What goes on behind a pool's back: started here, and told.
extension PoolRegistry {
    func scrub(
        _ name: String, _ request: ScrubRequest
    ) throws(ControlFailure) -> JobAnswer {
        if request.bytesPerSecond == 0 {
            throw ControlFailure(
                .invalid, "a rate of 0 would never end",
                hint: "use a rate such as 50M, or pause it: poolctl pool scrub \(name) --pause")
        }
        let rate = request.bytesPerSecond
        switch request.action {
        case .start:
            return try startJob(in: name) { pool async throws(PoolError) in
                try await pool.scrub(bytesPerSecond: rate)
            }
        case .pause:
            return try startJob(in: name) { pool async throws(PoolError) in
                try await pool.pauseScrub()
                return pool.newestScrub
            }
        case .resume:
            return try startJob(in: name) { pool async throws(PoolError) in
                try await pool.resumeScrub(bytesPerSecond: rate)
                return pool.newestScrub
            }
        }
    }

    func repair(_ name: String) throws(ControlFailure) -> JobAnswer {
        try startJob(in: name) { pool async throws(PoolError) in try await pool.repair() }
    }

    func rebalance(_ name: String) throws(ControlFailure) -> JobAnswer {
        try startJob(in: name) { pool async throws(PoolError) in try await pool.rebalance() }
    }

    private func startJob(
        in name: String, _ start: @escaping @Sendable (Pool) async throws(PoolError) -> UInt64
    ) throws(ControlFailure) -> JobAnswer {
        let uuid = try openEntry(named: name).entry.uuid
        let id = try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            do throws(PoolError) {
                return try await start(pool)
            } catch {
                throw ControlFailure(pool: error)
            }
        }
        return try answer(id, of: name)
    }

    // MARK: - what is told

    func jobs(of name: String) throws(ControlFailure) -> JobList {
        let uuid = try openEntry(named: name).entry.uuid
        let seen = try shard.runNow { state in state.pools[uuid].map { ($0.name, $0.jobs) } }
        guard let (pool, jobs) = seen else {
            throw ControlFailure(.unavailable, "pool \(name) is closing", hint: "try again")
        }
        let rates = self.rates.note(uuid, seconds: uptime, jobs)
        return JobList(
            pool: name, jobs: jobs.map { JobStatus($0, of: pool, rates[$0.id]) },
            uptimeSeconds: uptimeSeconds)
    }

    /// A job that was just accepted, as it is now.
    func answer(_ id: UInt64, of name: String) throws(ControlFailure) -> JobAnswer {
        let list = try jobs(of: name)
        guard let job = list.jobs.first(where: { $0.id == id }) else {
            throw ControlFailure(
                .failed, "job \(id) of pool \(name) was accepted and is no longer listed",
                hint: "see poolctl pool status \(name)")
        }
        return JobAnswer(pool: name, job: job, uptimeSeconds: list.uptimeSeconds)
    }
}

extension Pool {
    /// 0, which no job has, where there was none.
    fileprivate var newestScrub: UInt64 { jobs.last { $0.kind == .scrub }?.id ?? 0 }
}

extension JobStatus {
    init(_ job: Pool.Job, of pool: String, _ rate: JobRate?) {
        let state = JobState(job.state)
        let kind = JobKind(job.kind)
        let part = job.totalBytes > 0 ? Double(job.doneBytes) / Double(job.totalBytes) : 0
        let (reason, action) = Self.remark(job, kind, state, of: pool)
        self.init(
            id: job.id, kind: kind,
            subject: job.disk.map { SpaceExplainer.name($0) } ?? pool, state: state,
            reason: reason, action: action, progress: state == .done ? 1 : min(1, part),
            etaSeconds: rate?.secondsLeft(of: job.totalBytes),
            bytesPerSecond: rate?.bytesPerSecond, doneBytes: job.doneBytes,
            totalBytes: job.totalBytes, repairedBlocks: job.repairedBlocks,
            lostBlocks: job.lostBlocks)
    }

    private static func remark(
        _ job: Pool.Job, _ kind: JobKind, _ state: JobState, of pool: String
    ) -> (reason: String, action: String) {
        switch state {
        case .waiting: return (job.reason, "")
        case .paused:
            let reason = job.reason.isEmpty ? "somebody paused it" : job.reason
            return (reason, kind == .scrub ? "poolctl pool scrub \(pool) --resume" : "")
        case .blocked:
            return (
                job.reason.isEmpty ? "it cannot go on" : job.reason,
                "add a disk: poolctl pool add \(pool) DISK; or bring back those that are away: "
                    + "see poolctl disk ls \(pool)"
            )
        case .failed where job.lostBlocks == 0:
            return (
                job.reason.isEmpty ? "it could not be finished" : job.reason,
                "once that is seen to: " + command(kind, job.disk, of: pool)
            )
        case .running, .done, .failed: break
        }
        guard job.lostBlocks > 0 else { return ("", "") }
        let blocks = job.lostBlocks == 1 ? "1 block" : "\(job.lostBlocks) blocks"
        return (
            job.reason.isEmpty ? "no copy has \(blocks) of 4 KiB right" : job.reason,
            "reading there fails, writing there mends it: restore the files that lie there; then "
                + command(kind, job.disk, of: pool)
        )
    }

    /// What starts such a job.
    private static func command(_ kind: JobKind, _ disk: DiskNumber?, of pool: String) -> String {
        let disk = disk.map { SpaceExplainer.name($0) } ?? "DISK"
        return switch kind {
        case .resync: "poolctl disk online \(pool) \(disk)"
        case .repair: "poolctl pool repair \(pool)"
        case .retire: "poolctl disk retire \(pool) \(disk)"
        case .replace: "poolctl disk replace \(pool) \(disk) NEW"
        case .rebalance: "poolctl pool rebalance \(pool)"
        case .scrub: "poolctl pool scrub \(pool)"
        }
    }
}

extension JobKind {
    init(_ kind: Pool.Job.Kind) {
        switch kind {
        case .resync: self = .resync
        case .repair: self = .repair
        case .retire: self = .retire
        case .replace: self = .replace
        case .rebalance: self = .rebalance
        case .scrub: self = .scrub
        }
    }
}

extension JobState {
    init(_ state: Pool.Job.State) {
        switch state {
        case .waiting: self = .waiting
        case .running: self = .running
        case .paused: self = .paused
        case .blocked: self = .blocked
        case .done: self = .done
        case .failed: self = .failed
        }
    }
}
