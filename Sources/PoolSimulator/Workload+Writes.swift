import PoolEngine
import PoolFormat

/// Writes, FLUSH and FUA, and what a crash leaves of them.
extension Workload {
    static let writes = [
        overlap, allocation, rewrite, fua, fuaAndFlush, unaligned, mixedSectors, striped, resync, plain,
        afterKill, cleaning, cleaningElsewhere,
    ]

    /// Overlapping writes of several clients on a mirror.
    static let overlap = Workload("overlap") { stage in
        someData(stage)
    } body: { stage in
        for round in 0..<3 {
            for start in [0, 5, 8, 16, 3] {
                stage.write(start + round..<start + round + 24)
            }
            stage.flush()
            stage.read(0..<64)
            stage.steps(6)
            stage.write(10..<20, fua: round == 1)
            stage.status(0..<4096)
        }
    }

    /// A mirror with one part of a grain and one whole grain, durable.
    @Sendable static func someData(_ stage: Stage) {
        stage.begin(Stage.shape(.mirror2))
        stage.write(0..<256)
        stage.write(stage.grain(1))
        stage.sync()
    }

    /// First writes to grains: group and grain allocation, data before record.
    static let allocation = Workload("allocation") { stage in
        stage.begin(Stage.shape(.mirror2, columns: 2))
    } body: { stage in
        for grain in 0..<4 {
            stage.write(grain * 2048 + 100..<grain * 2048 + 300)
            stage.steps(5)
        }
        stage.flush()
        stage.write(stage.grain(5))
        stage.write(300..<308, fua: true)
        stage.sync()
        stage.write(6 * 2048..<6 * 2048 + 8)
        stage.flush()
    }.with { $0.diskCount = 4 }

    /// Blocks that are written again, and trimmed, before their first value is durable.
    static let rewrite = Workload("rewrite") { stage in
        someData(stage)
    } body: { stage in
        for round in 0..<4 {
            let start = 4096 + round * 20
            stage.write(start..<start + 24)
            stage.finish()
            stage.write(start + 4..<start + 20)
            stage.steps(round)
            stage.trim(start + 8..<start + 16)
            stage.write(start + 8..<start + 40)
            stage.finish()
        }
        stage.sync()
        stage.write(4096..<4104)
        stage.finish()
    }

    /// FUA writes among writes without, and FLUSHes of several clients.
    static let fua = Workload("fua") { stage in
        someData(stage)
    } body: { stage in
        for round in 0..<4 {
            stage.write(round * 16..<round * 16 + 16)
            stage.write(4096 + round * 8..<4096 + round * 8 + 8, fua: true)
            stage.steps(4)
            stage.flush()
            stage.write(round * 16 + 4..<round * 16 + 12, fua: true)
            stage.trim(2048 + round * 64..<2048 + round * 64 + 24, fua: round % 2 == 0)
        }
    }

    /// A FLUSH while the commit of a FUA write is under way must not join its device flushes.
    static let fuaAndFlush = Workload("fua-and-flush") { stage in
        someData(stage)
    } body: { stage in
        for round in 0..<5 {
            stage.write(round * 8..<round * 8 + 8, fua: true)
            stage.steps(round + 2)
            stage.write(2048 + round * 8..<2048 + round * 8 + 24)
            stage.steps(2)
            stage.flush()
            stage.write(round * 8..<round * 8 + 4, fua: true)
            stage.steps(1)
            stage.flush()
            stage.finish()
        }
    }

    /// Parts of blocks on disks with 4 KiB sectors.
    static let unaligned = Workload("unaligned", prepare: someData, body: unalignedBody)
        .with { $0.sectorBytes = [4096] }

    /// The same on a disk of each kind: a sector of 512 bytes is the unit then.
    static let mixedSectors = Workload("mixed-sectors", prepare: someData, body: unalignedBody)
        .with { $0.sectorBytes = [512, 4096] }

    @Sendable private static func unalignedBody(_ stage: Stage) {
        for start in [1, 7, 9, 250, 3] {
            stage.write(start..<start + 3)
            stage.steps(3)
        }
        stage.flush()
        stage.write(8 * 300 + 5..<8 * 302 + 3)
        stage.write(5 * 2048 + 2..<5 * 2048 + 5, fua: true)
        stage.trim(4..<13)
        stage.sync()
        stage.write(6..<7)
        stage.zeroes(20..<41)
        stage.flush()
        stage.read(0..<64)
    }

