/// The small, shared truth of a pool: which disks, which spaces, who may vote.
/// Two alternating slots on every disk; then the witness; then it takes effect.
///
///      0 ..... header (owner: pool UUID, sequence: sequence, index: pool epoch)
///     64       68       72       76           80          84          88
///     +--------+--------+--------+------------+-----------+-----------+
///     | disks  | spaces | voters | departures | next disk | flags     |
///     +--------+--------+--------+------------+-----------+-----------+
///     | next lineage    | next generation     | settings (24)         |
///     +-----------------+---------------------+-----------------------+ 128
///     | pool name, disks, spaces, voters, departures, as counted, packed |
///     +-------------------------------------------------------------------+ length
///     zeros to the next 4 KiB; behind that the slot holds what it held
///
///     settings: | notice 1 | warning 1 | critical 1 | compaction 1 |
///               | repair delay 4 | repair priority 1 | zero 7 | sequence before 8 |
///               (percentages, 0 0 0: by default; compaction 0: by default, 1: on, 2: off; seconds
///               plus one, 0: by default; priority 0: by default, 1: low, 2: normal, 3: high)
///     disk:   | number 2 | media 1 | state 1 | zero 4 | UUID 16 | size 8 | left after 8 | zero 8 |
///             | enclosure | node | rack | path hint |        (texts: length 2, UTF-8)
///     space:  | lineage 8 | size 8 | resiliency 1 | copies 1 | columns 2 | interleave 4 |
///             | flags 4 | when full 1 | SSD resiliency 1 | current 1 | roots 1 |
///             | SSD tier 8 | write cache 8 | 3 piece addresses 24 | zero 24 |
///             | name | read-only reason | owner |
///     voter:  | disk 2 |      departure: | disk 2 | zero 6 | lineage 8 | generation 8 |
///
/// Invariants:
/// 1. Disk numbers, disk UUIDs, lineages and space names are unique; numbers and lineages are below
///    the next ones, so none is ever used twice.
/// 2. The version never goes back: it compares as (pool epoch, sequence).
/// 3. The largest configuration the limits allow fits its slot.
/// 4. `sequenceBefore` is that of a version which every disk had that was in the pool, and had not
///    left, when this one was written. A disk that shows nothing as new is from an older time, and
///    what it holds is stale.
///
/// Write order: the slot that is not current on every disk, flush, witness; then it takes effect.
/// A crash in between leaves the older slot on every disk and the witness at the older version, or
/// a newer one on some disks that the witness does not contradict: either may be opened, for
/// nothing that depends on the newer one has been acknowledged.
public struct Configuration: Hashable, Sendable {
    public static let slotBytes = 1 << 20
    public var poolUUID: PoolUUID
    public var poolName: String
    /// Compares as (poolEpoch, sequence).
    public var version: ConfigurationVersion
    /// The sequence of a version that every disk had before, or one of a newer one.
    public var sequenceBefore: UInt64 = 0
    public var nextDiskNumber: UInt16
    public var nextLineage: UInt64
    /// Grows at each grant of any slab in the pool; slab generations come from it.
    public var nextGeneration: UInt64
    /// Set by a clean `pool export`: the pool may be opened on a host without its witness.
    public var exported: Bool
    public var disks: [DiskRecord]
    public var spaces: [SpaceRecord]
    public var voters: [DiskNumber]
    public var departures: [Departure]
    public var settings: PoolSettings

    public init(
        poolUUID: PoolUUID, poolName: String, version: ConfigurationVersion, nextDiskNumber: UInt16,
        nextLineage: UInt64, nextGeneration: UInt64, exported: Bool, disks: [DiskRecord],
        spaces: [SpaceRecord], voters: [DiskNumber], departures: [Departure],
        settings: PoolSettings = PoolSettings()
    ) {
        self.poolUUID = poolUUID
        self.poolName = poolName
        self.version = version
        self.nextDiskNumber = nextDiskNumber
        self.nextLineage = nextLineage
        self.nextGeneration = nextGeneration
        self.exported = exported
        self.disks = disks
        self.spaces = spaces
        self.voters = voters
        self.departures = departures
        self.settings = settings
    }
}

public struct ConfigurationVersion: Hashable, Sendable, Comparable {
    public var poolEpoch: UInt64
    public var sequence: UInt64
    public init(poolEpoch: UInt64, sequence: UInt64) {
        self.poolEpoch = poolEpoch
        self.sequence = sequence
    }
    public static func < (a: ConfigurationVersion, b: ConfigurationVersion) -> Bool {
        (a.poolEpoch, a.sequence) < (b.poolEpoch, b.sequence)
    }
}

