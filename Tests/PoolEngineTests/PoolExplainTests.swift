import PoolFormat
import Testing

@testable import PoolEngine

/// Where a space lies, and what may go without taking data with it.
@Suite struct PoolExplainTests {
    private typealias Place = Pool.Explanation.Place

    private func group(_ id: UInt32, copies: UInt8, _ disks: [UInt16]) -> GroupRecord {
        GroupRecord(
            id: id, layout: copies == 1 ? .simple : .mirror2, mediaClass: .hdd, copies: copies,
            columns: UInt16(disks.count) / UInt16(copies), unitBytes: 256 << 10, rotation: 0,
            parityGenerator: 0, birth: 1,
            slabs: disks.map {
                GroupSlab(
                    address: SlabAddress(disk: DiskNumber($0), slab: id), generation: 1)
            })
    }

    private func places(_ count: UInt16, failed: Set<UInt16> = [], tags: [String] = []) -> [Place] {
        (1...count).map { number in
            let tag = Int(number) <= tags.count ? tags[Int(number) - 1] : ""
            return Place(
                number: DiskNumber(number),
                domain: tag.isEmpty ? .disk(DiskNumber(number)) : .enclosure(tag),
                serves: !failed.contains(number))
        }
    }

    /// Compared with trying it out: without the disks, is there still a copy of everything?
    private func isReadable(_ explanation: Pool.Explanation, without: Set<DiskNumber>) -> Bool {
        let live = Set(explanation.places.filter(\.serves).map(\.number)).subtracting(without)
        let columns = explanation.groups.flatMap { group in
            stride(from: 0, to: group.slabs.count, by: Int(group.copies)).map {
                group.slabs[$0..<$0 + Int(group.copies)].map(\.address.disk)
            }
        }
        return (columns + explanation.metadata).allSatisfy { !live.isDisjoint(with: $0) }
    }

    @Test func lossesAreWhatIsLostWhenItIsTried() {
        let layouts: [[(UInt8, [UInt16])]] = [
            [], [(1, [1])], [(2, [1, 2])], [(2, [1, 2, 3, 4])], [(2, [1, 2]), (2, [3, 4])],
            [(2, [1, 3]), (2, [2, 4]), (2, [1, 2])], [(1, [1, 2]), (2, [3, 4])],
        ]
        let metadata: [[[UInt16]]] = [[], [[1, 2]], [[1, 2], [1, 3]], [[4]]]
        for layout in layouts {
            for pieces in metadata {
                for failed: Set<UInt16> in [[], [1], [2], [4], [1, 2], [3, 4]] {
                    for tags in [[], ["a", "a", "b", "b"], ["a", "b", "a", "b"], ["a", "a", "a"]] {
                        let explanation = Pool.Explanation(
                            places: places(4, failed: failed, tags: tags),
                            groups: layout.enumerated().map {
                                group(UInt32($0.offset), copies: $0.element.0, $0.element.1)
                            },
                            metadata: pieces.map { $0.map { DiskNumber($0) } })
                        check(explanation)
                    }
                }
            }
        }
    }

    private func check(_ explanation: Pool.Explanation) {
        let losses = explanation.losses
        let isLost = losses.lostGroups > 0 || losses.losesMetadata
        #expect(isLost == !isReadable(explanation, without: []))
        guard !isLost else { return }
        for place in explanation.places {
            let loss = losses.disks[place.number] ?? .init()
            #expect(
                loss.losesData == !isReadable(explanation, without: [place.number]),
                "\(explanation) without \(place)")
        }
        for (domain, members) in Dictionary(grouping: explanation.places, by: \.domain) {
            let loss = losses.domains[domain] ?? .init()
            #expect(
                loss.losesData
                    == !isReadable(explanation, without: Set(members.map(\.number))),
                "\(explanation) without \(domain)")
        }
    }

    @Test func groupsOnTheSameDisksAreFolded() {
        let explanation = Pool.Explanation(
            places: places(4),
            groups: [
                group(0, copies: 2, [1, 2]), group(1, copies: 2, [3, 4]),
                group(2, copies: 2, [2, 1]), group(5, copies: 2, [1, 2, 3, 4]),
                group(6, copies: 2, [4, 3, 1, 2]), group(7, copies: 1, [1, 2]),
            ], metadata: [])
        let placed = explanation.placed
        #expect(placed.map(\.groups) == [[0, 2], [1], [5, 6], [7]])
        let disks = { (numbers: [UInt16]) in numbers.map { DiskNumber($0) } }
        #expect(placed[2].columns == [disks([1, 2]), disks([3, 4])])
        #expect(placed[3].columns == [disks([1]), disks([2])])
    }

    @Test func aRealSpaceIsExplained() throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try #require(world.create(0..<3)).get()
        _ = try #require(
            world.run { _ throws(PoolError) in
                try await pool.createSpace(
                    .init(name: "data", sizeBytes: 1 << 30, resiliency: .mirror2))
                try await pool.createSpace(
                    .init(name: "other", sizeBytes: 1 << 30, resiliency: .simple))
            }
        ).get()
        #expect(throws: PoolError.nameUnknown("none")) { try pool.explain("none") }
        let empty = try pool.explain("data")
        #expect(empty.groups.isEmpty && empty.places.count == 3)
        #expect(!empty.metadata.isEmpty && empty.metadata.allSatisfy { $0.count == 2 })
        let space = try #require(pool.space(named: "data"))
        #expect(world.perform(.write, space, 0, 4096, data: 7) == .ok)
        let used = try pool.explain("data")
        #expect(used.groups.count == 1 && used.losses.lostGroups == 0)
        #expect(used.losses.disks.values.allSatisfy { !$0.losesData })
        let disks = Set(used.groups[0].slabs.map(\.address.disk))
        #expect(disks.count == 2)
        // One of its two disks fails: the other is the only one then.
        let failed = try #require(disks.min())
        let left = try #require(disks.max())
        world.disks[Int(failed.rawValue) - 1].isBroken = true
        try #require(
            world.run { _ throws(PoolError) in
                await pool.deviceFailed(
                    DeviceIndex(UInt16(failed.rawValue) - 1), during: "during a write")
            }
        ).get()
        let after = try pool.explain("data").losses
        #expect(after.lostGroups == 0)
        #expect(after.disks[left]?.lostGroups == 1 && after.disks[failed]?.lostGroups ?? 0 == 0)
    }

    @Test func groupsThatShareADomainAreCounted() throws {
        let world = PoolWorld([2048, 2048])
        let pool = try #require(world.create(0..<2)).get()
        _ = try #require(
            world.run { _ throws(PoolError) in
                try await pool.createSpace(
                    .init(name: "data", sizeBytes: 1 << 30, resiliency: .mirror2))
            }
        ).get()
        let space = try #require(pool.space(named: "data"))
        #expect(world.perform(.write, space, 0, 4096, data: 7) == .ok)
        #expect(!pool.hasFaultDomains)
        for (tags, expected) in [(["a", "b"], 0), (["a", "a"], 1), (["", "a"], 0), (["", ""], 0)] {
            try #require(
                world.run { _ throws(PoolError) in
                    for index in 0..<2 {
                        try await pool.changeDisk(
                            DiskNumber(UInt16(index + 1)), .init(rack: tags[index]))
                    }
                }
            ).get()
            #expect(try pool.explain("data").unseparatedGroups == expected, "\(tags)")
            #expect(pool.hasFaultDomains == (tags != ["", ""]))
        }
    }
}
