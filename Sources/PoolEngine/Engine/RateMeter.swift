/// How much there was in the last seconds: of this window of five, and of the one before it.
struct RateMeter: Sendable {
    private static let windowNs: UInt64 = 5_000_000_000

    private var startNs: UInt64 = 0
    private var sum: UInt64 = 0
    private var before: UInt64 = 0

    mutating func add(_ amount: UInt64, nowNs: UInt64) {
        let windows = nowNs < startNs ? 0 : (nowNs - startNs) / Self.windowNs
        if windows > 0 {
            before = windows == 1 ? sum : 0
            sum = 0
            startNs &+= windows &* Self.windowNs
        }
        sum &+= amount
    }

    func perSecond(nowNs: UInt64) -> UInt64 {
        var now = self
        now.add(0, nowNs: nowNs)
        let elapsedNs = now.before > 0 ? Self.windowNs &+ (nowNs &- now.startNs) : Self.windowNs
        let seconds = Double(elapsedNs) / 1e9
        return UInt64((Double(now.sum) + Double(now.before)) / seconds)
    }
}
