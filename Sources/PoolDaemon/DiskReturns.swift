import PoolFormat

/// When a disk that went away by itself is tried again.
///
///     seen away ──5 s──► due ──tried──► 10 s, 20 s, ... 5 min ──► due
///                         ▲                     │
///                         │                     └─seen online─► on trial ──5 min──► forgotten
///                         └──after its present wait──away again────┘
///
/// A disk that comes back and fails once more waits longer each time, as one does that cannot be
/// brought back at all: each costs the others a resync.
struct ReturnWait: Hashable, Sendable {
    static let firstSeconds: Double = 5
    static let longestSeconds: Double = 300
    /// How long a disk has to stay before it counts as any other.
    static let trialSeconds: Double = 300

    private(set) var waitSeconds = firstSeconds
    private var dueSeconds: Double
    private var onlineSinceSeconds: Double?

    /// - Parameter seconds: of a clock that does not go back.
    init(awaySince seconds: Double) { dueSeconds = seconds + Self.firstSeconds }

    func isDue(_ seconds: Double) -> Bool {
        onlineSinceSeconds == nil && seconds >= dueSeconds
    }

    /// It was tried, whatever came of it.
    mutating func noteAttempt(_ seconds: Double) {
        waitSeconds = min(2 * waitSeconds, Self.longestSeconds)
        dueSeconds = seconds + waitSeconds
    }

    mutating func noteAway(_ seconds: Double) {
        guard onlineSinceSeconds != nil else { return }
        onlineSinceSeconds = nil
        dueSeconds = seconds + waitSeconds
    }

    /// - Returns: whether it is as any other disk again.
    mutating func noteOnline(_ seconds: Double) -> Bool {
        let since = onlineSinceSeconds ?? seconds
        onlineSinceSeconds = since
        return seconds - since >= Self.trialSeconds
    }
}

/// The disks of open pools that are away by themselves, and those on trial.
struct DiskReturns: Sendable {
    private var waits: [PoolUUID: ReturnWait] = [:]

    /// Takes what is seen of a disk.
    ///
    /// - Returns: whether it is time to bring it back.
    mutating func isDue(_ disk: PoolUUID, isAway: Bool, seconds: Double) -> Bool {
        guard var wait = waits[disk] else {
            if isAway { waits[disk] = ReturnWait(awaySince: seconds) }
            return false
        }
        if isAway {
            wait.noteAway(seconds)
            waits[disk] = wait
            return wait.isDue(seconds)
        }
        waits[disk] = wait.noteOnline(seconds) ? nil : wait
        return false
    }

    mutating func noteAttempt(_ disk: PoolUUID, seconds: Double) {
        waits[disk]?.noteAttempt(seconds)
    }

    /// Somebody has seen to it, or it is the pool's no more.
    mutating func forget(_ disk: PoolUUID) { waits[disk] = nil }

    /// Forgets the disks of no pool.
    mutating func keep(_ disks: Set<PoolUUID>) { waits = waits.filter { disks.contains($0.key) } }
}
