import PoolFormat
import Testing

@testable import PoolEngine

@Suite struct MissedBlocksTests {
    typealias Mask = MissedBlocks.Mask

    /// Every range whose ends lie at, before or behind the border of a word.
    @Test func masksAreExactAtEveryWordBorder() {
        let ends = [0, 1, 63, 64, 65, 127, 128, 191, 192, 193, 255, 256]
        for low in ends {
            for high in ends where low <= high {
                let mask = Mask(low..<high)
                #expect(mask.count == high - low)
                let found = (0..<256).filter { mask.contains($0) }
                #expect(found == Array(low..<high), "\(low)..<\(high)")
                for otherLow in ends {
                    for otherHigh in ends where otherLow <= otherHigh {
                        let other = Mask(otherLow..<otherHigh)
                        let common = max(0, min(high, otherHigh) - max(low, otherLow))
                        var union = mask
                        union.formUnion(other)
                        let count = high - low + otherHigh - otherLow - common
                        #expect(mask.intersects(other) == (common > 0) && union.count == count)
                    }
                }
            }
        }
        #expect(Mask.all == Mask(0..<256) && Mask.all.count == 256)
        #expect(Mask(0..<0) == Mask(200..<200))
    }

    @Test func pastTheBudgetItIsKeptByTheRegion() {
        var missed = MissedBlocks(grainBudget: 2)
        missed.insert(grain: 3, Mask(5..<6))
        missed.insert(grain: 40, Mask(7..<9))
        missed.insert(grain: 3, Mask(8..<9))
        #expect(missed.grains == [3, 40])
        #expect(missed.mask(ofGrain: 3)?.count == 2)
        #expect(missed.touchedRegions == [0, 2])
        missed.insert(grain: 17, Mask(0..<1))
        #expect(missed.grains == Array(0..<48))
        #expect(missed.touchedRegions == [0, 1, 2])
        #expect(missed.mask(ofGrain: 4) == .all && missed.mask(ofGrain: 48) == nil)
        // What comes next begins anew.
        missed.insert(grain: 100, Mask(1..<2))
        #expect(missed.mask(ofGrain: 100)?.count == 1)
        #expect(missed.mask(ofGrain: 101) == nil)
    }

    @Test func ofARegionOneGrainLeavesAndTheOthersStay() {
        var missed = MissedBlocks(grainBudget: 100)
        missed.insert(grain: 33, Mask(4..<5))
        missed.insert(region: 2)
        #expect(missed.grains == Array(32..<48) && missed.mask(ofGrain: 33) == .all)
        missed.remove(grain: 33)
        #expect(missed.mask(ofGrain: 33) == nil && !missed.intersects(grain: 33, .all))
        #expect(missed.grains == Array(32..<48).filter { $0 != 33 })
        #expect(missed.mask(ofGrain: 32) == .all && missed.touchedRegions == [2])
        for grain in UInt64(32)..<48 { missed.remove(grain: grain) }
        #expect(missed.isEmpty && missed.grains.isEmpty && missed.touchedRegions.isEmpty)
    }

    /// Taking grains out of a region makes masks of the rest: past the budget those become regions
    /// again with the next block, and nothing of them is forgotten.
    @Test func expandingPastTheBudgetForgetsNothing() {
        var missed = MissedBlocks(grainBudget: 4)
        missed.insert(region: 0)
        missed.remove(grain: 0)
        #expect(missed.grains == Array(1..<16))
        missed.insert(grain: 64, Mask(0..<1))
        #expect(Set(missed.grains).isSuperset(of: Array(1..<16) + [64]))
    }

    /// Against sets of blocks: nothing that was missed is ever forgotten, and within the budget
    /// nothing is thought missed that is not.
    @Test(arguments: [3, 12, 1000]) func agreesWithSetsOfBlocks(budget: Int) {
        var random = Random(state: UInt64(budget))
        for _ in 0..<20 {
            var missed = MissedBlocks(grainBudget: budget)
            var model: [UInt64: Set<Int>] = [:]
            for _ in 0..<40 {
                let grain = UInt64.random(in: 0..<64, using: &random)
                switch Int.random(in: 0..<10, using: &random) {
                case 0..<6:
                    let low = Int.random(in: 0..<256, using: &random)
                    let high = Int.random(in: low + 1...min(256, low + 70), using: &random)
                    missed.insert(grain: grain, Mask(low..<high))
                    model[grain, default: []].formUnion(low..<high)
                case 6:
                    let region = grain / 16
                    missed.insert(region: region)
                    for grain in region * 16..<(region + 1) * 16 { model[grain] = Set(0..<256) }
                default:
                    missed.remove(grain: grain)
                    model[grain] = nil
                }
                compare(missed, model, isExact: budget >= 64)
            }
            for grain in UInt64(0)..<64 { missed.remove(grain: grain) }
            #expect(missed.isEmpty)
        }
    }

    private func compare(_ missed: MissedBlocks, _ model: [UInt64: Set<Int>], isExact: Bool) {
        let isKnown = model.allSatisfy { grain, blocks in
            guard let mask = missed.mask(ofGrain: grain) else { return false }
            if isExact, mask.count != blocks.count { return false }
            return mask == .all || blocks.allSatisfy { mask.contains($0) }
        }
        #expect(isKnown)
        #expect(Set(missed.grains).isSuperset(of: model.keys))
        #expect(!isExact || missed.grains == model.keys.sorted())
        let regions = Set(model.keys.map { $0 / 16 })
        #expect(missed.touchedRegions.isSuperset(of: regions))
    }

