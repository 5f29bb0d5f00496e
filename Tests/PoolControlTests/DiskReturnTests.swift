import Foundation
import PoolEngine
import PoolFormat
import Testing

@testable import PoolDaemon

/// When disks that went away are tried again, and how fast jobs go. Time is an argument: nothing
/// here waits.
@Suite struct DiskReturnTests {
    private static let disk = PoolUUID(high: 1, low: 1)

    /// The seconds at which a disk that never comes back is tried, looked at every `step` seconds.
    private func attempts(until end: Int, step: Int) -> [Int] {
        var returns = DiskReturns()
        return stride(from: 0, to: end, by: step).filter { second in
            let isDue = returns.isDue(Self.disk, isAway: true, seconds: Double(second))
            if isDue { returns.noteAttempt(Self.disk, seconds: Double(second)) }
            return isDue
        }
    }

    @Test func theWaitDoublesUpToFiveMinutes() {
        #expect(attempts(until: 1500, step: 1) == [5, 15, 35, 75, 155, 315, 615, 915, 1215])
        #expect(attempts(until: 100, step: 5) == [5, 15, 35, 75])
    }

    @Test func aDiskThatIsNowhereStaysDue() {
        var returns = DiskReturns()
        let due = (0..<900).filter {
            returns.isDue(Self.disk, isAway: true, seconds: Double($0))
        }
        #expect(due == Array(5..<900))
    }

    @Test func aDiskThatFailsOnceMoreWaitsLonger() {
        var wait = ReturnWait(awaySince: 0)
        wait.noteAttempt(5)
        #expect(!wait.noteOnline(6) && !wait.isDue(100), "what is online is not tried")
        wait.noteAway(100)
        wait.noteAway(105)
        #expect(!wait.isDue(109.9) && wait.isDue(110), "10 s from when it failed again")
        wait.noteAttempt(110)
        #expect(wait.waitSeconds == 20 && !wait.isDue(129) && wait.isDue(130))
    }

    @Test func aDiskThatStaysIsAsAnyOther() {
        var wait = ReturnWait(awaySince: 0)
        wait.noteAttempt(5)
        #expect(!wait.noteOnline(10) && !wait.noteOnline(309) && wait.noteOnline(310))
        var returns = DiskReturns()
        for (second, isAway) in [(0, true), (5, true), (10, false), (309, false), (310, false)] {
            if returns.isDue(Self.disk, isAway: isAway, seconds: Double(second)) {
                returns.noteAttempt(Self.disk, seconds: Double(second))
            }
        }
        // Forgotten: the wait begins anew.
        let due = [400, 404, 405].map { returns.isDue(Self.disk, isAway: true, seconds: $0) }
        #expect(due == [false, false, true])
    }

    @Test func whoSeesToADiskStartsAnew() {
        var returns = DiskReturns()
        for forget in [{ (r: inout DiskReturns) in r.forget(Self.disk) }, { $0.keep([]) }] {
            _ = returns.isDue(Self.disk, isAway: true, seconds: 0)
            for second in [5.0, 15, 35] { returns.noteAttempt(Self.disk, seconds: second) }
            forget(&returns)
            let due = [40, 45].map { returns.isDue(Self.disk, isAway: true, seconds: $0) }
            returns.keep([Self.disk])
            let isStillDue = returns.isDue(Self.disk, isAway: true, seconds: 45)
            #expect(due == [false, true] && isStillDue)
            returns.forget(Self.disk)
        }
    }
}

/// When what is missing is searched for everywhere.
@Suite struct SearchPaceTests {
    private static let first = Surroundings(missing: [PoolUUID(high: 1, low: 1)])

    private func searches(
        _ range: StrideTo<Int>, _ pace: inout SearchPace, _ surroundings: Surroundings
    ) -> [Int] {
        range.filter { pace.isDue(surroundings, seconds: Double($0)) }
    }

    @Test func whatIsNowhereIsSearchedForLessAndLessOften() {
        var pace = SearchPace()
        let found = searches(stride(from: 0, to: 1500, by: 5), &pace, Self.first)
        #expect(found == [0, 5, 15, 35, 75, 155, 315, 615, 915, 1215])
    }

