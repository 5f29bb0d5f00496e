import PoolEngine
import PoolFormat

/// Pools, disks and spaces come and go, most of it while clients go on.
extension Workload {
    static let pools = [
        configuration, exports, addDisk, destroySpace, release, grow, shrink, shrinkFar, busyShrink,
        fixed, poolAgain,
    ]

    /// Pool creation, space creation and destruction, a disk added, export and reopening.
    static let configuration = Workload("configuration") { _ in
    } body: { stage in
        let site = stage.site
        guard site.createPool(disks: [0, 1, 2]), site.createSpace("a", Stage.shape(.mirror2))
        else { return }
        stage.write(0..<64)
        stage.sync()
        guard site.createSpace("b", Stage.shape(.simple, columns: 2)), site.addDisk(3) else {
            return
        }
        stage.write(0..<64, space: 1)
        stage.finish()
        guard site.destroySpace("a"),
            site.createSpace("c", Stage.shape(.mirror2, checksums: false))
        else { return }
        stage.write(0..<64, space: 1, fua: true)
        stage.finish()
        guard site.close(export: true), site.recover() else { return }
        stage.write(32..<96, space: 1)
        stage.flush(space: 1)
    }.with { $0.diskCount = 4 }

    /// Clean ends and openings, with writes that only the end makes durable.
    static let exports = Workload("exports") { stage in
        someData(stage)
    } body: { stage in
        for round in 0..<2 {
            stage.write(round * 16..<round * 16 + 40)
            stage.trim(stage.grain(1))
            stage.write(stage.grain(2 + round))
            stage.finish()
            guard stage.site.close(export: round == 0), stage.site.recover() else { return }
            stage.read(0..<128)
            stage.status(0..<8 * 2048)
            stage.write(8..<24, fua: true)
            stage.finish()
        }
    }

