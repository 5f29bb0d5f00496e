/// Work that goes on behind a pool's back: a rebuild, a scrub.
public struct JobStatus: Hashable, Sendable, Codable {
    /// Grows; begins anew with the daemon.
    public var id: UInt64
    public var kind: JobKind
    /// The disk's name, or the pool's where it is about all of it.
    public var subject: String
    public var state: JobState
    /// Why it does not go on, or what it could not do, and what to do about it; empty otherwise.
    public var reason: String
    public var action: String
    /// 0 to 1.
    public var progress: Double
    /// Written as `null` while unknown.
    public var etaSeconds: UInt64?
    /// Likewise.
    public var bytesPerSecond: UInt64?
    public var doneBytes: UInt64
    /// 0 while unknown.
    public var totalBytes: UInt64
    /// Blocks of 4 KiB found wrong and put right, and those that no copy has right.
    public var repairedBlocks: UInt64
    public var lostBlocks: UInt64

    public init(
        id: UInt64, kind: JobKind, subject: String, state: JobState, reason: String = "",
        action: String = "", progress: Double, etaSeconds: UInt64? = nil,
        bytesPerSecond: UInt64? = nil, doneBytes: UInt64 = 0, totalBytes: UInt64 = 0,
        repairedBlocks: UInt64 = 0, lostBlocks: UInt64 = 0
    ) {
        self.id = id
        self.kind = kind
        self.subject = subject
        self.state = state
        self.reason = reason
        self.action = action
        self.progress = progress
        self.etaSeconds = etaSeconds
        self.bytesPerSecond = bytesPerSecond
        self.doneBytes = doneBytes
        self.totalBytes = totalBytes
        self.repairedBlocks = repairedBlocks
        self.lostBlocks = lostBlocks
    }

    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(id, forKey: .id)
        try values.encode(kind, forKey: .kind)
        try values.encode(subject, forKey: .subject)
        try values.encode(state, forKey: .state)
        try values.encode(reason, forKey: .reason)
        try values.encode(action, forKey: .action)
        try values.encode(progress, forKey: .progress)
        try values.encode(etaSeconds, forKey: .etaSeconds)
        try values.encode(bytesPerSecond, forKey: .bytesPerSecond)
        try values.encode(doneBytes, forKey: .doneBytes)
        try values.encode(totalBytes, forKey: .totalBytes)
        try values.encode(repairedBlocks, forKey: .repairedBlocks)
        try values.encode(lostBlocks, forKey: .lostBlocks)
    }
}

/// What a pool works at, and what it last did.
public struct JobList: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var pool: String
    /// Ascending by id.
    public var jobs: [JobStatus]
    /// Of the daemon: one that is less than before is another daemon's, and so are the ids.
    public var uptimeSeconds: UInt64

    public init(pool: String, jobs: [JobStatus], uptimeSeconds: UInt64) {
        self.pool = pool
        self.jobs = jobs
        self.uptimeSeconds = uptimeSeconds
    }
}

/// A job that was accepted: it goes on whoever looks.
public struct JobAnswer: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var pool: String
    public var job: JobStatus
    /// As in ``JobList``.
    public var uptimeSeconds: UInt64

    public init(pool: String, job: JobStatus, uptimeSeconds: UInt64) {
        self.pool = pool
        self.job = job
        self.uptimeSeconds = uptimeSeconds
    }
}
