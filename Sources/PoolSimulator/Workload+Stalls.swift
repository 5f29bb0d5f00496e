import PoolEngine
import PoolFormat

/// Disks that keep what they are given, and do not answer.
extension Workload {
    static let stalls = [hanging, hangingReturn, hangingOpen, hangingAlone, slow]

    /// A disk of a mirror hangs in the middle of writes: it is given up, and everything goes on.
    static let hanging = Workload("hanging") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        stage.write(8..<40)
        stage.steps(3)
        stage.site.hang(1)
        degradedWork(stage)
        stage.write(40..<64, fua: true)
        stage.finish()
    }.with { $0.diskCount = 3 }

    /// It comes back to itself, what it had been given lands late, and it is made equal.
    static let hangingReturn = Workload("hanging-return") { stage in
        degradable(stage, .mirror2)
        stage.write(8..<40)
        stage.write(2048..<2080)
        stage.site.hang(1)
        degradedWork(stage)
    } body: { stage in
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(16..<48)
        stage.sync()
    }.with { $0.diskCount = 2 }

    /// The process ends while a disk hangs, and the next one finds it so.
    static let hangingOpen = Workload("hanging-open") { stage in
        degradable(stage, .mirror2)
        stage.site.hang(1)
        degradedWork(stage)
    } body: { stage in
        stage.site.killProcess()
        guard stage.site.recover() else { return }
        degradedWork(stage)
    }.with {
        $0.diskCount = 3
        $0.crashesByItself = true
    }

    /// What only a disk that hangs has is waited for, until it comes back to itself.
    static let hangingAlone = Workload("hanging-alone") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(0)
        degradedWork(stage)
    } body: { stage in
        stage.site.hang(1)
        stage.write(24..<80)
        stage.read(0..<128)
        stage.steps(12)
        stage.site.machine.takeBack(.hang, disk: 1)
        stage.sync()
        degradedWork(stage)
        degradedWork(stage)
    }.with { $0.diskCount = 2 }

    /// One disk takes half a second for everything: reads are answered by the other, and a write
    /// that overlaps one of them does not wait for what lingers.
    static let slow = Workload("slow") { stage in
        degradable(stage, .mirror2)
        stage.site.machine.set(.slow(.byNs(500_000_000)), disk: 1)
    } body: { stage in
        for round in 0..<6 {
            stage.read(0..<64)
            stage.read(stage.grain(1))
            stage.finish()
            stage.write(round * 8..<round * 8 + 12)
            stage.finish()
        }
        stage.site.machine.takeBack(.slow, disk: 1)
        stage.sync()
        stage.read(0..<128)
        stage.finish()
    }.with { $0.diskCount = 2 }
}
