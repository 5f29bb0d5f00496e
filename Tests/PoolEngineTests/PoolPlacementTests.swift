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

    /// Whatever was placed and given back on some of the disks: once the others are there and slabs
    /// have been moved, as many columns fit as in any placement on all of them.
    @Test func movesStrandNothing() {
        for seed in UInt64(1)...4000 {
            var random = Generator(state: seed)
            let copies = Int.random(in: 1...3, using: &random)
            let sizes = (0..<Int.random(in: copies...6, using: &random)).map { _ in
                Int.random(in: 0...6, using: &random)
            }
            let present = Int.random(in: copies...sizes.count, using: &random)
            var rest = sizes.indices.map { $0 < present ? sizes[$0] : 0 }
            var groups: [[DiskNumber]] = []
            func give(_ disks: [DiskNumber], _ slabs: Int) {
                for disk in disks { rest[Int(disk.rawValue)] += slabs }
            }
            func place(columns: Int) -> Bool {
                let chosen = Placement.chooseGroup(
                    rooms(rest), copies: copies, columns: columns, slabLimit: 60)
                guard let chosen else { return false }
                give(chosen, -1)
                groups.append(chosen)
                return true
            }
            for _ in 0..<Int.random(in: 0...12, using: &random) {
                _ = place(columns: Int.random(in: 1...2, using: &random))
                if !groups.isEmpty, Int.random(in: 0..<4, using: &random) == 0 {
                    give(groups.remove(at: Int.random(in: groups.indices, using: &random)), 1)
                }
            }
            for index in present..<sizes.count { rest[index] = sizes[index] }
            var moves = 0
            while let move = Placement.nextMove(
                rooms(rest), groups: groups.map { Placement.Group(disks: $0, copies: copies) })
            {
                if groups[move.group].contains(move.disk) {
                    let fit = Placement.columnsThatFit(rest, copies: copies)
                    #expect(fit < rest.reduce(0, +) / copies, "columns share a disk for nothing")
                }
                give([groups[move.group][move.position]], 1)
                give([move.disk], -1)
                groups[move.group][move.position] = move.disk
                moves += 1
            }
            #expect(moves <= sizes.reduce(0, +) && rest.allSatisfy { $0 >= 0 })
            while place(columns: 1) {}
            for group in groups {
                for first in stride(from: 0, to: group.count, by: copies) {
                    #expect(Set(group[first..<first + copies]).count == copies)
                }
            }
            let columns = groups.reduce(0) { $0 + $1.count / copies }
            #expect(columns == Placement.columnsThatFit(sizes, copies: copies), "seed \(seed)")
        }
    }

    /// Two columns come to lie on one disk for room that could not be used, not to even out.
    @Test func columnsShareADiskOnlyForRoom() {
        let wide = Placement.Group(disks: (0..<4).map { DiskNumber(UInt16($0)) }, copies: 2)
        #expect(Placement.nextMove(rooms([0, 0, 4, 4]), groups: [wide]) == nil)
        #expect(
            Placement.nextMove(rooms([0, 0, 0, 4]), groups: [wide])
                == Placement.Move(group: 0, position: 0, disk: DiskNumber(3)))
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

    // MARK: - fault domains

    /// Rooms on four disks, and every way of putting the disks into at most three enclosures.
    private func eachWorld(_ body: ([Placement.Room], _ slabs: [Int]) -> Void) {
        for tags in 0..<27 {
            let tag = [0, tags % 3, tags / 3 % 3, tags / 9]
            for a in 0...3 {
                for b in 0...3 {
                    for c in 0...2 {
                        for d in 0...2 {
                            let slabs = [a, b, c, d]
                            body(
                                slabs.indices.map {
                                    Placement.Room(
                                        disk: DiskNumber(UInt16($0)), slabs: slabs[$0],
                                        domain: .enclosure("e\(tag[$0])"))
                                }, slabs)
                        }
                    }
                }
            }
        }
    }

    private func domains(_ chosen: [DiskNumber], _ rooms: [Placement.Room]) -> [FaultDomain] {
        chosen.map { rooms[Int($0.rawValue)].domain }
    }

    /// Automatic groups, one after the other, until nothing fits.
    private func fill(
        _ rooms: [Placement.Room], copies: Int, _ body: ([DiskNumber], [Placement.Room]) -> Void
    ) {
        var rest = rooms
        while let chosen = Placement.chooseGroup(
            rest, copies: copies, columns: 0, slabLimit: 60)
        {
            #expect(Set(chosen).count == chosen.count && chosen.count % copies == 0)
            for disk in chosen { rest[Int(disk.rawValue)].slabs -= 1 }
            guard rest.allSatisfy({ $0.slabs >= 0 }) else { return }
            body(chosen, rooms)
        }
    }

    /// Whatever the domains are, all that plain disk placement could use is used.
    @Test func domainsStrandNothing() {
        for copies in 1...3 {
            var known: [[Int]: Int] = [:]
            eachWorld { rooms, slabs in
                var columns = 0
                fill(rooms, copies: copies) { chosen, _ in columns += chosen.count / copies }
                #expect(columns == bruteForce(slabs, copies: copies, &known), "\(rooms)")
            }
        }
    }

    /// As many mirrored columns are kept apart as the domains' rooms allow, and those come first.
    @Test func mirrorsAreKeptApartWhileThatIsPossible() {
        eachWorld { rooms, slabs in
            let byDomain = Dictionary(grouping: rooms, by: \.domain)
                .mapValues { $0.reduce(0) { $0 + $1.slabs } }
            let possible = Placement.columnsThatFit(Array(byDomain.values), copies: 2)
            var apart = 0
            var isMixed = false
            fill(rooms, copies: 2) { chosen, rooms in
                if Placement.isSeparated(domains(chosen, rooms), copies: 2) {
                    #expect(!isMixed, "a group apart follows one that is not: \(rooms)")
                    apart += chosen.count / 2
                } else {
                    isMixed = true
                }
            }
            #expect(apart == possible, "\(rooms)")
        }
    }

    /// With every disk its own domain nothing is different from having none.
    @Test func tagsThatGroupNothingChangeNothing() {
        eachRoom { slabs in
            let plain = rooms(slabs)
            let tagged = plain.map {
                Placement.Room(
                    disk: $0.disk, slabs: $0.slabs, domain: .rack("r\($0.disk.rawValue)"))
            }
            for copies in 1...3 {
                for columns in 0...2 {
                    #expect(
                        Placement.chooseGroup(plain, copies: copies, columns: columns, slabLimit: 60)
                            == Placement.chooseGroup(
                                tagged, copies: copies, columns: columns, slabLimit: 60))
                }
            }
        }
    }

    /// A fixed width is placed whenever it is without domains, and apart whenever that strands
    /// nothing more.
    @Test func fixedWidthIsKeptApartWhereThatCostsNothing() {
        let copies = 2
        eachWorld { rooms, slabs in
            for width in 1...2 {
                let chosen = Placement.chooseGroup(
                    rooms, copies: copies, columns: width, slabLimit: 60)
                let plain = Placement.chooseGroup(
                    self.rooms(slabs), copies: copies, columns: width, slabLimit: 60)
                #expect((chosen == nil) == (plain == nil))
                guard let chosen, let plain else { return }
                let left = { (taken: [DiskNumber]) in
                    var rest = slabs
                    for disk in taken { rest[Int(disk.rawValue)] -= 1 }
                    return Placement.columnsThatFit(rest, copies: copies)
                }
                #expect(left(chosen) >= left(plain))
                if width == 1, !Placement.isSeparated(domains(chosen, rooms), copies: copies) {
                    for a in rooms where a.slabs > 0 {
                        for b in rooms where b.slabs > 0 && a.domain != b.domain {
                            #expect(left([a.disk, b.disk]) < left(plain), "\(rooms)")
                        }
                    }
                }
            }
        }
    }

    @Test func twoEnclosuresHoldOneCopyEach() {
        let rooms = (0..<8).map {
            Placement.Room(
                disk: DiskNumber(UInt16($0)), slabs: 9, domain: .enclosure($0 < 4 ? "a" : "b"))
        }
        let chosen = Placement.chooseGroup(rooms, copies: 2, columns: 0, slabLimit: 60)
        #expect(chosen?.count == 8)
        #expect(Placement.isSeparated(domains(chosen ?? [], rooms), copies: 2))
        // Three disks and one: a group is as wide as the smaller enclosure.
        let uneven = (0..<4).map {
            Placement.Room(
                disk: DiskNumber(UInt16($0)), slabs: 9, domain: .enclosure($0 < 3 ? "a" : "b"))
        }
        let narrow = Placement.chooseGroup(uneven, copies: 2, columns: 0, slabLimit: 60)
        #expect(narrow?.count == 2 && narrow?.contains(DiskNumber(3)) == true)
        // Enough domains for every slab of the group: all are distinct.
        let four = (0..<12).map {
            Placement.Room(
                disk: DiskNumber(UInt16($0)), slabs: 9, domain: .rack("r\($0 / 3)"))
        }
        let wide = Placement.chooseGroup(four, copies: 2, columns: 2, slabLimit: 60) ?? []
        #expect(wide.count == 4 && Set(domains(wide, four)).count == 4)
    }

    @Test func aDomainIsTheWidestThatIsTagged() {
        var record = DiskRecord(
            number: DiskNumber(7), uuid: PoolUUID(high: 0, low: 7), sizeBytes: 1 << 30,
            mediaClass: .hdd, state: .online, enclosure: "", node: "", rack: "", pathHint: "")
        #expect(FaultDomain(record) == .disk(DiskNumber(7)))
        record.enclosure = "e"
        #expect(FaultDomain(record) == .enclosure("e"))
        record.node = "n"
        #expect(FaultDomain(record) == .node("n"))
        record.rack = "r"
        #expect(FaultDomain(record) == .rack("r"))
    }

    @Test func metadataGoesToDistinctDomainsFirst() {
        let rooms = [(9, "a"), (8, "a"), (1, "b")].enumerated().map {
            Placement.Room(
                disk: DiskNumber(UInt16($0.offset)), slabs: $0.element.0,
                domain: .enclosure($0.element.1))
        }
        #expect(
            Placement.chooseMetadataDisks(rooms, copies: 2) == [DiskNumber(0), DiskNumber(2)])
        #expect(
            Placement.chooseMetadataDisks(rooms, copies: 3)
                == [DiskNumber(0), DiskNumber(2), DiskNumber(1)])
    }

    /// Of every way to put six disks into racks: a slab's successor keeps the copies apart wherever one
    /// of them would, and beside another column of its group only where that is why.
    @Test func aSuccessorIsAsFarFromTheOtherCopiesAsCanBe() {
        let group = Placement.Group(disks: (0..<4).map { DiskNumber(UInt16($0)) }, copies: 2)
        for tags in 0..<729 {
            let racks = (0..<6).map { tags / [1, 3, 9, 27, 81, 243][$0] % 3 }
            let domains = Dictionary(
                uniqueKeysWithValues: (0..<6).map {
                    (DiskNumber(UInt16($0)), FaultDomain.rack("r\(racks[$0])"))
                })
            // Disk 0 leaves; its other copy lies on disk 1.
            let rooms = (2..<6).map {
                Placement.Room(disk: DiskNumber(UInt16($0)), slabs: $0 == 5 ? 0 : $0)
            }
            let chosen = Placement.chooseSuccessor(
                rooms, for: group, at: 0, mayShare: false, domains: domains)
            let apart = (2...4).filter { racks[$0] != racks[1] }
            guard let chosen else {
                Issue.record("there is room on disk 4")
                continue
            }
            #expect(chosen != DiskNumber(5))
            if apart.isEmpty || apart.contains(4) {
                #expect(chosen == DiskNumber(4), "\(racks)")
            } else {
                #expect(apart.contains(Int(chosen.rawValue)), "\(racks)")
            }
        }
        // Without tags another column's disk is no better than none: the group is moved then.
        let full = (2..<4).map { Placement.Room(disk: DiskNumber(UInt16($0)), slabs: 9) }
        #expect(
            Placement.chooseSuccessor(full, for: group, at: 0, mayShare: false, domains: [:]) == nil)
        #expect(
            Placement.chooseSuccessor(full, for: group, at: 0, mayShare: true, domains: [:])
                == DiskNumber(2))
    }

    /// A rebalance takes no two copies into one rack that were in two.
    @Test func movesKeepCopiesApart() {
        let domains = Dictionary(
            uniqueKeysWithValues: (0..<4).map {
                (DiskNumber(UInt16($0)), FaultDomain.rack($0 < 2 ? "a" : "b"))
            })
        let rooms = [0, 9, 9, 9].enumerated().map {
            Placement.Room(disk: DiskNumber(UInt16($0.offset)), slabs: $0.element)
        }
        let group = Placement.Group(disks: [DiskNumber(0), DiskNumber(2)], copies: 2)
        #expect(
            Placement.nextMove(rooms, groups: [group], domains: domains)
                == Placement.Move(group: 0, position: 0, disk: DiskNumber(1)))
        let mixed = Placement.Group(disks: [DiskNumber(0), DiskNumber(1)], copies: 2)
        #expect(Placement.nextMove(rooms, groups: [mixed], domains: domains) != nil)
        let others = rooms.filter { $0.disk != DiskNumber(1) }
        #expect(Placement.nextMove(others, groups: [group], domains: domains) == nil)
    }
}
