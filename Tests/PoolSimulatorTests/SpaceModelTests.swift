import Testing

@testable import PoolSimulator

/// A space of one grain whose "reads" are made up by the test.
private struct Reader {
    var model = SpaceModel(serial: 3, sizeBytes: 1 << 20)

    mutating func write(_ sectors: Range<Int>, fua: Bool = false) -> UInt32 {
        let number = model.submitWrite(sectors: sectors, fua: fua)
        model.replyChange(number, ok: true)
        return number
    }

    mutating func trim(_ sectors: Range<Int>) {
        model.replyChange(model.submitZeroes(sectors: sectors, fua: false), ok: true)
    }

    mutating func flush() { model.replyFlush(model.submitFlush(), ok: true) }

    /// What the model says to one sector that holds version `number`; 0 is zeros.
    mutating func read(_ sector: Int, _ number: UInt32) -> String? {
        let ticket = model.submitRead()
        return answer(ticket, sector, number)
    }

    mutating func answer(_ ticket: UInt32, _ sector: Int, _ number: UInt32) -> String? {
        var bytes = [UInt8](repeating: 0, count: 512)
        if number != 0 {
            unsafe bytes.withUnsafeMutableBytes {
                unsafe model.stamp(number, sectors: sector..<sector + 1, into: $0)
            }
        }
        return unsafe bytes.withUnsafeBytes {
            unsafe model.replyRead(ticket, sectors: sector..<sector + 1, bytes: $0)
        }
    }

    mutating func readRaw(_ sector: Int, _ bytes: [UInt8]) -> String? {
        let ticket = model.submitRead()
        return unsafe bytes.withUnsafeBytes {
            unsafe model.replyRead(ticket, sectors: sector..<sector + 1, bytes: $0)
        }
    }
}

@Suite struct SpaceModelTests {
    @Test func freshSpaceIsZeros() {
        var reader = Reader()
        #expect(reader.read(5, 0) == nil)
        var dirty = [UInt8](repeating: 0, count: 512)
        dirty[511] = 1
        #expect(reader.readRaw(5, dirty) != nil)
    }

    @Test func acknowledgedWriteIsRead() {
        var reader = Reader()
        let first = reader.write(0..<8)
        let second = reader.write(4..<12)
        #expect(reader.read(0, first) == nil)
        #expect(reader.read(4, second) == nil)
        #expect(reader.read(4, first) != nil)
        #expect(reader.read(4, 0) != nil)
    }

    @Test func anotherAddressOrSpaceIsNeverRight() {
        var reader = Reader()
        let number = reader.write(0..<8)
        var bytes = [UInt8](repeating: 0, count: 512)
        unsafe bytes.withUnsafeMutableBytes {
            unsafe reader.model.stamp(number, sectors: 1..<2, into: $0)
        }
        #expect(reader.readRaw(0, bytes) != nil)
        let other = SpaceModel(serial: 4, sizeBytes: 1 << 20)
        unsafe bytes.withUnsafeMutableBytes {
            unsafe other.stamp(number, sectors: 0..<1, into: $0)
        }
        #expect(reader.readRaw(0, bytes) != nil)
    }

    @Test func oneFlippedBitIsFound() {
        var reader = Reader()
        let number = reader.write(0..<1)
        for bit in stride(from: 0, to: 4096, by: 37) {
            var bytes = [UInt8](repeating: 0, count: 512)
            unsafe bytes.withUnsafeMutableBytes {
                unsafe reader.model.stamp(number, sectors: 0..<1, into: $0)
            }
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(reader.readRaw(0, bytes) != nil)
        }
    }

