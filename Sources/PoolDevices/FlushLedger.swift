import Synchronization

/// The flushes of one disk, of every shard: what one of them may be told depends on the others.
///
/// Every shard has the same open file, and the kernel reports what it could not write to one flush
/// of it; a device that failed a flush may have dropped what every shard had written. So:
///
/// 1. Once a flush has failed, none succeeds any more.
/// 2. A flush is told to have succeeded only once those that were under way when it ended have ended
///    too, and none has failed.
///
///                    ┌─ok, alone────────────────────────────────────────────► succeeded
///     begin ─► under way ─ok─► held, until those under way by now have ended ─► succeeded
///                    │           └────── one of them fails ─────────────────► failed
///                    └─failed, or one has failed before─────────────────────► failed
final class FlushLedger: Sendable {
    enum Outcome { case succeeded, failed, held }

    private struct Held {
        /// It waits for the flushes that began before this one.
        var before: UInt64
        var tell: @Sendable (_ hasSucceeded: Bool) -> Void
    }

    private struct State {
        var hasFailed = false
        var next: UInt64 = 0
        /// Ascending.
        var underWay: [UInt64] = []
        var held: [Held] = []
    }

    private let state = Mutex(State())

    /// A flush is given to the kernel.
    ///
    /// - Returns: its number, for ``end(_:hasSucceeded:tell:)``.
    func begin() -> UInt64 {
        state.withLock { state in
            state.next += 1
            state.underWay.append(state.next)
            return state.next
        }
    }

    /// A flush has come back. Tells those that it held back.
    ///
    /// - Parameter tell: called when this one is held, once its outcome is known, on the thread of
    ///   the flush that decides it.
    func end(
        _ number: UInt64, hasSucceeded: Bool, tell: () -> @Sendable (_ hasSucceeded: Bool) -> Void
    ) -> Outcome {
        let (outcome, released, hasFailed) = state.withLock { state in
            state.underWay.removeAll { $0 == number }
            if !hasSucceeded { state.hasFailed = true }
            let first = state.underWay.first ?? .max
            let isReleased = { (held: Held) in state.hasFailed || held.before <= first }
            let released = state.held.filter(isReleased)
            if !released.isEmpty { state.held.removeAll(where: isReleased) }
            guard !state.hasFailed else { return (Outcome.failed, released, true) }
            guard !state.underWay.isEmpty else { return (Outcome.succeeded, released, false) }
            state.held.append(Held(before: state.next + 1, tell: tell()))
            return (Outcome.held, released, false)
        }
        for held in released { held.tell(!hasFailed) }
        return outcome
    }

    /// What the disk holds is not what it was given.
    func fail() { state.withLock { $0.hasFailed = true } }
}
