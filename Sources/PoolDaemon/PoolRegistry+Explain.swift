import PoolControl
import PoolEngine
import PoolFormat

/// What `explain` says: worked out on the thread that asked, from what the shard was asked once.
extension PoolRegistry {
    func explainSpace(_ path: SpacePath) throws(ControlFailure) -> SpaceExplanation {
        let status = try spaceStatus(path)
        let entry = try openEntry(named: path.pool).entry
        let uuid = entry.uuid
        let answer = try shard.runNow { state -> Result<Pool.Explanation, ControlFailure> in
            Result { () throws(ControlFailure) in
                let pool = try Self.pool(uuid, state)
                do throws(PoolError) {
                    return try pool.explain(path.space)
                } catch {
                    throw ControlFailure(pool: error)
                }
            }
        }
        let pool = try self.status(of: entry)
        let conditions = Dictionary(
            pool.disks.map { ($0.name, $0.state) }, uniquingKeysWith: { first, _ in first })
        return SpaceExplainer(
            explanation: try answer.get(), conditions: conditions, jobs: pool.jobs
        ).message(status)
    }
}

/// Turns places and losses into words.
struct SpaceExplainer {
    let explanation: Pool.Explanation
    /// By the name that is shown.
    let conditions: [String: DiskCondition]
    /// Of the pool.
    let jobs: [JobStatus]

    func message(_ status: PoolControl.SpaceStatus) -> SpaceExplanation {
        let losses = explanation.losses
        let placed = explanation.placed
        return SpaceExplanation(
            name: status.name, pool: status.pool, resiliency: status.resiliency,
            health: status.health, reason: status.reason, action: status.action,
            mayFail: mayFail(losses), groups: groups,
            groupsOmitted: max(0, explanation.groups.count - SpaceExplanation.maximumGroups),
            widths: widths,
            placements: placed.prefix(SpaceExplanation.maximumPlacements).map { placed in
                SpaceExplanation.Placement(
                    groups: SpaceExplanation.ranges(placed.groups), count: placed.groups.count,
                    columns: placed.columns.map { $0.map(Self.name) })
            },
            metadataDisks: Set(explanation.metadata.flatMap { $0 }).sorted().map(Self.name),
            disks: explanation.places.map { disk($0, losses, status.resiliency) },
            domains: domains(losses, status.resiliency),
            repairs: repairs(status.pool, losses), writeCacheBytes: status.writeCacheBytes,
            writeCacheDirtyBytes: status.writeCacheDirtyBytes)
    }

    /// What is under way and moves or mends something of it: of all the pool, or of a disk with a
    /// part of it.
    private func repairs(_ pool: String, _ losses: Pool.Explanation.Losses) -> [JobStatus] {
        let touched = losses.disks.filter { $0.value.touched > 0 || $0.value.touchesMetadata }
        let subjects = Set(touched.keys.map(Self.name)).union([pool])
        return jobs.filter { job in
            switch job.kind {
            case .resync, .repair, .retire, .replace, .rebalance:
                !job.state.isOver && subjects.contains(job.subject)
            case .scrub: false
            }
        }
    }

    /// A copy that waits for a disk to lie on is on none.
    static func name(_ disk: DiskNumber) -> String {
        disk == .hole ? "none" : "disk\(disk.rawValue)"
    }

    static func name(_ domain: FaultDomain) -> String {
        switch domain {
        case .rack(let tag): "rack \(tag)"
        case .node(let tag): "node \(tag)"
        case .enclosure(let tag): "enclosure \(tag)"
        case .disk: ""
        }
    }

    private var groups: [SpaceExplanation.GroupPlace] {
        let domains = explanation.domains
        return explanation.groups.prefix(SpaceExplanation.maximumGroups).map { group in
            SpaceExplanation.GroupPlace(
                id: group.id, layout: Resiliency(group.layout), media: Media(group.mediaClass),
                columns: Int(group.columns), copies: Int(group.copies),
                disks: group.slabs.map { Self.name($0.address.disk) },
                separated: explanation.isSeparated(group, domains))
        }
    }