    @Test func whatHasChangedIsSearchedAtOnce() {
        let changes: [(inout Surroundings) -> Void] = [
            { $0.missing.insert(PoolUUID(high: 1, low: 2)) }, { $0.devices["sdb"] = "2048" },
            { $0.folders["/disks"] = [1, 2, 3] },
        ]
        for change in changes {
            var pace = SearchPace()
            _ = searches(stride(from: 0, to: 200, by: 5), &pace, Self.first)
            var changed = Self.first
            change(&changed)
            let found = searches(stride(from: 200, to: 240, by: 5), &pace, changed)
            #expect(found == [200, 205, 215, 235])
        }
    }

    @Test func aFolderTellsThatSomethingHasCome() throws {
        let folder = FileManager.default.temporaryDirectory.path + "/poold-surroundings-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let paths = [folder + "/d1", "/dev/x"]
        func look() -> Surroundings { Surroundings(missing: [], around: paths) }
        let before = look()
        #expect(before == look() && before.folders.keys.sorted() == [folder])
        // The clock of a file system may stand still for some milliseconds.
        usleep(20_000)
        _ = FileManager.default.createFile(atPath: folder + "/d2", contents: nil)
        #expect(before != look())
    }
}

@Suite struct JobRateTests {
    private static let mib: UInt64 = 1 << 20

    @Test func aSteadyRateIsCarriedOn() {
        var rate = JobRate()
        #expect(rate.bytesPerSecond == nil && rate.secondsLeft(of: 100) == nil)
        for second in 0...30 {
            rate.add(seconds: Double(second), doneBytes: UInt64(second) * Self.mib)
        }
        #expect(rate.bytesPerSecond == Self.mib)
        #expect(rate.secondsLeft(of: 130 * Self.mib) == 100)
        #expect(rate.secondsLeft(of: 30 * Self.mib) == 0)
        #expect(rate.secondsLeft(of: 10 * Self.mib) == 0, "done is more than there was to do")
        #expect(rate.secondsLeft(of: 0) == nil, "how much there is, is not known")
        #expect(rate.secondsLeft(of: .max) == nil, "beyond anybody's patience")
    }

    @Test func nothingIsKnownOfWhatStandsStillOrHasJustBegun() {
        var rate = JobRate()
        rate.add(seconds: 0, doneBytes: 5)
        rate.add(seconds: 1, doneBytes: 500)
        #expect(rate.bytesPerSecond == nil)
        for second in 2...10 { rate.add(seconds: Double(second), doneBytes: 500) }
        var still = JobRate()
        for second in 0...10 { still.add(seconds: Double(second), doneBytes: 7) }
        #expect(still.bytesPerSecond == 0 && still.secondsLeft(of: 100) == nil)
    }

    /// However often somebody asks; and what was before the last minute is forgotten.
    @Test func theRateIsThatOfTheLastMinute() {
        var rate = JobRate()
        for tick in 0..<4000 {
            let second = Double(tick) / 10
            rate.add(seconds: second, doneBytes: UInt64(second < 200 ? second * 1000 : 200_000))
            #expect(rate.samples.count <= 61)
        }
        #expect(rate.bytesPerSecond == 0)
        rate.add(seconds: 1000, doneBytes: 5)
        #expect(rate.samples.count == 1, "it began anew")
    }

    @Test func whatDoesNotRunHasNoRate() {
        let rates = JobRates()
        let pool = PoolUUID(high: 1, low: 1)
        var job = Pool.Job(id: 1, kind: .scrub, disk: nil, state: .running, totalBytes: 1000)
        for second in 0...4 {
            job.doneBytes = UInt64(second) * 100
            rates.note(pool, seconds: Double(second), [job])
        }
        #expect(rates.note(pool, seconds: 5, [job])[1]?.bytesPerSecond == 80)
        #expect(rates.note(PoolUUID(high: 2, low: 2), seconds: 5, [job])[1]?.bytesPerSecond == nil)
        job.state = .paused
        #expect(rates.note(pool, seconds: 6, [job]).isEmpty)
        job.state = .running
        #expect(rates.note(pool, seconds: 7, [job])[1]?.bytesPerSecond == nil)
    }
}
