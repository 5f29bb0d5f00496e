import PoolControl
import PoolEngine
import PoolFormat

/// What is wrong with something, and what to do about it.
struct Judgement: Hashable, Sendable {
    var health: Health
    var reason: String
    var action: String

    static let healthy = Judgement(health: .healthy, reason: "", action: "")
}

/// Judges the disks and spaces of a pool as they were at one moment.
///
/// A space's health is what the loss of disks would do to it, worked out from where its slab groups
/// and its metadata lie: a disk that is away and held nothing of it makes no difference.
struct PoolJudge: Sendable {
    var pool: String
    var disks: [Pool.DiskStatus]
    var jobs: [JobStatus]
    var repairDelaySeconds: UInt32
    /// What is to be said of disks that answer much later than the others.
    var slow: [DeviceIndex: String] = [:]

    // MARK: - spaces

    /// How much of a space's redundancy is there.
    enum Redundancy: Hashable, Sendable {
        case full
        /// One more loss is safe.
        case reduced
        /// Everything can be read, one more loss is fatal.
        case none
        /// Something cannot be read.
        case lost
    }

    /// Where a space lies, and what would be lost with which disk: one pass over its groups.
    struct Placing {
        var explanation: Pool.Explanation
        var losses: Pool.Explanation.Losses
    }

    /// - Parameter explanation: where it lies; nil where every disk is online, or the space is not
    ///   open.
    func judge(_ space: Pool.SpaceStatus, _ explanation: Pool.Explanation?) -> Judgement {
        let placing = explanation.map(placing)
        let away = away(space, placing)
        let states = sentence(away)
        guard space.handle != nil else {
            return Judgement(
                health: .incomplete, reason: space.reason.isEmpty ? states : space.reason,
                action: away.isEmpty
                    ? "see poolctl disk ls \(pool), and the daemon's log"
                    : remedy(away, heals: false))
        }
        let redundancy = redundancy(space, placing)
        if redundancy == .lost {
            return Judgement(
                health: .incomplete,
                reason: (space.reason.isEmpty ? states : space.reason)
                    + ": some of its data cannot be read" + Self.doubt(space),
                action: remedy(away, heals: false) + "; what can be read, copy off")
        }
        if !space.reason.isEmpty {
            return Judgement(
                health: .readOnly, reason: space.reason + Self.doubt(space),
                action: away.isEmpty
                    ? "copy its data to a new space; this one stays readable"
                    : remedy(away, heals: false))
        }
        if redundancy == .full { return .healthy }
        let isSafe = redundancy == .reduced
        return Judgement(
            health: isSafe ? .degraded : .noRedundancy,
            reason: "\(states): one more loss is \(isSafe ? "safe" : "fatal")",
            action: remedy(away, heals: true, copies: space.resiliency.leastDisks))
    }

    /// Places of what may be lost that are named.
    private static let namedPlaces = 8

    private static func doubt(_ space: Pool.SpaceStatus) -> String {
        guard !space.doubtful.isEmpty else { return "" }
        let bytes = space.doubtful.reduce(0) { $0 + UInt64($1.count) }
        let named = space.doubtful.prefix(namedPlaces).map {
            "\(SizeText.format(UInt64($0.count))) at \(SizeText.format($0.lowerBound))"
        }
        let others = space.doubtful.count - named.count
        return "; written since the last good flush, and perhaps lost: "
            + "\(SizeText.format(bytes)) (\(named.joined(separator: ", "))"
            + (others > 0 ? " and in \(others) more places)" : ")")
    }

    func redundancy(_ space: Pool.SpaceStatus, _ placing: Placing?) -> Redundancy {
        let tolerance = space.resiliency.tolerance
        guard let placing else {
            // Where it lies is not known: by number, at the worst.
            switch space.lostDisks.count {
            case 0: return .full
            case ..<tolerance: return .reduced
            case tolerance: return .none
            default: return .lost
            }
        }
        let (explanation, losses) = (placing.explanation, placing.losses)
        if losses.lostGroups > 0 || losses.losesMetadata { return .lost }
        let isWhole = away(space, placing).isEmpty
        // Of a simple space nothing more is asked than that its disks are there.
        guard tolerance > 0 else { return isWhole ? .full : .none }
        if losses.disks.values.contains(where: \.losesData) { return .none }
        let serving = Set(explanation.places.filter(\.serves).map(\.number))
        let isThin = explanation.metadata.contains { copies in
            copies.count(where: serving.contains) <= tolerance
        }
        return isWhole && !isThin && !explanation.hasHoles ? .full : .reduced
    }

