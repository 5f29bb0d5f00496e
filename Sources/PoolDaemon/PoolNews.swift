import PoolControl
import PoolEngine
import PoolFormat

/// What of a pool's disks and jobs is new to the log: each change of a state, once.
struct PoolNews: Sendable {
    struct Line: Hashable, Sendable {
        var text: String
        /// Somebody may have to see to it.
        var isBad: Bool
    }

    private var disks: [PoolUUID: DiskState] = [:]
    private var slow: Set<PoolUUID> = []
    private var jobs: [UInt64: JobState] = [:]

    /// What has changed since the last time; at first, what is not as it should be.
    mutating func lines(_ judge: PoolJudge) -> [Line] {
        var lines: [Line] = []
        for disk in judge.disks where disk.state != disks[disk.uuid] ?? .online {
            let (reason, action) = judge.judge(disk)
            let isBad = disk.state == .missing || disk.state == .failed
            let name = SpaceExplainer.name(disk.number)
            let what = disk.state == .online ? "\(name) is online" : name
            lines.append(Line(text: said(what, reason, action), isBad: isBad))
        }
        for disk in judge.disks where isSlow(disk, judge) && !slow.contains(disk.uuid) {
            let (reason, action) = judge.judge(disk)
            let name = SpaceExplainer.name(disk.number)
            lines.append(Line(text: said(name, reason, action), isBad: true))
        }
        for job in judge.jobs where job.state != jobs[job.id] {
            let isBad = job.state == .blocked || job.state == .failed || job.lostBlocks > 0
            lines.append(
                Line(
                    text: said(
                        "the \(job.kind.rawValue) of \(job.subject) is \(job.state.rawValue)",
                        job.reason, job.action), isBad: isBad))
        }
        disks = Dictionary(judge.disks.map { ($0.uuid, $0.state) }, uniquingKeysWith: { $1 })
        slow = Set(judge.disks.filter { isSlow($0, judge) }.map(\.uuid))
        jobs = Dictionary(judge.jobs.map { ($0.id, $0.state) }, uniquingKeysWith: { $1 })
        return lines
    }

    private func isSlow(_ disk: Pool.DiskStatus, _ judge: PoolJudge) -> Bool {
        disk.state == .online && disk.device.map { judge.slow[$0] != nil } ?? false
    }

    private func said(_ what: String, _ reason: String, _ action: String) -> String {
        NameRules.printableLine(
            what + (reason.isEmpty ? "" : ": \(reason)") + (action.isEmpty ? "" : "; \(action)"))
    }
}
