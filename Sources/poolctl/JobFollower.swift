import PoolControl

/// Follows a job, and those of its kind queued behind it for the same subject, to the end: what is
/// seen goes in, whether it is over comes out. What else somebody has begun there is not its
/// concern.
///
///     goes on ──done────────────────► its successor goes on, or ended
///        │    ──failed──────────────► given up
///        │    ──blocked for 5 s─────► given up: what blocks for a moment only is no news
///        └────no answer for 15 s────► given up: a daemon that is restarted comes back by then
///
/// Blocks that no copy has right do not stop it, and are a failure at the end.
struct JobFollower {
    enum Step: Hashable {
        case goesOn(JobStatus)
        case ended(JobStatus)
        case givenUp(ControlFailure)
    }

    static let blockedSeconds: Double = 5
    static let silentSeconds: Double = 15

    let pool: String
    private var job: JobStatus
    private var uptimeSeconds: UInt64
    private var blockedSince: Double?
    private var silentSince: Double?
    /// The first that ended without everything being right.
    private var lossy: JobStatus?

    init(_ answer: JobAnswer) {
        pool = answer.pool
        job = answer.job
        uptimeSeconds = answer.uptimeSeconds
    }

    /// - Parameter seconds: of a clock that does not go back.
    mutating func see(_ list: JobList, seconds: Double) -> Step {
        silentSince = nil
        let isRestarted = list.uptimeSeconds < uptimeSeconds
        uptimeSeconds = list.uptimeSeconds
        // Another daemon counts anew: what is under way there for the same end is what we follow.
        let found = list.jobs.last { other in
            isRestarted
                ? other.kind == job.kind && other.subject == job.subject && !other.state.isOver
                : other.id == job.id
        }
        guard let found else { return .givenUp(outOfSight(isRestarted)) }
        job = found
        while job.state == .done {
            if job.lostBlocks > 0, lossy == nil { lossy = job }
            let next = list.jobs.first {
                $0.id > job.id && $0.subject == job.subject && $0.kind == job.kind
            }
            guard let next else { return lossy.map { .givenUp(failure($0)) } ?? .ended(job) }
            job = next
        }
        switch job.state {
        case .waiting, .running, .paused, .done: blockedSince = nil
        case .failed: return .givenUp(failure(job))
        case .blocked:
            let since = blockedSince ?? seconds
            blockedSince = since
            if seconds - since >= Self.blockedSeconds { return .givenUp(failure(job)) }
        }
        return .goesOn(job)
    }

    /// The daemon did not answer, or not with what was asked for.
    mutating func miss(_ failure: ControlFailure, seconds: Double) -> Step {
        // The pool was exported or destroyed: there is nothing to wait for.
        if failure.kind == .notFound { return .givenUp(failure) }
        let since = silentSince ?? seconds
        silentSince = since
        guard seconds - since >= Self.silentSeconds else { return .goesOn(job) }
        return .givenUp(
            ControlFailure(
                .failed, "\(failure.what), and so the \(Reports.title(job)) is out of sight",
                hint: "\(failure.hint); then see poolctl pool status \(pool)"))
    }

    private func outOfSight(_ isRestarted: Bool) -> ControlFailure {
        ControlFailure(
            .failed,
            "the \(Reports.title(job)) is no longer listed"
                + (isRestarted ? ": poold was restarted" : ""),
            hint: "see poolctl pool status \(pool)")
    }

    private func failure(_ job: JobStatus) -> ControlFailure {
        let verb =
            switch job.state {
            case .blocked: "is blocked"
            case .failed: "failed"
            case .waiting, .running, .paused, .done: "left errors"
            }
        return ControlFailure(
            .failed,
            NameRules.printableLine(
                "the \(Reports.title(job)) \(verb)"
                    + (job.reason.isEmpty ? "" : ": \(job.reason)")),
            hint: job.action.isEmpty
                ? "see poolctl pool status \(pool)" : NameRules.printableLine(job.action))
    }
}

/// What is written while a job is followed: one line that is drawn over and over on a terminal, a
/// line now and then elsewhere.
struct JobProgress {
    enum Style: Hashable { case bar, lines, silent }

    private static let barCells = 20
    /// Between two lines of which nothing but the percentage differs.
    static let lineSeconds: Double = 60
    static let linePercent = 10

    let style: Style
    private var last: (job: JobStatus, seconds: Double)?

    init(_ style: Style) { self.style = style }

    /// What to write now; nil: nothing.
    mutating func text(_ job: JobStatus, seconds: Double) -> String? {
        switch style {
        case .silent: return nil
        case .bar:
            last = (job, seconds)
            return "\r" + Terminal.shortened(bar(job), to: Terminal.columns - 1) + "\u{1B}[K"
        case .lines:
            guard isNews(job, seconds) else { return nil }
            last = (job, seconds)
            return Terminal.wrapped("\(Reports.title(job)): \(details(job))", first: "")
                .joined(separator: "\n") + "\n"
        }
    }

    /// What to write when nothing more comes.
    var end: String { style == .bar && last != nil ? "\n" : "" }

    private func isNews(_ job: JobStatus, _ seconds: Double) -> Bool {
        guard let last, last.job.id == job.id, last.job.state == job.state,
            last.job.reason == job.reason
        else { return true }
        let percent = { (job: JobStatus) in Int(min(max(job.progress, 0), 1) * 100) }
        return percent(job) / Self.linePercent > percent(last.job) / Self.linePercent
            || seconds - last.seconds >= Self.lineSeconds
    }

    private func details(_ job: JobStatus) -> String {
        switch job.state {
        case .running, .done: Reports.progress(job)
        case .waiting, .paused, .blocked, .failed:
            NameRules.printableLine(
                job.state.rawValue + (job.reason.isEmpty ? "" : ", \(job.reason)"))
        }
    }

    private func bar(_ job: JobStatus) -> String {
        let cells = Int(min(max(job.progress, 0), 1) * Double(Self.barCells))
        let bar = String(repeating: "#", count: cells).padded(to: Self.barCells)
        return "\(Terminal.shortened(Reports.title(job), to: 24)) [\(bar)] \(details(job))"
    }
}