    private func placing(_ explanation: Pool.Explanation) -> Placing {
        Placing(explanation: explanation, losses: explanation.losses)
    }

    /// The disks with a part of a space that do not have it, or not as it is now. The tables of one
    /// that is not here are not known, so what the space says of it counts, too; one that is here
    /// and has failed may name in its own what has long been made up for elsewhere.
    private func away(_ space: Pool.SpaceStatus, _ placing: Placing?) -> [Pool.DiskStatus] {
        guard let placing else { return find(space.lostDisks) }
        let touched = placing.explanation.places.filter { place in
            guard !place.serves, let loss = placing.losses.disks[place.number] else { return false }
            return loss.touched > 0 || loss.touchesMetadata
        }
        let absent = disks.filter { $0.device == nil }.map(\.number)
        return find(touched.map(\.number) + space.lostDisks.filter(absent.contains))
    }

    private func find(_ numbers: [DiskNumber]) -> [Pool.DiskStatus] {
        disks.filter { numbers.contains($0.number) }
    }

    // MARK: - what to do

    /// `disk1, disk4 are missing, disk2 has failed`.
    private func sentence(_ away: [Pool.DiskStatus]) -> String {
        let absent = away.isEmpty ? disks.filter { $0.state != .online } : away
        let parts = DiskState.allCases.compactMap { state -> String? in
            let names = absent.filter { $0.state == state }.map { SpaceExplainer.name($0.number) }
            guard !names.isEmpty else { return nil }
            let isOne = names.count == 1
            let verb =
                switch state {
                case .online: isOne ? "is behind" : "are behind"
                case .offline: isOne ? "is offline" : "are offline"
                case .missing: isOne ? "is missing" : "are missing"
                case .failed: isOne ? "has failed" : "have failed"
                case .retired: isOne ? "is retired" : "are retired"
                case .rebuilding: isOne ? "is being rebuilt" : "are being rebuilt"
                }
            return "\(names.joined(separator: ", ")) \(verb)"
        }
        return parts.isEmpty ? "copies are lacking" : parts.joined(separator: ", ")
    }

    /// - Parameters:
    ///   - heals: there is enough of it for the pool to heal it.
    ///   - copies: disks that takes.
    private func remedy(
        _ away: [Pool.DiskStatus], heals: Bool, copies: Int = 0
    ) -> String {
        let absent = away.isEmpty ? disks.filter { $0.state != .online } : away
        if heals, let job = healing(absent) {
            switch job.state {
            case .blocked:
                return "the \(job.kind.rawValue) is blocked: \(job.reason); \(job.action)"
            case .waiting, .running, .paused, .done, .failed:
                return "wait: \(percent(job)) of the \(job.kind.rawValue) is done; "
                    + "see poolctl pool status \(pool)"
            }
        }
        if absent.contains(where: { $0.state == .rebuilding }) {
            return "wait: it is being brought up to date; see poolctl pool status \(pool)"
        }
        let offline = absent.filter { $0.state == .offline }
        if let first = offline.first, offline.count == absent.count {
            return "poolctl disk online \(pool) \(SpaceExplainer.name(first.number))"
        }
        let places = absent.filter { $0.state != .retired }.map { disk in
            disk.pathHint.isEmpty ? SpaceExplainer.name(disk.number) : disk.pathHint
        }
        let bringBack = "bring back \(places.joined(separator: ", "))"
        if heals, disks.count(where: { $0.state == .online }) < copies {
            let add = "add a disk: poolctl pool add \(pool) DISK"
            return places.isEmpty ? add : "\(bringBack); or \(add)"
        }
        if heals {
            return "it heals by itself after "
                + "\(DurationText.format(UInt64(repairDelaySeconds))); "
                + "at once: poolctl pool repair \(pool)"
        }
        return places.isEmpty ? "see poolctl disk ls \(pool)" : bringBack
    }

