public struct DaemonInfo: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var program: String
    public var pid: Int
    public var dir: String
    public var engine: String
    public var shards: Int
    /// Where NBD listens: `unix:PATH` or `tcp:HOST:PORT`.
    public var nbd: [String]
    public var uptimeSeconds: UInt64

    public init(
        program: String, pid: Int, dir: String, engine: String, shards: Int, nbd: [String],
        uptimeSeconds: UInt64
    ) {
        self.program = program
        self.pid = pid
        self.dir = dir
        self.engine = engine
        self.shards = shards
        self.nbd = nbd
        self.uptimeSeconds = uptimeSeconds
    }
}

/// Something was done that leaves nothing to describe: a destroy, an export.
public struct Outcome: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var done: String
    public init(done: String) { self.done = done }
}

public struct DiskErrors: Hashable, Sendable, Codable {
    public var read: UInt64
    public var write: UInt64
    public var checksum: UInt64
    public init(read: UInt64 = 0, write: UInt64 = 0, checksum: UInt64 = 0) {
        self.read = read
        self.write = write
        self.checksum = checksum
    }
}

public struct DiskStatus: Hashable, Sendable, Codable {
    /// `disk1`, `disk2`, ...: stays with the disk for as long as it is in the pool.
    public var name: String
    /// Where it is, or was last.
    public var path: String
    public var uuid: String
    public var media: Media
    public var state: DiskCondition
    /// Why it is not online, or what is wrong with it, and what to do; empty while all is well.
    public var reason: String
    public var action: String
    /// Tags of what it fails together with; empty where unset.
    public var enclosure: String
    public var node: String
    public var rack: String
    public var sizeBytes: UInt64
    public var allocatedBytes: UInt64
    public var errors: DiskErrors

    public init(
        name: String, path: String, uuid: String, media: Media, state: DiskCondition,
        reason: String = "", action: String = "", enclosure: String = "", node: String = "",
        rack: String = "", sizeBytes: UInt64, allocatedBytes: UInt64, errors: DiskErrors
    ) {
        self.name = name
        self.path = path
        self.uuid = uuid
        self.media = media
        self.state = state
        self.reason = reason
        self.action = action
        self.enclosure = enclosure
        self.node = node
        self.rack = rack
        self.sizeBytes = sizeBytes
        self.allocatedBytes = allocatedBytes
        self.errors = errors
    }
}

public struct DiskList: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var pool: String
    public var disks: [DiskStatus]
    public init(pool: String, disks: [DiskStatus]) {
        self.pool = pool
        self.disks = disks
    }
}

public struct TierStatus: Hashable, Sendable, Codable {
    public var media: Media
    public var sizeBytes: UInt64
    public var allocatedBytes: UInt64
    public init(media: Media, sizeBytes: UInt64, allocatedBytes: UInt64) {
        self.media = media
        self.sizeBytes = sizeBytes
        self.allocatedBytes = allocatedBytes
    }
}

