/// A disk as the user named it: an absolute path, with its media class where that was said.
public struct DiskChoice: Hashable, Sendable, Codable {
    public var path: String
    /// nil: the daemon asks the kernel.
    public var media: Media?

    public init(path: String, media: Media? = nil) {
        self.path = path
        self.media = media
    }
}

public struct PoolCreateRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var name: String
    public var disks: [DiskChoice]
    /// Missing files are made with this size, sparse.
    public var createSizeBytes: UInt64?
    /// Overwrite what is found on the disks.
    public var force: Bool

    public init(name: String, disks: [DiskChoice], createSizeBytes: UInt64?, force: Bool) {
        self.name = name
        self.disks = disks
        self.createSizeBytes = createSizeBytes
        self.force = force
    }
}

public struct PoolAddRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var disks: [DiskChoice]
    public var createSizeBytes: UInt64?
    public var force: Bool

    public init(disks: [DiskChoice], createSizeBytes: UInt64?, force: Bool) {
        self.disks = disks
        self.createSizeBytes = createSizeBytes
        self.force = force
    }
}

public struct PoolImportRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// Absolute paths of disks, or of folders whose files are looked at.
    public var disks: [String]
    /// Open a pool that was not cleanly exported elsewhere.
    public var force: Bool

    public init(disks: [String], force: Bool) {
        self.disks = disks
        self.force = force
    }
}

public struct SpaceCreateRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var name: String
    public var sizeBytes: UInt64
    public var resiliency: Resiliency
    public var provisioning: Provisioning
    /// Data columns; nil: chosen for each slab group.
    public var columns: Int?
    /// nil: 256 KiB.
    public var interleaveBytes: UInt64?
    public var whenFull: WhenFullPolicy
    public var checksums: Bool
    /// Named so that they can be refused by name.
    public var ssdTierBytes: UInt64?
    public var ssdResiliency: Resiliency?
    public var writeCacheBytes: UInt64?

    public init(
        name: String, sizeBytes: UInt64, resiliency: Resiliency,
        provisioning: Provisioning = .thin, columns: Int? = nil, interleaveBytes: UInt64? = nil,
        whenFull: WhenFullPolicy = .wait, checksums: Bool = true, ssdTierBytes: UInt64? = nil,
        ssdResiliency: Resiliency? = nil, writeCacheBytes: UInt64? = nil
    ) {
        self.name = name
        self.sizeBytes = sizeBytes
        self.resiliency = resiliency
        self.provisioning = provisioning
        self.columns = columns
        self.interleaveBytes = interleaveBytes
        self.whenFull = whenFull
        self.checksums = checksums
        self.ssdTierBytes = ssdTierBytes
        self.ssdResiliency = ssdResiliency
        self.writeCacheBytes = writeCacheBytes
    }
}

/// `KEY=VALUE`, as typed; what keys there are and what they take, whoever serves them knows.
public struct SettingChange: Hashable, Sendable, Codable {
    public var key: String
    public var value: String
    public init(key: String, value: String) {
        self.key = key
        self.value = value
    }
}

/// Changes of a pool's or a space's settings: all of them or none.
public struct SettingsRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var changes: [SettingChange]
    public init(changes: [SettingChange]) { self.changes = changes }
}

public struct DiskSetRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// An absolute path, a label's uuid, or the name that is shown.
    public var disk: String
    public var changes: [SettingChange]

    public init(disk: String, changes: [SettingChange]) {
        self.disk = disk
        self.changes = changes
    }
}

public struct DiskOfflineRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// As in ``DiskSetRequest``.
    public var disk: String
    /// Also where data becomes unreadable without it.
    public var force: Bool

    public init(disk: String, force: Bool) {
        self.disk = disk
        self.force = force
    }
}

public struct DiskOnlineRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// As in ``DiskSetRequest``; a path may also be where it is now.
    public var disk: String
    public init(disk: String) { self.disk = disk }
}

public struct DiskRetireRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// As in ``DiskSetRequest``.
    public var disk: String
    public init(disk: String) { self.disk = disk }
}

public struct DiskReplaceRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// As in ``DiskSetRequest``.
    public var disk: String
    public var new: DiskChoice
    /// A missing file is made with this size, sparse.
    public var createSizeBytes: UInt64?
    /// Overwrite what is found on the new disk.
    public var force: Bool

    public init(disk: String, new: DiskChoice, createSizeBytes: UInt64?, force: Bool) {
        self.disk = disk
        self.new = new
        self.createSizeBytes = createSizeBytes
        self.force = force
    }
}

public struct ScrubRequest: Hashable, ControlMessage {
    public enum Action: String, Hashable, Sendable, Codable, CaseIterable {
        /// Starts one, or changes the rate of the one under way.
        case start
        case pause, resume
    }

    public var version = ControlProtocol.version
    public var action: Action
    /// nil: as fast as the disks.
    public var bytesPerSecond: UInt64?

    public init(_ action: Action, bytesPerSecond: UInt64? = nil) {
        self.action = action
        self.bytesPerSecond = bytesPerSecond
    }
}

public struct SpaceResizeRequest: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var sizeBytes: UInt64
    /// Whether it may become smaller.
    public var shrink: Bool

    public init(sizeBytes: UInt64, shrink: Bool) {
        self.sizeBytes = sizeBytes
        self.shrink = shrink
    }
}
