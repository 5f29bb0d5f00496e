import PoolFormat
import Testing

@testable import PoolEngine

@Suite struct StripePlacementTests {
    private func rooms(_ slabs: [Int], tags: [Int]? = nil) -> [Placement.Room] {
        slabs.indices.map { index in
            Placement.Room(
                disk: DiskNumber(UInt16(index)), slabs: slabs[index],
                domain: tags.map { .enclosure("e\($0[index])") })
        }
    }

    /// The most that any sequence of groups uses, or holds.
    private struct BruteForce {
        let parity: Int
        let widest: Int
        private var known: [[Int]: (slabs: Int, data: Int)] = [:]

        init(parity: Int, widest: Int) {
            self.parity = parity
            self.widest = widest
        }

        mutating func most(_ slabs: [Int]) -> (slabs: Int, data: Int) {
            let key = slabs.filter { $0 > 0 }.sorted()
            if let value = known[key] { return value }
            var best = (slabs: 0, data: 0)
            for set in 0..<(1 << key.count) {
                let width = set.nonzeroBitCount
                guard (2 + parity...widest).contains(width) else { continue }
                let rest = most(key.indices.map { key[$0] - set >> $0 & 1 })
                best.slabs = max(best.slabs, width + rest.slabs)
                best.data = max(best.data, width - parity + rest.data)
            }
            known[key] = best
            return best
        }
    }

    /// Groups, one after the other, until nothing fits.
    private func fill(
        _ rooms: [Placement.Room], parity: Int, dataColumns: Int = 0, slabLimit: Int
    ) -> [[DiskNumber]] {
        var rest = rooms
        var groups: [[DiskNumber]] = []
        while let chosen = Placement.chooseStripe(
            rest, parity: parity, dataColumns: dataColumns, slabLimit: slabLimit)
        {
            #expect(Set(chosen).count == chosen.count)
            #expect((2 + parity...min(16 + parity, slabLimit)).contains(chosen.count))
            for disk in chosen { rest[Int(disk.rawValue)].slabs -= 1 }
            guard rest.allSatisfy({ $0.slabs >= 0 }) else {
                Issue.record("a disk without room: \(chosen)")
                break
            }
            groups.append(chosen)
        }
        if dataColumns == 0 { #expect(rest.count { $0.slabs > 0 } < 2 + parity) }
        return groups
    }

    private func data(_ groups: [[DiskNumber]], parity: Int) -> Int {
        groups.reduce(0) { $0 + $1.count - parity }
    }

    /// All rooms of so many disks, each of them once in whatever order.
    private func eachPool(disks: Int, most: Int, _ body: ([Int]) -> Void) {
        func extend(_ slabs: [Int]) {
            if slabs.count == disks { return body(slabs) }
            for next in 0...(slabs.last ?? most) { extend(slabs + [next]) }
        }
        extend([])
    }

    /// With no limit, and with widths of two, and of one.
    static let shapes = [(1, 60), (2, 60), (1, 4), (2, 5), (1, 3), (2, 4)]

    @Test(arguments: shapes) func countsWhatFits(parity: Int, slabLimit: Int) throws {
        let stripes = try #require(
            Placement.Stripes(parity: parity, dataColumns: 0, slabLimit: slabLimit))
        var bruteForce = BruteForce(parity: parity, widest: stripes.widths.upperBound)
        eachPool(disks: 6, most: 3) { slabs in
            let most = bruteForce.most(slabs)
            #expect(stripes.slabsThatFit(slabs) == most.slabs, "\(slabs)")
            #expect(stripes.dataThatFits(slabs) == most.data, "\(slabs)")
        }
    }

    @Test(arguments: shapes) func automaticWidthStrandsNothing(parity: Int, slabLimit: Int) {
        var bruteForce = BruteForce(parity: parity, widest: min(16 + parity, slabLimit))
        eachPool(disks: 5, most: 4) { slabs in
            let groups = fill(rooms(slabs), parity: parity, slabLimit: slabLimit)
            #expect(data(groups, parity: parity) == bruteForce.most(slabs).data, "\(slabs)")
        }
    }

