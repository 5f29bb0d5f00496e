import PoolEngine
import PoolFormat
import Synchronization

/// How fast a job has gone in the last minute, and what that says of its end.
struct JobRate: Sendable {
    struct Sample: Hashable, Sendable {
        var seconds: Double
        var doneBytes: UInt64
    }

    static let windowSeconds: Double = 60
    /// Samples closer together than this tell nothing new; so there are at most 61.
    static let spacingSeconds: Double = 1
    /// A rate needs as much time.
    static let baseSeconds: Double = 2
    /// Beyond this nobody waits: a year.
    static let horizonSeconds: Double = 31_557_600

    private(set) var samples: [Sample] = []

    /// - Parameter seconds: of a clock that does not go back.
    mutating func add(seconds: Double, doneBytes: UInt64) {
        if let last = samples.last {
            if doneBytes < last.doneBytes { samples = [] }
            if doneBytes >= last.doneBytes, seconds - last.seconds < Self.spacingSeconds { return }
        }
        samples.removeAll { seconds - $0.seconds > Self.windowSeconds }
        samples.append(Sample(seconds: seconds, doneBytes: doneBytes))
    }

    /// nil: not long enough is known.
    var bytesPerSecond: UInt64? {
        guard let first = samples.first, let last = samples.last,
            last.seconds - first.seconds >= Self.baseSeconds
        else { return nil }
        let bytes = Double(last.doneBytes - first.doneBytes)
        return UInt64(exactly: (bytes / (last.seconds - first.seconds)).rounded(.down))
    }

    /// Until all of it is done at this rate; nil: that is not known, or not foreseeable.
    func secondsLeft(of totalBytes: UInt64) -> UInt64? {
        guard totalBytes > 0, let last = samples.last, let rate = bytesPerSecond, rate > 0 else {
            return nil
        }
        let left = totalBytes > last.doneBytes ? totalBytes - last.doneBytes : 0
        let seconds = (Double(left) / Double(rate)).rounded(.up)
        return seconds <= Self.horizonSeconds ? UInt64(seconds) : nil
    }
}

/// The rates of all jobs that run; asked from several threads.
final class JobRates: Sendable {
    private let rates = Mutex<[PoolUUID: [UInt64: JobRate]]>([:])

    /// Takes a sample of each job of a pool. One that does not run has no rate: what comes
    /// afterwards is not what was before.
    ///
    /// - Returns: rates by the job's id.
    @discardableResult
    func note(_ pool: PoolUUID, seconds: Double, _ jobs: [Pool.Job]) -> [UInt64: JobRate] {
        rates.withLock { rates in
            var next: [UInt64: JobRate] = [:]
            for job in jobs where job.state == .running {
                var rate = rates[pool]?[job.id] ?? JobRate()
                rate.add(seconds: seconds, doneBytes: job.doneBytes)
                next[job.id] = rate
            }
            rates[pool] = next.isEmpty ? nil : next
            return next
        }
    }

    func forget(_ pool: PoolUUID) { rates.withLock { $0[pool] = nil } }
}