    /// Whole grains and parts of blocks over the columns of a simple space.
    static let striped = Workload("striped") { stage in
        stage.begin(Stage.shape(.simple, columns: 3))
        stage.write(stage.grain(0))
        stage.sync()
    } body: { stage in
        // Over the borders of the columns, which lie at every 128 sectors.
        for start in [120, 126, 250, 255] {
            stage.write(start..<start + 12)
            stage.steps(3)
        }
        stage.write(stage.grain(2))
        stage.flush()
        stage.write(100..<700, fua: true)
        stage.trim(380..<500)
        stage.sync()
        stage.write(stage.grain(0))
        stage.steps(4)
        stage.flush()
        stage.read(stage.grain(0))
    }.with { $0.diskCount = 3 }

    /// A crash with dirty regions, then reads and writes while the copies are made equal.
    static let resync = Workload("resync") { stage in
        stage.begin(Stage.shape(.mirror2))
        crashWithDirtyRegions(stage)
    } body: { stage in
        afterCrash(stage)
    }.with { $0.crashesByItself = true }

    /// The same without checksums: nothing tells which copy is newer, only that they must agree.
    static let plain = Workload("plain") { stage in
        stage.begin(Stage.shape(.mirror2, checksums: false))
        crashWithDirtyRegions(stage)
    } body: { stage in
        afterCrash(stage)
    }.with { $0.crashesByItself = true }

    private static func crashWithDirtyRegions(_ stage: Stage) {
        stage.write(0..<64)
        stage.write(2040..<2048)
        stage.sync()
        for start in [0, 3, 11, 40] { stage.write(start..<start + 16) }
        stage.write(2041..<2046)
        stage.steps(9)
        stage.site.cutPower(.sectors(percent: 50))
    }

    private static func afterCrash(_ stage: Stage) {
        guard stage.site.recover() else { return }
        stage.read(0..<32)
        stage.write(8..<12)
        stage.read(8..<40)
        stage.steps(10)
        stage.write(2044..<2048)
        stage.read(2040..<2048)
        stage.flush()
        stage.finish()
        stage.read(0..<64)
        stage.finish()
        // Long enough for the regions to be cleaned.
        stage.steps(60)
    }

    /// The process is killed, the disks' caches live on: what recovery read and served has to be
    /// there after a power cut too.
    static let afterKill = Workload("after-kill") { stage in
        someData(stage)
        stage.write(0..<64)
        stage.trim(stage.grain(1))
        stage.write(3 * 2048..<3 * 2048 + 64)
        stage.finish()
        stage.flush()
        // The journal's batches are in the caches, their flushes on the way.
        stage.steps(3)
        stage.site.killProcess()
    } body: { stage in
        guard stage.site.recover() else { return }
        stage.read(0..<128)
        stage.read(stage.grain(1))
        stage.read(3 * 2048..<3 * 2048 + 128)
        stage.finish()
        stage.write(32..<48)
        stage.flush()
    }.with { $0.crashesByItself = true }

    /// Regions are marked, cleaned, and written to again while that is under way.
    static let cleaning = Workload("cleaning") { stage in
        threeRegions(stage, .mirror2)
    } body: { stage in
        cleaningBody(stage)
    }.with { $0.limits.cleanAfterNs = 200_000 }

    /// The same on a disk without metadata: no flush of the journal makes a region's writes durable.
    static let cleaningElsewhere = Workload("cleaning-elsewhere") { stage in
        threeRegions(stage, .simple)
    } body: { stage in
        cleaningBody(stage)
    }.with {
        $0.diskCount = 3
        $0.limits.cleanAfterNs = 200_000
    }

    private static func threeRegions(_ stage: Stage, _ resiliency: ResiliencyKind) {
        stage.begin(Stage.shape(resiliency, grains: 40))
        for region in 0..<3 { stage.write(region * 16 * 2048..<region * 16 * 2048 + 64) }
        stage.sync()
    }

    private static func cleaningBody(_ stage: Stage) {
        for round in 0..<6 {
            for region in 0..<3 {
                let start = region * 16 * 2048 + round * 8
                stage.write(start..<start + 16)
                stage.steps(3)
            }
            // Else some still wait for their marks.
            if round % 2 == 0 { stage.finish() }
            stage.flush()
            stage.steps(12)
        }
    }
}
