import PoolEngine
import Testing

@testable import PoolSimulator

/// A disk, an arena and short hands around them.
private struct Bench {
    var disk: SimulatedDisk
    let arena = BufferArena(counts: [16, 4, 2, 2])
    var random = SeededRandom(seed: 9)
    private var nextToken: UInt32 = 1

    init(sectorBytes: Int = 512, supportsDiscard: Bool = true) {
        disk = SimulatedDisk(
            sizeBytes: 1 << 30, sectorBytes: sectorBytes, supportsDiscard: supportsDiscard,
            seed: 5)
    }

    mutating func start(
        _ kind: DeviceOperation.Kind, _ offset: UInt64 = 0, _ length: Int = 0, fill: UInt8 = 0
    ) -> (token: UInt32, buffer: Int) {
        let buffer = arena.take(bytes: max(length, 1)) ?? 0
        if kind == .write {
            unsafe arena.bytes(buffer, length).initializeMemory(as: UInt8.self, repeating: fill)
        }
        let token = nextToken
        nextToken += 1
        let wrong = disk.submit(
            DeviceOperation(
                kind: kind, device: DeviceIndex(0), token: token, offsetBytes: offset,
                lengthBytes: UInt64(length), bufferOffset: buffer), arena: arena)
        #expect(wrong == nil)
        return (token, buffer)
    }

    @discardableResult
    mutating func end(_ started: (token: UInt32, buffer: Int)) -> DeviceStatus {
        let (status, wrong) = disk.complete(
            token: started.token, arena: arena, random: &random)
        #expect(wrong == nil)
        return status
    }

    mutating func write(_ offset: UInt64, _ length: Int, _ fill: UInt8) {
        end(start(.write, offset, length, fill: fill))
    }

    mutating func flush() { end(start(.flush)) }

    func fills(_ offset: UInt64, _ count: Int) -> [UInt8] {
        stride(from: 0, to: count, by: 512).map { disk.contents(offset + UInt64($0), 1)[0] }
    }
}

@Suite struct SimulatedDiskTests {
    @Test func freshMediaIsGarbageAndStable() {
        let bench = Bench()
        let bytes = bench.disk.contents(40_960, 4096)
        #expect(bytes == bench.disk.contents(40_960, 4096))
        #expect(bytes.contains { $0 != 0 })
        #expect(bytes != bench.disk.contents(8192, 4096))
    }

    @Test func unflushedWritesCanBeLostAndFlushedOnesCannot() {
        var bench = Bench()
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
        var bench = Bench()
        let early = bench.start(.write, 0, 512, fill: 7)
        let flush = bench.start(.flush)
        bench.end(early)
        bench.end(flush)
        #expect(bench.disk.unflushedChanges == 1)
        bench.disk.cutPower(.dropAll, random: &bench.random)
        #expect(bench.fills(0, 512) != [7])
    }

    @Test func flushInFlightAtTheCutPromisesNothing() {
        var bench = Bench()
        bench.write(0, 512, 7)
        _ = bench.start(.flush)
        bench.disk.cutPower(.dropAll, random: &bench.random)
        #expect(bench.fills(0, 512) != [7])
    }

    @Test func cutTearsBySectorAndKeepsSectorsWhole() {
        var sawTorn = false
        for seed in 0..<20 as Range<UInt64> {
            var bench = Bench()
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
            var bench = Bench(sectorBytes: 4096)
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
        var bench = Bench()
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
            var bench = Bench()
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
            var bench = Bench()
            bench.random = SeededRandom(seed: seed)
            bench.write(0, 8192, 3)
            bench.flush()
            #expect(bench.end(bench.start(.discard, 0, 8192)) == .ok)
            let bytes = bench.disk.contents(0, 8192)
            #expect(bytes.contains { $0 != 0 })
            if bytes != [UInt8](repeating: 3, count: 8192) { sawGarbage = true }
        }
        #expect(sawGarbage)
        var bench = Bench(supportsDiscard: false)
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
        var bench = Bench()
        let write = bench.start(.write, 0, 4096, fill: 1)
        unsafe bench.arena.bytes(write.buffer, 4096)[100] = 9
        let (_, wrong) = bench.disk.complete(
            token: write.token, arena: bench.arena, random: &bench.random)
        #expect(wrong != nil)
    }

    @Test func copiesAreSnapshots() {
        var bench = Bench()
        bench.write(0, 4096, 1)
        let copy = bench.disk
        bench.write(0, 4096, 2)
        #expect(copy.contents(0, 1) == [1])
        #expect(bench.disk.contents(0, 1) == [2])
    }
}
