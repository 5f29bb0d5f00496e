import PoolEngine
import Testing

@testable import PoolSimulator

@Suite struct LatentSectorTests {
    @Test func unreadableUntilWrittenAnewAsAWhole() {
        var bench = DiskBench()
        bench.write(0, 12_288, 1)
        bench.disk.makeUnreadable([4607..<4608])
        #expect(bench.disk.latentPages == 1)
        #expect(bench.read(0, 4096) == .ok)
        #expect(bench.read(8192, 4096) == .ok)
        #expect(bench.read(4096, 512) == .ioError)
        #expect(bench.read(0, 12_288) == .ioError)
        #expect(bench.write(4096, 3584, 2) == .ok)
        #expect(bench.read(4096, 512) == .ioError)
        #expect(bench.write(4096, 4096, 3) == .ok)
        #expect(bench.read(0, 12_288) == .ok)
        #expect(bench.disk.latentPages == 0)
    }

    /// The rewrite that was to mend it is gone.
    @Test func powerCutBringsItBack() {
        var bench = DiskBench()
        bench.disk.makeUnreadable([0..<1])
        bench.write(0, 4096, 1)
        #expect(!bench.disk.isUndamaged)
        var flushed = bench
        bench.cutPower()
        #expect(bench.read(0, 512) == .ioError)
        flushed.flush()
        #expect(flushed.disk.isUndamaged)
        flushed.cutPower()
        #expect(flushed.read(0, 512) == .ok)
    }

    /// A flush of what was written before does not mend it.
    @Test func whatTheCacheHeldDoesNotMendIt() {
        var bench = DiskBench()
        bench.write(0, 12_288, 1)
        bench.disk.makeUnreadable([4096..<8192])
        bench.flush()
        bench.cutPower()
        #expect(bench.read(4096, 4096) == .ioError)
        bench.disk.makeReadable()
        #expect(bench.read(4096, 4096) == .ok)
        #expect(bench.fills(0, 12_288) == [UInt8](repeating: 1, count: 24))
    }
}

@Suite struct SilentFaultTests {
    private func fault(
        _ offset: UInt64, _ length: UInt64, _ kind: SilentFault.Kind
    ) -> SilentFault { SilentFault(offset: offset, length: length, kind: kind) }

    // MARK: - rot

    /// Of bytes that are durable, only cached, or both in turn.
    @Test(arguments: [false, true], [false, true])
    func rotChangesEveryByteAndNoOther(_ isFlushed: Bool, _ isRewritten: Bool) {
        var bench = DiskBench()
        bench.write(0, 12_288, 1)
        if isFlushed { bench.flush() }
        if isRewritten { bench.write(4096, 4096, 1) }
        bench.disk.rot(4500, 100, random: &bench.random)
        #expect(bench.disk.silentFaults == [fault(4500, 100, .rot)])
        let bytes = bench.disk.contents(0, 12_288)
        for (index, byte) in bytes.enumerated() {
            #expect((byte != 1) == (4500..<4600).contains(index))
        }
        #expect(bench.read(0, 12_288) == .ok)
        var flushed = bench
        flushed.flush()
        flushed.cutPower()
        #expect(flushed.disk.contents(0, 12_288) == bytes)
        // What lay at rest under it does not come and go with the power.
        bench.cutPower()
        #expect(bench.disk.contents(4096, 4096) == Array(bytes[4096..<8192]))
        #expect(bench.disk.silentFaults == [fault(4500, 100, .rot)])
    }

    @Test func overwrittenRotIsForgottenPieceByPiece() {
        var bench = DiskBench()
        bench.disk.rot(256, 2048, random: &bench.random)
        bench.write(1024, 512, 1)
        #expect(bench.disk.silentFaults == [fault(256, 768, .rot), fault(1536, 768, .rot)])
        bench.write(0, 1024, 1)
        #expect(bench.disk.silentFaults == [fault(1536, 768, .rot)])
        bench.flush()
        bench.write(1536, 1024, 1)
        #expect(bench.disk.silentFaults.isEmpty && !bench.disk.isUndamaged)
        // The power takes the last write back, and the rot is there again.
        bench.cutPower()
        #expect(bench.disk.silentFaults == [fault(1536, 768, .rot)])
        #expect(bench.disk.silentFaultCount == 1)
    }

