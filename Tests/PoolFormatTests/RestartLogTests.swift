import PoolFormat
import Testing

@Suite("Restart log")
struct RestartLogTests {
    private static let owner = RestartLog.Owner(
        pool: PoolUUID(high: 1, low: 2), lineage: Lineage(7))

    /// Memory for a log, and a log in it.
    @safe
    private final class Memory {
        let bytes: UnsafeMutableRawBufferPointer

        init(_ count: Int = 4096) {
            unsafe bytes = .allocate(byteCount: count, alignment: 8)
            unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0xa5)
        }

        deinit { unsafe bytes.deallocate() }

        func begin(epoch: UInt64 = 3) -> RestartLog {
            unsafe RestartLog(emptying: bytes, owner: owner, epoch: epoch)
        }

        func resume(
            of owner: RestartLog.Owner = owner, epoch: UInt64 = 3, sequence: UInt64 = 1000
        ) -> RestartLog? {
            unsafe RestartLog(
                resuming: bytes, owner: owner, journalEpoch: epoch, journalSequence: sequence)
        }

        var entries: [RestartLog.Entry]? { resume()?.readAll() }
        var records: [JournalRecord]? { entries?.map(\.record) }
    }

    private static func record(_ number: Int) -> JournalRecord {
        switch number % 3 {
        case 0: .unmap(grain: UInt64(number))
        case 1:
            .map(
                grain: UInt64(number),
                entry: MapEntry(
                    group: 1, physicalGrain: UInt32(number % 1000), state: .mapped, birth: 0))
        default:
            .values(
                firstBlock: UInt64(number) * 256,
                changes: (0...number % 40).map {
                    ValueChange(old: UInt32($0), new: UInt32(number))
                })
        }
    }

    private static func put(_ record: JournalRecord, into log: inout RestartLog) {
        let isIn = log.append(record)
        #expect(isIn)
    }

    @Test("What was appended is read back, in order")
    func readsBack() {
        let memory = Memory()
        var log = memory.begin()
        let written = (0..<12).map(Self.record)
        for record in written { Self.put(record, into: &log) }
        #expect(memory.records == written)
        // The form that takes values from the caller's memory is the same record.
        let changes = [ValueChange(old: 1, new: 2), ValueChange(old: 3, new: 4)]
        let isIn = unsafe changes.withUnsafeBufferPointer {
            unsafe log.appendValues(firstBlock: 512, changes: $0)
                && log.appendValues(firstBlock: 256, changes: $0, isIntent: true)
        }
        #expect(isIn)
        #expect(
            memory.entries == written.map { RestartLog.Entry($0) } + [
                RestartLog.Entry(.values(firstBlock: 512, changes: changes)),
                RestartLog.Entry(.values(firstBlock: 256, changes: changes), isIntent: true),
            ])
    }

    @Test("Runs of cached blocks are read back, and take as much room as is said")
    func cachedRuns() {
        let memory = Memory()
        var log = memory.begin()
        let changes = (0..<3).map { ValueChange(old: UInt32($0), new: ~UInt32($0)) }
        let first = JournalRecord.cached(
            firstBlock: 0xff, slot: 0x0a0b_0cff, changes: Array(changes[..<1]))
        Self.put(first, into: &log)
        let isIn = unsafe changes.withUnsafeBufferPointer {
            unsafe log.appendCached(firstBlock: 512, slot: 0x0102_03fd, changes: $0)
        }
        #expect(isIn)
        #expect(
            memory.entries == [
                RestartLog.Entry(first),
                RestartLog.Entry(.cached(firstBlock: 512, slot: 0x0102_03fd, changes: changes)),
            ])
        #expect(log.usedBytes == RestartLog.cachedEntriesBytes(runs: 2, blocks: 4))
        // Until there is no room: then nothing changes.
        var count = 2
        while log.append(first) { count += 1 }
        let isInToo = unsafe changes.withUnsafeBufferPointer {
            unsafe log.appendCached(firstBlock: 512, slot: 0, changes: $0)
        }
        #expect(!isInToo && memory.entries?.count == count)
    }

    @Test("Any ring of entries reads back as a queue of them", arguments: 0..<200)
    func ring(seed: Int) {
        let memory = Memory(4096 + seed % 7 * 8)
        var log = memory.begin()
        var state = UInt64(seed) &* 0x9e37_79b9_7f4a_7c15 | 1
        func random(_ below: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % below
        }
        var queue: [(record: JournalRecord, end: RestartLog.Position)] = []
        var refused = 0
        for number in 0..<400 {
            let record = Self.record(number + random(100) * 3)
            if log.append(record) {
                queue.append((record, log.end))
            } else {
                refused += 1
                #expect(
                    log.usedBytes + 2 * RestartLog.entryBytes(recordBytes: record.encodedBytes)
                        > log.capacityBytes)
            }
            if random(60) == 0 || refused % 5 == 4, !queue.isEmpty {
                let count = random(queue.count) + 1
                log.release(to: queue[count - 1].end, sequence: UInt64(number))
                queue.removeFirst(count)
            }
            #expect(log.usedBytes <= log.capacityBytes && log.usedBytes >= 0)
            if queue.isEmpty { #expect(log.usedBytes == 0) }
            #expect(memory.records == queue.map(\.record))
        }
        #expect(refused > 0)
    }

    @Test("It is one space's, and of one journal's epochs")
    func belongs() {
        let memory = Memory()
        #expect(memory.resume() == nil)
        var log = memory.begin(epoch: 3)
        Self.put(Self.record(1), into: &log)
        var other = Self.owner
        other.lineage = Lineage(8)
        #expect(memory.resume(of: other) == nil)
        other = Self.owner
        other.pool.low = 3
        #expect(memory.resume(of: other) == nil)
        #expect(memory.resume(epoch: 2) == nil)
        #expect(memory.resume(epoch: 4) == nil)
        #expect(memory.resume(epoch: 3)?.epoch == 3)
        log.setHeir(epoch: 5)
        #expect(memory.resume(epoch: 5)?.epoch == 3)
        #expect(memory.resume(epoch: 6) == nil)
        log.release(to: log.end, sequence: 12)
        #expect(memory.resume(sequence: 11) == nil)
        #expect(memory.resume(sequence: 12)?.epoch == 3)
    }

    @Test("A damaged entry, at any byte, ends the log before it")
    func damage() {
        let memory = Memory()
        var log = memory.begin()
        let written = (0..<6).map(Self.record)
        var ends: [Int] = []
        for record in written {
            Self.put(record, into: &log)
            ends.append(RestartLog.headerBytes + log.usedBytes)
        }
        for at in RestartLog.headerBytes..<ends[5] {
            let sound = unsafe memory.bytes[at]
            unsafe memory.bytes[at] ^= 0x10
            let whole = ends.filter { $0 <= at }.count
            #expect(memory.records == Array(written[..<whole]))
            unsafe memory.bytes[at] = sound
        }
        #expect(memory.records == written)
    }

    @Test("Any header is refused or harmless")
    func hostileHeader() {
        let memory = Memory()
        var log = memory.begin()
        for number in 0..<6 { Self.put(Self.record(number), into: &log) }
        for at in 0..<RestartLog.headerBytes {
            for value in [UInt8(0), 1, 0x7f, 0x80, 0xff] {
                let sound = unsafe memory.bytes[at]
                unsafe memory.bytes[at] = value
                #expect((memory.records?.count ?? 0) <= 6)
                unsafe memory.bytes[at] = sound
            }
        }
    }
}
