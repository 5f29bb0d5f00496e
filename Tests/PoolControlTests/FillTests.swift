import PoolControl
import PoolFormat
import Testing

@testable import PoolDaemon

/// How a pool's filling is seen, said and foretold. Time is an argument: nothing here waits.
@Suite struct FillTests {
    private static let gib: UInt64 = 1 << 30
    private static let byDefault = PoolSettings.Thresholds.byDefault

    private func room(
        _ percent: UInt64, _ thresholds: PoolSettings.Thresholds = byDefault, waiting: Int = 0
    ) -> FillWatch.Room {
        FillWatch.Room(
            allocatedBytes: percent * Self.gib, freeBytes: (100 - percent) * Self.gib,
            waitingWrites: waiting, thresholds: thresholds)
    }

    @Test(arguments: [
        (UInt64(0), FillState.ok), (69, .ok), (70, .notice), (84, .notice), (85, .warning),
        (94, .warning), (95, .critical), (100, .critical),
    ])
    func aStateBeginsAtItsThreshold(_ percent: UInt64, _ state: FillState) {
        #expect(room(percent).state == state)
        #expect(room(percent).reason.isEmpty == (state == .ok))
    }

    @Test func writesThatWaitAreCriticalWhateverTheFigure() {
        #expect(room(10, waiting: 1).state == .critical)
        #expect(room(10, waiting: 1).reason == "1 write waits for room")
        #expect(room(99, waiting: 12).reason == "12 writes wait for room")
        #expect(room(86).reason == "it is 86 % full, warning from 85 % on")
    }

    @Test func thresholdsAreThePools() {
        let early = PoolSettings.Thresholds(notice: 1, warning: 2, critical: 100)
        #expect(room(0, early).state == .ok && room(1, early).state == .notice)
        #expect(room(99, early).state == .warning && room(100, early).state == .critical)
        let empty = FillWatch.Room(
            allocatedBytes: 0, freeBytes: 0, waitingWrites: 0, thresholds: Self.byDefault)
        #expect(empty.percent == 0 && empty.state == .ok)
    }

    @Test func eachCrossingIsToldOnce() {
        var watch = FillWatch()
        var told: [String] = []
        for (second, percent) in [10, 71, 72, 96, 96, 86, 50, 50, 99].enumerated() {
            if let crossed = watch.sample(seconds: Double(second), room(UInt64(percent))) {
                told.append("\(crossed.before) \(crossed.now)")
            }
        }
        #expect(
            told == [
                "ok notice", "notice critical", "critical warning", "warning ok", "ok critical",
            ])
    }

    @Test func aSteadyRateIsCarriedOn() throws {
        var forecast = FillForecast()
        for minute in 0...10 {
            forecast.add(
                seconds: Double(minute) * 60, allocatedBytes: UInt64(minute) * 6 * Self.gib)
        }
        // 6 GiB a minute, 40 GiB free.
        let seconds = try #require(forecast.secondsToFull(freeBytes: 40 * Self.gib))
        #expect((395...405).contains(seconds))
        #expect(forecast.secondsToFull(freeBytes: 0) == 0)
    }

    @Test func noForecastWithoutGrowth() {
        var forecast = FillForecast()
        #expect(forecast.secondsToFull(freeBytes: 1) == nil)
        forecast.add(seconds: 0, allocatedBytes: 5)
        #expect(forecast.secondsToFull(freeBytes: 1) == nil)
        forecast.add(seconds: 2, allocatedBytes: 50)
        #expect(forecast.secondsToFull(freeBytes: 1) == nil, "two seconds are no trend")
        var once = FillForecast()
        for minute in 0..<10 {
            once.add(seconds: Double(minute) * 60, allocatedBytes: minute < 5 ? 1 : 9)
        }
        #expect(once.secondsToFull(freeBytes: 1) == nil, "one step is no trend")
        var still = FillForecast()
        var falling = FillForecast()
        var creeping = FillForecast()
        for minute in 0..<10 {
            let seconds = Double(minute) * 60
            still.add(seconds: seconds, allocatedBytes: 7)
            falling.add(seconds: seconds, allocatedBytes: UInt64(100 - minute))
            creeping.add(seconds: seconds, allocatedBytes: UInt64(minute))
        }
        #expect(still.secondsToFull(freeBytes: 1) == nil)
        #expect(falling.secondsToFull(freeBytes: 1) == nil)
        #expect(creeping.secondsToFull(freeBytes: 1 << 60) == nil, "beyond anybody's horizon")
    }

    /// However often somebody asks, and for however long.
    @Test func samplesAreBoundedAndForgetYesterday() {
        var forecast = FillForecast()
        for tick in 0..<200_000 {
            forecast.add(seconds: Double(tick) / 4, allocatedBytes: UInt64(tick))
            #expect(forecast.samples.count <= FillForecast.sampleLimit)
        }
        let span = (forecast.samples.last?.seconds ?? 0) - (forecast.samples.first?.seconds ?? 0)
        #expect(span <= FillForecast.windowSeconds && span > FillForecast.windowSeconds / 2)
        for (a, b) in zip(forecast.samples, forecast.samples.dropFirst()) {
            #expect(b.seconds - a.seconds >= FillForecast.spacingSeconds)
        }
        // It grew for a day, and has not for more than an hour: no forecast.
        let now = 50_000.0 + 4000
        for tick in 0..<3700 {
            forecast.add(seconds: now + Double(tick), allocatedBytes: 200_000)
        }
        #expect(forecast.secondsToFull(freeBytes: 1) == nil)
    }

    @Test func samplesThatNobodyAskedForComeOnceAMinute() {
        let watches = FillWatches()
        var taken: [Int] = []
        for second in stride(from: 0, to: 300, by: 5) where watches.isDue(Double(second)) {
            taken.append(second)
        }
        #expect(taken == [0, 60, 120, 180, 240])
    }
}
