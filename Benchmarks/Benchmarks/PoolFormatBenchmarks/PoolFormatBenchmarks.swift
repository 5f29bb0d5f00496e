import Benchmark
import PoolFormat

/// What every write pays for: a block's value, its record in a journal batch, and reading both
/// again. Each measured iteration is `scale` operations; figures are per operation.
let benchmarks: @Sendable () -> Void = {
    // A global of the harness, set once before anything runs.
    unsafe Benchmark.defaultConfiguration = .init(
        metrics: [.wallClock, .throughput],
        timeUnits: .nanoseconds, warmupIterations: 3, scalingFactor: .kilo,
        maxDuration: .seconds(3))

    Benchmark("block value, CRC32C of 4 KiB") { benchmark in
        let memory = Memory(bytes: 1 << 20)
        let blocks = memory.count / Units.blockBytes
        benchmark.startMeasurement()
        for index in benchmark.scaledIterations {
            let place = index % blocks * Units.blockBytes
            let block = unsafe UnsafeRawBufferPointer(
                rebasing: memory.bytes[place..<(place + Units.blockBytes)])
            blackHole(
                unsafe Checksum.blockValue(
                    block, lineage: Lineage(7), block: UInt64(index)))
        }
    }

    // What checksums add to a 4 KiB read, at blocks all over 64 MiB of pages in memory, the cache's
    // default: 48 GiB of a space.
    Benchmark("read checked against its page, 64 MiB of pages") { benchmark in
        let checked = CheckedBlocks()
        benchmark.startMeasurement()
        for index in benchmark.scaledIterations {
            let (page, grain, block) = checked.place(index)
            blackHole(
                ChecksumPage.value(in: page, grain: grain, block: block)
                    == checked.valueOfData(index))
        }
    }

    // Likewise to a write; its record in the journal is below.
    Benchmark("write's value put into its page, 64 MiB of pages") { benchmark in
        let checked = CheckedBlocks()
        benchmark.startMeasurement()
        for index in benchmark.scaledIterations {
            let (page, grain, block) = checked.place(index)
            let old = ChecksumPage.value(in: page, grain: grain, block: block)
            let new = checked.valueOfData(index)
            if new != old { ChecksumPage.setValue(in: page, grain: grain, block: block, new) }
        }
    }

    Benchmark("journal batch, one value record and a header") { benchmark in
        let memory = Memory(bytes: JournalBatch.blockBytes)
        var writer = unsafe BatchWriter(memory.bytes)
        benchmark.startMeasurement()
        for index in benchmark.scaledIterations {
            writer.reset()
            append(valuesOf: UInt64(index), count: 1, to: &writer)
            blackHole(writer.finish(header(sequence: UInt64(index))))
        }
    }

    Benchmark("journal batch, one record of 256 in a full one") { benchmark in
        let memory = Memory(bytes: JournalBatch.maximumBytes)
        var writer = unsafe BatchWriter(memory.bytes)
        benchmark.startMeasurement()
        for index in benchmark.scaledIterations {
            if writer.recordCount == 256 {
                blackHole(writer.finish(header(sequence: UInt64(index))))
                writer.reset()
            }
            append(valuesOf: UInt64(index) * 8, count: 8, to: &writer)
        }
    }

    Benchmark("journal batch decoded, 256 records", configuration: .init(scalingFactor: .one)) {
        benchmark in
        let memory = Memory(bytes: JournalBatch.maximumBytes)
        var writer = unsafe BatchWriter(memory.bytes)
        for index in 0..<256 { append(valuesOf: UInt64(index) * 8, count: 8, to: &writer) }
        let (length, _) = writer.finish(header(sequence: 1))
        benchmark.startMeasurement()
        for _ in benchmark.scaledIterations {
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: memory.bytes[..<length])
            var batch = try unsafe BatchDecoder(bytes, lineage: Lineage(7))
            var records = 0
            while try batch.next() != nil { records += 1 }
            blackHole(records)
        }
    }

    Benchmark("label decoded") { benchmark in
        let memory = Memory(bytes: Label.bytes)
        try unsafe label().encode(into: memory.bytes)
        benchmark.startMeasurement()
        for _ in benchmark.scaledIterations {
            blackHole(try unsafe Label.decode(UnsafeRawBufferPointer(memory.bytes)))
        }
    }
}

/// Page-aligned bytes that are not all zero, freed with the value.
@safe final class Memory {
    let bytes: UnsafeMutableRawBufferPointer
    var count: Int { unsafe bytes.count }

    init(bytes count: Int) {
        unsafe bytes = .allocate(byteCount: count, alignment: Units.blockBytes)
        for index in 0..<count {
            unsafe bytes[index] = UInt8(truncatingIfNeeded: index &* 167 &+ index >> 8)
        }
    }

    deinit { unsafe bytes.deallocate() }
}

/// Pages of values as the cache holds them, and data to be checked, which is where a read has just
/// put it: in the processor's cache.
struct CheckedBlocks {
    private let pages = Memory(bytes: 64 << 20)
    private let data = Memory(bytes: 64 << 10)

    /// All over the place, the same in every run.
    func place(_ index: Int) -> (page: PageImage, grain: Int, block: Int) {
        let mixed = UInt64(truncatingIfNeeded: index) &* 0x9e37_79b9_7f4a_7c15 >> 20
        let page = Int(mixed % UInt64(pages.count / PageImage.bytes))
        let within = Int(mixed >> 24) % (ChecksumPage.grainsPerPage * Units.blocksPerGrain)
        let bytes = unsafe UnsafeMutableRawBufferPointer(
            rebasing: pages.bytes[(page * PageImage.bytes)..<((page + 1) * PageImage.bytes)])
        return (
            unsafe PageImage(bytes), within / Units.blocksPerGrain, within % Units.blocksPerGrain
        )
    }

    func valueOfData(_ index: Int) -> UInt32 {
        let place = index % (data.count / Units.blockBytes) * Units.blockBytes
        let block = unsafe UnsafeRawBufferPointer(
            rebasing: data.bytes[place..<(place + Units.blockBytes)])
        return unsafe Checksum.blockValue(
            block, lineage: Lineage(7), block: UInt64(truncatingIfNeeded: index))
    }
}

func append(valuesOf firstBlock: UInt64, count: Int, to writer: inout BatchWriter) {
    let appended = unsafe withUnsafeTemporaryAllocation(of: ValueChange.self, capacity: count) {
        changes in
        for index in 0..<count {
            unsafe changes[index] = ValueChange(old: 3, new: UInt32(truncatingIfNeeded: index))
        }
        return unsafe writer.appendValues(
            firstBlock: firstBlock % 128, changes: UnsafeBufferPointer(changes))
    }
    precondition(appended)
}

func header(sequence: UInt64) -> BatchHeader {
    BatchHeader(
        lineage: Lineage(7), epoch: 1, sequence: sequence, previousChecksum: 5,
        confirmedSequence: sequence, tailSequence: 1, tailBlock: 0, recordBytes: 0, recordCount: 0)
}

func label() -> Label {
    Label(
        poolUUID: PoolUUID(high: 1, low: 2), diskUUID: PoolUUID(high: 3, low: 4),
        diskNumber: DiskNumber(1), poolName: "benchmark", compatibleFeatures: 0,
        readOnlyCompatibleFeatures: 0, incompatibleFeatures: Features.draft,
        draft: Features.currentDraft, slabBytes: UInt64(Units.slabBytes),
        grainBytes: UInt32(Units.grainBytes), sectorBytes: 512,
        checksumAlgorithm: Checksum.algorithm, mediaClass: .ssd, diskBytes: 8 << 30, sequence: 1)
}
