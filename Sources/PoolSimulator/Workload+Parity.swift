import PoolEngine
import PoolFormat

/// Stripes: written whole, each time to another place, and solved where a column is not to be had.
extension Workload {
    static let parity = [
        stripes, stripesOver, stripesUnaligned, stripesPlain, stripesAfterKill, stripesFull,
        stripesParked, stripesDeparture, stripesTwoDepartures, stripesReturning,
        stripesReturningBusy, stripesOpenedWithout, stripesRebuild, stripesRetire, stripesRotten,
        stripesRottenData, stripesRottenTwice, stripesLatent, stripesHole, stripesFixed,
        stripesCompaction, stripesCompactionAway, stripesRetireNarrow,
    ]

    /// First writes to grains, whole ones and parts, and overwrites of both.
    static let stripes = Workload("stripes") { stage in
        stage.begin(Stage.shape(.parity1))
        stage.write(0..<64)
        stage.sync()
    } body: { stage in
        stage.write(stage.grain(1))
        stage.write(100..<164)
        stage.flush()
        stage.steps(6)
        stage.write(2 * 2048 + 8..<2 * 2048 + 40, fua: true)
        stage.read(0..<128)
        stage.finish()
        stage.write(stage.grain(1))
        stage.write(2 * 2048 + 16..<2 * 2048 + 24)
        stage.trim(8..<16)
        stage.sync()
        stage.trim(stage.grain(2))
        stage.write(0..<8, fua: true)
        stage.status(0..<4096)
        stage.finish()
    }.with { $0.diskCount = 3 }

    /// Several clients in one grain, and reads of what others are about to write anew.
    static let stripesOver = Workload("stripes-over") { stage in
        stage.begin(Stage.shape(.parity2))
        stage.write(stage.grain(0))
        stage.sync()
    } body: { stage in
        for round in 0..<2 {
            for start in [0, 5, 24, 3] {
                stage.write(start + round..<start + round + 24)
                stage.read(0..<64)
            }
            stage.flush()
            stage.write(512..<520, fua: round == 1)
            stage.trim(64..<96)
            stage.finish()
        }
    }.with { $0.diskCount = 5 }

    static let stripesUnaligned = Workload("stripes-unaligned") { stage in
        stage.begin(Stage.shape(.parity1))
        stage.write(0..<256)
        stage.sync()
    } body: { stage in
        for range in [3..<9, 17..<18, 250..<259, 2040..<2048, 2048..<2051] {
            stage.write(range)
            stage.read(range)
        }
        stage.flush()
        stage.trim(5..<30)
        stage.zeroes(100..<131, noHole: true)
        stage.sync()
    }.with {
        $0.diskCount = 4
        $0.sectorBytes = [512, 4096]
        $0.cutStride = 3
    }

    /// Without checksums nothing but the places tells new from old.
    static let stripesPlain = Workload("stripes-plain") { stage in
        stage.begin(Stage.shape(.parity1, checksums: false))
        stage.write(0..<64)
        stage.sync()
    } body: { stage in
        stage.write(0..<16)
        stage.write(56..<72)
        stage.flush()
        stage.finish()
        stage.site.pull(1)
        stage.write(8..<24, fua: true)
        stage.read(0..<128)
        stage.finish()
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
    }.with { $0.diskCount = 3 }

    /// The process is killed, the disks' caches live on.
    static let stripesAfterKill = Workload("stripes-after-kill") { stage in
        stage.begin(Stage.shape(.parity1))
        stage.write(0..<64)
        stage.sync()
        stage.write(16..<32)
        stage.write(stage.grain(1))
        stage.finish()
        stage.write(2048 + 8..<2048 + 24)
        stage.write(24..<40)
        stage.finish()
        stage.flush()
        // The journal's batches are in the caches, their flushes on the way.
        stage.steps(3)
        stage.site.killProcess()
    } body: { stage in
        guard stage.site.recover() else { return }
        stage.read(0..<128)
        stage.read(stage.grain(1))
        stage.finish()
        stage.write(32..<48)
        stage.flush()
    }.with {
        $0.diskCount = 3
        $0.crashesByItself = true
    }

    /// A pool that is full goes on taking overwrites, which need a free grain each.
    static let stripesFull = Workload("stripes-full") { stage in
        stage.begin(Stage.shape(.parity1, grains: 1030))
        stage.write(0..<8)
        stage.write(2048..<2056)
        for grain in 2..<1030 {
            stage.zeroes(stage.grain(grain), noHole: true)
            if grain % 8 == 7 { stage.finish() }
        }
        stage.sync()
    } body: { stage in
        let refused = stage.site.clients.refusedForRoom
        for round in 0..<3 {
            for grain in 0..<3 {
                let start = grain * 2048 + round * 8
                stage.write(start..<start + 8, fua: round == 1)
            }
            stage.finish()
        }
        stage.sync()
        if stage.site.isOpen, stage.site.clients.refusedForRoom > refused {
            stage.machine.fail("a write to what is mapped was refused in a full pool")
        }
    }.with {
        $0.diskCount = 3
        $0.mayRunOutOfRoom = true
        $0.cutStride = 3
    }

