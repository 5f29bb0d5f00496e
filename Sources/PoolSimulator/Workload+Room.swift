import PoolEngine
import PoolFormat

/// Pools that fill up, spaces that change their size, grains that move.
extension Workload {
    static let room: [Workload] = [full, parked, compaction, compactionUnderPressure]

    /// Every slab is taken: writes to new grains of a space without room are refused, everything
    /// else goes on, and what a trim gives back is taken at once.
    static let full = Workload("full") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2), Stage.shape(.mirror2))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        stage.write(stage.grain(3), space: 2)
        stage.write(0..<8, space: 2, fua: true)
        stage.write(32..<80)
        stage.steps(4)
        stage.write(stage.grain(5), space: 1)
        stage.flush(space: 2)
        stage.finish()
        stage.trim(stage.grain(0), space: 1)
        stage.steps(3)
        stage.write(16..<40, space: 2)
        stage.trim(stage.grain(5), space: 1)
        stage.flush(space: 1)
        stage.write(8..<24)
        stage.finish()
        stage.steps(12)
        stage.write(0..<64, space: 2)
        stage.sync(space: 2)
        stage.write(24..<40, space: 1)
        stage.write(2000..<2040, fua: true)
    }.with { $0.mayRunOutOfRoom = true }

    /// Writes that find no room wait for it, and hold up nobody: some until another space gives
    /// its slabs back, some until their time is over.
    static let parked = Workload("parked") { stage in
        stage.begin(
            Stage.shape(.mirror2), Stage.shape(.mirror2),
            Stage.shape(.mirror2, whenFull: .wait))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        stage.write(stage.grain(3), space: 2)
        stage.write(3 * 2048 + 8..<3 * 2048 + 24, space: 2, fua: true)
        stage.zeroes(5..<99, space: 2, noHole: true)
        stage.flush(space: 2)
        stage.read(0..<128, space: 2)
        stage.write(32..<80, fua: true)
        stage.steps(12)
        stage.trim(stage.grain(0), space: 1)
        stage.trim(stage.grain(3), space: 2)
        stage.steps(20)
        stage.write(stage.grain(2), space: 1)
        stage.write(stage.grain(3), space: 2)
        stage.flush(space: 2)
        stage.finish()
        stage.write(8..<40, space: 2)
        stage.sync(space: 2)
        stage.status(0..<8 * 2048, space: 2)
    }.with {
        $0.mayRunOutOfRoom = true
        $0.limits.parkNs = 40_000_000
    }

    /// Two slab groups with a few grains each: those of one move to the other while clients write
    /// to them, trim them and read them.
    static let compaction = Workload("compaction") { stage in
        twoSparseGroups(stage)
    } body: { stage in
        // One after the other: the move of a grain is met at each of its steps.
        for round in 0..<12 {
            stage.steps(4)
            stage.write(256 * 2048 + round * 24..<256 * 2048 + round * 24 + 12)
            if round % 4 == 1 { stage.read(257 * 2048..<257 * 2048 + 256) }
            if round % 6 == 5 { stage.flush() }
        }
        stage.finish()
        stage.steps(60)
        stage.write(258 * 2048 + 16..<258 * 2048 + 32, fua: true)
        stage.read(stage.grain(258))
        stage.finish()
        stage.trim(stage.grain(257))
        stage.steps(20)
        stage.flush()
        stage.steps(40)
        stage.read(stage.grain(256))
    }.with { $0.limits = compacting }.with {
        // The target lies where neither the metadata does nor the source: nothing else flushes it.
        $0.diskCount = 4
    }

    /// The same while a write of another space waits for the room.
    static let compactionUnderPressure = Workload("compaction-under-pressure") { stage in
        twoSparseGroups(stage)
    } body: { stage in
        stage.write(8..<72, space: 1)
        stage.write(256 * 2048..<256 * 2048 + 40)
        stage.steps(10)
        stage.write(257 * 2048 + 5..<257 * 2048 + 22, fua: true)
        stage.trim(stage.grain(258))
        stage.steps(25)
        stage.write(stage.grain(258))
        stage.flush()
        stage.finish()
        stage.write(16..<24, space: 1, fua: true)
        stage.read(stage.grain(256))
        stage.sync(space: 1)
    }.with { $0.limits = compacting }.with {
        $0.mayRunOutOfRoom = true
        // Only pressure makes it begin.
        $0.limits.compactAfterNs = 3_600_000_000_000
    }

    static var compacting: Limits {
        var limits = smallLimits
        limits.compactAfterNs = 2_000_000
        limits.compactGrainNs = 100_000
        limits.compactBatch = 2
        limits.compactScan = 100
        limits.parkNs = 4_000_000_000
        return limits
    }

    /// Grains 256 to 258 are all that is in the second group; the pool has no other slab left.
    static func twoSparseGroups(_ stage: Stage) {
        stage.begin(
            Stage.shape(.mirror2, grains: 260), Stage.shape(.mirror2, whenFull: .wait))
        for grain in 0..<256 {
            stage.zeroes(grain * 2048..<grain * 2048 + 8, noHole: true)
            stage.finish()
        }
        for grain in 256..<259 { stage.write(stage.grain(grain)) }
        stage.write(2048..<2112)
        stage.sync()
        for grain in 6..<256 {
            stage.trim(stage.grain(grain))
            stage.finish()
        }
        stage.write(256 * 2048 + 100..<256 * 2048 + 140)
        stage.sync()
        // Of the discards: what follows is of the grains that move.
        stage.calm()
    }
}
