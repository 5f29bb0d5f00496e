import Testing

@testable import PoolEngine

/// A repair finds how fast it may go without clients noticing.
@Suite struct RepairPaceTests {
    private static let floor: UInt64 = 2 << 20

    /// Clients send a request every 2 ms and wait 300 us for it, more or less; of every 16th
    /// `disturbed` says how long it takes, by how fast the repair copies; 0: it rests.
    private struct World {
        var pace = RepairPace()
        var nowNs: UInt64 = 5_000_000_000
        private var nextRequestNs: UInt64 = 0
        private var count: UInt64 = 0
        private(set) var copied: UInt64 = 0
        private(set) var restedNs: UInt64 = 0
        private var isResting = false

        mutating func run(seconds: UInt64, disturbed: (UInt64) -> UInt64?) {
            let endNs = nowNs + seconds * 1_000_000_000
            while nowNs < endNs {
                let startNs = pace.start(
                    bytes: 65_536, nowNs: nowNs, isPatient: false, floor: RepairPaceTests.floor)
                if startNs <= nowNs {
                    copied += 65_536
                    nowNs += 100_000
                } else {
                    isResting = startNs - nowNs > 100_000_000
                    if isResting { restedNs += startNs - nowNs }
                    while nextRequestNs < min(startNs, endNs) { request(disturbed) }
                    nowNs = startNs
                    isResting = false
                }
                while nextRequestNs < nowNs { request(disturbed) }
            }
        }

        private mutating func request(_ disturbed: (UInt64) -> UInt64?) {
            nextRequestNs = max(nextRequestNs, nowNs &- 1_000_000_000) + 2_000_000
            count += 1
            var tookNs = 250_000 + count % 10 * 10_000
            if count % 16 == 0, let longNs = disturbed(isResting ? 0 : pace.bytesPerSecond) { tookNs = longNs }
            pace.note(tookNs: tookNs)
        }
    }

    @Test func nobodyNoticesSoItGoesFasterAndFaster() {
        var world = World()
        world.run(seconds: 30, disturbed: { _ in nil })
        #expect(world.pace.bytesPerSecond > 1 << 30)
        // A fifth of the time is for finding out what clients take without it.
        #expect(world.restedNs > 4_000_000_000 && world.restedNs < 8_000_000_000)
    }

    /// From 40 MiB/s on every 16th request takes four times as long.
    @Test func itStaysBelowWhatClientsNotice() {
        var world = World()
        world.run(seconds: 60, disturbed: { $0 > 40 << 20 ? 1_200_000 : nil })
        let before = world.copied
        world.run(seconds: 60, disturbed: { $0 > 40 << 20 ? 1_200_000 : nil })
        let rate = (world.copied - before) / 60
        #expect(rate > 16 << 20 && rate < 40 << 20, "\(rate >> 20) MiB/s")
    }

    @Test func itNeverStops() {
        var world = World()
        world.run(seconds: 30, disturbed: { $0 > 0 ? 5_000_000 : nil })
        let before = world.copied
        world.run(seconds: 20, disturbed: { $0 > 0 ? 5_000_000 : nil })
        #expect(world.copied > before + 20 * Self.floor / 2)
    }

    /// Clients who are slow without it are slow for another reason.
    @Test func whatIsSlowWithoutItIsNotItsFault() {
        var world = World()
        var isSlow = false
        world.run(seconds: 30, disturbed: { _ in
            isSlow.toggle()
            return isSlow ? 3_000_000 : nil
        })
        #expect(world.pace.bytesPerSecond > 256 << 20)
    }
}
