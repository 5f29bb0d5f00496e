import PoolFormat
import Synchronization
import Testing

@testable import PoolEngine

/// One slab of a group is replaced, while others use the group.
@Suite struct ReplacedSlabTests {
    /// A space of one column with something in it, and its slab, or the first copy of it, on the
    /// way to a disk that has nothing of the space.
    private final class Replacing {
        let world: PoolWorld
        let pool: Pool
        let space: Space
        let old: GroupSlab
        /// Where the new slab is to lie.
        let target: DiskNumber
        var expected: ExpectedBlocks
        private let box = Box()

        private final class Box: Sendable {
            let outcome = Mutex<Space.Replaced?>(nil)
        }

        init(_ resiliency: ResiliencyKind, grains: UInt64) throws {
            let world = PoolWorld([2048, 2048, 2048, 2048])
            let pool = try world.makePool([("m", resiliency)], columns: 1)
            let space = try #require(pool.space(named: "m"))
            var expected = ExpectedBlocks()
            expected.write(
                world, space, (0..<grains).map { $0 * UInt64(Units.blocksPerGrain) })
            let record = try #require(pool.groups(ofSpace: "m").first)
            target = try #require(
                (1...4).map { DiskNumber($0) }.first { number in
                    let claims = space.claims(on: number)
                    return claims.slabs.isEmpty && claims.pieces.isEmpty
                })
            (self.world, self.pool, self.space, self.expected) = (world, pool, space, expected)
            old = record.slabs[0]
        }

        var targetDisk: MemoryDisk { world.disks[Int(target.rawValue) - 1] }
        var outcome: Space.Replaced? { box.outcome.withLock { $0 } }

        func begin() {
            let (box, target) = (box, target)
            box.outcome.withLock { $0 = nil }
            space.background { space in
                let outcome = await space.replaceSlab(of: 0, at: 0, on: target, .normal)
                box.outcome.withLock { $0 = outcome }
            }
        }

        /// Grains that the new slab lacks; nil: none is being filled.
        var lacking: Int? { space.groups.replacement(of: 0)?.lacking.count }

        /// Where the group's first copy is read.
        var place: SlabGroups.Base? {
            var place: SlabGroups.Base?
            space.groups.forEachRun(
                GrainMap.Entry(group: 0, physicalGrain: 0), copy: 0, offsetBytes: 0,
                lengthBytes: Units.blockBytes
            ) { base, _, _ in place = base }
            return place
        }

