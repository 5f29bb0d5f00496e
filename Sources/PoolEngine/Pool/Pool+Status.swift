import PoolFormat

/// What a pool looks like from outside: plain values, taken at once, so they agree.
extension Pool {
    public struct Status: Hashable, Sendable {
        public var name: String
        public var uuid: PoolUUID
        public var version: ConfigurationVersion
        /// Of all disks, in whole slabs.
        public var capacityBytes: UInt64
        public var allocatedBytes: UInt64
        public var freeBytes: UInt64
        public var disks: [DiskStatus]
        public var spaces: [SpaceStatus]
        /// Changes can no longer be recorded: everything is read-only.
        public var hasLostQuorum: Bool
        public var isClosed: Bool
    }

    public struct DiskStatus: Hashable, Sendable {
        public var number: DiskNumber
        public var uuid: PoolUUID
        public var pathHint: String
        public var mediaClass: MediaClass
        /// Fault domain tags; empty where unset.
        public var enclosure: String
        public var node: String
        public var rack: String
        /// A disk that is not here is missing, unless it is known why it went; one that is back and has
        /// not yet been given all that it missed is rebuilding.
        public var state: DiskState
        public var sizeBytes: UInt64
        public var allocatedBytes: UInt64
        public var errors: DiskErrorCounters
        /// Nil while it is not here.
        public var device: DeviceIndex?
        /// What it was doing when it failed; empty otherwise.
        public var failure: String
    }

    public struct SpaceStatus: Hashable, Sendable {
        public var lineage: Lineage
        public var name: String
        public var sizeBytes: UInt64
        public var resiliency: ResiliencyKind
        /// As asked for: 0 leaves the choice to each slab group.
        public var columns: Int
        public var interleaveBytes: UInt32
        public var flags: SpaceFlags
        public var whenFull: WhenFull
        /// Physical: every copy, and the space's own metadata.
        public var allocatedBytes: UInt64
        /// Logical: addresses that hold something.
        public var mappedBytes: UInt64
        /// Writes that wait for the pool to have room.
        public var waitingWrites: Int
        /// What the write-back cache may hold, what it holds, and what went to stripes of late.
        public var writeCacheBytes: UInt64 = 0
        public var writeCacheDirtyBytes: UInt64 = 0
        public var destageBytesPerSecond: UInt64 = 0
        public var epoch: UInt64
        /// For requests to the engine of `shard`; nil while the space is not open.
        public var handle: SpaceHandle?
        public var shard: Int
        /// Disks with a part of it that have failed or are not here.
        public var lostDisks: [DiskNumber]
        /// Why it is not open, or takes no writes; empty when all is well.
        public var reason: String
        /// Of one that takes no writes: bytes that were written since the last good flush, and may
        /// be lost; ascending.
        public var doubtful: [Range<UInt64>] = []
    }

    /// What of a space's status its own shard knows.
    struct SpaceFacts: Sendable {
        var mappedBytes: UInt64 = 0
        var readOnlyReason: String?
        var doubtful: [Range<UInt64>] = []
        var waitingWrites = 0
        var cachedBytes: UInt64 = 0
        var destageBytesPerSecond: UInt64 = 0
        var groups: [GroupRecord] = []
        var repair = Space.RepairProgress()
        /// Of each disk that has departed, grains of which it lacks something.
        var missedGrains: [DiskNumber: Int] = [:]

        init() {}

        /// On the space's shard.
        init(_ space: Space) {
            mappedBytes = space.mappedBytes
            waitingWrites = space.waitingWrites
            cachedBytes = space.cachedBytes
            destageBytesPerSecond = space.destageBytesPerSecond
            readOnlyReason = space.readOnlyReason
            if readOnlyReason != nil { doubtful = space.doubtfulBytes }
            groups = space.groupRecords
            repair = space.repairProgress
            for disk in space.departed.disks { 
                missedGrains[disk.number] = max(0, disk.missed.grainCount - disk.copied.count)
            }
        }
    }

    /// Asks the spaces that are on other shards, for the next ``status()``.
    public func refreshStatus() async {
        for shard in engine.otherShards {
            let asked = spaces.filter { $0.engine.shard == shard }
            guard !asked.isEmpty else { continue }
            // A stopped engine has no more to say.
            guard
                let answers = try? await engine.on(
                    shard, { _ in asked.map { SpaceFacts($0) } })
            else { return }
            for (space, facts) in zip(asked, answers) { learnt[space.lineage] = facts }
        }
    }

