import PoolEngine
import Testing

@testable import PoolSimulator

/// What becomes of the bytes when a disk vanishes.
@Suite struct UnreachableDiskTests {
    @Test func whatIsInFlightLandsOrNotAndNothingAfterIt() {
        var seen: Set<[UInt8]> = []
        for seed in 0..<20 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 1024, 1)
            let flying = bench.start(.write, 0, 1024, fill: 2)
            bench.disconnect()
            let late = bench.start(.write, 0, 1024, fill: 3)
            #expect(bench.end(flying) == .ioError)
            seen.insert(bench.fills(0, 1024))
            bench.disk.reconnect()
            // It ends after the return, and was submitted before.
            #expect(bench.end(late) == .ioError)
            #expect(bench.read(0, 1024) == .ok)
            #expect(!bench.fills(0, 1024).contains(3))
        }
        #expect(seen == [[1, 1], [2, 2]])
    }

    @Test func diskComesBackWithItsCache() {
        var bench = DiskBench()
        bench.write(0, 512, 1)
        bench.disconnect()
        bench.disk.reconnect()
        #expect(bench.fills(0, 512) == [1])
        #expect(bench.disk.unflushedChanges == 1)
        bench.disk.reopen()
        bench.flush()
        bench.cutPower()
        #expect(bench.fills(0, 512) == [1])
    }

    @Test func diskComesBackWithoutItsCache() {
        var bench = DiskBench()
        bench.write(0, 1024, 1)
        bench.flush()
        bench.write(0, 512, 2)
        let late = bench.start(.flush)
        bench.disconnect()
        bench.disk.reconnect(losingCache: .dropAll, random: &bench.random)
        #expect(bench.fills(0, 1024) == [1, 1])
        #expect(bench.disk.unflushedChanges == 0)
        #expect(bench.end(late) == .ioError)
    }

    @Test func cachePolicyIsThatOfAPowerCut() {
        var seen: Set<[UInt8]> = []
        for seed in 0..<30 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 1024, 1)
            bench.flush()
            bench.write(0, 1024, 2)
            bench.disconnect()
            bench.disk.reconnect(losingCache: .sectors(percent: 50), random: &bench.random)
            seen.insert(bench.fills(0, 1024))
        }
        #expect(seen == [[1, 1], [1, 2], [2, 1], [2, 2]])
    }

    @Test func diskComesBackAsItsOlderSelf() {
        var bench = DiskBench()
        bench.write(0, 1024, 1)
        bench.flush()
        bench.write(512, 512, 2)
        bench.disk.remember()
        #expect(bench.disk.remembersItself)
        for fill in [3, 4] as [UInt8] {
            bench.write(0, 1024, fill)
            bench.disk.rot(0, 512, random: &bench.random)
            bench.flush()
            bench.disconnect()
            bench.disk.comeBackAsRemembered()
            bench.disk.reopen()
            #expect(!bench.disk.isUnreachable)
            #expect(bench.fills(0, 1024) == [1, 2])
            #expect(bench.disk.isUndamaged)
            bench.cutPower()
            #expect(bench.fills(0, 1024) == [1, 2])
        }
    }

    /// Whoever had it open has to open it anew before a flush counts again.
    @Test func flushesFailUntilTheDiskIsOpenedAnew() {
        var bench = DiskBench()
        bench.disconnect()
        // There is nothing to open.
        bench.disk.reopen()
        let early = bench.start(.flush)
        bench.disk.reconnect()
        #expect(bench.flush() == .ioError)
        bench.disk.reopen()
        #expect(bench.end(early) == .ioError)
        #expect(bench.flush() == .ok)
        #expect(bench.disk.failedFlushes == 2)
    }

    @Test func diskThatIsAwayEndsWhatHung() {
        var bench = DiskBench()
        bench.disk.hang(untilNs: nil)
        #expect(bench.disk.endNs(dueNs: 5) == nil)
        bench.disconnect()
        #expect(bench.disk.endNs(dueNs: 5) == 5)
        bench.disk.reconnect()
        #expect(bench.disk.endNs(dueNs: 5) == 5)
    }

    @Test func crashFindsNothingInFlight() {
        for seed in 0..<10 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 512, 1)
            bench.disconnect()
            _ = bench.start(.write, 0, 512, fill: 2)
            #expect(bench.disk.hasVolatileChanges)
            var killed = bench
            killed.disk.killProcess(random: &killed.random)
            #expect(killed.fills(0, 512) == [1])
            #expect(killed.disk.operationsInFlight == 0 && killed.disk.isUnreachable)
            bench.cutPower(.keepAll)
            #expect(bench.fills(0, 512) == [1])
            #expect(bench.disk.operationsInFlight == 0 && bench.disk.isUnreachable)
        }
    }
}