    private struct Random: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ state >> 29
        }
    }
}

@Suite struct DepartedDisksTests {
    private let one = Self.base(1)
    private let two = Self.base(2)
    private let hole = SlabGroups.Base(device: DiskPlaces.nowhere, disk: .hole, offsetBytes: 0)

    private static func base(_ number: UInt16) -> SlabGroups.Base {
        SlabGroups.Base(device: DeviceIndex(number), disk: DiskNumber(number), offsetBytes: 0)
    }

    @Test func whereNothingIsMissingEverythingCounts() {
        let departed = DepartedDisks()
        #expect(departed.isEmpty && departed.isCurrent(one) && departed.takesData(one))
        #expect(departed.takesPages(one) && departed.takesJournal(one))
        #expect(departed.index(of: DiskNumber(1)) == nil)
    }

    /// What a disk takes, and whether it counts, in each of its standings.
    @Test func standingSaysWhatItTakes() {
        var departed = DepartedDisks()
        let index = departed.add(DiskNumber(1), .away, grainBudget: 10, missedPages: .nothing)
        #expect(!departed.isEmpty && departed.index(of: DiskNumber(1)) == index)
        // Away: nothing, whatever was said of it before.
        (departed[index].takesPages, departed[index].takesJournal) = (true, true)
        #expect(!departed.isCurrent(one) && !departed.takesData(one))
        #expect(!departed.takesPages(one) && !departed.takesJournal(one))
        // Returning: data at once, metadata as its copies become whole.
        departed[index].phase = .returning
        (departed[index].takesPages, departed[index].takesJournal) = (false, false)
        #expect(!departed.isCurrent(one) && departed.takesData(one))
        #expect(!departed.takesPages(one) && !departed.takesJournal(one))
        departed[index].takesPages = true
        #expect(departed.takesPages(one) && !departed.takesJournal(one))
        departed[index].takesJournal = true
        #expect(departed.takesJournal(one) && !departed.isCurrent(one))
        // The other never changes.
        #expect(departed.isCurrent(two) && departed.takesData(two))
        #expect(departed.takesPages(two) && departed.takesJournal(two))
        departed.remove(DiskNumber(1))
        #expect(departed.isEmpty && departed.isCurrent(one))
    }

    @Test func aHoleTakesNothingAndCountsForNothing() {
        var departed = DepartedDisks()
        departed.hasHoles = true
        #expect(!departed.isEmpty && departed.isCurrent(one))
        #expect(!departed.isCurrent(hole) && !departed.takesData(hole))
        #expect(!departed.isRight(hole, grain: 0, .all))
    }

    @Test func whatItHasNotMissedIsRight() {
        var departed = DepartedDisks()
        let index = departed.add(DiskNumber(1), .away, grainBudget: 10, missedPages: .nothing)
        departed[index].missed.insert(grain: 4, MissedBlocks.Mask(10..<12))
        #expect(departed.isRight(one, grain: 5, .all))
        #expect(departed.isRight(one, grain: 4, MissedBlocks.Mask(0..<10)))
        #expect(!departed.isRight(one, grain: 4, MissedBlocks.Mask(11..<20)))
        // Of a disk that is not here nothing can be had.
        let nowhere = SlabGroups.Base(
            device: DiskPlaces.nowhere, disk: DiskNumber(1), offsetBytes: 0)
        #expect(!departed.isRight(nowhere, grain: 5, .all))
    }
}

@Suite struct MissedPagesTests {
    private let piece = PieceName(kind: .checksum, index: 2)

    @Test func aPageIsMissedWithEitherSlot() {
        for slot in 0..<2 {
            var missed = MissedPages.nothing
            missed.insert(PageSlot(.checksum, page: 300, slot: slot))
            for page in UInt32(290)..<310 {
                #expect(missed.contains(.checksum, page: page) == (page == 300))
            }
            #expect(!missed.contains(.map, page: 300))
        }
        #expect(MissedPages.everything.contains(.map, page: 7))
        #expect(!MissedPages.nothing.contains(.map, page: 7))
    }

    @Test func bothSlotsOfAPageLieInItsPiece() {
        let pages = UInt32(MetadataPage.pagesPerPiece)
        let first = PageSlot(.checksum, page: 2 * pages, slot: 0)
        let last = PageSlot(.checksum, page: 3 * pages - 1, slot: 1)
        #expect(first.piece == piece && last.piece == piece)
        #expect(first.block == 0)
        #expect(last.block == Units.pieceBytes / Units.blockBytes - 1)
    }

    @Test func whatIsMissedIsKnownToTheSlot() {
        var missed = MissedPages.nothing
        #expect(missed.blocks(of: piece).isEmpty)
        let slot = PageSlot(.checksum, page: 2 * UInt32(MetadataPage.pagesPerPiece) + 7, slot: 1)
        missed.insert(slot)
        missed.insert(slot)
        #expect(missed.blocks(of: piece) == [slot.block])
        #expect(missed.blocks(of: PieceName(kind: .map, index: 2)).isEmpty)
        #expect(missed.blocks(of: PieceName(kind: .checksum, index: 1)).isEmpty)
    }

    @Test func everythingStaysEverything() {
        var missed = MissedPages.everything
        missed.insert(PageSlot(.map, page: 0, slot: 0))
        #expect(missed.blocks(of: piece).count == Units.pieceBytes / Units.blockBytes)
    }
}
