/// How long reads take in this shard, and which devices keep them for much longer.
///
/// A read that takes much longer than reads do is tried on another copy (``Space/hedge(_:)``), and
/// its device is read last for a while: for longer each time that a read finds it as it was. So a
/// slow disk costs the few reads that tell, and not those behind them. (After Dean and Barroso, "The
/// tail at scale", Communications of the ACM, 2013.)
struct ReadLatency: Sendable {
    private struct Late: Sendable {
        var device: DeviceIndex
        var untilNs: UInt64
        var lastedNs: UInt64
    }

    /// The mean and the mean deviation, each new read an eighth and a quarter of them.
    private var meanNs: UInt64 = 0
    private var deviationNs: UInt64 = 0
    /// Hundredths of hedges that may be made.
    private var credit = ReadLatency.startCredit
    private var late: [Late] = []
    /// From then on none of them is avoided.
    private var lateUntilNs: UInt64 = 0

    private static let longestNs: UInt64 = 3_600_000_000_000
    private static let startCredit = 1_600
    private static let mostCredit = 6_400

    /// - Parameter percent: of the reads that may be hedged.
    mutating func note(_ ns: UInt64, percent: Int) {
        // Longer is no more than that, and nothing that is counted from it overflows.
        let ns = min(ns, Self.longestNs)
        if meanNs == 0 {
            (meanNs, deviationNs) = (max(ns, 1), ns / 2)
        } else {
            let distance = ns > meanNs ? ns - meanNs : meanNs - ns
            deviationNs = deviationNs - deviationNs / 4 + distance / 4
            meanNs = max(1, meanNs - meanNs / 8 + ns / 8)
        }
        credit = min(credit + percent, Self.mostCredit)
    }

    /// From when on a read takes too long.
    func limitNs(_ limits: Limits) -> UInt64 {
        meanNs == 0 ? limits.hedgeAfterNs * 10 : max(limits.hedgeAfterNs, meanNs + 8 * deviationNs)
    }

    var hasCredit: Bool { credit >= 100 }

    mutating func takeCredit() { credit -= 100 }

    // MARK: - devices

    /// No device is to be avoided: the usual case, asked on every read.
    @inline(__always)
    func isNoneLate(nowNs: UInt64) -> Bool { nowNs >= lateUntilNs }

    func isLate(_ device: DeviceIndex, nowNs: UInt64) -> Bool {
        late.contains { $0.device == device && nowNs < $0.untilNs }
    }

    mutating func noteLate(_ device: DeviceIndex, nowNs: UInt64, _ limits: Limits) {
        // What has been right for as long again as it was wrong is forgiven.
        late.removeAll { nowNs >= $0.untilNs &+ $0.lastedNs }
        guard let index = late.firstIndex(where: { $0.device == device }) else {
            late.append(
                Late(device: device, untilNs: nowNs &+ limits.lateNs, lastedNs: limits.lateNs))
            lateUntilNs = max(lateUntilNs, nowNs &+ limits.lateNs)
            return
        }
        // Several reads tell of the same.
        guard nowNs >= late[index].untilNs else { return }
        late[index].lastedNs = min(late[index].lastedNs * 2, limits.mostLateNs)
        late[index].untilNs = nowNs &+ late[index].lastedNs
        lateUntilNs = max(lateUntilNs, late[index].untilNs)
    }

    /// It was opened anew, or has answered where another did not.
    mutating func forget(_ device: DeviceIndex) {
        if late.isEmpty { return }
        late.removeAll { $0.device == device }
        lateUntilNs = late.map(\.untilNs).max() ?? 0
    }
}
