import PoolEngine
import PoolFormat

/// Disks on their way back.
extension Workload {
    static let returns = [
        returningWithoutCache, returningPlain, returningMirror3, returningTogether, returningTwice,
        alternating, missedBudget, returningMoves,
    ]

    /// A disk comes back without its cache: what nobody had flushed before it left is gone there.
    static let returningWithoutCache = Workload("returning-without-cache") { stage in
        degradable(stage, .mirror2)
        stage.write(200..<232)
        stage.write(stage.grain(5).lowerBound..<stage.grain(5).lowerBound + 24)
        stage.write(0..<8)
        stage.finish()
        stage.site.pull(1)
        stage.write(stage.grain(6).lowerBound..<stage.grain(6).lowerBound + 24)
        stage.finish()
    } body: { stage in
        guard stage.site.plugIn(1, losingCache: .dropAll), stage.site.waitUntilWhole() else {
            return
        }
        stage.write(16..<48)
        stage.sync()
    }

    /// Without checksums nothing but the books tells an old copy from a new one.
    static let returningPlain = Workload("returning-plain") { stage in
        threeSpots(stage, .mirror2, checksums: false)
        stage.site.pull(0)
        for region in 0..<3 { stage.write(spot(region, 1), fua: true) }
        stage.write(spot(1, 2))
        stage.finish()
    } body: { stage in
        let isWhole = stage.busy({ count in
            stage.read(spot(count % 3, 0).lowerBound..<spot(count % 3, 4).lowerBound)
            if count % 4 == 1 { stage.write(spot(count / 4 % 3, 2)) }
            if count % 8 == 5 { stage.flush() }
        }, during: { stage.site.plugIn(0) && stage.site.waitUntilWhole() })
        guard isWhole else { return }
        stage.sync()
    }.with { $0.cutStride = 2 }

    /// Two disks of three come back, the one long before the other.
    static let returningMirror3 = Workload("returning-mirror3") { stage in
        threeSpots(stage, .mirror3)
        stage.site.pull(0)
        stage.write(spot(0, 1), fua: true)
        stage.finish()
        stage.site.pull(1)
        for region in 0..<3 { stage.write(spot(region, 2)) }
        stage.sync()
        stage.steps(40)
        stage.flush()
        stage.finish()
    } body: { stage in
        guard stage.site.plugIn(0) else { return }
        stage.steps(120)
        stage.write(spot(2, 3))
        stage.sync()
        stage.steps(20)
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(spot(1, 5), fua: true)
        stage.finish()
    }.with {
        $0.diskCount = 3
        $0.limits.cleanAfterNs = 200_000
        $0.cutStride = 5
    }

    /// Two disks come back one right behind the other, to spaces on two shards: what makes the one
    /// count changes the configuration while the other is on its way back.
    static let returningTogether = Workload("returning-together") { stage in
        stage.begin(Stage.shape(.mirror3), Stage.shape(.mirror3))
        for space in 0..<2 {
            stage.write(0..<64, space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        for round in 0..<6 {
            for disk in 0..<2 { stage.site.pull(disk) }
            for space in 0..<2 { stage.write(round * 8..<round * 8 + 8, space: space, fua: true) }
            stage.finish()
            guard stage.site.plugIn(0) else { return }
            stage.steps(round * 5)
            guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        }
        for space in 0..<2 { stage.write(16..<48, space: space, fua: true) }
        stage.finish()
    }.with {
        $0.diskCount = 3
        $0.shardCount = 2
        $0.cutStride = 17
    }

    /// A disk fails again while it is made equal, and comes back once more, its cache lost each time.
    static let returningTwice = Workload("returning-twice") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        for round in 0..<2 {
            guard stage.site.plugIn(1, losingCache: .sectors(percent: 50)) else { return }
            stage.write(16 + round * 16..<48 + round * 16)
            stage.steps(18 + 7 * round)
            stage.site.pull(1)
            stage.write(100 + round * 8..<116, fua: true)
            stage.finish()
        }
        guard stage.site.plugIn(1, losingCache: .dropAll), stage.site.waitUntilWhole() else {
            return
        }
        stage.write(0..<16)
        stage.sync()
    }.with { $0.cutStride = 3 }

    /// No sooner is one disk equal than the other leaves: each in turn is all there is.
    static let alternating = Workload("alternating") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        for round in 0..<3 {
            let index = round % 2
            stage.site.pull(index)
            stage.write(16 * round..<16 * round + 40)
            stage.write(stage.grain(3 + round).lowerBound..<stage.grain(3 + round).lowerBound + 16)
            stage.sync()
            guard stage.site.plugIn(index), stage.site.waitUntilWhole() else { return }
            stage.read(0..<128)
        }
        stage.write(8..<24, fua: true)
        stage.finish()
    }.with { $0.cutStride = 5 }

    /// A disk lacks blocks of more grains than are known one by one.
    static let missedBudget = Workload("missed-budget") { stage in
        stage.begin(Stage.shape(.mirror2))
        for grain in 0..<5 { stage.write(grain * 2048..<grain * 2048 + 32) }
        stage.sync()
    } body: { stage in
        stage.site.pull(1)
        for grain in 0..<5 { stage.write(grain * 2048 + 8..<grain * 2048 + 24) }
        stage.flush()
        stage.finish()
        stage.write(6 * 2048..<6 * 2048 + 8)
        stage.trim(stage.grain(2))
        stage.write(2 * 2048 + 8..<2 * 2048 + 16)
        stage.sync()
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(16..<32)
        stage.sync()
    }.with {
        $0.limits.missedGrains = 2
        $0.cutStride = 3
    }

    /// Grains move and are trimmed while a disk is made equal that is to get them.
    static let returningMoves = Workload("returning-moves") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        let isWhole = stage.busy({ count in
            let grain = count % 4
            switch count % 3 {
            case 0: stage.trim(stage.grain(grain))
            case 1: stage.write(grain * 2048 + count * 8..<grain * 2048 + count * 8 + 16)
            default: stage.flush()
            }
        }, during: { stage.site.plugIn(1) && stage.site.waitUntilWhole() })
        guard isWhole else { return }
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 3
    }
}