    /// What is under way and makes up for these disks; one that is blocked first.
    private func healing(_ absent: [Pool.DiskStatus]) -> JobStatus? {
        let subjects = absent.map { SpaceExplainer.name($0.number) } + [pool]
        let jobs = jobs.filter { job in
            switch job.kind {
            case .resync, .repair, .replace, .retire:
                !job.state.isOver && subjects.contains(job.subject)
            case .rebalance, .scrub: false
            }
        }
        return jobs.first { $0.state == .blocked } ?? jobs.first { $0.state == .running }
            ?? jobs.first
    }

    private func percent(_ job: JobStatus) -> String {
        "\(Int((min(max(job.progress, 0), 1) * 100).rounded(.down))) %"
    }

    // MARK: - jobs

    /// The first job that somebody has to see to: one that is blocked, or ended badly and was not
    /// begun again since.
    var jobToSee: JobStatus? {
        jobs.enumerated().first { index, job in
            switch job.state {
            case .blocked: return true
            case .failed, .done:
                let isLast = !jobs[(index + 1)...].contains {
                    $0.kind == job.kind && $0.subject == job.subject
                }
                return isLast && (job.state == .failed || job.lostBlocks > 0)
            case .waiting, .running, .paused: return false
            }
        }?.element
    }

    // MARK: - disks

    func judge(_ disk: Pool.DiskStatus) -> (reason: String, action: String) {
        let name = SpaceExplainer.name(disk.number)
        let replace = "poolctl disk replace \(pool) \(name) NEW"
        switch disk.state {
        case .online:
            guard let complaint = disk.device.flatMap({ slow[$0] }) else {
                return judgeErrors(disk, replace)
            }
            let errors = judgeErrors(disk, replace).reason
            return (
                complaint + (errors.isEmpty ? "" : "; " + errors),
                "check its cabling and the kernel's log; if it stays so: \(replace)"
            )
        case .offline: return ("it was taken offline", "poolctl disk online \(pool) \(name)")
        case .missing:
            return (
                "it was not found",
                "connect it; then poolctl disk online \(pool) \(name) if it does not come by "
                    + "itself; if it is gone for good: \(replace)"
            )
        case .failed:
            return (
                "it failed \(Self.occasion(disk.failure))",
                "check its cabling and the kernel's log; it is tried again by itself; "
                    + "for good: \(replace)"
            )
        case .retired:
            let job = job(of: name, [.retire, .replace])
            return (
                job.map { "it is being emptied, \(percent($0)) done" } ?? "it takes nothing new",
                job.map { $0.action.isEmpty ? "wait" : $0.action }
                    ?? "empty it: poolctl disk retire \(pool) \(name)"
            )
        case .rebuilding:
            let job = job(of: name, [.resync, .repair, .replace])
            return (
                "it is being brought up to date" + (job.map { ", \(percent($0)) done" } ?? ""),
                job.map { $0.action.isEmpty ? "wait" : $0.action } ?? "wait"
            )
        }
    }

    /// When a disk failed: what it was doing, as the engine names it, is a noun or a clause.
    private static func occasion(_ failure: String) -> String {
        if failure.isEmpty { return "before poold was started" }
        let isClause = ["while ", "during ", "to "].contains { failure.hasPrefix($0) }
        return isClause ? failure : "during a \(failure)"
    }

    private func job(of name: String, _ kinds: [JobKind]) -> JobStatus? {
        jobs.last { !$0.state.isOver && $0.subject == name && kinds.contains($0.kind) }
    }

    private func judgeErrors(
        _ disk: Pool.DiskStatus, _ replace: String
    ) -> (reason: String, action: String) {
        let errors = [
            (disk.errors.read, "read"), (disk.errors.write, "write"),
            (disk.errors.checksum, "checksum"),
        ].filter { $0.0 > 0 }
        guard !errors.isEmpty else { return ("", "") }
        let counts = errors.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
        let isOne = errors.count == 1 && errors[0].0 == 1
        return (
            "\(counts) \(isOne ? "error" : "errors") since poold was started",
            "watch it, and the kernel's log; a new one takes its place with \(replace)"
        )
    }
}
