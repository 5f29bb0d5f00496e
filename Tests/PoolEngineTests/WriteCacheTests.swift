import PoolFormat
import Testing

@testable import PoolEngine

/// The slots of a write-back cache, and whose they are.
@Suite struct WriteCacheTests {
    private static func cache(pieces: UInt32) -> WriteCache {
        var cache = WriteCache(copies: 2)
        cache.pieceLimit = Int(pieces)
        for piece in 0..<pieces {
            let bases = (0..<2).map { copy in
                SlabGroups.Base(
                    device: DeviceIndex(UInt16(copy)), disk: DiskNumber(UInt16(copy + 1)),
                    offsetBytes: UInt64(piece + 1) << 20)
            }
            cache.add(piece: piece, bases: bases)
        }
        return cache
    }

    private static func take(_ count: Int, runs: Int = 64, of cache: inout WriteCache) -> [Range<UInt32>]? {
        var taken: [Range<UInt32>] = []
        return cache.take(count, runs: runs) { taken.append($0) } ? taken : nil
    }

    @Test func runsLieSideBySideAndInOnePieceEach() throws {
        var cache = Self.cache(pieces: 2)
        #expect(Self.take(200, of: &cache) == [0..<200])
        // One word of 64 after the other, joined where nothing is between them.
        #expect(Self.take(100, of: &cache) == [200..<256, 256..<300])
        #expect(cache.freeSlots == 512 - 300)
        #expect(cache.base(257, copy: 1).offsetBytes == 2 << 20 + 4096)
    }

    @Test func whatIsInTooManyPiecesIsNotTaken() throws {
        var cache = Self.cache(pieces: 1)
        let all = try #require(Self.take(256, of: &cache))
        #expect(Self.take(1, of: &cache) == nil)
        for slot in all.joined() where slot % 2 == 0 { cache.setFree(slot) }
        #expect(Self.take(20, runs: 19, of: &cache) == nil)
        #expect(cache.freeSlots == 128)
        #expect(Self.take(20, runs: 20, of: &cache)?.count == 20)
        #expect(cache.freeSlots == 108)
    }

    @Test func slotsAreSetAsideOnlyOnce() {
        var cache = Self.cache(pieces: 1)
        let isAll = cache.reserve(256)
        let isMore = cache.reserve(1)
        cache.unreserve(1)
        let isOne = cache.reserve(1)
        #expect(isAll && !isMore && isOne)
    }

    @Test func aClosedPieceIsNotWrittenAndGoesWhenItIsEmpty() throws {
        var cache = Self.cache(pieces: 2)
        let slots = try #require(Self.take(3, of: &cache))
        #expect(cache.put(7, in: slots[0].lowerBound) == nil)
        cache.close(piece: 0)
        #expect(cache.freeSlots == 256 && cache.openPieces == 1 && cache.closedPieces == [0])
        #expect(Self.take(300, of: &cache) == nil)
        #expect(cache.grains(inPiece: 0) == [0] && cache.grains(inPiece: 1) == [])
        #expect(cache.remove(7) == 0)
        for slot in slots.joined() { cache.setFree(slot) }
        #expect(cache.isEmpty(piece: 0) && cache.freeSlots == 256)
        cache.remove(piece: 0)
        #expect(cache.pieceCount == 1 && cache.nextPiece == 0)
    }

    /// A page says what is durable: neither what has just come, nor that what has left is gone.
    @Test func aPageHasWhatIsDurable() {
        var cache = Self.cache(pieces: 1)
        _ = Self.take(2, of: &cache)
        func shown() -> [Int: UInt64] {
            var shown: [Int: UInt64] = [:]
            cache.forEachDurable(inPiece: 0) { shown[$0] = $1 }
            return shown
        }
        _ = cache.put(500, in: 0)
        #expect(shown() == [:])
        cache.markDurable(0)
        #expect(shown() == [0: 500])
        #expect(cache.put(500, in: 1) == 0)
        #expect(cache.slot(ofBlock: 500) == 1 && cache.blockCount == 1)
        #expect(shown() == [0: 500])
        cache.markDurable(1)
        cache.setFree(0)
        #expect(shown() == [1: 500])
    }

    @Test func blocksOfAGrainAreFoundInTheirOrder() {
        var cache = Self.cache(pieces: 1)
        _ = Self.take(4, of: &cache)
        for (slot, block) in ([265, 258, 3, 511] as [UInt64]).enumerated() {
            _ = cache.put(block, in: UInt32(slot))
        }
        #expect(cache.slots(ofGrain: 1).map(\.block) == [2, 9, 255])
        #expect(cache.slots(ofGrain: 1).map(\.slot) == [1, 0, 3])
        #expect(cache.has(grain: 0) && !cache.has(grain: 2))
        #expect([cache.nextGrain(), cache.nextGrain(), cache.nextGrain()] == [0, 1, 0])
        for block in [258, 265, 511] as [UInt64] { _ = cache.remove(block) }
        #expect(!cache.has(grain: 1) && cache.nextGrain() == 0)
    }

    @Test func recoveryRefusesASlotOrABlockTwice() {
        var cache = Self.cache(pieces: 1)
        let (isFirst, isSameSlot) = (cache.recover(5, block: 1), cache.recover(5, block: 2))
        let (isSameBlock, isNowhere) = (cache.recover(6, block: 1), cache.recover(256, block: 3))
        #expect(isFirst && !isSameSlot && !isSameBlock && !isNowhere)
        #expect(cache.freeSlots == 255)
        #expect(Self.take(6, of: &cache) == [0..<5, 6..<7])
    }
}
