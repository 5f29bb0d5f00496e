/// Where a space lies, and what may happen to its disks without loss.
public struct SpaceExplanation: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var name: String
    public var pool: String
    public var resiliency: Resiliency
    public var health: Health
    public var reason: String
    public var action: String
    /// What may fail now without loss of data, in words.
    public var mayFail: String
    /// Every slab group; at most ``maximumGroups``.
    public var groups: [GroupPlace]
    /// Groups that are not listed.
    public var groupsOmitted: Int
    /// How wide its groups are, of all groups, the widest first.
    public var widths: [Width]
    /// Groups on the same disks folded into one, of all groups.
    public var placements: [Placement]
    /// Disks that hold copies of the space's own metadata.
    public var metadataDisks: [String]
    /// Every disk of the pool.
    public var disks: [DiskPlace]
    /// Fault domains of more than one disk, or by tag.
    public var domains: [DomainPlace]
    public var repairs: [JobStatus]
    /// What its write cache may hold, and what lies there.
    public var writeCacheBytes: UInt64
    public var writeCacheDirtyBytes: UInt64

    /// Some thousands of groups are some TiB, and some MiB of JSON.
    public static let maximumGroups = 10_000
    public static let maximumPlacements = 2_000

    public struct GroupPlace: Hashable, Sendable, Codable {
        public var id: UInt32
        public var layout: Resiliency
        public var media: Media
        public var columns: Int
        public var copies: Int
        /// Column by column, the copies of each.
        public var disks: [String]
        /// No column has two copies in one fault domain.
        public var separated: Bool

        public init(
            id: UInt32, layout: Resiliency, media: Media, columns: Int, copies: Int,
            disks: [String], separated: Bool
        ) {
            self.id = id
            self.layout = layout
            self.media = media
            self.columns = columns
            self.copies = copies
            self.disks = disks
            self.separated = separated
        }
    }

    public struct Width: Hashable, Sendable, Codable {
        /// Of data.
        public var columns: Int
        public var parity: Int
        public var copies: Int
        /// Slab groups of this width.
        public var count: Int
        /// The share of what they take on the disks that is data.
        public var efficiency: Double

        public init(columns: Int, parity: Int, copies: Int, count: Int) {
            self.columns = columns
            self.parity = parity
            self.copies = copies
            self.count = count
            efficiency = Double(columns) / Double(max(1, columns * copies + parity))
        }
    }

    public struct Placement: Hashable, Sendable, Codable {
        /// Ids and ranges of ids: `0-3,7`.
        public var groups: String
        public var count: Int
        /// The disks of each column.
        public var columns: [[String]]

        public init(groups: String, count: Int, columns: [[String]]) {
            self.groups = groups
            self.count = count
            self.columns = columns
        }
    }

    public struct DiskPlace: Hashable, Sendable, Codable {
        public var name: String
        public var state: DiskCondition
        /// `rack r1`, `node n1`, `enclosure e1`; empty for a disk without tags.
        public var domain: String
        /// Slab groups with a part on it.
        public var groups: Int
        public var safeToPull: Bool
        public var reason: String

        public init(
            name: String, state: DiskCondition, domain: String, groups: Int, safeToPull: Bool,
            reason: String
        ) {
            self.name = name
            self.state = state
            self.domain = domain
            self.groups = groups
            self.safeToPull = safeToPull
            self.reason = reason
        }
    }

    public struct DomainPlace: Hashable, Sendable, Codable {
        public var name: String
        public var disks: [String]
        public var safeToLose: Bool
        public var reason: String

        public init(name: String, disks: [String], safeToLose: Bool, reason: String) {
            self.name = name
            self.disks = disks
            self.safeToLose = safeToLose
            self.reason = reason
        }
    }

    public init(
        name: String, pool: String, resiliency: Resiliency, health: Health, reason: String,
        action: String, mayFail: String, groups: [GroupPlace], groupsOmitted: Int,
        widths: [Width], placements: [Placement], metadataDisks: [String], disks: [DiskPlace],
        domains: [DomainPlace], repairs: [JobStatus] = [], writeCacheBytes: UInt64 = 0,
        writeCacheDirtyBytes: UInt64 = 0
    ) {
        self.name = name
        self.pool = pool
        self.resiliency = resiliency
        self.health = health
        self.reason = reason
        self.action = action
        self.mayFail = mayFail
        self.groups = groups
        self.groupsOmitted = groupsOmitted
        self.widths = widths
        self.placements = placements
        self.metadataDisks = metadataDisks
        self.disks = disks
        self.domains = domains
        self.repairs = repairs
        self.writeCacheBytes = writeCacheBytes
        self.writeCacheDirtyBytes = writeCacheDirtyBytes
    }

    /// `0-3,7`: ascending ids, runs folded, at most `limit` parts and then `...`.
    public static func ranges(_ ids: [UInt32], limit: Int = 100) -> String {
        var runs: [ClosedRange<UInt32>] = []
        for id in ids {
            if let last = runs.last, last.upperBound < .max, id == last.upperBound + 1 {
                runs[runs.count - 1] = last.lowerBound...id
            } else {
                runs.append(id...id)
            }
        }
        let parts = runs.prefix(limit).map {
            $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)"
        }
        return parts.joined(separator: ",") + (runs.count > limit ? ",..." : "")
    }
}
