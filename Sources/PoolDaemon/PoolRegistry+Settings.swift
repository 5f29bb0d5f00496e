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
        let (entry, devices) = try openEntry(named: name)
        let disk = try Self.find(request.disk, among: try status(of: entry).disks, of: name)
        guard let uuid = UUIDText.parse(disk.uuid) else {
            throw ControlFailure(.failed, "\(disk.name) has no uuid", hint: "see disk ls \(name)")
        }
        let (poolUUID, wanted) = (entry.uuid, change)
        let paths = Dictionary(
            entry.record.disks.compactMap { disk in
                UUIDText.parse(disk.uuid).map { ($0, disk.path) }
            }, uniquingKeysWith: { first, _ in first })
        let record = try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(poolUUID, state)
            guard let found = pool.configuration.disks.first(where: { $0.uuid == uuid }) else {
                throw Self.unknownDisk(request.disk, [], of: name)
            }
            do throws(PoolError) {
                try await pool.changeDisk(found.number, wanted)
            } catch {
                throw ControlFailure(pool: error)
            }
            return Self.record(pool, paths: paths)
        }
        let changed = Entry(record: record, uuid: poolUUID, condition: .open(devices: devices))
        try remember(changed)
        return DiskList(pool: name, disks: try status(of: changed).disks)
    }

    /// A disk by its path, its label's uuid, or the name that is shown.
    static func find(
        _ text: String, among disks: [PoolControl.DiskStatus], of pool: String
    ) throws(ControlFailure) -> PoolControl.DiskStatus {
        let lowercased = text.lowercased()
        let found = disks.first { disk in
            disk.name == text || disk.uuid == lowercased || disk.path == text
        }
        if let found { return found }
        if text.hasPrefix("/"), !text.utf8.contains(0), let real = realPath(text),
            let same = disks.first(where: { realPath($0.path) == real })
        {
            return same
        }
        throw unknownDisk(text, disks, of: pool)
    }

    private static func realPath(_ path: String) -> String? {
        guard let resolved = unsafe realpath(path, nil) else { return nil }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }

    private static func unknownDisk(
        _ text: String, _ disks: [PoolControl.DiskStatus], of pool: String
    ) -> ControlFailure {
        // A mistyped name reaches us as a path, its last part is what was typed.
        let last = text.split(separator: "/").last.map(String.init) ?? text
        let names = disks.flatMap { [$0.name, $0.path.split(separator: "/").last.map(String.init)] }
            .compactMap { $0 }
        return ControlFailure(
            .notFound, "pool \(pool) has no disk \(NameRules.printablePath(text))",
            hint: Nearest.match(last, among: names).map { "did you mean '\($0)'?" }
                ?? "name its path, its uuid or its name; see poolctl disk ls \(pool)")
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
        }
    }

    private enum Switch: String, CaseIterable { case on, off }

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
        }
    }

    func setting(_ settings: PoolSettings) -> Setting {
        let text = { (settings: PoolSettings) in
            switch self {
            case .thresholds:
                [settings.thresholds.notice, settings.thresholds.warning,
                    settings.thresholds.critical].map(String.init).joined(separator: ",")
            case .compaction: settings.compaction ? "on" : "off"
            }
        }
        let meaning =
            switch self {
            case .thresholds:
                "percent allocated at which the pool says notice, warning, critical"
            case .compaction:
                "empty sparse slab groups in the background, for other spaces to use"
            }
        return Setting(
            key: rawValue, value: text(settings), default: text(PoolSettings()),
            meaning: meaning)
    }
}
