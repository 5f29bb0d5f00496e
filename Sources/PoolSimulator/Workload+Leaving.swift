import PoolEngine
import PoolFormat

/// The instant at which a disk leaves, and the ways in which it does.
extension Workload {
    static let leaving = [
        departureFresh, killedAway, writeError, flushError, twoAtOnce, twoColumns, slowLeaving,
        offline, leavingAtTheEnd, simpleFlushError,
    ]

    /// A disk vanishes while a commit makes fresh blocks readable: nothing but the record of what it
    /// takes with it tells that it lacks them. What is written afterwards lies in another region.
    static let departureFresh = Workload("departure-fresh") { stage in
        threeSpots(stage, .mirror2)
    } body: { stage in
        for round in 0..<2 {
            stage.write(spot(1, round * 4))
            stage.write(spot(1, round * 4 + 1))
            stage.steps(1 + round)
            stage.flush()
            stage.steps(2)
            if round == 0 { stage.site.pull(1) }
            stage.write(spot(0, 30 + round), fua: true)
            stage.finish()
            stage.steps(6)
        }
    }.with { $0.diskCount = 3 }

    /// Fresh blocks are acknowledged without a disk, and nobody flushes: what a killed process leaves
    /// of them is all that tells what the disk lacks.
    static let killedAway = Workload("killed-away") { stage in
        threeSpots(stage, .mirror2)
    } body: { stage in
        stage.write(spot(1, 4))
        stage.write(spot(1, 6))
        stage.steps(1)
        stage.site.pull(1)
        stage.finish()
        stage.steps(4)
        stage.read(spot(1, 4))
        stage.write(spot(2, 5))
        stage.finish()
        stage.read(spot(2, 5))
        stage.steps(10)
        for round in 0..<24 {
            stage.write(spot(round % 3, 8 + round))
            stage.finish()
        }
    }

