import PoolEngine
import PoolFormat

/// What goes on while a disk is away, and what it finds when it comes back.
extension Workload {
    static let away = [
        cleanedAway, freshAway, checkpointAway, checkpointLeft, compactionAway, releaseAway,
        fullAway, resizeAway, destroyAway, newSpaceAway, holesMirror3, openedWithout,
        simpleAway,
    ]

    /// Regions are marked and cleaned while a disk is away: what it lacks outlives their marks.
    static let cleanedAway = Workload("cleaned-away") { stage in
        threeSpots(stage, .mirror2)
        stage.site.pull(1)
    } body: { stage in
        for round in 0..<3 {
            for region in 0..<2 { stage.write(spot(region, round)) }
            stage.finish()
            stage.flush()
            stage.steps(10)
        }
        stage.finish()
        // Until nothing is dirty any more.
        stage.write(spot(2, 3))
        stage.sync()
        stage.steps(30)
        stage.flush()
        stage.steps(20)
    }.with { $0.limits.cleanAfterNs = 200_000 }

    /// First writes in regions of which nothing is missed yet: no mark is in front of them, and
    /// their commit alone says what the disk lacks.
    static let freshAway = Workload("fresh-away") { stage in
        threeSpots(stage, .mirror2)
        stage.site.pull(1)
        stage.write(spot(0, 1), fua: true)
        stage.finish()
    } body: { stage in
        for region in 1..<3 {
            stage.write(spot(region, 8))
            stage.write(spot(region, 9), fua: true)
            stage.finish()
            stage.steps(6)
        }
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(spot(1, 12), fua: true)
        stage.finish()
    }

    /// The journal goes round, and every page is written anew, while a disk is away that then comes
    /// back and has to serve alone.
    static let checkpointAway = Workload("checkpoint-away") { stage in
        stage.begin(Stage.shape(.mirror2))
        for grain in 0..<8 { stage.write(grain * 2048..<grain * 2048 + 64) }
        commits(stage, 100)
        stage.site.pull(1)
        // Of pages that nothing changes any more.
        for grain in 5..<8 { stage.write(grain * 2048 + 32..<grain * 2048 + 96, fua: true) }
        stage.finish()
        commits(stage, 160)
    } body: { stage in
        guard stage.site.plugIn(1) else { return }
        for round in 0..<6 {
            stage.write(round % 3 * 2048 + round * 8..<round % 3 * 2048 + round * 8 + 8, fua: true)
            stage.steps(5)
        }
        guard stage.site.waitUntilWhole() else { return }
        commits(stage, 4)
    }.with { $0.cutStride = 2 }

    /// A disk leaves in the checkpoint of pages that nothing changes any more, and comes back.
    static let checkpointLeft = Workload("checkpoint-left") { stage in
        stage.begin(Stage.shape(.mirror2))
        for grain in 0..<8 { stage.write(grain * 2048..<grain * 2048 + 64) }
        commits(stage, 100)
        for grain in 5..<8 { stage.write(grain * 2048 + 32..<grain * 2048 + 96, fua: true) }
        stage.finish()
        // Behind the journal, in front of the data.
        stage.fault(.writeErrors(.all(within: [8 << 20..<256 << 20])), disk: 1)
        commits(stage, 160)
        stage.machine.takeBack(.writeErrors, disk: 1)
    } body: { stage in
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        commits(stage, 4)
    }.with { $0.cutStride = 2 }

    /// Grains move while a disk is away on which some of them come to lie.
    static let compactionAway = Workload("compaction-away") { stage in
        twoSparseGroups(stage)
        stage.site.pull(2)
    } body: { stage in
        for round in 0..<6 {
            stage.steps(6)
            stage.write(256 * 2048 + round * 24..<256 * 2048 + round * 24 + 12)
            if round % 3 == 1 { stage.read(257 * 2048..<257 * 2048 + 256) }
        }
        stage.finish()
        stage.flush()
        stage.steps(80)
        guard stage.site.plugIn(2), stage.site.waitUntilWhole() else { return }
        stage.write(258 * 2048 + 16..<258 * 2048 + 32, fua: true)
        stage.finish()
    }.with {
        $0.limits = compacting
        $0.diskCount = 4
        $0.cutStride = 5
    }