    @Test(arguments: 1...2) func oneMoreDiskAddsCapacity(parity: Int) {
        eachPool(disks: 4, most: 4) { slabs in
            let before = data(fill(rooms(slabs), parity: parity, slabLimit: 60), parity: parity)
            // Fewer disks than a group needs may still be too few.
            let isEnough = slabs.count { $0 > 0 } >= 1 + parity
            for added in 1...4 where isEnough {
                let groups = fill(rooms(slabs + [added]), parity: parity, slabLimit: 60)
                #expect(data(groups, parity: parity) > before, "\(slabs) and \(added)")
            }
        }
    }

    @Test func widthsOfSomePools() {
        func width(_ slabs: [Int], parity: Int, slabLimit: Int = 60) -> Int? {
            Placement.chooseStripe(
                rooms(slabs), parity: parity, dataColumns: 0, slabLimit: slabLimit)?.count
        }
        #expect(width([9, 9, 9], parity: 1) == 3)
        #expect(width([9, 9, 9, 9, 9], parity: 1) == 5)
        #expect(width([9, 9, 9], parity: 2) == nil)
        #expect(width([9, 9, 9, 9], parity: 2) == 4)
        #expect(width([9, 9, 0, 0], parity: 1) == nil)
        #expect(width(Array(repeating: 9, count: 40), parity: 1) == 17)
        #expect(width(Array(repeating: 9, count: 40), parity: 2) == 18)
        #expect(width(Array(repeating: 9, count: 40), parity: 2, slabLimit: 10) == 10)
        #expect(width(Array(repeating: 9, count: 40), parity: 2, slabLimit: 3) == nil)
        // Two groups of three; one over all disks would leave two slabs alone.
        #expect(width([2, 2, 1, 1], parity: 1) == 3)
        // Large disks: nothing depends on the number of slabs.
        #expect(width(Array(repeating: 10_000, count: 60), parity: 2) == 18)
        let mixed = (0..<60).map { $0 % 3 == 0 ? 20_000 : 10_000 }
        #expect(width(mixed, parity: 1) == 17)
    }