    private var widths: [SpaceExplanation.Width] {
        let shapes = Dictionary(grouping: explanation.groups) { group in
            [Int(group.columns), max(1, Int(group.copies)), group.slabs.count]
        }
        return shapes.map { shape, groups in
            SpaceExplanation.Width(
                columns: shape[0], parity: shape[2] - shape[0] * shape[1], copies: shape[1],
                count: groups.count)
        }.sorted { ($0.columns, $0.count) > ($1.columns, $1.count) }
    }

    /// What may fail now without loss of data: one disk, or one fault domain, not several at once.
    private func mayFail(_ losses: Pool.Explanation.Losses) -> String {
        if losses.lostGroups > 0 || losses.losesMetadata { return "nothing: data is lost already" }
        let serving = explanation.places.filter(\.serves)
        let safe = serving.filter { losses.disks[$0.number]?.losesData != true }
        if safe.isEmpty { return "nothing: every disk has the only copy of something" }
        let without = "without loss of data"
        guard safe.count == serving.count else {
            let names = safe.map { Self.name($0.number) }.joined(separator: ", ")
            return (safe.count == 1 ? "only \(names), " : "one of \(names), ") + without
        }
        let domains = explanation.taggedDomains
        let deadly = domains.filter { losses.domains[$0]?.losesData == true }
        if domains.isEmpty || deadly.count == domains.count { return "any one disk, " + without }
        let names = deadly.map(Self.name).joined(separator: ", ")
        return "any one disk or whole fault domain"
            + (deadly.isEmpty ? ", " : " but \(names), ") + without
    }

    private func disk(
        _ place: Pool.Explanation.Place, _ losses: Pool.Explanation.Losses,
        _ resiliency: Resiliency
    ) -> SpaceExplanation.DiskPlace {
        let loss = losses.disks[place.number] ?? .init()
        let name = Self.name(place.number)
        return SpaceExplanation.DiskPlace(
            name: name, state: conditions[name] ?? .missing, domain: Self.name(place.domain),
            groups: loss.touched, safeToPull: !loss.losesData,
            reason: place.serves
                ? Self.reason(loss, resiliency)
                : (conditions[name] == .rebuilding ? "is behind" : "does not serve")
                    + ": nothing more is lost")
    }

    static func reason(_ loss: Pool.Explanation.Loss, _ resiliency: Resiliency) -> String {
        if loss.lostGroups > 0 {
            return "loses data of \(loss.lostGroups) slab "
                + (loss.lostGroups == 1 ? "group" : "groups")
        }
        if loss.losesMetadata { return "loses metadata" }
        if loss.touched > 0, resiliency.isParity { return "safe: the other disks make up for it" }
        return loss.touched > 0 || loss.touchesMetadata
            ? "safe: other disks have copies" : "safe: it holds nothing of this"
    }

    private func domains(
        _ losses: Pool.Explanation.Losses, _ resiliency: Resiliency
    ) -> [SpaceExplanation.DomainPlace] {
        explanation.taggedDomains.map { domain in
            let loss = losses.domains[domain] ?? .init()
            return SpaceExplanation.DomainPlace(
                name: Self.name(domain),
                disks: explanation.places.filter { $0.domain == domain }
                    .map { Self.name($0.number) },
                safeToLose: !loss.losesData, reason: Self.reason(loss, resiliency))
        }
    }
}

extension Pool.Explanation {
    /// In the order of their first disk; a disk without tags is none.
    var taggedDomains: [FaultDomain] {
        var seen: Set<FaultDomain> = []
        return places.map(\.domain).filter { domain in
            switch domain {
            case .disk: false
            case .rack, .node, .enclosure: seen.insert(domain).inserted
            }
        }
    }
}
