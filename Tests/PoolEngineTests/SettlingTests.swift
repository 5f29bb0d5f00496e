import PoolFormat
import Testing

@testable import PoolEngine

/// Copies that a crash left different.
@Suite struct SettlingTests {
    /// Wherever the one copy is that matches its value, it is the one that is kept: what the others
    /// hold may never have been written there.
    @Test(arguments: 0..<3) func ofThreeCopiesTheOneThatMatchesIsKept(right: Int) throws {
        let world = PoolWorld([2048, 2048, 2048])
        let pool = try world.makePool([("m", .mirror3)])
        let space = try #require(pool.space(named: "m"))
        var expected = ExpectedBlocks()
        expected.write(world, space, 0..<4)
        // Once more: the region is durably dirty.
        expected.write(world, space, 0..<4)
        world.powerCut(.dropAll)
        var places: [(disk: Int, offset: UInt64, bytes: [UInt8])] = []
        for disk in world.disks.indices where disk != right {
            for (block, value) in expected.values where block < 2 {
                let bytes = [UInt8](repeating: value, count: 4096)
                let found = world.disks[disk].writtenBlocks
                    .filter { world.disks[disk].read($0, 4096) == bytes }
                try #require(found.count == 1)
                places.append((disk, found[0], bytes))
                // Of one block both are wrong in the same way, of the other each in its own.
                world.disks[disk].corrupt(found[0] + (block == 0 ? 0 : UInt64(disk)))
            }
        }
        let opened = try #require(world.open()).get()
        let again = try #require(opened.space(named: "m"))
        for block in expected.values.keys.sorted() {
            let bytes = [UInt8](repeating: expected.values[block] ?? 0, count: 4096)
            let isRight = world.bytes(again, block * 4096, 4096) == bytes
            #expect(isRight, "block \(block)")
        }
        for place in places {
            let isEqual = world.disks[place.disk].read(place.offset, 4096) == place.bytes
            #expect(isEqual, "disk \(place.disk) is left as it was")
        }
    }
}