    /// Live, but for what spaces on other shards said at the last ``refreshStatus()``.
    public func status() -> Status {
        let allocated = allocatedByLineage()
        let slabBytes = UInt64(Units.slabBytes)
        let capacity = disks.reduce(0) { $0 + UInt64($1.layout.slabCount) * slabBytes }
        let free = disks.reduce(0) { $0 + UInt64($1.freeSlabs) * slabBytes }
        return Status(
            name: name, uuid: uuid, version: configuration.version, capacityBytes: capacity,
            allocatedBytes: capacity - free, freeBytes: free,
            disks: configuration.disks.map(status),
            spaces: configuration.spaces.map { status($0, allocated[$0.lineage] ?? 0) },
            hasLostQuorum: hasLostQuorum, isClosed: isClosed)
    }

    private func status(_ record: DiskRecord) -> DiskStatus {
        let disk = disk(record.number)
        let slabs = disk.map { UInt64($0.layout.slabCount) - UInt64($0.freeSlabs) } ?? 0
        var state = record.state
        if disk == nil, state != .failed, state != .offline, state != .retired { state = .missing }
        if let disk, !disk.serves { state = disk.awayState }
        let isBehind = configuration.departures.contains { $0.disk == record.number }
        if state == .online, isBehind { state = .rebuilding }
        return DiskStatus(
            number: record.number, uuid: record.uuid, pathHint: record.pathHint,
            mediaClass: record.mediaClass, enclosure: record.enclosure, node: record.node,
            rack: record.rack, state: state, sizeBytes: record.sizeBytes,
            allocatedBytes: slabs * UInt64(Units.slabBytes),
            errors: disk?.errors ?? DiskErrorCounters(), device: disk?.device,
            failure: disk?.failure ?? "")
    }

    private func status(_ record: SpaceRecord, _ allocatedBytes: UInt64) -> SpaceStatus {
        let space = spaces.first { $0.lineage == record.lineage }
        let facts = space.map(facts)
        let lost = disks.filter { !$0.serves && $0.holds(record.lineage) }.map(\.number)
        let absent = record.root.map(\.disk).filter { disk($0) == nil }
        let reason =
            unavailable[record.lineage] ?? facts?.readOnlyReason
            ?? (record.readOnlyReason.isEmpty && space == nil && !isClosed
                ? "it is not open" : record.readOnlyReason)
        return SpaceStatus(
            lineage: record.lineage, name: record.name, sizeBytes: record.sizeBytes,
            resiliency: record.resiliency, columns: Int(record.columns),
            interleaveBytes: record.interleaveBytes, flags: record.flags,
            whenFull: record.whenFull, allocatedBytes: allocatedBytes,
            mappedBytes: facts?.mappedBytes ?? 0, waitingWrites: facts?.waitingWrites ?? 0,
            writeCacheBytes: record.writeCacheBytes,
            writeCacheDirtyBytes: facts?.cachedBytes ?? 0,
            destageBytesPerSecond: facts?.destageBytesPerSecond ?? 0,
            epoch: fences.first { $0.lineage == record.lineage }?.epoch ?? 0,
            handle: space?.handle, shard: space?.shard ?? engine.shard,
            lostDisks: (lost + absent).sorted(), reason: reason,
            doubtful: facts?.doubtful ?? [])
    }

    /// The slab groups of a space; none while it is not open. As current as ``status()``.
    public func groups(ofSpace name: String) -> [GroupRecord] {
        space(named: name).map { facts($0).groups } ?? []
    }

    func facts(_ space: Space) -> SpaceFacts {
        space.engine === engine ? SpaceFacts(space) : learnt[space.lineage] ?? SpaceFacts()
    }

    /// Of the disks that take writes: what is granted, and what still may be. A slab that is kept
    /// for metadata is neither: a pool is full when nothing can be granted any more.
    public var fillBytes: (allocated: UInt64, grantable: UInt64) {
        let slabBytes = UInt64(Units.slabBytes)
        let slabs = servingDisks.reduce(0) { $0 + UInt64($1.layout.slabCount) }
        let free = servingDisks.reduce(0) { $0 + UInt64($1.freeSlabs) }
        let grantable = servingDisks.reduce(0) { $0 + UInt64($1.grantableSlabs) }
        return ((slabs - free) * slabBytes, grantable * slabBytes)
    }

    /// Of all its spaces; as current as ``status()``.
    public var waitingWrites: Int { spaces.reduce(0) { $0 + facts($1).waitingWrites } }

    func allocatedByLineage() -> [Lineage: UInt64] {
        var bytes: [Lineage: UInt64] = [:]
        for disk in disks {
            for entry in disk.slabs.entries where !entry.isFree {
                bytes[entry.lineage, default: 0] += UInt64(Units.slabBytes)
            }
            for slab in disk.metadataSlabs {
                for entry in slab.table.entries where !entry.isFree {
                    bytes[entry.lineage, default: 0] += UInt64(Units.pieceBytes)
                }
            }
        }
        return bytes
    }
}