    /// Slab groups are emptied and given back while a disk is away: its tables say otherwise.
    static let releaseAway = Workload("release-away") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.write(stage.grain(1), space: space)
            stage.sync(space: space)
        }
        stage.site.pull(1)
        stage.write(0..<8, space: 1, fua: true)
        stage.finish()
    } body: { stage in
        stage.trim(stage.grain(0))
        stage.trim(stage.grain(1))
        stage.flush()
        stage.steps(10)
        stage.write(8..<32, space: 1)
        stage.finish()
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        // What it gave back is taken by somebody else.
        stage.write(stage.grain(3), space: 0)
        stage.sync(space: 0)
    }.with { $0.cutStride = 2 }

    /// A pool fills up while a disk is away, and is full when it comes back.
    static let fullAway = Workload("full-away") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2), Stage.shape(.mirror2))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
        stage.site.pull(1)
        stage.write(0..<32, fua: true)
        stage.finish()
    } body: { stage in
        stage.write(stage.grain(4), space: 1)
        stage.sync(space: 1)
        stage.write(stage.grain(3), space: 2)
        stage.write(16..<80)
        stage.flush()
        stage.finish()
        guard stage.site.plugIn(1) else { return }
        stage.write(8..<24)
        stage.write(stage.grain(2), space: 1)
        stage.flush(space: 1)
        stage.finish()
        stage.trim(stage.grain(0), space: 1)
        stage.flush(space: 1)
        stage.finish()
    }.with {
        $0.mayRunOutOfRoom = true
        $0.cutStride = 4
    }

    /// A space shrinks and grows while a disk is away.
    static let resizeAway = Workload("resize-away") { stage in
        stage.begin(Stage.shape(.mirror2, grains: 40))
        for grain in [0, 9, 20, 39] { stage.write(grain * 2048..<grain * 2048 + 96) }
        stage.sync()
        stage.site.pull(1)
        stage.write(16..<48, fua: true)
        stage.finish()
    } body: { stage in
        stage.trim(stage.grain(20))
        stage.trim(stage.grain(39))
        stage.write(8..<40)
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 10) else { return }
        stage.write(9 * 2048 + 50..<9 * 2048 + 130)
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 50) else { return }
        stage.write(20 * 2048 + 8..<20 * 2048 + 24, fua: true)
        stage.finish()
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.read(stage.grain(20))
        stage.read(stage.grain(39))
        stage.write(45 * 2048..<45 * 2048 + 16)
        stage.sync()
    }.with { $0.cutStride = 4 }

    /// A space ends while a disk is away, and another takes its place.
    static let destroyAway = Workload("destroy-away") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
        stage.site.pull(1)
        stage.write(0..<32, fua: true)
        stage.finish()
    } body: { stage in
        guard stage.site.destroySpace("b"),
            stage.site.createSpace("c", Stage.shape(.mirror2))
        else { return }
        stage.write(16..<48, space: 1)
        stage.sync(space: 1)
        stage.write(8..<40)
        stage.finish()
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.read(stage.grain(0), space: 1)
        stage.write(stage.grain(1), space: 1)
        stage.sync(space: 1)
    }.with {
        $0.diskCount = 3
        $0.cutStride = 6
    }

    /// A space gets its first slab group while fewer disks are there than it has copies: the holes are
    /// filled as soon as there is a disk for them.
    static let newSpaceAway = Workload("new-space-away") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2, grains: 40))
        stage.write(0..<64)
        stage.sync()
        stage.site.pull(1)
        stage.write(8..<16, fua: true)
        stage.finish()
    } body: { stage in
        stage.write(stage.grain(1), space: 1)
        stage.write(33 * 2048..<33 * 2048 + 24, space: 1)
        stage.sync(space: 1)
        guard stage.site.plugIn(1) else { return }
        stage.write(2048 + 16..<2048 + 48, space: 1)
        stage.write(5 * 2048..<5 * 2048 + 16, space: 1)
        stage.flush(space: 1)
        guard stage.site.waitUntilWhole() else { return }
        stage.write(16..<32, space: 1)
        stage.sync(space: 1)
    }.with {
        $0.diskBytes = 2 << 30
        $0.cutStride = 6
    }

    /// The same of three copies, two of which are holes at first.
    static let holesMirror3 = Workload("holes-mirror3") { stage in
        stage.begin(Stage.shape(.mirror3), Stage.shape(.mirror3))
        stage.write(0..<64)
        stage.sync()
        stage.site.pull(1)
        stage.write(8..<16, fua: true)
        stage.finish()
        stage.site.pull(2)
        stage.write(16..<24, fua: true)
        stage.finish()
    } body: { stage in
        stage.write(stage.grain(1), space: 1)
        stage.sync(space: 1)
        guard stage.site.plugIn(2) else { return }
        stage.write(2048 + 16..<2048 + 48, space: 1)
        stage.flush(space: 1)
        stage.finish()
        stage.steps(40)
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(16..<32, space: 1)
        stage.sync(space: 1)
    }.with {
        $0.diskCount = 3
        $0.diskBytes = 2 << 30
        $0.cutStride = 9
    }

    /// A pool is opened without one of its disks, closed again, and opened with it.
    static let openedWithout = Workload("opened-without") { stage in
        degradable(stage, .mirror2)
        stage.finish()
        guard stage.site.close(export: false) else { return }
        stage.site.pull(1)
    } body: { stage in
        guard stage.site.recover() else { return }
        degradedWork(stage)
        guard stage.site.close(export: true) else { return }
        stage.machine.takeBack(.unreachable, disk: 1)
        guard stage.site.recover() else { return }
        stage.write(16..<48)
        stage.flush()
        stage.read(0..<128)
        guard stage.site.waitUntilWhole() else { return }
        stage.write(40..<64)
        stage.sync()
    }.with {
        $0.opensDegraded = true
        $0.cutStride = 4
    }

    /// A simple space is opened without one of its disks in the middle of writes: what lies there is
    /// as it was once the disk is back.
    static let simpleAway = Workload("simple-away") { stage in
        stage.begin(Stage.shape(.simple, columns: 2))
        stage.write(0..<512)
        stage.write(stage.grain(1))
        stage.sync()
        // Over what is durable: their regions are dirty when the power goes.
        stage.write(0..<64)
        stage.write(2048 + 100..<2048 + 300)
        stage.sync()
        stage.site.cutPower(.keepAll)
        stage.site.pull(1)
        stage.site.acceptsErrors = true
        guard stage.site.recover() else { return }
        stage.read(0..<64)
        stage.finish()
        stage.steps(60)
        stage.site.cutPower(.keepAll)
        stage.machine.takeBack(.unreachable, disk: 1)
        stage.site.acceptsErrors = false
    } body: { stage in
        guard stage.site.recover() else { return }
        stage.read(0..<512)
        stage.read(stage.grain(1))
        stage.write(16..<48)
        stage.write(2048 + 64..<2048 + 200, fua: true)
        stage.finish()
        stage.read(0..<512)
        stage.write(40..<64)
        stage.sync()
    }.with { $0.crashesByItself = true }
}
