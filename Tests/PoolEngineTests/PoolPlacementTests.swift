import PoolFormat
import Testing

@testable import PoolEngine

@Suite struct PoolPlacementTests {
    private func rooms(_ slabs: [Int]) -> [Placement.Room] {
        slabs.enumerated().map {
            Placement.Room(disk: DiskNumber(UInt16($0.offset)), slabs: $0.element)
        }
    }

    /// The most columns of k copies that any sequence of placements reaches.
    private func bruteForce(_ slabs: [Int], copies: Int, _ known: inout [[Int]: Int]) -> Int {
        let key = slabs.sorted()
        if let value = known[key] { return value }
        var best = 0
        for set in 0..<(1 << key.count) where set.nonzeroBitCount == copies {
            var rest = key
            for index in key.indices where set >> index & 1 == 1 { rest[index] -= 1 }
            if rest.contains(where: { $0 < 0 }) { continue }
            best = max(best, 1 + bruteForce(rest, copies: copies, &known))
        }
        known[key] = best
        return best
    }

    private func eachRoom(_ body: ([Int]) -> Void) {
        for a in 0...4 {
            for b in 0...4 { for c in 0...3 { for d in 0...3 { body([a, b, c, d]) } } }
        }
    }

    @Test func countsWhatFits() {
        for copies in 1...3 {
            var known: [[Int]: Int] = [:]
            eachRoom { slabs in
                #expect(
                    Placement.columnsThatFit(slabs, copies: copies)
                        == bruteForce(slabs, copies: copies, &known))
            }
        }
    }

    /// Automatic groups, one after the other, use all that any placement could.
    @Test func automaticWidthStrandsNothing() {
        for copies in 1...3 {
            var known: [[Int]: Int] = [:]
            eachRoom { slabs in
                var rest = slabs
                var columns = 0
                while let chosen = Placement.chooseGroup(
                    rooms(rest), copies: copies, columns: 0, slabLimit: 60)
                {
                    #expect(Set(chosen).count == chosen.count)
                    #expect(chosen.count % copies == 0)
                    for disk in chosen { rest[Int(disk.rawValue)] -= 1 }
                    #expect(rest.allSatisfy { $0 >= 0 })
                    columns += chosen.count / copies
                }
                #expect(columns == bruteForce(slabs, copies: copies, &known))
            }
        }
    }

    @Test func evenDisksGiveTheWidestGroup() {
        let even = Placement.chooseGroup(
            rooms([9, 9, 9, 9]), copies: 2, columns: 0, slabLimit: 60)
        #expect(even?.count == 4)
        let many = Placement.chooseGroup(
            rooms(Array(repeating: 5, count: 40)), copies: 1, columns: 0, slabLimit: 60)
        #expect(many?.count == Placement.automaticColumnLimit)
        // Three columns one at a time; two wide groups would leave a slab alone.
        let uneven = Placement.chooseGroup(
            rooms([3, 1, 1, 1]), copies: 2, columns: 0, slabLimit: 60)
        #expect(uneven == [DiskNumber(0), DiskNumber(1)])
    }

    @Test func fixedWidthIsAllOrNothing() {
        #expect(
            Placement.chooseGroup(rooms([5, 5, 0]), copies: 1, columns: 3, slabLimit: 60) == nil)
        #expect(
            Placement.chooseGroup(rooms([5, 5, 1]), copies: 1, columns: 3, slabLimit: 60)
                == [DiskNumber(0), DiskNumber(1), DiskNumber(2)])
        #expect(
            Placement.chooseGroup(rooms([5, 5, 1]), copies: 1, columns: 3, slabLimit: 2) == nil)
        #expect(Placement.chooseGroup([], copies: 2, columns: 0, slabLimit: 60) == nil)
    }

    @Test func metadataGoesWhereTheRoomIs() {
        #expect(
            Placement.chooseMetadataDisks(rooms([1, 0, 7, 3]), copies: 2)
                == [DiskNumber(2), DiskNumber(3)])
        #expect(Placement.chooseMetadataDisks(rooms([0, 4]), copies: 2) == [DiskNumber(1)])
    }
}
