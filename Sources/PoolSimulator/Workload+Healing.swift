import PoolEngine
import PoolFormat

/// Copies that are wrong, or too few, are put right.
extension Workload {
    static let healing = [
        latent, scrubBusy, rottenMirror3, rebuildMirror3, rebuildUnreadable, rebalance, retireAway,
        retireFailing, retireMetadata, retireWide, retireOntoFailing,
    ]

    /// Sectors of one copy cannot be read until they are written anew.
    static let latent = Workload("latent") { stage in
        degradable(stage, .mirror2)
        stage.site.makeUnreadable(1)
    } body: { stage in
        stage.read(0..<64)
        stage.write(19..<37)
        stage.flush()
        stage.finish()
        stage.steps(12)
        guard stage.site.scrub() else { return }
        stage.write(0..<16)
        stage.sync()
    }.with { $0.cutStride = 47 }

    /// A scrub of copies that are right, under writes: what it meets on its way is not wrong.
    static let scrubBusy = Workload("scrub-busy") { stage in
        someData(stage)
    } body: { stage in
        let isThrough = stage.busy({ count in
            for start in [0, 5, 2048, 2100] {
                stage.write(start + count % 4 * 8..<start + count % 4 * 8 + 24)
            }
            if count % 3 == 2 { stage.flush() }
        }, during: { stage.site.scrub() })
        guard isThrough else { return }
        stage.sync()
    }.with { $0.cutStride = 97 }

    /// Of three copies one is away and one rots: what is given to the first comes from the third.
    static let rottenMirror3 = Workload("rotten-mirror3") { stage in
        degradable(stage, .mirror3)
        stage.site.pull(2)
        degradedWork(stage)
        stage.sync()
        stage.site.spoil(0)
    } body: { stage in
        guard stage.site.plugIn(2), stage.site.waitUntilWhole() else { return }
        // Now the third is gone, and the first is still rotten.
        stage.site.pull(1)
        stage.read(0..<128)
        stage.read(stage.grain(3))
        stage.write(16..<24, fua: true)
        stage.finish()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 9
    }

    /// While what one disk held is rebuilt another leaves, too.
    static let rebuildMirror3 = Workload("rebuild-mirror3") { stage in
        degradable(stage, .mirror3)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        var isSecondAway = false
        let isRebuilt = overwriting(
            stage,
            each: { count in
                if count == 4, !isSecondAway {
                    isSecondAway = true
                    stage.site.pull(2)
                }
            }, during: { stage.site.rebuild() })
        guard isRebuilt else { return }
        stage.sync()
    }.with {
        $0.diskCount = 5
        $0.cutStride = 13
    }

    /// Of what the last copy is to be rebuilt from a grain cannot be read: the others are rebuilt.
    static let rebuildUnreadable = Workload("rebuild-unreadable") { stage in
        degradable(stage, .mirror2)
        stage.site.makeUnreadable(0, grains: 1)
        stage.site.pull(1)
        stage.write(2048..<2048 + 64, fua: true)
        stage.finish()
        stage.site.acceptsErrors = true
    } body: { stage in
        stage.site.rebuildAsFarAsPossible()
        stage.write(2048 + 32..<2048 + 96, fua: true)
        stage.finish()
        // Now what was rebuilt is all there is of it.
        stage.site.pull(0)
        let failed = stage.site.clients.failedRequests
        stage.read(stage.grain(1))
        stage.finish()
        if stage.site.isOpen, stage.site.clients.failedRequests > failed {
            stage.machine.fail("what could be read was not rebuilt")
        }
        guard stage.site.heal() else { return }
        stage.site.acceptsErrors = false
    }.with {
        $0.diskCount = 3
        $0.bearsCrashes = false
    }

    /// A disk joins, and takes its share of what the others hold, under load.
    static let rebalance = Workload("rebalance") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2), onDisks: 2)
        for space in 0..<2 {
            stage.write(stage.grain(1), space: space)
            stage.write(0..<64, space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        guard stage.site.addDisk(2) else { return }
        let isThrough = stage.busy({ count in
            overwriteSome(stage, count, space: count % 2)
            if count % 3 == 2 { stage.flush(space: count % 2) }
        }, during: { stage.site.rebalance() })
        guard isThrough else { return }
        stage.sync(space: 0)
        stage.sync(space: 1)
    }.with {
        $0.diskCount = 3
        $0.diskBytes = 2 << 30
        $0.cutStride = 9
    }

    /// A disk that is away for good is retired: nothing of it is ever read again.
    static let retireAway = Workload("retire-away") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        guard stage.site.retire(1) else { return }
        stage.write(16..<48)
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 9
    }

    /// A disk fails while it is emptied: the others have what it held, and it leaves all the same.
    static let retireFailing = Workload("retire-failing") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        retireZero(stage, pulling: 0)
    }.with {
        $0.diskCount = 3
        $0.cutStride = 9
    }

    /// A disk is retired that has little more than metadata.
    static let retireMetadata = Workload("retire-metadata") { stage in
        stage.begin(Stage.shape(.mirror2))
        stage.write(0..<8)
        stage.sync()
    } body: { stage in
        guard stage.site.retire(0) else { return }
        stage.write(8..<16)
        stage.sync()
    }.with { $0.diskCount = 3 }

    /// Of a group that lies on every disk no slab can lie elsewhere: it is moved into narrower ones,
    /// under load.
    static let retireWide = Workload("retire-wide") { stage in
        stage.begin(Stage.shape(.mirror2, columns: 2))
        stage.write(0..<64)
        stage.write(stage.grain(1))
        stage.sync()
        stage.write(2 * 2048..<2 * 2048 + 64)
        stage.finish()
    } body: { stage in
        guard overwriting(stage, during: { stage.site.retire(0) }) else { return }
        stage.sync()
    }.with {
        $0.diskCount = 4
        $0.cutStride = 7
    }

    /// The disk that is to have what a retired one holds leaves in the middle of it; another one has
    /// it then.
    static let retireOntoFailing = Workload("retire-onto-failing") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        retireZero(stage, pulling: 2)
    }.with {
        $0.diskCount = 4
        $0.cutStride = 9
    }

    /// Disk 0 is retired under load, and a disk leaves in the middle of it.
    private static func retireZero(_ stage: Stage, pulling index: Int) {
        var isPulled = false
        let isGone = overwriting(
            stage,
            each: { count in
                if count >= 3, !isPulled {
                    isPulled = true
                    stage.site.pull(index)
                }
            }, during: { stage.site.retire(0) })
        guard isGone else { return }
        stage.sync()
    }
}