    /// As many groups of a fixed width as there can be, each on the disks with the most room.
    @Test(arguments: 1...2) func fixedWidthIsAllOrNothing(parity: Int) {
        for columns in 2...3 {
            eachPool(disks: 5, most: 3) { slabs in
                let groups = fill(
                    rooms(slabs.reversed()), parity: parity, dataColumns: columns, slabLimit: 60)
                #expect(groups.allSatisfy { $0.count == columns + parity })
                #expect(
                    groups.count == Placement.columnsThatFit(slabs, copies: columns + parity))
            }
        }
        func choose(_ columns: Int, slabLimit: Int) -> [DiskNumber]? {
            Placement.chooseStripe(
                rooms([1, 5, 4, 2, 9, 0, 1]), parity: parity, dataColumns: columns,
                slabLimit: slabLimit)
        }
        let order = [4, 1, 2, 3, 0, 6].map { DiskNumber(UInt16($0)) }
        #expect(choose(2, slabLimit: 60) == Array(order.prefix(2 + parity)))
        #expect(choose(6 - parity, slabLimit: 60) == order)
        #expect(choose(6 - parity, slabLimit: 5) == nil)
        #expect(choose(7 - parity, slabLimit: 60) == nil)
        let many = rooms(Array(repeating: 1, count: 30))
        for (columns, width) in [(1, nil), (16, 16 + parity), (17, nil)] {
            let chosen = Placement.chooseStripe(
                many, parity: parity, dataColumns: columns, slabLimit: 60)
            #expect(chosen?.count == width)
        }
    }

    // MARK: - fault domains

    /// Every way of putting so many disks into domains.
    private func eachTagging(disks: Int, _ body: ([Int]) -> Void) {
        func extend(_ tags: [Int]) {
            if tags.count == disks { return body(tags) }
            for next in 0...((tags.max() ?? -1) + 1) { extend(tags + [next]) }
        }
        extend([])
    }

    /// Where groups over domains could use as many slabs as any groups, all groups are apart, and
    /// hold what groups over domains can hold; else one goes where it would without domains.
    @Test(arguments: [(1, 60), (2, 60), (1, 4), (2, 4)], 5...6)
    func groupsAreApartWhereThatStrandsNothing(_ shape: (parity: Int, slabLimit: Int), disks: Int) {
        let (parity, slabLimit) = shape
        var bruteForce = BruteForce(parity: parity, widest: min(16 + parity, slabLimit))
        var (apart, together) = (0, 0)
        eachPool(disks: disks, most: disks == 5 ? 3 : 2) { slabs in
            let plain = Placement.chooseStripe(
                rooms(slabs), parity: parity, dataColumns: 0, slabLimit: slabLimit)
            let most = bruteForce.most(slabs)
            guard plain != nil else { return }
            eachTagging(disks: disks) { tags in
                var domains = [Int](repeating: 0, count: disks)
                for (tag, room) in zip(tags, slabs) { domains[tag] += room }
                let rooms = rooms(slabs, tags: tags)
                guard bruteForce.most(domains).slabs == most.slabs else {
                    together += 1
                    let chosen = Placement.chooseStripe(
                        rooms, parity: parity, dataColumns: 0, slabLimit: slabLimit)
                    #expect(chosen == plain, "\(slabs) \(tags)")
                    return
                }
                apart += 1
                let groups = fill(rooms, parity: parity, slabLimit: slabLimit)
                #expect(
                    groups.allSatisfy { group in
                        Set(group.map { tags[Int($0.rawValue)] }).count == group.count
                    }, "\(slabs) \(tags)")
                #expect(
                    data(groups, parity: parity) == bruteForce.most(domains).data,
                    "\(slabs) \(tags)")
            }
        }
        #expect(apart > 100 && together > 100)
    }

    /// The same of a fixed width.
    @Test(arguments: 1...2) func aFixedWidthIsApartWhereThatStrandsNothing(parity: Int) {
        let width = 2 + parity
        eachPool(disks: 5, most: 2) { slabs in
            let plain = Placement.chooseStripe(
                rooms(slabs), parity: parity, dataColumns: 2, slabLimit: 60)
            eachTagging(disks: 5) { tags in
                var domains = [Int](repeating: 0, count: 5)
                for (tag, room) in zip(tags, slabs) { domains[tag] += room }
                let rooms = rooms(slabs, tags: tags)
                let strandsNothing =
                    Placement.columnsThatFit(domains, copies: width)
                    == Placement.columnsThatFit(slabs, copies: width)
                guard strandsNothing else {
                    let chosen = Placement.chooseStripe(
                        rooms, parity: parity, dataColumns: 2, slabLimit: 60)
                    return #expect(chosen == plain, "\(slabs) \(tags)")
                }
                for group in fill(rooms, parity: parity, dataColumns: 2, slabLimit: 60) {
                    let used = Set(group.map { tags[Int($0.rawValue)] })
                    #expect(used.count == width, "\(slabs) \(tags)")
                }
            }
        }
    }

    @Test func tagsThatGroupNothingChangeNothing() {
        eachPool(disks: 5, most: 4) { slabs in
            for parity in 1...2 {
                for columns in [0, 2, 3] {
                    let choose = { (rooms: [Placement.Room]) in
                        Placement.chooseStripe(
                            rooms, parity: parity, dataColumns: columns, slabLimit: 60)
                    }
                    #expect(choose(rooms(slabs)) == choose(rooms(slabs, tags: [0, 1, 2, 3, 4])))
                }
            }
        }
    }

    @Test func aGroupHasOneSlabInEachEnclosure() {
        // Four enclosures of three disks: as wide as there are enclosures.
        let even = rooms(Array(repeating: 9, count: 12), tags: (0..<12).map { $0 / 3 })
        let apart = Placement.chooseStripe(even, parity: 2, dataColumns: 0, slabLimit: 60)
        #expect(apart == [0, 3, 6, 9].map { DiskNumber(UInt16($0)) })
        let large = rooms(Array(repeating: 10_000, count: 60), tags: (0..<60).map { $0 / 10 })
        let six = Placement.chooseStripe(large, parity: 1, dataColumns: 0, slabLimit: 60)
        #expect(six == (0..<6).map { DiskNumber(UInt16($0 * 10)) })
        // Three are too few for two parities, and of four the one with a disk more has slabs left.
        let few = rooms(Array(repeating: 9, count: 9), tags: (0..<9).map { $0 / 3 })
        #expect(
            Placement.chooseStripe(few, parity: 2, dataColumns: 0, slabLimit: 60)?.count == 9)
        let uneven = rooms(Array(repeating: 9, count: 9), tags: (0..<9).map { min($0 / 2, 3) })
        #expect(
            Placement.chooseStripe(uneven, parity: 2, dataColumns: 0, slabLimit: 60)?.count == 9)
    }

    // MARK: - groups that are there

    /// Every slab counts as a copy of one column: each is kept from every other.
    private func group(_ disks: [DiskNumber]) -> Placement.Group {
        Placement.Group(disks: disks, copies: disks.count)
    }

    /// Of every way to put seven disks into racks: a successor shares no disk with another slab of
    /// the group, and no rack where that can be; of those it is the one with the most room.
    @Test(arguments: [false, true])
    func aSuccessorIsAsFarFromAllSlabsAsCanBe(mayShare: Bool) {
        let group = group((0..<4).map { DiskNumber(UInt16($0)) })
        for tags in 0..<2187 {
            let racks = (0..<7).map { tags / [1, 3, 9, 27, 81, 243, 729][$0] % 3 }
            let domains = Dictionary(
                uniqueKeysWithValues: (0..<7).map {
                    (DiskNumber(UInt16($0)), FaultDomain.rack("r\(racks[$0])"))
                })
            // The last disk is full, the ones of the group are not.
            let rooms = (0..<7).map {
                Placement.Room(disk: DiskNumber(UInt16($0)), slabs: [9, 8, 7, 6, 2, 3, 0][$0])
            }
            for position in 0..<4 {
                let leaving = DiskNumber(UInt16(position))
                let chosen = Placement.chooseSuccessor(
                    rooms.filter { $0.disk != leaving }, for: group, at: position,
                    mayShare: mayShare, domains: domains)
                let others = Set((0..<4).filter { $0 != position }.map { racks[$0] })
                let isBetter = others.contains(racks[5]) && !others.contains(racks[4])
                #expect(chosen == DiskNumber(isBetter ? 4 : 5), "\(racks), \(position)")
            }
        }
        let full = (0..<3).map { Placement.Room(disk: DiskNumber(UInt16($0)), slabs: 9) }
        #expect(
            Placement.chooseSuccessor(
                full, for: group, at: 3, mayShare: mayShare, domains: [:]) == nil)
    }

    /// A slab that has a rack for itself in its group keeps one; any other may go anywhere.
    @Test func movesKeepSlabsApart() {
        let domains = Dictionary(
            uniqueKeysWithValues: [0, 1, 2, 2, 0, 3].enumerated().map {
                (DiskNumber(UInt16($0.offset)), FaultDomain.rack("r\($0.element)"))
            })
        func next(_ group: [UInt16], _ slabs: [Int]) -> Placement.Move? {
            Placement.nextMove(
                rooms(slabs), groups: [self.group(group.map { DiskNumber($0) })],
                domains: domains)
        }
        // Disk 0 is full. Disk 3 has the most room, and is beside disk 2.
        #expect(
            next([0, 1, 2], [0, 5, 5, 9, 7, 0])
                == Placement.Move(group: 0, position: 0, disk: DiskNumber(4)))
        #expect(
            next([0, 1, 2], [0, 5, 5, 9, 0, 0])
                == Placement.Move(group: 0, position: 2, disk: DiskNumber(3)))
        #expect(next([0, 1, 2], [0, 8, 8, 9, 0, 0]) == nil)
        // Disks 2 and 3 are in one rack already.
        #expect(
            next([1, 2, 3], [5, 5, 0, 5, 9, 0])
                == Placement.Move(group: 0, position: 1, disk: DiskNumber(4)))
        #expect(next([0, 2, 3], [5, 5, 0, 5, 9, 0])?.disk == DiskNumber(4))
        // Never onto another disk of the group.
        #expect(next([0, 1, 2], [0, 9, 9, 0, 0, 0]) == nil)
    }

    /// The most data that more groups hold beside those of given widths, wherever all slabs lie:
    /// groups of any widths exist where, for each j, the j widest fit (Gale and Ryser).
    private func mostData(_ sizes: [Int], beside widths: [Int], parity: Int, widest: Int) -> Int {
        let room = sizes.reduce(0, +) - widths.reduce(0, +)
        let exists = { (widths: [Int]) -> Bool in
            var used = 0
            return widths.sorted(by: >).enumerated().allSatisfy { index, width in
                used += width
                return used <= sizes.reduce(0) { $0 + min($1, index + 1) }
            }
        }
        var best = 0
        var groups = 1
        while groups * (2 + parity) <= room {
            let slabs = (groups * (2 + parity)...min(room, groups * widest)).last { slabs in
                let even = (0..<groups).map { slabs / groups + ($0 < slabs % groups ? 1 : 0) }
                return exists(widths + even)
            }
            if let slabs { best = max(best, slabs - parity * groups) }
            groups += 1
        }
        return best
    }

    /// Whatever was placed and given back on some of the disks: once the others are there, and
    /// slabs have been moved, no group has two on a disk, and as much data fits beside the groups
    /// as with any other places of their slabs. In rare pools it is one slab less: every group on
    /// the full disk is on the empty one, too, and a slab would have to go by way of a third.
    @Test func movesStrandAlmostNothing() {
        var short = 0
        for seed in UInt64(1)...4000 {
            var random = Generator(state: seed)
            let parity = Int.random(in: 1...2, using: &random)
            let slabLimit = Bool.random(using: &random) ? 60 : 3 + parity
            let sizes = (0..<Int.random(in: 2 + parity...6, using: &random)).map { _ in
                Int.random(in: 0...6, using: &random)
            }
            let present = Int.random(in: 2 + parity...sizes.count, using: &random)
            var rest = sizes.indices.map { $0 < present ? sizes[$0] : 0 }
            var groups: [[DiskNumber]] = []
            func give(_ disks: [DiskNumber], _ slabs: Int) {
                for disk in disks { rest[Int(disk.rawValue)] += slabs }
            }
            func place(dataColumns: Int) -> Bool {
                let chosen = Placement.chooseStripe(
                    rooms(rest), parity: parity, dataColumns: dataColumns, slabLimit: slabLimit)
                guard let chosen else { return false }
                give(chosen, -1)
                groups.append(chosen)
                return true
            }
            for _ in 0..<Int.random(in: 0...12, using: &random) {
                _ = place(dataColumns: [0, 0, 2, 3].randomElement(using: &random) ?? 0)
                if !groups.isEmpty, Int.random(in: 0..<3, using: &random) == 0 {
                    give(groups.remove(at: Int.random(in: groups.indices, using: &random)), 1)
                }
            }
            for index in present..<sizes.count { rest[index] = sizes[index] }
            var moves = 0
            while let move = Placement.nextMove(rooms(rest), groups: groups.map(group)) {
                give([groups[move.group][move.position]], 1)
                give([move.disk], -1)
                groups[move.group][move.position] = move.disk
                moves += 1
            }
            #expect(moves <= sizes.reduce(0, +) && rest.allSatisfy { $0 >= 0 })
            let before = groups.count
            while place(dataColumns: 0) {}
            #expect(groups.allSatisfy { Set($0).count == $0.count })
            let most = mostData(
                sizes, beside: groups[..<before].map(\.count), parity: parity,
                widest: min(16 + parity, slabLimit))
            let got = data(Array(groups[before...]), parity: parity)
            #expect((most - 1...most).contains(got), "seed \(seed)")
            if got < most { short += 1 }
        }
        #expect(short <= 4)
    }
}
