import PoolEngine
import Testing

@testable import PoolSimulator

@Suite struct SimulatedDiskTests {
    @Test func freshMediaIsGarbageAndStable() {
        let bench = DiskBench()
        let bytes = bench.disk.contents(40_960, 4096)
        #expect(bytes == bench.disk.contents(40_960, 4096))
        #expect(bytes.contains { $0 != 0 })
        #expect(bytes != bench.disk.contents(8192, 4096))
    }

    @Test func unflushedWritesCanBeLostAndFlushedOnesCannot() {
        var bench = DiskBench()
        bench.write(0, 4096, 1)
        bench.flush()
        bench.write(0, 4096, 2)
        #expect(bench.fills(0, 4096) == [UInt8](repeating: 2, count: 8))
        var kept = bench
        bench.disk.cutPower(.dropAll, random: &bench.random)
        #expect(bench.fills(0, 4096) == [UInt8](repeating: 1, count: 8))
        kept.disk.cutPower(.keepAll, random: &kept.random)
        #expect(kept.fills(0, 4096) == [UInt8](repeating: 2, count: 8))
    }

    @Test func flushCoversOnlyWhatCompletedBeforeItsSubmission() {
        var bench = DiskBench()
        let early = bench.start(.write, 0, 512, fill: 7)
        let flush = bench.start(.flush)
        bench.end(early)
        bench.end(flush)
        #expect(bench.disk.unflushedChanges == 1)
        bench.disk.cutPower(.dropAll, random: &bench.random)
        #expect(bench.fills(0, 512) != [7])
    }

    @Test func flushInFlightAtTheCutPromisesNothing() {
        var bench = DiskBench()
        bench.write(0, 512, 7)
        _ = bench.start(.flush)
        bench.disk.cutPower(.dropAll, random: &bench.random)
        #expect(bench.fills(0, 512) != [7])
    }

    @Test func cutTearsBySectorAndKeepsSectorsWhole() {
        var sawTorn = false
        for seed in 0..<20 as Range<UInt64> {
            var bench = DiskBench()
            bench.random = SeededRandom(seed: seed)
            bench.write(0, 8192, 1)
            bench.flush()
            bench.write(0, 8192, 2)
            _ = bench.start(.write, 2048, 4096, fill: 3)
            bench.disk.cutPower(.sectors(percent: 50), random: &bench.random)
            let bytes = bench.disk.contents(0, 8192)
            for sector in 0..<16 {
                let content = Set(bytes[sector * 512..<sector * 512 + 512])
                #expect(content.count == 1)
                #expect(content.isSubset(of: [1, 2, 3]))
            }
            if Set(bytes).count == 3 { sawTorn = true }
        }
        #expect(sawTorn)
    }

    @Test func fourKibSectorsDoNotTearInside() {
        for seed in 0..<20 as Range<UInt64> {
            var bench = DiskBench(sectorBytes: 4096)
            bench.random = SeededRandom(seed: seed)
            bench.write(0, 16_384, 2)
            bench.disk.cutPower(.sectors(percent: 50), random: &bench.random)
            for block in 0..<4 as Range<UInt64> {
                let isTwo = bench.fills(block * 4096, 4096).map { $0 == 2 }
                #expect(Set(isTwo).count == 1 || !isTwo.allSatisfy { $0 })
                #expect(isTwo.allSatisfy { $0 } || isTwo.filter { $0 }.count <= 1)
            }
        }
    }

    @Test func killedProcessLeavesTheCacheAlone() {
        var bench = DiskBench()
        bench.write(0, 512, 4)
        bench.disk.killProcess(random: &bench.random)
        #expect(bench.fills(0, 512) == [4])
        #expect(bench.disk.unflushedChanges == 1)
        bench.disk.cutPower(.dropAll, random: &bench.random)
        #expect(bench.fills(0, 512) != [4])
    }

    @Test func readDuringAWriteSeesEitherBySector() {
        var seen: Set<UInt8> = []
        for seed in 0..<10 as Range<UInt64> {
            var bench = DiskBench()
            bench.random = SeededRandom(seed: seed)
            bench.write(0, 4096, 1)
            _ = bench.start(.write, 0, 4096, fill: 2)
            let read = bench.start(.read, 0, 4096)
            bench.end(read)
            let bytes = unsafe [UInt8](bench.arena.bytes(read.buffer, 4096))
            seen.formUnion(bytes)
        }
        #expect(seen == [1, 2])
    }

    @Test func discardedBytesAreNeverZeros() {
        var sawGarbage = false
        for seed in 0..<10 as Range<UInt64> {
            var bench = DiskBench()
            bench.random = SeededRandom(seed: seed)
            bench.write(0, 8192, 3)
            bench.flush()
            #expect(bench.end(bench.start(.discard, 0, 8192)) == .ok)
            let bytes = bench.disk.contents(0, 8192)
            #expect(bytes.contains { $0 != 0 })
            if bytes != [UInt8](repeating: 3, count: 8192) { sawGarbage = true }
        }
        #expect(sawGarbage)
        var bench = DiskBench(supportsDiscard: false)
        #expect(bench.end(bench.start(.discard, 0, 8192)) == .unsupported)
    }

    @Test func misuseIsNamed() {
        var disk = SimulatedDisk(
            sizeBytes: 1 << 30, sectorBytes: 4096, supportsDiscard: true, seed: 1)
        let arena = BufferArena(counts: [4, 1, 1, 1])
        func operation(_ offset: UInt64, _ length: UInt64, _ buffer: Int = 0) -> DeviceOperation {
            DeviceOperation(
                kind: .write, device: DeviceIndex(0), token: 1, offsetBytes: offset,
                lengthBytes: length, bufferOffset: buffer)
        }
        #expect(disk.submit(operation(512, 4096), arena: arena) != nil)
        #expect(disk.submit(operation(0, 512), arena: arena) != nil)
        #expect(disk.submit(operation(1 << 30, 4096), arena: arena) != nil)
        #expect(disk.submit(operation(.max - 4095, 4096), arena: arena) != nil)
        #expect(disk.submit(operation(0, 4096, 512), arena: arena) != nil)
        #expect(disk.submit(operation(0, 2 << 20), arena: arena) != nil)
        #expect(disk.submit(operation(0, 4096), arena: arena) == nil)
        #expect(disk.operationsInFlight == 1)
    }

    @Test func bufferThatChangesUnderItsWriteIsFound() {
        var bench = DiskBench()
        let write = bench.start(.write, 0, 4096, fill: 1)
        unsafe bench.arena.bytes(write.buffer, 4096)[100] = 9
        let (_, wrong) = bench.disk.complete(
            token: write.token, arena: bench.arena, random: &bench.random)
        #expect(wrong != nil)
    }

    @Test func copiesAreSnapshots() {
        var bench = DiskBench()
        bench.write(0, 4096, 1)
        let copy = bench.disk
        bench.write(0, 4096, 2)
        #expect(copy.contents(0, 1) == [1])
        #expect(bench.disk.contents(0, 1) == [2])
    }
}