public struct SpaceStatus: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    /// `POOL/SPACE`, as every verb and the export take it.
    public var name: String
    public var pool: String
    public var sizeBytes: UInt64
    public var resiliency: Resiliency
    public var provisioning: Provisioning
    public var health: Health
    /// Why it is not healthy, and what to do about it; empty while it is.
    public var reason: String
    public var action: String
    /// Physical: copies and metadata included.
    public var allocatedBytes: UInt64
    /// Logical: addresses that hold something.
    public var mappedBytes: UInt64
    /// 0: chosen for each slab group.
    public var columns: Int
    public var interleaveBytes: UInt64
    public var checksums: Bool
    public var whenFull: WhenFullPolicy
    public var writeCacheBytes: UInt64
    public var writeCacheDirtyBytes: UInt64
    /// What went from the cache to its stripes, over the last seconds.
    public var writeCacheDestageBytesPerSecond: UInt64
    public var tiers: [TierStatus]
    /// Writes that wait for the pool to have room.
    public var waitingWrites: Int
    public var connections: Int
    public var owner: String
    /// Grows at every activation, a restart included.
    public var epoch: UInt64

    public init(
        name: String, pool: String, sizeBytes: UInt64, resiliency: Resiliency,
        provisioning: Provisioning, health: Health, reason: String, action: String,
        allocatedBytes: UInt64, mappedBytes: UInt64, columns: Int, interleaveBytes: UInt64,
        checksums: Bool, whenFull: WhenFullPolicy, writeCacheBytes: UInt64 = 0,
        writeCacheDirtyBytes: UInt64 = 0, writeCacheDestageBytesPerSecond: UInt64 = 0,
        tiers: [TierStatus], waitingWrites: Int = 0,
        connections: Int, owner: String, epoch: UInt64
    ) {
        self.name = name
        self.pool = pool
        self.sizeBytes = sizeBytes
        self.resiliency = resiliency
        self.provisioning = provisioning
        self.health = health
        self.reason = reason
        self.action = action
        self.allocatedBytes = allocatedBytes
        self.mappedBytes = mappedBytes
        self.columns = columns
        self.interleaveBytes = interleaveBytes
        self.checksums = checksums
        self.whenFull = whenFull
        self.writeCacheBytes = writeCacheBytes
        self.writeCacheDirtyBytes = writeCacheDirtyBytes
        self.writeCacheDestageBytesPerSecond = writeCacheDestageBytesPerSecond
        self.tiers = tiers
        self.waitingWrites = waitingWrites
        self.connections = connections
        self.owner = owner
        self.epoch = epoch
    }
}

public struct SpaceList: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var spaces: [SpaceStatus]
    /// Pools that are not open: what spaces they have is not known now.
    public var detachedPools: [String]
    public init(spaces: [SpaceStatus], detachedPools: [String] = []) {
        self.spaces = spaces
        self.detachedPools = detachedPools
    }
}

public struct PoolStatus: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var name: String
    public var uuid: String
    /// The worst of its spaces'; healthy while it has none.
    public var health: Health
    public var reason: String
    public var action: String
    /// How full it is, by its thresholds.
    public var fill: FillState
    /// 0 to 100, rounded down.
    public var fillPercent: Int
    /// At the rate at which it has been filling; written as `null` while it does not fill.
    public var secondsToFull: UInt64?
    public var capacityBytes: UInt64
    public var allocatedBytes: UInt64
    public var freeBytes: UInt64
    public var disks: [DiskStatus]
    public var spaces: [SpaceStatus]
    public var jobs: [JobStatus]

    public init(
        name: String, uuid: String, health: Health, reason: String, action: String,
        fill: FillState = .ok, fillPercent: Int = 0, secondsToFull: UInt64? = nil,
        capacityBytes: UInt64, allocatedBytes: UInt64, freeBytes: UInt64, disks: [DiskStatus],
        spaces: [SpaceStatus], jobs: [JobStatus] = []
    ) {
        self.name = name
        self.uuid = uuid
        self.health = health
        self.reason = reason
        self.action = action
        self.fill = fill
        self.fillPercent = fillPercent
        self.secondsToFull = secondsToFull
        self.capacityBytes = capacityBytes
        self.allocatedBytes = allocatedBytes
        self.freeBytes = freeBytes
        self.disks = disks
        self.spaces = spaces
        self.jobs = jobs
    }

    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(version, forKey: .version)
        try values.encode(name, forKey: .name)
        try values.encode(uuid, forKey: .uuid)
        try values.encode(health, forKey: .health)
        try values.encode(reason, forKey: .reason)
        try values.encode(action, forKey: .action)
        try values.encode(fill, forKey: .fill)
        try values.encode(fillPercent, forKey: .fillPercent)
        try values.encode(secondsToFull, forKey: .secondsToFull)
        try values.encode(capacityBytes, forKey: .capacityBytes)
        try values.encode(allocatedBytes, forKey: .allocatedBytes)
        try values.encode(freeBytes, forKey: .freeBytes)
        try values.encode(disks, forKey: .disks)
        try values.encode(spaces, forKey: .spaces)
        try values.encode(jobs, forKey: .jobs)
    }
}

public struct PoolList: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var pools: [PoolStatus]
    public init(pools: [PoolStatus]) { self.pools = pools }
}