    @Test func discardedPagesForgetTheirRot() {
        for seed in 0..<10 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 12_288, 1)
            bench.flush()
            bench.disk.rot(4000, 200, random: &bench.random)
            let rotten = bench.disk.contents(4096, 104)
            bench.end(bench.start(.discard, 0, 12_288))
            // Half of the discards change nothing.
            let isGone = bench.disk.contents(4096, 104) != rotten
            #expect(bench.disk.silentFaults == (isGone ? [] : [fault(4000, 200, .rot)]))
        }
    }

    @Test func rotOnceIsNotUndoneByTheNext() {
        var bench = DiskBench()
        bench.write(0, 4096, 1)
        bench.disk.rot(0, 64, random: &bench.random)
        let first = bench.disk.contents(0, 64)
        bench.disk.forgetSilentFaults()
        #expect(bench.disk.isUndamaged)
        #expect(bench.disk.contents(0, 64) == first)
    }

    // MARK: - lost writes

    @Test func lostWriteChangesNothingAndIsKnown() {
        var bench = DiskBench()
        bench.write(0, 1536, 1)
        bench.flush()
        bench.disk.lostWrites = .next(1, within: [512..<1024])
        #expect(bench.write(0, 512, 2) == .ok)
        #expect(bench.write(512, 1024, 3) == .ok)
        #expect(bench.write(1024, 512, 4) == .ok)
        #expect(bench.fills(0, 1536) == [2, 1, 4])
        #expect(bench.disk.silentFaults == [fault(512, 512, .lostWrite)])
        #expect(bench.disk.silentFaultCount == 1)
        bench.flush()
        bench.cutPower()
        #expect(bench.fills(0, 1536) == [2, 1, 4])
        #expect(bench.disk.silentFaults == [fault(512, 512, .lostWrite)])
        bench.write(512, 512, 5)
        bench.flush()
        #expect(bench.disk.isUndamaged)
    }

    /// Nobody can have relied on it.
    @Test(arguments: [CutPolicy.dropAll, .keepAll, .sectors(percent: 50)])
    func lostWriteWithoutAFlushIsNoFaultAfterACut(_ policy: CutPolicy) {
        var bench = DiskBench()
        bench.disk.lostWrites = .all()
        bench.write(0, 4096, 1)
        #expect(!bench.disk.isUndamaged)
        bench.cutPower(policy)
        #expect(bench.disk.isUndamaged)
    }

    // MARK: - misdirected writes

    @Test func misdirectedWriteLandsElsewhere() {
        let slabs: [Range<UInt64>] = [8192..<10_000, 65_536..<66_560]
        var places: Set<UInt64> = []
        for seed in 0..<60 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            for place in slabs { bench.write(place.lowerBound, 2048, 1) }
            bench.write(0, 1024, 1)
            bench.flush()
            bench.disk.misdirectedWrites = Misdirection(.next(1), into: slabs)
            #expect(bench.write(0, 1024, 2) == .ok)
            #expect(bench.disk.misdirectedWrites == nil)
            #expect(bench.fills(0, 1024) == [1, 1])
            #expect(bench.disk.silentFaults.count == 2)
            #expect(bench.disk.silentFaults[0] == fault(0, 1024, .misdirectedWrite))
            let stray = bench.disk.silentFaults[1]
            #expect(stray.kind == .strayWrite && stray.length == 1024)
            #expect(slabs.contains { $0.clamped(to: stray.range) == stray.range })
            #expect(bench.fills(stray.offset, 1024) == [2, 2])
            places.insert(stray.offset)
            bench.flush()
            bench.cutPower()
            #expect(bench.fills(stray.offset, 1024) == [2, 2])
            #expect(bench.disk.silentFaults.count == 2)
            bench.write(stray.offset, 512, 1)
            #expect(bench.disk.silentFaults[1] == fault(stray.offset + 512, 512, .strayWrite))
        }
        #expect(places == [8192, 8704, 65_536])
    }

    @Test func misdirectedWriteNeverTouchesItsOwnPlace() {
        for seed in 0..<60 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.write(0, 4096, 1)
            bench.disk.misdirectedWrites = Misdirection(.all(), into: [0..<4096])
            bench.write(1536, 1024, 2)
            #expect(bench.fills(1536, 1024) == [1, 1])
            #expect(bench.fills(0, 4096).filter { $0 == 2 }.count == 2)
        }
    }

    @Test func writeThatCannotGoAstrayLandsWhereItBelongs() {
        var bench = DiskBench()
        bench.disk.misdirectedWrites = Misdirection(.next(1), into: [0..<4096, 8192..<9000])
        #expect(bench.write(1024, 2560, 2) == .ok)
        #expect(bench.fills(1024, 2560) == [2, 2, 2, 2, 2])
        #expect(bench.disk.isUndamaged)
        #expect(bench.disk.misdirectedWrites != nil)
    }

    /// What of a stray write the power takes back was never there.
    @Test func strayWriteIsTornByACut() {
        var lengths: Set<UInt64> = []
        for seed in 0..<40 as Range<UInt64> {
            var bench = DiskBench(seed: seed)
            bench.disk.misdirectedWrites = Misdirection(.next(1), into: [8192..<9216])
            bench.write(0, 1024, 2)
            bench.cutPower(.sectors(percent: 50))
            let strays = bench.disk.silentFaults
            #expect(strays.allSatisfy { $0.kind == .strayWrite })
            for sector in 0..<2 as Range<UInt64> {
                let isStray = strays.contains { $0.offset == 8192 + sector * 512 }
                #expect((bench.fills(8192 + sector * 512, 512) == [2]) == isStray)
            }
            lengths.insert(strays.reduce(0) { $0 + $1.length })
        }
        #expect(lengths == [0, 512, 1024])
    }
}