    /// Writes to one grain that has no place wait for the pool's room; once there is some they take
    /// turns.
    static let stripesParked = Workload("stripes-parked") { stage in
        stage.begin(
            Stage.shape(.parity1), Stage.shape(.parity1), Stage.shape(.parity1, whenFull: .wait))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        stage.write(0..<16, space: 2)
        stage.write(64..<80, space: 2, fua: true)
        stage.zeroes(200..<216, space: 2, noHole: true)
        stage.steps(12)
        stage.trim(stage.grain(0), space: 1)
        stage.finish()
        stage.read(0..<256, space: 2)
        stage.write(8..<72, space: 2)
        stage.sync(space: 2)
    }.with {
        $0.diskCount = 3
        $0.mayRunOutOfRoom = true
        $0.limits.parkNs = 2_000_000_000
    }

    /// A disk vanishes in the middle of writes, and everything goes on without it.
    static let stripesDeparture = Workload("stripes-departure") { stage in
        degradable(stage, .parity1)
    } body: { stage in
        stage.write(8..<40)
        stage.write(stage.grain(5))
        stage.steps(3)
        stage.site.pull(1)
        degradedWork(stage)
        stage.write(40..<64, fua: true)
        stage.write(2048 + 8..<2048 + 40)
        stage.sync()
    }.with { $0.diskCount = 3 }

    /// Two of four, one after the other.
    static let stripesTwoDepartures = Workload("stripes-two-departures") { stage in
        degradable(stage, .parity2)
    } body: { departureMirror3.body($0) }.with { $0.diskCount = 4 }