    /// A pool on disks that had another, whose spaces were called and numbered alike: nothing of what
    /// that left is taken for the new one's.
    static let poolAgain = Workload("pool-again") { stage in
        stage.begin(Stage.shape(.mirror2, grains: 40), Stage.shape(.mirror2))
        for grain in [0, 9, 20, 39] { stage.write(grain * 2048..<grain * 2048 + 96) }
        stage.write(0..<64, space: 1)
        stage.sync()
        // Later epochs and numbers than the new ones begin with.
        for _ in 0..<3 {
            guard stage.site.close(export: false), stage.site.recover() else { return }
            commits(stage, 6)
        }
        guard stage.site.destroyPool() else { return }
        stage.site.clients.removeAll()
        stage.machine.witness.removeAll()
        stage.machine.boot()
    } body: { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2, grains: 40))
        stage.read(0..<128)
        stage.write(2048..<2112)
        stage.write(8..<40, space: 1, fua: true)
        stage.finish()
        stage.read(stage.grain(1), space: 1)
        stage.sync()
    }.with { $0.cutStride = 2 }

    /// A disk joins while clients write; the next slab group may use it.
    static let addDisk = Workload("add-disk") { stage in
        stage.begin(Stage.shape(.mirror2), onDisks: 2)
        stage.write(0..<64)
        stage.sync()
    } body: { stage in
        let added = stage.busy({ count in
            stage.write(count * 8 % 512..<count * 8 % 512 + 12)
            if count % 5 == 4 { stage.flush() }
        }, during: { stage.site.addDisk(2) })
        guard added else { return }
        stage.finish()
        guard stage.site.createSpace("b", Stage.shape(.simple, columns: 3)) else { return }
        stage.write(stage.grain(0), space: 1)
        stage.sync(space: 1)
    }.with { $0.diskCount = 3 }

    /// A space ends, and another takes what it gave back, while a third goes on.
    static let destroySpace = Workload("destroy-space") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        stage.write(8..<32, space: 1)
        stage.finish()
        let destroyed = stage.busy({ count in
            stage.write(count * 8 % 512..<count * 8 % 512 + 12, space: 0)
            if count % 4 == 3 { stage.flush(space: 0) }
        }, during: { stage.site.destroySpace("b") })
        guard destroyed else { return }
        stage.finish()
        guard stage.site.createSpace("c", Stage.shape(.simple)) else { return }
        stage.read(stage.grain(0), space: 1)
        stage.write(16..<48, space: 1)
        stage.sync(space: 1)
        stage.read(stage.grain(0), space: 1)
    }

    /// A slab group is emptied and released; its slabs go to another space and back.
    static let release = Workload("release") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2))
        stage.write(stage.grain(0), space: 0)
        stage.write(stage.grain(1), space: 0)
        stage.sync(space: 0)
    } body: { stage in
        for round in 0..<2 {
            let (from, to) = (round % 2, 1 - round % 2)
            stage.trim(stage.grain(0), space: from)
            stage.trim(stage.grain(1), space: from)
            stage.flush(space: from)
            stage.steps(6 + round * 5)
            stage.write(stage.grain(1), space: to)
            stage.write(5..<40, space: to)
            stage.sync(space: to)
            stage.write(100..<108, space: from)
            stage.steps(7)
            stage.read(stage.grain(0), space: from)
            stage.flush(space: to)
        }
    }

    /// A space grows while clients write, past the end of its first region.
    static let grow = Workload("grow") { stage in
        someData(stage)
    } body: { stage in
        let grown = stage.busy({ count in
            stage.write(count * 8 % 512..<count * 8 % 512 + 12, fua: count % 4 == 3)
        }, during: { stage.site.resizeSpace("a", grains: 20) })
        guard grown else { return }
        stage.write(stage.grain(19))
        stage.write(12 * 2048..<12 * 2048 + 40, fua: true)
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 50) else { return }
        stage.write(49 * 2048 + 2000..<50 * 2048)
        stage.read(stage.grain(19))
        stage.status(0..<50 * 2048)
        stage.sync()
    }

    /// What lies past the new end is trimmed and cut off; when the space grows again, nothing of it
    /// comes back.
    static let shrink = Workload("shrink") { stage in
        stage.begin(Stage.shape(.mirror2, grains: 40))
        for grain in [0, 9, 20, 39] { stage.write(grain * 2048..<grain * 2048 + 96) }
        stage.sync()
    } body: { stage in
        guard stage.site.tryToCutOff("a", grains: 10) else { return }
        stage.trim(stage.grain(20))
        stage.trim(stage.grain(39))
        stage.write(8..<40)
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 10), stage.site.close(export: false),
            stage.site.recover()
        else { return }
        stage.write(9 * 2048 + 50..<9 * 2048 + 130)
        stage.flush()
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 30) else { return }
        stage.read(stage.grain(20))
        stage.write(20 * 2048 + 8..<20 * 2048 + 24)
        stage.status(0..<30 * 2048)
        stage.sync()
        stage.read(stage.grain(20))
    }

    /// The same far enough for a piece of metadata to be given back, and granted again.
    static let shrinkFar = Workload("shrink-far") { stage in
        stage.begin(Stage.shape(.mirror2, grains: 400))
        stage.write(0..<96)
        stage.write(stage.grain(390))
        stage.sync()
    } body: { stage in
        stage.trim(stage.grain(390))
        stage.write(64..<128)
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 8) else { return }
        stage.write(100..<140, fua: true)
        stage.finish()
        guard stage.site.resizeSpace("a", grains: 400) else { return }
        stage.read(stage.grain(390))
        stage.write(390 * 2048 + 16..<390 * 2048 + 48)
        stage.sync()
    }

    /// A space shrinks while clients write blocks for the first time: every page is checkpointed
    /// with values that are not durable, whose bytes lie on a disk that no checkpoint flushes.
    static let busyShrink = Workload("busy-shrink") { stage in
        stage.begin(Stage.shape(.simple, grains: 40))
        for grain in [0, 3, 30] { stage.write(grain * 2048..<grain * 2048 + 8) }
        stage.sync()
        stage.trim(stage.grain(30))
    } body: { stage in
        let shrunk = stage.busy({ count in
            // With pauses, in which pages come to rest; and no block twice.
            guard count < 240, count % 2 == 0 else { return }
            let start = count % 4 / 2 * 3 * 2048 + 8 + count * 8
            stage.write(start..<start + 8)
        }, during: { stage.site.resizeSpace("a", grains: 10) })
        guard shrunk else { return }
        stage.write(9 * 2048 + 50..<9 * 2048 + 130)
        stage.sync()
    }.with { $0.diskCount = 3 }

    /// A fixed space has its room from the start, keeps it through trims, and grows by whole groups.
    static let fixed = Workload("fixed") { stage in
        stage.begin(Stage.shape(.mirror2))
        stage.write(0..<64)
        stage.sync()
    } body: { stage in
        guard stage.site.createSpace("f", Stage.shape(.mirror2, isFixed: true)) else { return }
        stage.status(0..<8 * 2048, space: 1)
        stage.write(stage.grain(1), space: 1)
        stage.write(3 * 2048 + 5..<3 * 2048 + 50, space: 1, fua: true)
        stage.finish()
        stage.trim(stage.grain(1), space: 1)
        stage.write(2 * 2048..<2 * 2048 + 16, space: 1)
        stage.flush(space: 1)
        stage.finish()
        guard stage.site.resizeSpace("f", grains: 260) else { return }
        stage.write(259 * 2048..<259 * 2048 + 32, space: 1)
        stage.status(0..<260 * 2048, space: 1)
        stage.sync(space: 1)
        stage.read(stage.grain(1), space: 1)
    }.with { $0.diskBytes = 2 << 30 }
}
