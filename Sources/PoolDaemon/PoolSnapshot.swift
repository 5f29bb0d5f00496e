import PoolControl
import PoolEngine
import PoolFormat

/// Everything one status needs, taken on the shard at one moment; what it means is worked out on
/// the thread that asked.
struct PoolSnapshot: Sendable {
    var pool: Pool.Status
    var room: FillWatch.Room
    /// By space: clients, and slabs held on each media class.
    private var connections: [Int] = []
    private var slabs: [[Media: UInt64]] = []
    /// By space, where disks are tagged: where it lies.
    private var explanations: [Pool.Explanation?] = []

    /// - Parameter attached: clients by the name of the export.
    init?(_ uuid: PoolUUID, _ attached: [String: Int], _ state: ShardState) {
        guard let pool = state.pools[uuid] else { return nil }
        self.pool = pool.status()
        room = pool.room
        let hasDomains = pool.hasFaultDomains
        for space in self.pool.spaces {
            connections.append(attached["\(self.pool.name)/\(space.name)"] ?? 0)
            var counts: [Media: UInt64] = [:]
            for group in pool.groups(ofSpace: space.name) {
                counts[Media(group.mediaClass), default: 0] += UInt64(group.slabs.count)
            }
            slabs.append(counts)
            explanations.append(hasDomains ? try? pool.explain(space.name) : nil)
        }
    }

    func status(paths: [String: String], secondsToFull: UInt64?) -> PoolControl.PoolStatus {
        let spaces = pool.spaces.indices.map(space)
        let judged = judge(spaces)
        return PoolControl.PoolStatus(
            name: pool.name, uuid: UUIDText.format(pool.uuid), health: judged.health,
            reason: judged.reason, action: judged.action, fill: room.state,
            fillPercent: room.percent, secondsToFull: secondsToFull,
            capacityBytes: pool.capacityBytes, allocatedBytes: pool.allocatedBytes,
            freeBytes: pool.freeBytes, disks: pool.disks.map { status($0, paths) }, spaces: spaces)
    }

    // MARK: - what is wrong, and what to do

    struct Judgement {
        var health: Health
        var reason: String
        var action: String

        static let healthy = Judgement(health: .healthy, reason: "", action: "")
    }

    /// The most urgent first: what is lost, what waits, what is about to run out, what could be
    /// better.
    private func judge(_ spaces: [PoolControl.SpaceStatus]) -> Judgement {
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
        if let disk = pool.disks.first(where: { $0.state != .online }) {
            let state = DiskCondition(disk.state).rawValue
            return Judgement(
                health: health, reason: "disk\(disk.number.rawValue) is \(state)",
                action: "see poolctl disk ls \(pool.name)")
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

    private func judge(_ space: Pool.SpaceStatus, _ explanation: Pool.Explanation?) -> Judgement {
        if space.handle == nil {
            return Judgement(
                health: .incomplete, reason: space.reason,
                action: "see poolctl disk ls \(pool.name), and the daemon's log")
        }
        let tolerance = space.resiliency.tolerance
        let lost = space.lostDisks.map { "disk\($0.rawValue)" }.joined(separator: ", ")
        let reason = space.reason.isEmpty ? "without \(lost)" : space.reason
        if space.lostDisks.count > tolerance {
            return Judgement(
                health: .incomplete, reason: reason, action: "copy off what can still be read")
        }
        if !space.reason.isEmpty {
            return Judgement(
                health: .readOnly, reason: reason,
                action: "copy its data to a new space; this one stays readable")
        }
        guard space.lostDisks.isEmpty else {
            return Judgement(
                health: tolerance == space.lostDisks.count ? .noRedundancy : .degraded,
                reason: reason, action: "copy its data to a new space")
        }
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

    private func judge(_ disk: Pool.DiskStatus) -> (reason: String, action: String) {
        switch disk.state {
        case .online: break
        case .failed:
            return (
                "it failed \(disk.failure.isEmpty ? "before poold was started" : disk.failure)",
                "check its cabling and the kernel's log"
            )
        case .missing: return ("it was not found", "connect it")
        case .offline, .retired, .rebuilding: return ("", "")
        }
        let errors = [
            (disk.errors.read, "read"), (disk.errors.write, "write"),
            (disk.errors.checksum, "checksum"),
        ].filter { $0.0 > 0 }
        guard !errors.isEmpty else { return ("", "") }
        let counts = errors.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
        let isOne = errors.count == 1 && errors[0].0 == 1
        return (
            "\(counts) \(isOne ? "error" : "errors") since poold was started",
            "watch it, and the kernel's log; think of a new one"
        )
    }

    // MARK: - parts

    private func status(
        _ disk: Pool.DiskStatus, _ paths: [String: String]
    ) -> PoolControl.DiskStatus {
        let uuid = UUIDText.format(disk.uuid)
        let (reason, action) = judge(disk)
        return PoolControl.DiskStatus(
            name: "disk\(disk.number.rawValue)", path: paths[uuid] ?? disk.pathHint, uuid: uuid,
            media: Media(disk.mediaClass), state: DiskCondition(disk.state), reason: reason,
            action: action, enclosure: disk.enclosure, node: disk.node, rack: disk.rack,
            sizeBytes: disk.sizeBytes, allocatedBytes: disk.allocatedBytes,
            errors: DiskErrors(
                read: disk.errors.read, write: disk.errors.write, checksum: disk.errors.checksum))
    }

    private func space(_ index: Int) -> PoolControl.SpaceStatus {
        let space = pool.spaces[index]
        let judged = judge(space, explanations[index])
        let slabBytes = UInt64(Units.slabBytes)
        return PoolControl.SpaceStatus(
            name: "\(pool.name)/\(space.name)", pool: pool.name, sizeBytes: space.sizeBytes,
            resiliency: Resiliency(space.resiliency),
            provisioning: space.flags.contains(.fixed) ? .fixed : .thin, health: judged.health,
            reason: judged.reason, action: judged.action, allocatedBytes: space.allocatedBytes,
            mappedBytes: space.mappedBytes, columns: space.columns,
            interleaveBytes: UInt64(space.interleaveBytes),
            checksums: !space.flags.contains(.noChecksums),
            whenFull: WhenFullPolicy(space.whenFull),
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