    @Test func crashMayTakeBackUnflushedButNotFlushed() {
        var reader = Reader()
        let durable = reader.write(0..<1)
        reader.flush()
        let lost = reader.write(0..<1)
        reader.model.crash()
        var other = reader
        #expect(reader.read(0, durable) == nil)
        #expect(other.read(0, lost) == nil)
        var third = other
        // Settled: it may not change again, not even by another crash.
        #expect(other.read(0, durable) != nil)
        third.model.crash()
        #expect(third.read(0, durable) != nil)
        var lostDurable = Reader()
        _ = lostDurable.write(0..<1)
        lostDurable.flush()
        lostDurable.model.crash()
        #expect(lostDurable.read(0, 0) != nil)
    }

    @Test func flushCoversOnlyWhatWasAcknowledgedBefore() {
        var reader = Reader()
        let flush = reader.model.submitFlush()
        _ = reader.write(0..<1)
        reader.model.replyFlush(flush, ok: true)
        reader.model.crash()
        #expect(reader.read(0, 0) == nil)
    }

    @Test func failedFlushPromisesNothing() {
        var reader = Reader()
        _ = reader.write(0..<1)
        reader.model.replyFlush(reader.model.submitFlush(), ok: false)
        reader.model.crash()
        #expect(reader.read(0, 0) == nil)
    }

    @Test func fuaIsDurableWithItsReply() {
        var reader = Reader()
        let number = reader.write(0..<1, fua: true)
        reader.model.crash()
        var other = reader
        #expect(reader.read(0, 0) != nil)
        #expect(other.read(0, number) == nil)
    }

    @Test func trimmedBytesDoNotComeBack() {
        var reader = Reader()
        let number = reader.write(0..<4)
        reader.flush()
        reader.trim(0..<4)
        #expect(reader.read(0, number) != nil)
        #expect(reader.read(0, 0) == nil)
        var crashed = reader
        crashed.model.crash()
        #expect(crashed.read(1, number) == nil)
        reader.flush()
        reader.model.crash()
        #expect(reader.read(1, number) != nil)
        #expect(reader.read(1, 0) == nil)
    }

    @Test func concurrentWritesSettleOnce() {
        var reader = Reader()
        let first = reader.model.submitWrite(sectors: 0..<1, fua: false)
        let second = reader.model.submitWrite(sectors: 0..<1, fua: false)
        reader.model.replyChange(second, ok: true)
        reader.model.replyChange(first, ok: true)
        var other = reader
        #expect(reader.read(0, first) == nil)
        #expect(reader.read(0, second) != nil)
        #expect(other.read(0, second) == nil)
        #expect(other.read(0, first) != nil)
        other.flush()
        other.model.crash()
        #expect(other.read(0, first) != nil)
    }

    @Test func readThatOverlapsAWriteMaySeeEither() {
        var reader = Reader()
        let old = reader.write(0..<1)
        let number = reader.model.submitWrite(sectors: 0..<1, fua: false)
        let ticket = reader.model.submitRead()
        reader.model.replyChange(number, ok: true)
        var other = reader
        #expect(reader.answer(ticket, 0, old) == nil)
        #expect(other.answer(ticket, 0, number) == nil)
        #expect(reader.read(0, old) != nil)
    }

    @Test func inFlightWriteMayOrMayNotSurvive() {
        var reader = Reader()
        let old = reader.write(0..<1, fua: true)
        let number = reader.model.submitWrite(sectors: 0..<1, fua: true)
        reader.model.crash()
        var other = reader
        #expect(reader.read(0, old) == nil)
        #expect(other.read(0, number) == nil)
        #expect(other.read(0, old) != nil)
    }

    @Test func failedWriteReplacesNothing() {
        var reader = Reader()
        let old = reader.write(0..<1, fua: true)
        let failed = reader.model.submitWrite(sectors: 0..<1, fua: true)
        reader.model.replyChange(failed, ok: false)
        var other = reader
        #expect(reader.read(0, old) == nil)
        #expect(reader.read(0, failed) != nil)
        #expect(other.read(0, failed) == nil)
        #expect(other.read(0, old) != nil)
    }

