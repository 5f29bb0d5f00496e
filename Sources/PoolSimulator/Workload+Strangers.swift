import PoolEngine
import PoolFormat

/// Disks that bear the pool's name and are not what it left.
extension Workload {
    static let strangers = [restored, otherHistory, staleVoters]

    /// A disk comes back as it was long before it left: it is refused, and what it held is rebuilt.
    static let restored = Workload("restored") { stage in
        degradable(stage, .mirror2)
        stage.machine.remember(disk: 1)
        guard stage.site.createSpace("b", Stage.shape(.mirror2)) else { return }
        stage.write(32..<96)
        stage.write(0..<32, space: 1)
        stage.sync(space: 0)
        stage.sync(space: 1)
        stage.site.pull(1)
        stage.write(40..<48, fua: true)
        stage.finish()
        stage.site.restore(1)
    } body: { stage in
        stage.write(8..<24)
        stage.finish()
        guard stage.site.castOut(1) else { return }
        stage.write(16..<48)
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.diskBytes = 2 << 30
        $0.cutStride = 11
    }

    /// The pool is opened by force with one of its two disks, and goes on: the other belongs to a
    /// history that is no more.
    static let otherHistory = Workload("other-history") { stage in
        stage.begin(Stage.shape(.mirror2), onDisks: 2)
        stage.write(0..<64)
        stage.write(stage.grain(1))
        stage.sync()
        stage.site.cutPower(.keepAll)
        stage.site.pull(1)
        guard stage.site.recover(startsHistory: true) else { return }
        stage.write(16..<48)
        stage.sync()
        stage.site.outcasts.insert(1)
        stage.machine.takeBack(.unreachable, disk: 1)
    } body: { stage in
        guard stage.site.addDisk(2) else { return }
        stage.write(40..<80, fua: true)
        stage.finish()
        guard stage.site.castOut(1) else { return }
        stage.write(8..<24)
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.diskBytes = 2 << 30
        $0.crashesByItself = true
        $0.cutStride = 11
    }

    /// One disk of three is restored from an older image and one is missing, and the witness has
    /// forgotten everything: the one that is left is no majority.
    static let staleVoters = Workload("stale-voters") { stage in
        degradable(stage, .mirror2)
        stage.machine.remember(disk: 1)
        guard stage.site.createSpace("b", Stage.shape(.mirror2)),
            stage.site.createSpace("c", Stage.shape(.mirror2))
        else { return }
        stage.write(32..<96)
        stage.sync()
        stage.site.cutPower(.keepAll)
        stage.site.pull(1)
        stage.site.restore(1)
        stage.site.pull(2)
        guard stage.site.isRefusedWithoutWitness() else { return }
        stage.machine.takeBack(.unreachable, disk: 2)
    } body: { stage in
        guard stage.machine.violation == nil, stage.site.recover() else { return }
        stage.write(16..<48)
        stage.sync()
        guard stage.site.castOut(1) else { return }
        stage.write(8..<24)
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.diskBytes = 2 << 30
        $0.crashesByItself = true
        $0.cutStride = 13
    }
}
