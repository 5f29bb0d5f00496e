import PoolEngine
import PoolFormat

/// Disks go away under load, and come back.
extension Workload {
    static let departures = [
        departure, departureMirror3, returning, returningBusy, rebuild, retire, rotten,
    ]

    /// A disk of a mirror vanishes in the middle of writes, and everything goes on without it.
    static let departure = Workload("departure") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        stage.write(8..<40)
        stage.steps(3)
        stage.site.pull(1)
        degradedWork(stage)
        stage.write(40..<64, fua: true)
        stage.write(2048 + 8..<2048 + 40)
        stage.sync()
        stage.write(3 * 2048..<3 * 2048 + 24, fua: true)
        stage.finish()
    }.with { $0.diskCount = 3 }

    /// Two disks of three, one after the other.
    static let departureMirror3 = Workload("departure-mirror3") { stage in
        degradable(stage, .mirror3)
    } body: { stage in
        stage.write(8..<40)
        stage.steps(3)
        stage.site.pull(1)
        stage.write(40..<72)
        stage.flush()
        stage.steps(20)
        stage.site.pull(0)
        degradedWork(stage)
    }.with { $0.diskCount = 3 }

    /// A disk that was away comes back, and is made equal while nobody writes.
    static let returning = Workload("returning") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        guard stage.site.plugIn(1), stage.site.waitUntilWhole() else { return }
        stage.write(16..<48)
        stage.sync()
    }.with { $0.diskCount = 2 }

    /// The same under load, its cache lost meanwhile.
    static let returningBusy = Workload("returning-busy") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(0)
        degradedWork(stage)
    } body: { stage in
        let isWhole = overwriting(
            stage,
            each: { count in
                if count % 7 == 6 { stage.trim(stage.grain(3)) }
            },
            during: {
                stage.site.plugIn(0, losingCache: .sectors(percent: 50))
                    && stage.site.waitUntilWhole()
            })
        guard isWhole else { return }
        stage.sync()
    }.with { $0.diskCount = 2 }

    /// A disk does not come back: what it held is rebuilt on a third.
    static let rebuild = Workload("rebuild") { stage in
        degradable(stage, .mirror2)
        stage.site.pull(1)
        degradedWork(stage)
    } body: { stage in
        guard overwriting(stage, during: { stage.site.rebuild() }) else { return }
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 5
    }

    /// A disk is emptied onto the others, and leaves the pool.
    static let retire = Workload("retire") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        guard overwriting(stage, during: { stage.site.retire(0) }) else { return }
        stage.sync()
    }.with {
        $0.diskCount = 3
        $0.cutStride = 7
    }

    /// One copy rots, loses writes and has them go astray; reads and a scrub put it right.
    static let rotten = Workload("rotten") { stage in
        degradable(stage, .mirror2)
        stage.site.spoil(1)
        stage.read(0..<64)
        stage.finish()
    } body: { stage in
        stage.write(16..<40)
        stage.sync()
        guard stage.site.scrub() else { return }
        stage.write(0..<16)
        stage.sync()
    }.with {
        $0.diskCount = 2
        $0.cutStride = 23
    }

    static func degradable(_ stage: Stage, _ resiliency: ResiliencyKind) {
        stage.begin(Stage.shape(resiliency))
        stage.write(0..<64)
        stage.write(stage.grain(1))
        stage.sync()
        stage.write(2 * 2048..<2 * 2048 + 64)
        stage.finish()
    }

    /// The `count`-th of overwrites that go round and round in the first grain.
    static func overwriteSome(_ stage: Stage, _ count: Int, space: Int = 0) {
        let first = count * 24 % 2016
        stage.write(first..<first + 20, space: space)
    }

    /// Clients overwrite and flush all the time.
    ///
    /// - Parameter each: what else they do, by how many overwrites there were.
    /// - Returns: what `during` does.
    static func overwriting(
        _ stage: Stage, each: @escaping (Int) -> Void = { _ in }, during: () -> Bool
    ) -> Bool {
        stage.busy({ count in
            overwriteSome(stage, count)
            if count % 3 == 2 { stage.flush() }
            each(count)
        }, during: during)
    }

    /// Overwrites, fresh blocks, a trim, and flushes.
    static func degradedWork(_ stage: Stage) {
        stage.write(24..<80, fua: true)
        stage.finish()
        stage.write(stage.grain(3).lowerBound..<stage.grain(3).lowerBound + 128)
        stage.trim(stage.grain(1))
        stage.write(100..<116)
        stage.sync()
        stage.write(96..<112)
        stage.read(0..<128)
        stage.finish()
    }
}
