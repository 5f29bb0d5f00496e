import Foundation
import PoolControl
import PoolEngine
import PoolFormat

/// What may be changed of pools, disks and spaces while they are in use. Every value is checked
/// before the first is changed, and all of a request is one change.
extension PoolRegistry {
    // MARK: - pools

    func settings(of name: String) throws(ControlFailure) -> SettingList {
        let (entry, _) = try openEntry(named: name)
        let uuid = entry.uuid
        let settings = try shard.runNow { $0.pools[uuid]?.configuration.settings }
        guard let settings else {
            throw ControlFailure(.unavailable, "pool \(name) is closing", hint: "try again")
        }
        return SettingList(pool: name, settings: PoolKey.allCases.map { $0.setting(settings) })
    }

    func setPool(
        _ name: String, _ request: SettingsRequest
    ) throws(ControlFailure) -> SettingList {
        let changes = try SettingText.known(request.changes, as: PoolKey.self)
        var checked = PoolSettings()
        for change in changes { try change.key.apply(change.value, to: &checked) }
        let uuid = try openEntry(named: name).entry.uuid
        let wanted = checked
        try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            do throws(PoolError) {
                try await pool.changeSettings { settings in
                    for change in changes { change.key.copy(from: wanted, to: &settings) }
                }
            } catch {
                throw ControlFailure(pool: error)
            }
        }
        return try settings(of: name)
    }

    // MARK: - disks

    func setDisk(
        in name: String, _ request: DiskSetRequest
    ) throws(ControlFailure) -> DiskList {
        var change = Pool.DiskChange()
        for (key, value) in try SettingText.known(request.changes, as: DiskKey.self) {
            switch key {
            case .media:
                change.mediaClass = try SettingText.word(value, of: "media", as: Media.self)
                    .mediaClass
            case .enclosure: change.enclosure = try SettingText.tag(value, of: "enclosure")
            case .node: change.node = try SettingText.tag(value, of: "node")
            case .rack: change.rack = try SettingText.tag(value, of: "rack")
            }
        }
        let (chosen, wanted) = (try choose(request.disk, in: name), change)
        let poolUUID = chosen.entry.uuid
        let configuration = try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(poolUUID, state)
            let number = try Self.number(of: chosen.uuid, in: pool)
            do throws(PoolError) {
                try await pool.changeDisk(number, wanted)
            } catch {
                throw ControlFailure(pool: error)
            }
            return pool.configuration
        }
        let changed = Entry(
            record: Self.record(configuration, paths: chosen.entry.record.paths), uuid: poolUUID,
            condition: chosen.entry.condition)
        try remember(changed)
        return DiskList(pool: name, disks: try status(of: changed).disks)
    }

    // MARK: - spaces

    func setSpace(
        _ path: SpacePath, _ request: SettingsRequest
    ) throws(ControlFailure) -> PoolControl.SpaceStatus {
        var change = Pool.SpaceChange()
        for (key, value) in try SettingText.known(request.changes, as: SpaceKey.self) {
            switch key {
            case .whenFull:
                change.whenFull = try SettingText.word(value, of: "when_full", as: WhenFullPolicy.self)
                    .whenFull
            case .writeCache:
                guard let bytes = try? SizeText.parse(value) else {
                    throw SettingText.bad(
                        key.rawValue, value, "use a size such as 256M or 1G, or 0 for none")
                }
                change.writeCacheBytes = bytes
            case .name:
                try NameRules.check(value, "space")
                change.name = value
            }
        }
        let wanted = change
        let uuid = try openEntry(named: path.pool).entry.uuid
        try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            try Self.require(path, in: pool)
            let isRenamed = wanted.name != nil && wanted.name != path.space
            if isRenamed {
                try await Self.withdrawUnused(path, of: pool, state, to: "rename it")
            }
            do throws(PoolError) {
                try await pool.changeSpace(path.space, wanted)
            } catch {
                if isRenamed { try await Self.publish(path.space, of: pool, state) }
                throw ControlFailure(pool: error)
            }
            if isRenamed {
                try await Self.publish(wanted.name ?? path.space, of: pool, state)
            }
        }
        return try spaceStatus(
            try SpacePath(pool: path.pool, space: wanted.name ?? path.space))
    }

    static func require(_ path: SpacePath, in pool: Pool) throws(ControlFailure) {
        let names = pool.configuration.spaces.map(\.name)
        guard names.contains(path.space) else { throw unknownSpace(path, names) }
    }
}

