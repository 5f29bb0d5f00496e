/// The words of the protocol: each enum's raw values are what stands in the JSON.

public enum Media: String, Hashable, Sendable, Codable, CaseIterable { case ssd, hdd }

public enum Resiliency: String, Hashable, Sendable, Codable, CaseIterable {
    case simple, mirror2, mirror3, parity1, parity2

    public var isParity: Bool { self == .parity1 || self == .parity2 }
}

public enum Provisioning: String, Hashable, Sendable, Codable, CaseIterable { case thin, fixed }

/// What a write that needs new space does when there is none.
public enum WhenFullPolicy: String, Hashable, Sendable, Codable, CaseIterable {
    case wait, enospc
}

public enum DiskCondition: String, Hashable, Sendable, Codable, CaseIterable {
    case online, offline, missing, failed, retired, rebuilding
}

/// How full a pool is, by its thresholds.
public enum FillState: String, Hashable, Sendable, Codable, CaseIterable, Comparable {
    case ok, notice, warning, critical

    private var rank: Int {
        switch self {
        case .ok: 0
        case .notice: 1
        case .warning: 2
        case .critical: 3
        }
    }

    public static func < (a: FillState, b: FillState) -> Bool { a.rank < b.rank }
}

/// From best to worst.
public enum Health: String, Hashable, Sendable, Codable, CaseIterable, Comparable {
    /// Full redundancy; of a simple space: all disks present.
    case healthy
    /// Less than that, and one more loss is safe.
    case degraded
    /// All readable, one more loss is fatal.
    case noRedundancy = "no-redundancy"
    /// Some data cannot be read.
    case incomplete
    /// Refuses writes: no quorum, or fenced.
    case readOnly = "read-only"
    /// Not open.
    case detached

    private var rank: Int {
        switch self {
        case .healthy: 0
        case .degraded: 1
        case .noRedundancy: 2
        case .incomplete: 3
        case .readOnly: 4
        case .detached: 5
        }
    }

    public static func < (a: Health, b: Health) -> Bool { a.rank < b.rank }
}

/// What a job is for.
public enum JobKind: String, Hashable, Sendable, Codable, CaseIterable {
    /// A disk that was away gets what it missed.
    case resync
    /// What lost a copy gets another.
    case repair
    /// A disk is emptied onto the others.
    case retire
    /// A new disk takes another's place.
    case replace
    /// What is there is spread over all disks.
    case rebalance
    /// Everything is read and checked.
    case scrub
}

/// How it is with a job.
public enum JobState: String, Hashable, Sendable, Codable, CaseIterable {
    /// For its turn, or for a disk to come back.
    case waiting
    case running
    /// Until it is told to go on.
    case paused
    /// Something is missing that somebody has to see to.
    case blocked
    case done
    case failed

    /// Nothing more will become of it.
    public var isOver: Bool {
        switch self {
        case .waiting, .running, .paused, .blocked: false
        case .done, .failed: true
        }
    }
}