public struct DiskRecord: Hashable, Sendable {
    public var number: DiskNumber
    public var uuid: PoolUUID
    public var sizeBytes: UInt64
    public var mediaClass: MediaClass
    public var state: DiskState
    /// Fault domain tags, each at most 64 bytes of UTF-8; empty where unset.
    public var enclosure: String
    public var node: String
    public var rack: String
    /// Where it was last found (at most 1,024 bytes of UTF-8); a hint for the search, nothing more.
    public var pathHint: String
    /// The sequence that was in effect when it left: it has that version, or a newer one, unless it
    /// comes back from an older time. 0: it has never left. ``givenUp``: it never comes back.
    public var leftAfterSequence: UInt64 = 0
    /// A new history began without the disk.
    public static let givenUp = UInt64.max

    public init(
        number: DiskNumber, uuid: PoolUUID, sizeBytes: UInt64, mediaClass: MediaClass,
        state: DiskState, enclosure: String, node: String, rack: String, pathHint: String
    ) {
        self.number = number
        self.uuid = uuid
        self.sizeBytes = sizeBytes
        self.mediaClass = mediaClass
        self.state = state
        self.enclosure = enclosure
        self.node = node
        self.rack = rack
        self.pathHint = pathHint
    }
}

public enum DiskState: UInt8, Sendable, CaseIterable {
    case online = 1, offline, missing, failed, retired, rebuilding
}

public enum ResiliencyKind: UInt8, Sendable, CaseIterable {
    case simple = 1, mirror2, mirror3, parity1, parity2
    /// Copies of each byte.
    public var copies: Int {
        switch self {
        case .simple: 1
        case .mirror2: 2
        case .mirror3: 3
        case .parity1, .parity2: 1
        }
    }
    /// Columns of a slab group that hold parity.
    public var parityColumns: Int {
        switch self {
        case .simple, .mirror2, .mirror3: 0
        case .parity1: 1
        case .parity2: 2
        }
    }
    public var isParity: Bool { parityColumns > 0 }
    /// Fewer do not do.
    public var leastDisks: Int {
        isParity ? Units.parityDataColumns.lowerBound + parityColumns : copies
    }
    /// Disks that may be lost.
    public var tolerance: Int {
        switch self {
        case .simple: 0
        case .mirror2, .parity1: 1
        case .mirror3, .parity2: 2
        }
    }
}

public struct SpaceRecord: Hashable, Sendable {
    public var lineage: Lineage
    /// At most 64 bytes of UTF-8, unique in the pool.
    public var name: String
    public var sizeBytes: UInt64
    public var resiliency: ResiliencyKind
    public var copies: UInt8
    /// Columns as asked for, those of a parity's own included; 0 means chosen per slab group.
    public var columns: UInt16
    public var interleaveBytes: UInt32
    public var flags: SpaceFlags
    public var whenFull: WhenFull
    /// Why writes are refused, in words for people; empty while they are not.
    public var readOnlyReason: String
    /// 0: no such tier, no such cache. Their rooms; their logic comes later.
    public var ssdTierBytes: UInt64
    public var ssdResiliency: UInt8
    public var writeCacheBytes: UInt64
    /// The copies of the space's root piece; the root names the rest.
    public var root: [PieceAddress]
    /// Which entries of `root` are current (bit i: entry i): the others missed something.
    public var currentCopies: UInt8
    /// The node that runs the space's engine; empty on one machine.
    public var owner: String

    public init(
        lineage: Lineage, name: String, sizeBytes: UInt64, resiliency: ResiliencyKind,
        copies: UInt8, columns: UInt16, interleaveBytes: UInt32, flags: SpaceFlags,
        whenFull: WhenFull, readOnlyReason: String, ssdTierBytes: UInt64, ssdResiliency: UInt8,
        writeCacheBytes: UInt64, root: [PieceAddress], currentCopies: UInt8, owner: String
    ) {
        self.lineage = lineage
        self.name = name
        self.sizeBytes = sizeBytes
        self.resiliency = resiliency
        self.copies = copies
        self.columns = columns
        self.interleaveBytes = interleaveBytes
        self.flags = flags
        self.whenFull = whenFull
        self.readOnlyReason = readOnlyReason
        self.ssdTierBytes = ssdTierBytes
        self.ssdResiliency = ssdResiliency
        self.writeCacheBytes = writeCacheBytes
        self.root = root
        self.currentCopies = currentCopies
        self.owner = owner
    }
}

public struct SpaceFlags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let noChecksums = SpaceFlags(rawValue: 1)
    public static let fixed = SpaceFlags(rawValue: 2)
    public static let readOnly = SpaceFlags(rawValue: 4)
}

public enum WhenFull: UInt8, Sendable, CaseIterable { case wait = 1, enospc }

/// A disk that left a space: recorded before the first acknowledgement without it.
public struct Departure: Hashable, Sendable {
    public var disk: DiskNumber
    public var lineage: Lineage
    /// The sequence of the configuration that first said so.
    public var generation: UInt64

    public init(disk: DiskNumber, lineage: Lineage, generation: UInt64) {
        self.disk = disk
        self.lineage = lineage
        self.generation = generation
    }
}