extension WhenFullPolicy {
    var whenFull: WhenFull {
        switch self {
        case .wait: .wait
        case .enospc: .enospc
        }
    }
}

extension PoolKey {
    /// Reads a value, or `default`, into settings.
    ///
    /// - Throws: what the key takes.
    func apply(_ value: String, to settings: inout PoolSettings) throws(ControlFailure) {
        let isDefault = value == SettingText.byDefault
        switch self {
        case .thresholds:
            settings.chosenThresholds = isDefault ? nil : try Self.thresholds(value)
        case .compaction:
            settings.chosenCompaction =
                isDefault ? nil : try SettingText.word(value, of: rawValue, as: Switch.self) == .on
        case .repairDelay:
            settings.repairDelaySeconds = isDefault ? nil : try Self.duration(value)
        case .repairPriority:
            settings.repairPriority =
                isDefault
                ? nil
                : try SettingText.word(value, of: rawValue, as: Priority.self).repairPriority
        }
    }

    private enum Switch: String, CaseIterable { case on, off }

    private enum Priority: String, CaseIterable {
        case low, normal, high

        init(_ priority: RepairPriority) {
            switch priority {
            case .low: self = .low
            case .normal: self = .normal
            case .high: self = .high
            }
        }

        var repairPriority: RepairPriority {
            switch self {
            case .low: .low
            case .normal: .normal
            case .high: .high
            }
        }
    }

    private static func duration(_ value: String) throws(ControlFailure) -> UInt32 {
        guard let seconds = DurationText.parse(value) else {
            throw SettingText.bad(
                PoolKey.repairDelay.rawValue, value,
                "use a number of seconds, or one with s, m or h, such as 90s, 5m or 2h")
        }
        return seconds
    }

    private static func thresholds(
        _ value: String
    ) throws(ControlFailure) -> PoolSettings.Thresholds {
        let numbers = SettingText.percentages(value) ?? []
        let hint = "use three percentages that rise from 1 to 100, such as 70,85,95"
        guard numbers.count == 3 else {
            throw SettingText.bad(PoolKey.thresholds.rawValue, value, hint)
        }
        let thresholds = PoolSettings.Thresholds(
            notice: numbers[0], warning: numbers[1], critical: numbers[2])
        guard thresholds.isValid else {
            throw SettingText.bad(PoolKey.thresholds.rawValue, value, hint)
        }
        return thresholds
    }

    /// Takes this key's value over, and no other's.
    func copy(from other: PoolSettings, to settings: inout PoolSettings) {
        switch self {
        case .thresholds: settings.chosenThresholds = other.chosenThresholds
        case .compaction: settings.chosenCompaction = other.chosenCompaction
        case .repairDelay: settings.repairDelaySeconds = other.repairDelaySeconds
        case .repairPriority: settings.repairPriority = other.repairPriority
        }
    }

    func setting(_ settings: PoolSettings) -> Setting {
        let text = { (settings: PoolSettings) in
            switch self {
            case .thresholds:
                [settings.thresholds.notice, settings.thresholds.warning,
                    settings.thresholds.critical].map(String.init).joined(separator: ",")
            case .compaction: settings.compaction ? "on" : "off"
            case .repairDelay: DurationText.exact(settings.delaySeconds)
            case .repairPriority: Priority(settings.repairPriority ?? .normal).rawValue
            }
        }
        let meaning =
            switch self {
            case .thresholds:
                "percent allocated at which the pool says notice, warning, critical"
            case .compaction:
                "empty sparse slab groups in the background, for other spaces to use"
            case .repairDelay:
                "how long a disk is away before what it held is rebuilt elsewhere"
            case .repairPriority:
                "how much of the disks' time rebuilding takes while clients want it, too"
            }
        return Setting(
            key: rawValue, value: text(settings), default: text(PoolSettings()),
            meaning: meaning)
    }
}

extension PoolSettings {
    /// In effect.
    var delaySeconds: UInt32 { repairDelaySeconds ?? 300 }
}