    @Test func newWriteAfterACrashReplacesWhateverWasThere() {
        var reader = Reader()
        let old = reader.write(0..<1)
        reader.model.crash()
        let new = reader.write(0..<1, fua: true)
        #expect(reader.read(0, old) != nil)
        #expect(reader.read(0, new) == nil)
        reader.model.crash()
        #expect(reader.read(0, 0) != nil)
        #expect(reader.read(0, new) == nil)
    }

    @Test func unsettledSectorsAreThoseWithAChoice() {
        var reader = Reader()
        _ = reader.write(3..<5)
        reader.model.crash()
        #expect(reader.model.unsettledSectors() == [3, 4])
        _ = reader.read(3, 0)
        #expect(reader.model.unsettledSectors() == [4])
    }
}

@Suite struct BlockStatusModelTests {
    private func answer(
        _ reader: inout Reader, _ sectors: Range<Int>, mapped: Bool, zeros: Bool,
        asked: Range<Int> = 0..<2048, isFixed: Bool = false
    ) -> String? {
        let ticket = reader.model.submitRead()
        return reader.model.replyStatus(
            ticket, asked: asked,
            SpaceModel.Extent(sectors: sectors, isMapped: mapped, readsAsZeros: zeros),
            isFixed: isFixed)
    }

    @Test func freshSpaceIsAHole() {
        var reader = Reader()
        #expect(answer(&reader, 0..<2048, mapped: false, zeros: true) == nil)
        #expect(answer(&reader, 0..<2048, mapped: true, zeros: true) != nil)
        #expect(answer(&reader, 0..<2048, mapped: true, zeros: false) != nil)
        #expect(answer(&reader, 0..<2048, mapped: true, zeros: true, isFixed: true) == nil)
    }

    @Test func writtenBlocksAreData() {
        var reader = Reader()
        _ = reader.write(0..<8)
        #expect(answer(&reader, 0..<8, mapped: true, zeros: true) != nil)
        #expect(answer(&reader, 0..<8, mapped: true, zeros: false) == nil)
        #expect(answer(&reader, 0..<16, mapped: true, zeros: false) != nil)
    }

    @Test func trimmedBlocksAreZerosToTheBlock() {
        var reader = Reader()
        _ = reader.write(0..<32)
        reader.trim(8..<16)
        reader.flush()
        #expect(answer(&reader, 8..<16, mapped: true, zeros: true, asked: 8..<32) == nil)
        #expect(answer(&reader, 8..<24, mapped: true, zeros: true, asked: 8..<32) != nil)
    }

    @Test func writeInFlightMayBeToldEitherWay() {
        var reader = Reader()
        _ = reader.model.submitWrite(sectors: 0..<8, fua: false)
        #expect(answer(&reader, 0..<8, mapped: true, zeros: true) == nil)
        #expect(answer(&reader, 0..<8, mapped: true, zeros: false) == nil)
    }

    @Test func extentIsOfTheRequest() {
        var reader = Reader()
        #expect(answer(&reader, 8..<16, mapped: false, zeros: true) != nil)
        #expect(answer(&reader, 0..<4, mapped: false, zeros: true) != nil)
        #expect(answer(&reader, 0..<16, mapped: false, zeros: true, asked: 0..<8) != nil)
        #expect(answer(&reader, 0..<8, mapped: false, zeros: false) != nil)
    }

    @Test func newSizeForgetsWhatLayBehind() {
        var model = SpaceModel(serial: 1, sizeBytes: 2 << 20)
        model.replyChange(model.submitWrite(sectors: 3000..<3008, fua: true), ok: true)
        #expect(model.isTouched(3000))
        model.crash()
        #expect(model.surelyHolds(fromGrain: 1))
        model.resize(sizeBytes: 1 << 20)
        #expect(model.sectors == 2048)
        model.resize(sizeBytes: 2 << 20)
        #expect(!model.isTouched(3000))
        #expect(!model.surelyHolds(fromGrain: 0))
    }
}
