import PoolControl
import PoolEngine
import PoolFormat

/// Everything one status needs, taken on the shard at one moment; what it means is worked out on
/// the thread that asked.
struct PoolSnapshot: Sendable {
    var pool: Pool.Status
    var jobs: [Pool.Job]
    var settings: PoolSettings
    var room: FillWatch.Room
    /// By space: clients, and slabs held on each media class.
    private var connections: [Int] = []
    private var slabs: [[Media: UInt64]] = []
    /// By space, where disks are tagged, not all of them are online, or copies lack a place: where
    /// it lies.
    private var explanations: [Pool.Explanation?] = []

    /// - Parameter attached: clients by the name of the export.
    init?(_ uuid: PoolUUID, _ attached: [String: Int], _ state: ShardState) {
        guard let pool = state.pools[uuid] else { return nil }
        self.pool = pool.status()
        jobs = pool.jobs
        settings = pool.configuration.settings
        room = pool.room
        let isExplained =
            pool.hasFaultDomains || self.pool.disks.contains { $0.state != .online }
        for space in self.pool.spaces {
            connections.append(attached["\(self.pool.name)/\(space.name)"] ?? 0)
            var counts: [Media: UInt64] = [:]
            let groups = pool.groups(ofSpace: space.name)
            for group in groups {
                let slabs = group.slabs.count { $0.address.disk != .hole }
                counts[Media(group.mediaClass), default: 0] += UInt64(slabs)
            }
            slabs.append(counts)
            let lacksPlaces = groups.contains { $0.slabs.contains { $0.address.disk == .hole } }
            explanations.append(
                isExplained || lacksPlaces ? try? pool.explain(space.name) : nil)
        }
    }

    func status(
        paths: [String: String], secondsToFull: UInt64?, rates: [UInt64: JobRate],
        slow: [DeviceIndex: String]
    ) -> PoolControl.PoolStatus {
        let jobs = self.jobs.map { JobStatus($0, of: pool.name, rates[$0.id]) }
        let judge = PoolJudge(
            pool: pool.name, disks: pool.disks, jobs: jobs,
            repairDelaySeconds: settings.delaySeconds, slow: slow)
        let spaces = pool.spaces.indices.map { space($0, judge) }
        let judged = judgePool(spaces, judge)
        return PoolControl.PoolStatus(
            name: pool.name, uuid: UUIDText.format(pool.uuid), health: judged.health,
            reason: judged.reason, action: judged.action, fill: room.state,
            fillPercent: room.percent, secondsToFull: secondsToFull,
            capacityBytes: pool.capacityBytes, allocatedBytes: pool.allocatedBytes,
            freeBytes: pool.freeBytes, disks: pool.disks.map { status($0, paths, judge) },
            spaces: spaces, jobs: jobs)
    }

    // MARK: - what is wrong, and what to do

    /// The most urgent first: what is lost, what waits for somebody, what is about to run out, what
    /// could be better.
    private func judgePool(
        _ spaces: [PoolControl.SpaceStatus], _ judge: PoolJudge
    ) -> Judgement {
        let worst = spaces.max { $0.health < $1.health }
        let health = pool.hasLostQuorum ? .readOnly : worst?.health ?? .healthy
        if pool.hasLostQuorum {
            return Judgement(
                health: health, reason: "too few disks take changes",
                action: "bring the disks back and restart poold")
        }
        if let worst, worst.health != .healthy {
            return Judgement(
                health: health, reason: "\(worst.name): \(worst.reason)", action: worst.action)
        }
        if let job = judge.jobToSee {
            return Judgement(
                health: health,
                reason: "the \(job.kind.rawValue) of \(job.subject) is \(job.state.rawValue): "
                    + job.reason,
                action: job.action)
        }
        if let disk = pool.disks.first(where: { $0.state != .online }) {
            let (reason, action) = judge.judge(disk)
            return Judgement(
                health: health, reason: "\(SpaceExplainer.name(disk.number)): \(reason)",
                action: action)
        }
        if room.state != .ok {
            return Judgement(health: health, reason: room.reason, action: addRoom)
        }
        if let space = spaces.first(where: { !$0.reason.isEmpty }) {
            return Judgement(
                health: health, reason: "\(space.name): \(space.reason)", action: space.action)
        }
        return Judgement(health: health, reason: "", action: "")
    }

    private var addRoom: String {
        "add a disk: poolctl pool add \(pool.name) DISK; or trim or destroy something"
    }

    private func judgeSpace(_ index: Int, _ judge: PoolJudge) -> Judgement {
        let (space, explanation) = (pool.spaces[index], explanations[index])
        let judged = judge.judge(space, explanation)
        guard judged == .healthy else { return judged }
        if space.waitingWrites > 0 {
            var waiting = room
            waiting.waitingWrites = space.waitingWrites
            return Judgement(health: .healthy, reason: waiting.reason, action: addRoom)
        }
        let mixed = explanation?.unseparatedGroups ?? 0
        guard mixed > 0 else { return .healthy }
        return Judgement(
            health: .healthy,
            reason: "\(mixed) of \(explanation?.groups.count ?? mixed) slab groups keep copies in "
                + "one fault domain",
            action: "add disks to another; see poolctl explain \(pool.name)/\(space.name)")
    }

    // MARK: - parts

    private func status(
        _ disk: Pool.DiskStatus, _ paths: [String: String], _ judge: PoolJudge
    ) -> PoolControl.DiskStatus {
        let uuid = UUIDText.format(disk.uuid)
        let (reason, action) = judge.judge(disk)
        return PoolControl.DiskStatus(
            name: SpaceExplainer.name(disk.number), path: paths[uuid] ?? disk.pathHint, uuid: uuid,
            media: Media(disk.mediaClass), state: DiskCondition(disk.state), reason: reason,
            action: action, enclosure: disk.enclosure, node: disk.node, rack: disk.rack,
            sizeBytes: disk.sizeBytes, allocatedBytes: disk.allocatedBytes,
            errors: DiskErrors(
                read: disk.errors.read, write: disk.errors.write, checksum: disk.errors.checksum))
    }

    private func space(_ index: Int, _ judge: PoolJudge) -> PoolControl.SpaceStatus {
        let space = pool.spaces[index]
        let judged = judgeSpace(index, judge)
        let slabBytes = UInt64(Units.slabBytes)
        return PoolControl.SpaceStatus(
            name: "\(pool.name)/\(space.name)", pool: pool.name, sizeBytes: space.sizeBytes,
            resiliency: Resiliency(space.resiliency),
            provisioning: space.flags.contains(.fixed) ? .fixed : .thin, health: judged.health,
            reason: judged.reason, action: judged.action, allocatedBytes: space.allocatedBytes,
            mappedBytes: space.mappedBytes, columns: space.columns,
            interleaveBytes: UInt64(space.interleaveBytes),
            checksums: !space.flags.contains(.noChecksums),
            whenFull: WhenFullPolicy(space.whenFull), writeCacheBytes: space.writeCacheBytes,
            writeCacheDirtyBytes: space.writeCacheDirtyBytes,
            writeCacheDestageBytesPerSecond: space.destageBytesPerSecond,
            tiers: Media.allCases.compactMap { media in
                slabs[index][media].map { count in
                    TierStatus(
                        media: media, sizeBytes: space.sizeBytes,
                        allocatedBytes: count * slabBytes)
                }
            },
            waitingWrites: space.waitingWrites, connections: connections[index], owner: "local",
            epoch: space.epoch)
    }
}
