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
        let seen = try shard.call { state throws(ControlFailure) in
            await state.pools[uuid]?.refreshStatus()
            let connections = try await Self.connections(state)
            return PoolSnapshot(uuid, connections, state)
        }
        guard let seen else {
            throw ControlFailure(
                .unavailable, "pool \(entry.record.name) is closing", hint: "try again")
        }
        let paths = Dictionary(
            entry.record.disks.map { ($0.uuid, $0.path) }, uniquingKeysWith: { first, _ in first })
        let secondsToFull = noteRoom(uuid, seen.pool.name, seen.room)
        return seen.status(
            paths: paths, secondsToFull: secondsToFull,
            rates: rates.note(uuid, seconds: uptime, seen.jobs), slow: slowDisks(seen.pool.disks))
    }

    /// Of one pool.
    func slowDisks(_ disks: [Pool.DiskStatus]) -> [DeviceIndex: String] {
        let online = disks.filter { $0.state == .online }.compactMap(\.device)
        return paces.withLock { $0.complaints(online) }
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
                let isMissing = detachment.missing.contains { $0.uuid == disk.uuid }
                return PoolControl.DiskStatus(
                    name: "disk\(disk.number)", path: disk.path, uuid: disk.uuid,
                    media: disk.media, state: isMissing ? .missing : .offline,
                    reason: isMissing ? "it was not found" : "its pool is detached",
                    action: isMissing ? "connect it" : "see poolctl pool status \(record.name)",
                    sizeBytes: disk.sizeBytes, allocatedBytes: 0, errors: DiskErrors())
            },
            spaces: [])
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