    /// Of a write one copy fails: it counts as written only once the disk has left.
    static let writeError = Workload("write-error") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        let places = stage.site.spoilable(1)
        stage.fault(.writeErrors(.next(3, within: places)), disk: 1)
        stage.write(8..<40)
        stage.write(stage.grain(4).lowerBound..<stage.grain(4).lowerBound + 40)
        stage.steps(2)
        stage.flush()
        stage.finish()
        stage.write(24..<64)
        stage.read(0..<64)
        stage.sync()
        stage.write(16..<24, fua: true)
        stage.finish()
    }.with { $0.diskCount = 3 }

    /// A flush fails, and what it was to make durable is durable or lost for good.
    static let flushError = Workload("flush-error") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        stage.write(200..<264)
        stage.write(stage.grain(4).lowerBound..<stage.grain(4).lowerBound + 80)
        stage.finish()
        stage.fault(.flushError, disk: 1)
        stage.flush()
        stage.write(8..<40)
        stage.finish()
        stage.write(208..<216, fua: true)
        stage.read(0..<128)
        stage.sync()
        degradedWork(stage)
    }

    /// A flush fails of a space that has nothing but that disk: whoever waits for it is told, the
    /// status names what was written since the last good one, and nothing else is lost.
    static let simpleFlushError = Workload("simple-flush-error") { stage in
        stage.begin(Stage.shape(.simple, columns: 2))
        stage.write(0..<512)
        stage.write(stage.grain(1))
        stage.sync()
        let written = [16..<80, 2048 + 100..<2048 + 300, 3 * 2048..<3 * 2048 + 8]
        for sectors in written { stage.write(sectors) }
        stage.finish()
        stage.fault(.flushError, disk: 1)
        stage.site.acceptsErrors = true
        for _ in 0..<2 {
            let failed = stage.site.clients.failedRequests
            stage.flush()
            stage.finish()
            guard stage.site.clients.failedRequests == failed + 1 else {
                return stage.machine.fail("a FLUSH is said to be done that was not")
            }
        }
        guard stage.site.names(written, ofSpace: 0) else { return }
        stage.read(80..<512)
        stage.finish()
        stage.site.cutPower(.sectors(percent: 50))
        stage.site.acceptsErrors = false
    } body: { stage in
        guard stage.site.recover() else { return }
        stage.read(0..<512)
        stage.read(stage.grain(1))
        stage.write(40..<64)
        stage.write(2048 + 64..<2048 + 200, fua: true)
        stage.finish()
        stage.read(0..<512)
        stage.sync()
    }.with { $0.crashesByItself = true }

    /// Two disks of three fail in the same write: both have left before it is acknowledged.
    static let twoAtOnce = Workload("two-at-once") { stage in
        degradable(stage, .mirror3)
    } body: { stage in
        stage.fault(.writeErrors(.next(1)), disk: 0)
        stage.fault(.writeErrors(.next(1)), disk: 2)
        stage.write(stage.grain(3).lowerBound..<stage.grain(3).lowerBound + 64)
        stage.finish()
        stage.write(16..<48)
        stage.read(0..<64)
        stage.flush()
        stage.finish()
        stage.write(100..<120, fua: true)
        stage.finish()
        degradedWork(stage)
    }.with { $0.diskCount = 3 }

    /// Disks of two columns leave, one after the other: each column has a copy left, on another side.
    static let twoColumns = Workload("two-columns") { stage in
        stage.begin(Stage.shape(.mirror2, columns: 2))
        stage.write(0..<512)
        stage.write(stage.grain(2))
        stage.sync()
    } body: { stage in
        // Over the columns' borders, which lie at every 128 sectors.
        stage.write(100..<400)
        stage.steps(3)
        stage.site.pull(0)
        stage.write(120..<136, fua: true)
        stage.finish()
        stage.read(0..<512)
        stage.write(380..<390)
        stage.trim(128..<256)
        stage.flush()
        stage.finish()
        stage.read(0..<512)
    }.with {
        $0.diskCount = 4
        $0.cutStride = 2
    }

    /// A disk gets slower and slower, and then it is gone: the other has long ended what it still has.
    static let slowLeaving = Workload("slow-leaving") { stage in
        degradable(stage, .mirror2)
        stage.fault(.slow(.byNs(3_000_000_000)), disk: 1)
    } body: { stage in
        stage.write(8..<40)
        stage.write(stage.grain(4).lowerBound..<stage.grain(4).lowerBound + 40)
        stage.steps(4)
        stage.flush()
        stage.steps(2)
        stage.write(100..<108)
        stage.read(0..<64)
        stage.steps(3)
        stage.site.pull(1)
        stage.write(16..<24)
        stage.sync()
        stage.write(104..<112, fua: true)
        stage.finish()
        degradedWork(stage)
    }

    /// An administrator takes a disk out, and puts it back, under load.
    static let offline = Workload("offline") { stage in
        degradable(stage, .mirror2)
    } body: { stage in
        let isBack = stage.busy({ count in
            overwriteSome(stage, count)
            if count % 4 == 3 { stage.flush() }
        }, during: { stage.site.putOffline(1) && stage.site.plugIn(1) })
        guard isBack else { return }
        stage.sync()
    }.with { $0.cutStride = 2 }

    // MARK: - spots

    /// Blocks in three regions of their own, durable and clean.
    static func threeSpots(_ stage: Stage, _ resiliency: ResiliencyKind, checksums: Bool = true) {
        stage.begin(Stage.shape(resiliency, grains: 40, checksums: checksums))
        for region in 0..<3 { stage.write(spot(region, 0).lowerBound..<spot(region, 4).lowerBound) }
        stage.sync()
    }

    /// A block of a region's first grain.
    static func spot(_ region: Int, _ block: Int) -> Range<Int> {
        let start = region * 16 * 2048 + block * 8
        return start..<start + 8
    }

    /// A disk vanishes while a space is destroyed, and another while the pool is closed: whoever
    /// closes waits until that is durable.
    static let leavingAtTheEnd = Workload("leaving-at-the-end") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror3))
        for space in 0..<2 {
            stage.write(0..<64, space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        stage.write(8..<40, space: 1)
        stage.finish()
        guard leave(stage, 2, during: { stage.site.destroySpace("b") }) else { return }
        stage.write(200..<264)
        stage.finish()
        guard leave(stage, 0, during: { stage.site.close(export: false) }) else { return }
        for disk in [0, 2] where !stage.site.plugIn(disk) { return }
        guard stage.site.recover() else { return }
        stage.read(0..<264)
        stage.write(16..<24, fua: true)
        stage.finish()
    }.with { $0.diskCount = 3 }

    /// The disk goes with its first operation of what is done meanwhile.
    private static func leave(_ stage: Stage, _ disk: Int, during control: () -> Bool) -> Bool {
        stage.machine.onStep = { [unowned stage] in
            let machine = stage.machine
            guard machine.disks[disk].operationsInFlight > 0, !machine.disks[disk].isUnreachable
            else { return }
            stage.site.pull(disk)
        }
        defer { stage.machine.onStep = nil }
        return control()
    }
}
