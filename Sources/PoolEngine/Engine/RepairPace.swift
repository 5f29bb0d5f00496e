import PoolFormat

/// How fast repair may go while clients are at work: as fast as they do not notice.
///
/// Time is cut into rounds. In the quiet part of one repair rests, and how long requests take then,
/// over the last few rounds, says what is slow: more than all but one in a hundred of them took. In
/// the working part repair copies at a rate. Where more than one in a hundred is slow the rate is
/// halved, else it grows by a quarter; so it finds what the disks have left, whatever they are and
/// whatever stands in front of them. It never falls below a floor: a repair comes to its end.
///
///     |-- quiet --|------------ working ------------|-- quiet --|---
///       measured    chunk .. chunk .. chunk .. chunk   measured
struct RepairPace: Sendable {
    private enum Part: Sendable { case quiet, working }

    /// By how many bits and eighths of a bit long a time is: how many took so long.
    private struct Histogram: Sendable {
        private var counts = [UInt32](repeating: 0, count: 64 * 8)
        private(set) var total: UInt32 = 0

        static func bucket(_ ns: UInt64) -> Int {
            let value = max(ns, 8)
            let exponent = 63 - value.leadingZeroBitCount
            return exponent * 8 + Int(value >> UInt64(exponent - 3) & 7)
        }

        mutating func add(_ ns: UInt64) {
            counts[Self.bucket(ns)] &+= 1
            total &+= 1
        }

        /// A quarter of it fades.
        mutating func fade() {
            total = 0
            for index in counts.indices {
                counts[index] -= (counts[index] + 3) / 4
                total += counts[index]
            }
        }

        /// The bucket that all but `count` are not above.
        func bucket(belowTop count: UInt32) -> Int {
            var left = count
            for index in counts.indices.reversed() {
                if counts[index] > left { return index }
                left -= counts[index]
            }
            return 0
        }
    }

    private var part = Part.quiet
    private var untilNs: UInt64 = 0
    /// Requests that come before then are told of.
    private var watchedUntilNs: UInt64 = 0
    private var quiet = Histogram()
    private var slowBucket = Int.max
    private var seen: UInt32 = 0
    private var slow: UInt32 = 0
    private var nextNs: UInt64 = 0
    private(set) var bytesPerSecond: UInt64 = 0

    private static let quietNs: UInt64 = 200_000_000
    private static let workingNs: UInt64 = 800_000_000
    private static let startBytesPerSecond: UInt64 = 16 << 20
    private static let mostBytesPerSecond: UInt64 = 16 << 30
    /// Fewer requests say nothing.
    private static let fewest: UInt32 = 100

    /// Somebody paces: requests are timed.
    @inline(__always)
    func isWatching(nowNs: UInt64) -> Bool { nowNs < watchedUntilNs }

    /// A client's read or write has ended.
    mutating func note(tookNs: UInt64) {
        switch part {
        case .quiet: quiet.add(tookNs)
        case .working:
            seen &+= 1
            if Histogram.bucket(tookNs) > slowBucket { slow &+= 1 }
        }
    }

    /// The next chunk is about to be copied, and none is under way.
    ///
    /// - Returns: when it may begin; `nowNs`: at once. Else it has to be asked again then.
    mutating func start(
        bytes: Int, nowNs: UInt64, isPatient: Bool, floor: UInt64
    ) -> UInt64 {
        // Nobody has paced for a while: what was known then may be true no more.
        if nowNs >= watchedUntilNs {
            self = RepairPace()
            (part, untilNs) = (.quiet, nowNs &+ Self.quietNs)
            bytesPerSecond = max(Self.startBytesPerSecond, floor)
        }
        watchedUntilNs = nowNs &+ 10_000_000_000
        if nowNs >= untilNs { turn(nowNs, isPatient: isPatient, floor: floor) }
        guard part == .working else { return untilNs }
        guard nowNs >= nextNs else { return min(nextNs, untilNs) }
        nextNs = max(nextNs, nowNs &- min(nowNs, 10_000_000))
            &+ UInt64(bytes) &* 1_000_000_000 / bytesPerSecond
        return nowNs
    }

    private mutating func turn(_ nowNs: UInt64, isPatient: Bool, floor: UInt64) {
        switch part {
        case .quiet:
            // A bucket is up to an eighth wide, and the next one is not slow yet: nothing is that exact.
            slowBucket =
                quiet.total == 0
                ? .max : quiet.bucket(belowTop: quiet.total / 100) + (isPatient ? 0 : 1)
            quiet.fade()
            (part, untilNs, nextNs) = (.working, nowNs &+ Self.workingNs, nowNs)
        case .working:
            if seen >= Self.fewest {
                let isTooFast = slow > seen / 100 + 1
                bytesPerSecond =
                    isTooFast ? bytesPerSecond / 2 : bytesPerSecond + bytesPerSecond / 4
                bytesPerSecond = min(max(bytesPerSecond, floor, 1), Self.mostBytesPerSecond)
                (seen, slow) = (0, 0)
            }
            (part, untilNs) = (.quiet, nowNs &+ Self.quietNs)
        }
    }
}