        func isGranted(_ slab: GroupSlab) -> Bool {
            pool.disk(slab.address.disk)?.slabs[Int(slab.address.slab)].lineage == space.lineage
        }
    }

    /// What has looked up a place in the old slab before the switch.
    enum Other: CaseIterable {
        /// A request, or whatever else holds a range.
        case range
        /// A move or a discard.
        case placedWork
        case settling
    }

    private final class Held: Sendable {
        let request = Mutex<RequestIndex?>(nil)
    }

    /// Nobody is granted the old slab while something is still under way there.
    @Test(arguments: Other.allCases)
    func theOldSlabIsFreeOnceNothingIsUnderWayThere(_ other: Other) throws {
        let replacing = try Replacing(.mirror2, grains: 3)
        let (world, space, old) = (replacing.world, replacing.space, replacing.old)
        replacing.begin()
        #expect(world.untilTrue { replacing.lacking == 0 })
        try #require(replacing.outcome == nil && replacing.place?.disk == old.address.disk)
        let end: () -> Void
        switch other {
        case .range:
            let held = Held()
            space.background { space in
                let request = await space.hold(0, { true })
                held.request.withLock { $0 = request }
            }
            #expect(world.untilTrue { held.request.withLock { $0 } != nil })
            end = { if let request = held.request.withLock({ $0 }) { space.letGo(request) } }
        case .placedWork:
            let number = space.beginPlacedWork()
            end = { space.endPlacedWork(number) }
        case .settling:
            space.beginSettling(0)
            end = { space.settling[0] = nil }
        }
        try #require(replacing.place?.disk == old.address.disk, "it is too late to be in its way")
        #expect(world.untilTrue { replacing.place?.disk == replacing.target })
        for _ in 0..<200 where replacing.outcome == nil { _ = world.step() }
        #expect(replacing.outcome == nil && replacing.isGranted(old))
        end()
        #expect(world.untilTrue { replacing.outcome != nil })
        #expect(replacing.outcome == .done && !replacing.isGranted(old))
        replacing.expected.check(world, space)
    }

    enum Failure: CaseIterable {
        case write, flush
    }

    /// What is being filled is given up with its disk, whenever in the filling that fails: the old
    /// slab of a simple space is whole, and everything goes on.
    @Test(arguments: Failure.allCases)
    func aSimpleSpaceGoesOnWithoutTheDiskThatIsFilled(_ failure: Failure) throws {
        var failures = 0
        for steps in 0..<40 {
            let replacing = try Replacing(.simple, grains: 6)
            let (world, pool, space) = (replacing.world, replacing.pool, replacing.space)
            replacing.begin()
            #expect(world.untilTrue { replacing.lacking != nil })
            for _ in 0..<steps where replacing.lacking ?? 0 > 0 { _ = world.step() }
            guard let lacking = replacing.lacking, lacking > 0 else { break }
            failures += 1
            switch failure {
            case .write: replacing.targetDisk.isBroken = true
            case .flush: replacing.targetDisk.flushesUntilBroken = 0
            }
            // Over what is copied by now, and over what is not.
            let grain = UInt64(Units.grainBytes)
            let asked = (0..<UInt64(6)).map {
                world.submit(.write, space, $0 * grain, 4096, data: UInt8(200 + $0)).cookie
            } + [world.submit(.flush, space, 0, 0).cookie]
            for cookie in asked { #expect(world.reply(cookie)?.status == .ok) }
            #expect(world.untilTrue { replacing.outcome != nil })
            #expect(replacing.outcome == .failed)
            #expect(replacing.place?.disk == replacing.old.address.disk)
            #expect(world.perform(.flush, space, 0) == .ok)
            let status = try #require(pool.status().spaces.first)
            #expect(status.reason.isEmpty && status.lostDisks.isEmpty, "\(status)")
            #expect(pool.configuration.disks.contains { $0.state == .failed })
            #expect(!pool.configuration.spaces[0].flags.contains(.readOnly))
            // It takes what others hold once it is back.
            #expect(world.bringBack(Int(replacing.target.rawValue) - 1, pool) == nil)
            #expect(pool.audit().isEmpty, "\(pool.audit())")
            replacing.begin()
            #expect(world.untilTrue { replacing.outcome != nil })
            #expect(replacing.outcome == .done && replacing.place?.disk == replacing.target)
            func check(_ space: Space) {
                for number in 0..<UInt64(6) {
                    let bytes = world.bytes(space, number * grain, 4096)
                    #expect(bytes == Array(repeating: UInt8(200 + number), count: 4096))
                }
            }
            check(space)
            world.powerCut(.dropAll)
            let opened = try #require(world.open()).get()
            check(try #require(opened.space(named: "m")))
        }
        #expect(failures > 3)
    }

    /// Once the new slab is in use its disk is the space's.
    @Test func aSimpleSpaceNeedsTheDiskThatWasFilled() throws {
        let replacing = try Replacing(.simple, grains: 2)
        replacing.begin()
        #expect(replacing.world.untilTrue { replacing.outcome != nil })
        try replacing.world.lose(Int(replacing.target.rawValue) - 1, replacing.pool)
        #expect(replacing.space.readOnlyReason != nil)
        #expect(replacing.pool.configuration.spaces[0].flags.contains(.readOnly))
    }

    /// A grain that cannot be read ends the filling at once, and the next attempt before it begins,
    /// for as long as that is so.
    @Test func nothingIsCopiedBesideWhatCannotBeRead() throws {
        let replacing = try Replacing(.mirror2, grains: 40)
        let (world, pool, space) = (replacing.world, replacing.pool, replacing.space)
        let slabs = try #require(pool.groups(ofSpace: "m").first?.slabs.map(\.address))
        func setUnreadable(_ isUnreadable: Bool) {
            for slab in slabs {
                let place = space.places.base(slab).offsetBytes + 3 << 20
                world.disks[Int(slab.disk.rawValue) - 1].unreadable = isUnreadable ? [place] : []
            }
        }
        func attempt() -> (outcome: Space.Replaced?, writes: Int) {
            let before = replacing.targetDisk.writes.count
            replacing.begin()
            #expect(world.untilTrue { replacing.outcome != nil })
            return (replacing.outcome, replacing.targetDisk.writes.count - before)
        }
        setUnreadable(true)
        let first = attempt()
        #expect(first.outcome == .unreadable && (1..<20).contains(first.writes), "\(first)")
        for _ in 0..<2 {
            let again = attempt()
            #expect(again.outcome == .unreadable && again.writes == 0, "\(again)")
        }
        setUnreadable(false)
        #expect(attempt().outcome == .done)
        replacing.expected.check(world, space)
    }
}
