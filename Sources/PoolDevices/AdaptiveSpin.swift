/// Decides whether a wait should spin before it sleeps.
///
/// Spinning pays when the next completion comes sooner than a wake-up would cost. It never does on
/// an idle daemon, nor when the client needs this very core to send its next request. So a spin
/// that found nothing doubles the number of waits that do not try, one that found something halves
/// it, and after a long sleep nothing is tried at all.
struct AdaptiveSpin: Sendable {
    let limitNs: UInt64
    private var penalty = 0
    private var waitsToSkip = 0
    private var lastSleepWasLong = true

    private static let highestPenalty = 1024

    init(limitNs: UInt64) { self.limitNs = limitNs }

    mutating func shouldSpin() -> Bool {
        guard limitNs > 0, !lastSleepWasLong else { return false }
        if waitsToSkip > 0 {
            waitsToSkip -= 1
            return false
        }
        return true
    }

    mutating func spinEnded(found: Bool) {
        if found {
            penalty /= 2
        } else {
            penalty = min(max(1, penalty * 2), Self.highestPenalty)
            waitsToSkip = penalty
        }
    }

    mutating func slept(_ durationNs: UInt64) {
        // Twice the limit: a sleep that short includes the wake-up that a spin would have saved.
        lastSleepWasLong = durationNs > limitNs * 2
    }
}
