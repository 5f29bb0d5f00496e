import PoolControl
import PoolFormat
import Synchronization

/// How fast a pool has been filling, from samples of what was allocated.
///
/// At most ``sampleLimit`` samples of the last hour are kept; when they become too many every second
/// one goes, so that their spacing follows how often somebody asks.
struct FillForecast: Sendable {
    struct Sample: Hashable, Sendable {
        var seconds: Double
        var allocatedBytes: UInt64
    }

    static let sampleLimit = 64
    static let windowSeconds: Double = 3600
    /// Samples closer together than this tell nothing new.
    static let spacingSeconds: Double = 1
    /// A rate needs as much time, and as many steps up: one space that is made is no trend.
    static let baseSeconds: Double = 5
    static let leastSteps = 3
    /// Beyond this nobody plans: ten years.
    static let horizonSeconds: Double = 315_576_000

    private(set) var samples: [Sample] = []

    /// - Parameter seconds: of a clock that does not go back.
    mutating func add(seconds: Double, allocatedBytes: UInt64) {
        if let last = samples.last, seconds - last.seconds < Self.spacingSeconds { return }
        samples.removeAll { seconds - $0.seconds > Self.windowSeconds }
        if samples.count >= Self.sampleLimit {
            samples = samples.enumerated().filter { $0.offset % 2 == 0 }.map(\.element)
        }
        samples.append(Sample(seconds: seconds, allocatedBytes: allocatedBytes))
    }

    /// The slope of the least-squares line through the samples, carried on; nil while the pool does
    /// not fill, or not long enough is known. Slabs are large, so single samples jump.
    func secondsToFull(freeBytes: UInt64) -> UInt64? {
        guard let first = samples.first, let last = samples.last,
            last.seconds - first.seconds >= Self.baseSeconds
        else { return nil }
        let steps = zip(samples, samples.dropFirst()).count {
            $0.allocatedBytes < $1.allocatedBytes
        }
        guard steps >= Self.leastSteps else { return nil }
        let count = Double(samples.count)
        let meanTime = samples.reduce(0) { $0 + ($1.seconds - first.seconds) } / count
        let meanBytes = samples.reduce(0) { $0 + Double($1.allocatedBytes) } / count
        var (covariance, variance) = (0.0, 0.0)
        for sample in samples {
            let time = sample.seconds - first.seconds - meanTime
            covariance += time * (Double(sample.allocatedBytes) - meanBytes)
            variance += time * time
        }
        guard variance > 0, covariance > 0 else { return nil }
        let seconds = Double(freeBytes) / (covariance / variance)
        return seconds <= Self.horizonSeconds ? UInt64(seconds) : nil
    }
}

/// One pool's fill: its state by the thresholds in effect, its forecast, and what of it the log has
/// been told.
struct FillWatch: Sendable {
    /// What is known of a pool's room at one moment.
    struct Room: Hashable, Sendable {
        var allocatedBytes: UInt64
        /// What may still be granted.
        var freeBytes: UInt64
        var waitingWrites: Int
        var thresholds: PoolSettings.Thresholds

        /// Rounded down; 100 only when nothing is free.
        var percent: Int {
            let bytes = Double(allocatedBytes) + Double(freeBytes)
            return bytes > 0 ? Int(Double(allocatedBytes) * 100 / bytes) : 0
        }

        /// Where writes wait it is critical, whatever the percentage: what is left may be on disks
        /// where it helps nobody.
        var state: FillState {
            if waitingWrites > 0 { return .critical }
            return switch percent {
            case Int(thresholds.critical)...: .critical
            case Int(thresholds.warning)...: .warning
            case Int(thresholds.notice)...: .notice
            default: .ok
            }
        }

        /// Why it is in its state; empty while that is ok.
        var reason: String {
            if waitingWrites > 0 {
                return waitingWrites == 1
                    ? "1 write waits for room" : "\(waitingWrites) writes wait for room"
            }
            let threshold: UInt8
            switch state {
            case .ok: return ""
            case .notice: threshold = thresholds.notice
            case .warning: threshold = thresholds.warning
            case .critical: threshold = thresholds.critical
            }
            return "it is \(percent) % full, \(state.rawValue) from \(threshold) % on"
        }
    }

    private(set) var forecast = FillForecast()
    private var told = FillState.ok

    /// Takes a sample.
    ///
    /// - Returns: the states before and now, where a threshold was crossed since the last.
    mutating func sample(seconds: Double, _ room: Room) -> (before: FillState, now: FillState)? {
        forecast.add(seconds: seconds, allocatedBytes: room.allocatedBytes)
        defer { told = room.state }
        return room.state == told ? nil : (told, room.state)
    }
}

/// The watches of all pools; asked from several threads.
final class FillWatches: Sendable {
    private struct State {
        var watches: [PoolUUID: FillWatch] = [:]
        var dueSeconds: Double = 0
    }

    private let state = Mutex(State())

    /// Whether it is time for the next sample that nobody asked for; it is then the next one's turn
    /// to wait.
    func isDue(_ seconds: Double) -> Bool {
        state.withLock { state in
            guard seconds >= state.dueSeconds else { return false }
            state.dueSeconds = seconds + PoolRegistry.fillSampleSeconds
            return true
        }
    }

    func note(
        _ pool: PoolUUID, seconds: Double, _ room: FillWatch.Room
    ) -> (crossed: (before: FillState, now: FillState)?, secondsToFull: UInt64?) {
        state.withLock { state in
            var watch = state.watches[pool] ?? FillWatch()
            let crossed = watch.sample(seconds: seconds, room)
            state.watches[pool] = watch
            return (crossed, watch.forecast.secondsToFull(freeBytes: room.freeBytes))
        }
    }

    func forget(_ pool: PoolUUID) { state.withLock { $0.watches[pool] = nil } }
}