/// Writes and flushes that fail, and a disk that shrinks.
@Suite struct FailingWriteTests {
    @Test func failedWriteLandedWholeOrNotOrBySector() {
        var seen: Set<[UInt8]> = []
        for seed in 0..<100 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 1536, 1)
            bench.flush()
            bench.disk.writeErrors = .next(1)
            #expect(bench.write(0, 1536, 2) == .ioError)
            seen.insert(bench.fills(0, 1536))
            for sector in 0..<3 {
                #expect(Set(bench.disk.contents(UInt64(sector) * 512, 512)).count == 1)
            }
            var cut = bench
            cut.cutPower()
            #expect(cut.fills(0, 1536) == [1, 1, 1])
            // What landed is as durable after a flush as any other write.
            let landed = bench.fills(0, 1536)
            bench.flush()
            bench.cutPower()
            #expect(bench.fills(0, 1536) == landed)
        }
        #expect(seen.count == 8)
    }

    @Test func sectorsOf4096StayWhole() {
        for seed in 0..<30 as Range<UInt64> {
            var bench = DiskBench(sectorBytes: 4096, seed: seed)
            bench.write(0, 8192, 1)
            bench.disk.writeErrors = .next(1)
            bench.write(0, 8192, 2)
            for block in 0..<2 as Range<UInt64> {
                #expect(Set(bench.fills(block * 4096, 4096)).count == 1)
            }
        }
    }

    /// Each sector is durable or lost for good, whatever is flushed later, and reads the new bytes
    /// or the durable ones until the power goes.
    @Test func failedFlushLosesBySector() {
        var durable: Set<[UInt8]> = []
        var read: Set<[UInt8]> = []
        for seed in 0..<100 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 2048, 1)
            bench.flush()
            bench.write(0, 1024, 2)
            let uncovered = bench.start(.write, 1024, 1024, fill: 3)
            bench.disk.failsNextFlush = true
            let flush = bench.start(.flush)
            bench.end(uncovered)
            #expect(bench.end(flush) == .ioError)
            let before = bench.fills(0, 2048)
            read.insert(Array(before.prefix(2)))
            #expect(before.suffix(2) == [3, 3])
            bench.disk.reopen()
            #expect(bench.flush() == .ok)
            bench.cutPower()
            let after = bench.fills(0, 2048)
            durable.insert(Array(after.prefix(2)))
            #expect(after.suffix(2) == [3, 3])
            #expect(before.prefix(2) == [2, 2] || before.prefix(2) == after.prefix(2))
        }
        #expect(durable == [[1, 1], [1, 2], [2, 1], [2, 2]])
        #expect(read == durable)
    }

    @Test func everyFlushFailsFromThenOn() {
        var bench = DiskBench()
        let ended = bench.start(.flush)
        let flying = bench.start(.flush)
        bench.disk.failsNextFlush = true
        let first = bench.start(.flush)
        #expect(bench.end(ended) == .ioError)
        #expect(!bench.disk.failsNextFlush && bench.disk.hasFailedFlush)
        #expect(bench.end(flying) == .ioError)
        #expect(bench.write(0, 512, 1) == .ok)
        #expect(bench.flush() == .ioError)
        bench.disk.reopen()
        // Of the old opening.
        #expect(bench.end(first) == .ioError)
        #expect(bench.write(0, 512, 2) == .ok)
        #expect(bench.flush() == .ok)
        bench.cutPower()
        #expect(bench.fills(0, 512) == [2])
    }

    @Test func flushThatEndedBeforeIsNoneTheWorse() {
        var bench = DiskBench()
        bench.write(0, 512, 1)
        let first = bench.start(.flush)
        let second = bench.start(.flush)
        #expect(bench.end(second) == .ok)
        bench.disk.failsNextFlush = true
        #expect(bench.end(first) == .ioError)
        bench.cutPower()
        #expect(bench.fills(0, 512) == [1])
    }

    @Test func lyingFlushMakesNothingDurable() {
        var bench = DiskBench()
        bench.write(0, 512, 1)
        bench.disk.liesOnce = true
        #expect(bench.flush() == .ok)
        #expect(bench.disk.liedFlushes == 1 && !bench.disk.liesOnce)
        var cut = bench
        cut.cutPower()
        #expect(cut.fills(0, 512) != [1])
        #expect(bench.flush() == .ok)
        bench.cutPower()
        #expect(bench.fills(0, 512) == [1])
    }

    @Test func shrunkDiskEndsAtItsNewEnd() {
        var bench = DiskBench()
        let end = bench.disk.fullSizeBytes
        bench.write(end - 8192, 8192, 1)
        let flying = bench.start(.write, end - 4096, 4096, fill: 2)
        bench.disk.shrink(toBytes: end - 4096)
        #expect(bench.disk.sizeBytes == end - 4096)
        #expect(bench.end(flying) == .ioError)
        #expect(bench.write(end - 8192, 8192, 3) == .ioError)
        #expect(bench.read(end - 4096, 512) == .ioError)
        #expect(bench.end(bench.start(.discard, end - 4096, 4096)) == .ioError)
        #expect(bench.write(end - 8192, 4096, 4) == .ok)
        // What had been written there is flushed with the rest.
        #expect(bench.flush() == .ok)
        bench.disk.growBack()
        #expect(bench.read(end - 8192, 8192) == .ok)
        bench.cutPower()
        #expect(
            bench.fills(end - 8192, 8192)
                == [UInt8](repeating: 4, count: 8) + [UInt8](repeating: 1, count: 8))
    }

    @Test func crashLandsNothingBehindTheEnd() {
        for seed in 0..<10 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            _ = bench.start(.write, 8192, 512, fill: 1)
            bench.disk.shrink(toBytes: 4096)
            bench.disk.killProcess(random: &bench.random)
            #expect(bench.fills(8192, 512) != [1])
        }
    }

    @Test func slownessAddsToWhatIsDrawn() {
        var bench = DiskBench()
        #expect(bench.disk.latency(drawnNs: 100) == 100)
        bench.disk.slowness = .factor(7)
        #expect(bench.disk.latency(drawnNs: 100) == 700)
        bench.disk.slowness = .byNs(7)
        #expect(bench.disk.latency(drawnNs: 100) == 107)
        bench.disk.hang(untilNs: 50)
        #expect(bench.disk.endNs(dueNs: 10) == 50)
        #expect(bench.disk.endNs(dueNs: 60) == 60)
        bench.disk.unhang()
        #expect(bench.disk.endNs(dueNs: 10) == 10)
    }
}
