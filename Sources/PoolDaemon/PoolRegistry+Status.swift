import PoolControl
import PoolEngine
import PoolFormat

/// What the protocol says of pools and spaces, made from what the engine says of them.
extension PoolRegistry {
    func statuses() throws(ControlFailure) -> [PoolControl.PoolStatus] {
        var statuses: [PoolControl.PoolStatus] = []
        for entry in all { statuses.append(try status(of: entry)) }
        return statuses
    }

    func status(of entry: Entry) throws(ControlFailure) -> PoolControl.PoolStatus {
        switch entry.condition {
        case .detached(let detachment): return Self.status(of: entry.record, detachment)
        case .open: break
        }
        let uuid = entry.uuid
        let seen = try shard.runNow { state in Snapshot(uuid, state) }
        guard let seen else {
            throw ControlFailure(
                .unavailable, "pool \(entry.record.name) is closing", hint: "try again")
        }
        let paths = Dictionary(
            entry.record.disks.map { ($0.uuid, $0.path) }, uniquingKeysWith: { first, _ in first })
        return seen.status(paths: paths)
    }

    func spaceStatus(_ path: SpacePath) throws(ControlFailure) -> PoolControl.SpaceStatus {
        let (entry, _) = try openEntry(named: path.pool)
        let spaces = try status(of: entry).spaces
        guard let space = spaces.first(where: { $0.name == path.description }) else {
            throw Self.unknownSpace(
                path, spaces.map { String($0.name.dropFirst(path.pool.count + 1)) })
        }
        return space
    }

    private static func status(
        of record: KnownPools.Pool, _ detachment: Detachment
    ) -> PoolControl.PoolStatus {
        PoolControl.PoolStatus(
            name: record.name, uuid: record.uuid, health: .detached, reason: detachment.reason,
            action: detachment.action, capacityBytes: 0, allocatedBytes: 0, freeBytes: 0,
            disks: record.with(detachment.missing).disks.map { disk in
                PoolControl.DiskStatus(
                    name: "disk\(disk.number)", path: disk.path, uuid: disk.uuid,
                    media: disk.media,
                    state: detachment.missing.contains { $0.uuid == disk.uuid }
                        ? .missing : .offline,
                    sizeBytes: disk.sizeBytes, allocatedBytes: 0, errors: DiskErrors())
            },
            spaces: [])
    }
}

/// Everything one status needs, taken on the shard at one moment.
private struct Snapshot: Sendable {
    var pool: Pool.Status
    /// By space: clients, and slabs held on each media class.
    var connections: [Int] = []
    var slabs: [[Media: UInt64]] = []

    init?(_ uuid: PoolUUID, _ state: ShardState) {
        guard let pool = state.pools[uuid] else { return nil }
        self.pool = pool.status()
        for space in self.pool.spaces {
            connections.append(
                state.server.exports.connections(name: "\(self.pool.name)/\(space.name)"))
            var counts: [Media: UInt64] = [:]
            for group in pool.space(named: space.name)?.groupRecords ?? [] {
                counts[Media(group.mediaClass), default: 0] += UInt64(group.slabs.count)
            }
            slabs.append(counts)
        }
    }

    func status(paths: [String: String]) -> PoolControl.PoolStatus {
        let spaces = pool.spaces.indices.map(space)
        let worst = spaces.max { $0.health < $1.health }
        let failed = pool.disks.filter { $0.state != .online }
        var reason = worst?.reason ?? ""
        var action = worst?.action ?? ""
        if pool.hasLostQuorum {
            reason = "too few disks take changes"
            action = "bring the disks back and restart poold"
        } else if reason.isEmpty, let disk = failed.first {
            reason = "disk\(disk.number.rawValue) is \(DiskCondition(disk.state).rawValue)"
            action = "see poolctl disk ls \(pool.name)"
        }
        return PoolControl.PoolStatus(
            name: pool.name, uuid: UUIDText.format(pool.uuid),
            health: pool.hasLostQuorum ? .readOnly : worst?.health ?? .healthy,
            reason: reason, action: action, capacityBytes: pool.capacityBytes,
            allocatedBytes: pool.allocatedBytes, freeBytes: pool.freeBytes,
            disks: pool.disks.map { disk in
                let uuid = UUIDText.format(disk.uuid)
                return PoolControl.DiskStatus(
                    name: "disk\(disk.number.rawValue)", path: paths[uuid] ?? disk.pathHint,
                    uuid: uuid, media: Media(disk.mediaClass), state: DiskCondition(disk.state),
                    sizeBytes: disk.sizeBytes, allocatedBytes: disk.allocatedBytes,
                    errors: DiskErrors(
                        read: disk.errors.read, write: disk.errors.write,
                        checksum: disk.errors.checksum))
            },
            spaces: spaces)
    }

    private func space(_ index: Int) -> PoolControl.SpaceStatus {
        let space = pool.spaces[index]
        let (health, action) = judge(space)
        let slabBytes = UInt64(Units.slabBytes)
        return PoolControl.SpaceStatus(
            name: "\(pool.name)/\(space.name)", pool: pool.name, sizeBytes: space.sizeBytes,
            resiliency: Resiliency(space.resiliency),
            provisioning: space.flags.contains(.fixed) ? .fixed : .thin, health: health,
            reason: space.reason, action: action, allocatedBytes: space.allocatedBytes,
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
            connections: connections[index], owner: "local", epoch: space.epoch)
    }

    /// How a space is, and what its owner should do.
    private func judge(_ space: Pool.SpaceStatus) -> (Health, action: String) {
        if space.handle == nil {
            return (.incomplete, "see poolctl disk ls \(pool.name), and the daemon's log")
        }
        let tolerance = space.resiliency.tolerance
        if space.lostDisks.count > tolerance {
            return (.incomplete, "copy off what can still be read")
        }
        if !space.reason.isEmpty {
            return (.readOnly, "copy its data to a new space; this one stays readable")
        }
        switch (tolerance - space.lostDisks.count, space.lostDisks.isEmpty) {
        case (_, true): return (.healthy, "")
        case (0, false): return (.noRedundancy, "copy its data to a new space")
        case (_, false): return (.degraded, "copy its data to a new space")
        }
    }
}

extension Resiliency {
    init(_ kind: ResiliencyKind) {
        switch kind {
        case .simple: self = .simple
        case .mirror2: self = .mirror2
        case .mirror3: self = .mirror3
        case .parity1: self = .parity1
        case .parity2: self = .parity2
        }
    }
}

extension WhenFullPolicy {
    init(_ policy: WhenFull) {
        switch policy {
        case .wait: self = .wait
        case .enospc: self = .enospc
        }
    }
}

extension DiskCondition {
    init(_ state: DiskState) {
        switch state {
        case .online: self = .online
        case .offline: self = .offline
        case .missing: self = .missing
        case .failed: self = .failed
        case .retired: self = .retired
        case .rebuilding: self = .rebuilding
        }
    }
}