    /// A disk that was away comes back, and is made equal.
    static let stripesReturning = Workload("stripes-returning") { stage in
        degradable(stage, .parity1)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { returning.body($0) }.with { $0.diskCount = 3 }

    /// The same under load, its cache lost meanwhile; and one of two that are away.
    static let stripesReturningBusy = Workload("stripes-returning-busy") { stage in
        degradable(stage, .parity2)
        stage.site.pull(0)
        degradedWork(stage)
        stage.site.pull(2)
        stage.write(200..<216, fua: true)
        stage.finish()
    } body: { stage in
        let isWhole = overwriting(
            stage, each: { count in if count % 7 == 6 { stage.trim(stage.grain(3)) } },
            during: {
                stage.site.plugIn(0) && stage.site.plugIn(2) && stage.site.waitUntilWhole()
            })
        guard isWhole else { return }
        stage.sync()
    }.with {
        $0.diskCount = 4
        $0.cutStride = 11
    }

    /// Opened without a disk, and then with it.
    static let stripesOpenedWithout = Workload("stripes-opened-without") { stage in
        degradable(stage, .parity1)
        stage.finish()
        guard stage.site.close(export: false) else { return }
        stage.site.pull(1)
    } body: { openedWithout.body($0) }.with {
        $0.diskCount = 3
        $0.opensDegraded = true
        $0.cutStride = 4
    }

    /// What a lost disk held is made anew on another, under load.
    static let stripesRebuild = Workload("stripes-rebuild") { stage in
        degradable(stage, .parity1)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        let isRebuilt = overwriting(stage, during: { stage.site.rebuild() })
        guard isRebuilt else { return }
        stage.sync()
    }.with {
        $0.diskCount = 4
        $0.cutStride = 13
    }

    /// A disk is emptied while clients write.
    static let stripesRetire = Workload("stripes-retire") { stage in
        stage.begin(Stage.shape(.parity1), onDisks: 3)
        stage.write(0..<64)
        stage.write(stage.grain(1))
        stage.sync()
        guard stage.site.addDisk(3) else { return }
    } body: { stage in
        guard overwriting(stage, during: { stage.site.retire(0) }) else { return }
        stage.sync()
    }.with {
        $0.diskCount = 4
        $0.cutStride = 13
    }

    /// Parities have turned over on one disk, and blocks that were never written.
    static let stripesRotten = rotten("stripes-rotten", disk: 1, then: 0)
    /// Blocks have on another.
    static let stripesRottenData = rotten("stripes-rotten-data", disk: 0, then: 2)

    /// - Parameters:
    ///   - disk: where the rot is.
    ///   - other: without which everything has to be solved from what was put right.
    private static func rotten(_ name: String, disk: Int, then other: Int) -> Workload {
        Workload(name) { stage in
            degradable(stage, .parity1)
            stage.sync()
            stage.site.spoil(disk)
        } body: { stage in
            stage.read(0..<64)
            stage.write(16..<24, fua: true)
            stage.finish()
            guard stage.site.scrub() else { return }
            stage.site.pull(other)
            stage.read(0..<128)
            stage.read(stage.grain(1))
            stage.finish()
        }.with {
            $0.diskCount = 3
            $0.cutStride = 5
        }
    }

    /// One of the disks is away, another one rots: two parities bear both.
    static let stripesRottenTwice = Workload("stripes-rotten-twice") { stage in
        degradable(stage, .parity2)
        stage.site.pull(2)
        degradedWork(stage)
        stage.sync()
        stage.site.spoil(0)
    } body: { stage in
        stage.read(0..<128)
        guard stage.site.plugIn(2), stage.site.waitUntilWhole() else { return }
        stage.site.pull(1)
        stage.read(0..<128)
        stage.read(stage.grain(3))
        stage.write(16..<24, fua: true)
        stage.finish()
    }.with {
        $0.diskCount = 4
        $0.cutStride = 9
    }

    /// Sectors that cannot be read until they are written anew.
    static let stripesLatent = Workload("stripes-latent") { stage in
        degradable(stage, .parity1)
        stage.sync()
        stage.site.makeUnreadable(0)
    } body: { stage in
        stage.read(0..<64)
        stage.write(19..<37)
        stage.flush()
        stage.finish()
        guard stage.site.scrub() else { return }
        stage.write(0..<16)
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 47
    }

    /// The first stripes of a space are written while a disk is away.
    static let stripesHole = Workload("stripes-hole") { stage in
        stage.begin(Stage.shape(.parity1), Stage.shape(.parity1))
        stage.write(0..<16)
        stage.sync()
        stage.site.pull(1)
        stage.write(0..<32, space: 1)
        stage.write(stage.grain(2), space: 1)
        stage.sync(space: 1)
    } body: { stage in
        stage.write(16..<48, space: 1, fua: true)
        stage.finish()
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(8..<24, space: 1, fua: true)
        stage.finish()
    }.with { $0.diskCount = 3 }

    static let stripesFixed = Workload("stripes-fixed") { stage in
        stage.begin(Stage.shape(.parity1, grains: 16, isFixed: true))
        for grain in 0..<16 { stage.write(stage.grain(grain).lowerBound..<grain * 2048 + 8) }
        stage.sync()
    } body: { stage in
        stage.write(0..<16, fua: true)
        stage.write(2048..<2056)
        stage.trim(stage.grain(3))
        stage.sync()
        stage.write(stage.grain(3))
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 3
    }

    /// Stripes of a sparse group move while they are read and written.
    static let stripesCompaction = Workload("stripes-compaction") { stage in
        twoSparseStripeGroups(stage)
    } body: { stage in
        for round in 0..<12 {
            stage.steps(6)
            stage.write(512 * 2048 + round * 24..<512 * 2048 + round * 24 + 12)
            if round % 4 == 1 { stage.read(513 * 2048..<513 * 2048 + 256) }
            if round % 6 == 5 { stage.flush() }
        }
        stage.finish()
        stage.steps(60)
        stage.write(514 * 2048 + 16..<514 * 2048 + 32, fua: true)
        stage.read(stage.grain(514))
        stage.finish()
        stage.trim(stage.grain(513))
        stage.steps(20)
        stage.flush()
        stage.steps(40)
        stage.read(stage.grain(512))
    }.with {
        $0.limits = compacting
        $0.diskCount = 3
        $0.cutStride = 7
    }

    /// The same without a disk, which comes back while stripes move that it was not there for.
    static let stripesCompactionAway = Workload("stripes-compaction-away") { stage in
        twoSparseStripeGroups(stage)
        stage.site.pull(2)
    } body: { stage in
        for round in 0..<4 {
            stage.steps(9)
            stage.write(512 * 2048 + round * 24..<512 * 2048 + round * 24 + 12)
        }
        guard stage.site.plugIn(2), stage.site.waitUntilWhole() else { return }
        stage.write(514 * 2048 + 16..<514 * 2048 + 32, fua: true)
        stage.finish()
    }.with {
        $0.limits = compacting
        $0.diskCount = 3
        $0.cutStride = 9
    }

    /// Grains 512 to 514 are all that is in the second group, and 0 to 5 in the first.
    private static func twoSparseStripeGroups(_ stage: Stage) {
        stage.begin(Stage.shape(.parity1, grains: 520))
        for grain in 0..<512 {
            stage.zeroes(grain * 2048..<grain * 2048 + 8, noHole: true)
            if grain % 8 == 7 { stage.finish() }
        }
        for grain in 512..<515 { stage.write(stage.grain(grain)) }
        stage.write(2048..<2112)
        stage.sync()
        for grain in 6..<512 {
            stage.trim(stage.grain(grain))
            if grain % 8 == 7 { stage.finish() }
        }
        stage.write(512 * 2048 + 100..<512 * 2048 + 140)
        stage.sync()
        // Of the discards: what follows is of the grains that move.
        stage.calm()
    }

    /// A disk is emptied, and none is left for its column: its stripes move into narrower ones.
    static let stripesRetireNarrow = Workload("stripes-retire-narrow") { stage in
        degradable(stage, .parity1)
        stage.sync()
    } body: { stage in
        guard overwriting(stage, during: { stage.site.retire(1) }) else { return }
        stage.read(stage.grain(1))
        stage.sync()
    }.with {
        $0.diskCount = 4
        $0.cutStride = 11
    }
}
