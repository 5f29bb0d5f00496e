import PoolFormat
import Testing

@testable import PoolEngine

struct DirtyRegionsTests {
    private func dirtyRegions(_ count: UInt64) -> DirtyRegions {
        var regions = DirtyRegions(grainCount: Int(count) * Units.grainsPerRegion)
        for region in 0..<count { regions.setMark(region, .dirty) }
        return regions
    }

    @Test func theOldestAreCleanedWhenThereAreTooMany() {
        let regions = dirtyRegions(5)
        let cleaned = regions.cleanable(completedCommits: 0, nowNs: 0, idleNs: 1, bound: 3)
        #expect(cleaned == [0, 1])
    }

    @Test func whatCannotBeCleanedTakesNoRoomFromWhatAWriteWaitsFor() {
        var regions = dirtyRegions(5)
        for region in 0..<UInt64(3) { regions[region].isCrashed = true }
        regions[3].isSuspect = true
        #expect(regions.cleanable(completedCommits: 0, nowNs: 0, idleNs: 1, bound: 3) == [])
        #expect(regions.cleanable(completedCommits: 0, nowNs: 1, idleNs: 1, bound: 3) == [4])
    }

    @Test func aSettledGrainIsServedOnlyAsItsValueSays() {
        var regions = dirtyRegions(1)
        regions[0].isCrashed = true
        regions[0].settledGrains = 1
        #expect(!regions.acceptsMismatch(0) && regions.acceptsMismatch(1))
        regions[0].isSuspect = true
        #expect(regions.acceptsMismatch(0))
    }
}
