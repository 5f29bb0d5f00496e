import PoolControl

extension Reports {
    /// Of those that ended, as many as are news; --json has all.
    private static let endedRows = 3

    /// Those under way, and the last that ended.
    static func shown(_ jobs: [JobStatus]) -> [JobStatus] {
        let ended = Set(jobs.filter(\.state.isOver).suffix(endedRows).map(\.id))
        return jobs.filter { !$0.state.isOver || ended.contains($0.id) }
    }

    static func jobs(_ jobs: [JobStatus]) -> String {
        var table = TextTable([
            .left("JOB"), .name("SUBJECT"), .left("STATE"), .right("DONE"), .right("RATE"),
            .right("LEFT"),
        ])
        for job in jobs {
            table.add([
                job.kind.rawValue, NameRules.printable(job.subject), job.state.rawValue,
                percent(job), job.bytesPerSecond.map(rate) ?? "-",
                job.etaSeconds.map(DurationText.format) ?? "-",
            ])
        }
        let remarks = jobs.enumerated().flatMap { index, job in
            // Of one that failed and was begun again nobody need see to anything.
            let isBegunAgain = jobs[(index + 1)...].contains {
                $0.kind == job.kind && $0.subject == job.subject
            }
            let lines = [remark(job.reason, isBegunAgain ? "" : job.action), mended(job)]
            return lines.filter { !$0.isEmpty }.flatMap {
                Terminal.wrapped($0, first: "\(job.kind.rawValue): ")
            }
        }
        return ([table.text] + remarks).joined(separator: "\n")
    }

    /// A job that was just accepted.
    static func accepted(_ answer: JobAnswer) -> String {
        let job = answer.job
        let lines =
            "\(title(job)): \(job.state.rawValue), \(percent(job)) done"
            + (job.reason.isEmpty ? "" : "; " + remark(job.reason, job.action))
        return (Terminal.wrapped(lines, first: "")
            + Terminal.wrapped("see how far it is: poolctl pool status \(answer.pool)", first: ""))
            .joined(separator: "\n")
    }

    /// A job that was waited for.
    static func ended(_ answer: JobAnswer) -> String {
        let job = answer.job
        let mended = mended(job)
        return Terminal.wrapped(
            "\(title(job)): \(job.state.rawValue), \(SizeText.format(job.doneBytes))"
                + (mended.isEmpty ? "" : "; " + mended), first: ""
        ).joined(separator: "\n")
    }

    /// `repair of data`.
    static func title(_ job: JobStatus) -> String {
        "\(job.kind.rawValue) of \(NameRules.printable(job.subject))"
    }

    /// How far it is, in one line: `45 %, 120 MiB/s, 2 minutes left`.
    static func progress(_ job: JobStatus) -> String {
        var parts = [percent(job)]
        if let bytes = job.bytesPerSecond { parts.append(rate(bytes)) }
        if let seconds = job.etaSeconds { parts.append("\(DurationText.format(seconds)) left") }
        return parts.joined(separator: ", ")
    }

    static func percent(_ job: JobStatus) -> String {
        "\(Int((min(max(job.progress, 0), 1) * 100).rounded(.down))) %"
    }

    private static func rate(_ bytesPerSecond: UInt64) -> String {
        "\(SizeText.format(bytesPerSecond))/s"
    }

    private static func mended(_ job: JobStatus) -> String {
        switch job.repairedBlocks {
        case 0: ""
        case 1: "1 block of 4 KiB was wrong and was put right"
        default: "\(job.repairedBlocks) blocks of 4 KiB were wrong and were put right"
        }
    }
}
