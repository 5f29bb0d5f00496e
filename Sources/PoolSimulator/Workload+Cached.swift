import PoolEngine
import PoolFormat

/// Writes to stripes by way of a write-back cache: what lies there, and on its way to a stripe.
extension Workload {
    static let cached =
        [
            cacheWrites, cacheTrim, cacheDestage, cacheFull, cacheDegraded, cacheReturning,
            cacheRetire, cacheRotten, cacheAfterKill, cacheReuse, cacheCheckpoint,
        ]
        + [
            stripes, stripesOver, stripesUnaligned, stripesAfterKill, stripesFull, stripesParked,
            stripesReturning, stripesReturningBusy, stripesOpenedWithout, stripesRebuild,
            stripesRetire, stripesRottenData, stripesHole, stripesFixed, stripesCompaction,
            stripesCompactionAway, stripesRetireNarrow,
        ].map { $0.cached }

    /// The same with a cache. It goes on for longer, and not all of that is cut.
    private var cached: Workload {
        with {
            $0.name = "cached-" + name
            $0.cacheBytes = 2 << 20
            $0.cutStride *= 7
        }
    }

    private static func caching(
        _ name: String, disks: Int = 3, stride: Int = 1, cacheBytes: UInt64 = 2 << 20,
        prepare: @escaping @Sendable (Stage) -> Void, body: @escaping @Sendable (Stage) -> Void
    ) -> Workload {
        Workload(name, prepare: prepare, body: body).with {
            $0.cacheBytes = cacheBytes
            $0.diskCount = disks
            $0.cutStride = stride
        }
    }

    /// Two grains, of which some lies in stripes and some in the cache.
    private static func someCached(_ stage: Stage, _ resiliency: ResiliencyKind = .parity1) {
        stage.begin(Stage.shape(resiliency))
        stage.write(stage.grain(0))
        stage.write(stage.grain(3))
        stage.write(stage.grain(1))
        stage.sync()
        stage.write(2048 + 16..<2048 + 32)
        stage.write(16..<32)
        stage.write(100..<108)
        stage.write(3 * 2048 + 16..<3 * 2048 + 32)
        stage.sync()
    }

    /// Clients that go on keep what is cached from being destaged all at once.
    private static func keepBusy(_ stage: Stage, _ rounds: Int, from start: Int = 0) {
        for round in 0..<rounds {
            stage.write(2 * 2048 + (start + round) * 8..<2 * 2048 + (start + round + 1) * 8)
            stage.steps(3)
        }
    }

    static let cacheWrites = caching("cache-writes") { someCached($0) } body: { stage in
        stage.write(16..<24)
        stage.write(200..<264, fua: true)
        stage.read(0..<128)
        stage.steps(4)
        stage.write(20..<29)
        stage.flush()
        stage.write(stage.grain(1))
        stage.finish()
        stage.read(stage.grain(1))
        stage.write(2048 + 16..<2048 + 24, fua: true)
        stage.finish()
        stage.read(0..<2048)
        stage.sync()
    }

    static let cacheTrim = caching("cache-trim") { someCached($0) } body: { stage in
        stage.trim(16..<24)
        stage.write(18..<21)
        stage.flush()
        stage.finish()
        stage.trim(stage.grain(1))
        stage.write(2048 + 24..<2048 + 32)
        stage.sync()
        stage.zeroes(96..<112, noHole: true, fua: true)
        stage.trim(2048 + 24..<2048 + 32)
        stage.read(0..<256)
        stage.sync()
        stage.trim(stage.grain(1), fua: true)
        stage.finish()
    }

    /// Nobody writes for a while: everything goes to its stripes, and comes again.
    static let cacheDestage = caching("cache-destage", stride: 2) { someCached($0) } body: { stage in
        keepBusy(stage, 4)
        stage.sync()
        stage.pass(ns: 400_000_000)
        stage.write(16..<40)
        stage.read(0..<128)
        stage.sync()
        stage.pass(ns: 150_000_000)
        stage.write(2048 + 32..<2048 + 48, fua: true)
        stage.steps(20)
        stage.write(20..<24, fua: true)
        stage.finish()
        stage.pass(ns: 400_000_000)
        stage.read(stage.grain(0))
        stage.read(stage.grain(1))
        stage.finish()
    }

    /// More is written than the cache holds.
    static let cacheFull = caching("cache-full", stride: 37, cacheBytes: 1 << 20) { stage in
        someCached(stage)
    } body: { stage in
        for round in 0..<3 {
            for grain in 0..<4 {
                let start = grain * 2048 + round * 160
                stage.write(start..<start + 320)
                if (round + grain) % 4 == 3 { stage.flush() }
            }
            stage.read(round * 2048..<round * 2048 + 512)
            stage.finish()
        }
        stage.sync()
    }

    /// What has left a slot is durable before another block comes there.
    static let cacheReuse = caching("cache-reuse", stride: 2, cacheBytes: 1 << 20) { stage in
        someCached(stage)
        stage.write(2 * 2048..<2 * 2048 + 800)
        stage.sync()
    } body: { stage in
        stage.write(2 * 2048..<2 * 2048 + 800)
        stage.finish()
        stage.write(3 * 2048 + 400..<3 * 2048 + 880)
        stage.finish()
        stage.read(2 * 2048..<2 * 2048 + 800)
        stage.sync()
    }

    /// Checkpoints of the index while something comes and goes.
    static let cacheCheckpoint = caching("cache-checkpoint", stride: 3) { stage in
        someCached(stage)
        commits(stage, 120)
    } body: { stage in
        for round in 0..<10 {
            let start = 2048 + round * 16
            stage.write(start..<start + 16)
            stage.write(2 * 2048 + round * 8..<2 * 2048 + round * 8 + 8, fua: true)
            stage.steps(5)
        }
        stage.write(stage.grain(1))
        stage.steps(9)
        stage.flush()
    }

    /// A row of which a block is cached is solved.
    static let cacheDegraded = caching("cache-degraded", stride: 11) { someCached($0) } body: { stage in
        stage.write(32..<40)
        stage.steps(3)
        stage.site.pull(0)
        stage.write(40..<56, fua: true)
        stage.read(0..<2048)
        stage.finish()
        stage.read(stage.grain(3))
        stage.write(48..<64)
        stage.sync()
        stage.read(stage.grain(0))
        stage.read(stage.grain(1))
        stage.finish()
    }

    /// A disk that was away while something was cached comes back.
    static let cacheReturning = caching("cache-returning", stride: 13) { stage in
        someCached(stage)
        stage.site.pull(1)
        stage.write(16..<24, fua: true)
        keepBusy(stage, 3)
        stage.sync()
    } body: { stage in
        let isWhole = stage.busy(
            { count in
                let start = 2 * 2048 + count % 40 * 8
                stage.write(start..<start + 8, fua: count % 5 == 4)
                stage.read(0..<64)
            },
            during: { stage.site.plugIn(1) && stage.site.waitUntilWhole() })
        guard isWhole else { return }
        stage.sync()
        stage.site.pull(0)
        stage.read(0..<128)
        stage.read(stage.grain(2))
        stage.write(16..<24, fua: true)
        stage.finish()
    }

    /// A disk with a copy of the cache is emptied.
    static let cacheRetire = caching("cache-retire", disks: 4, stride: 53) { stage in
        someCached(stage)
        keepBusy(stage, 3)
        stage.sync()
    } body: { stage in
        let isRetired = stage.busy(
            { count in
                let start = 2 * 2048 + count % 40 * 8
                stage.write(start..<start + 8, fua: count % 5 == 4)
            }, during: { stage.site.retire(0) })
        guard isRetired else { return }
        stage.read(stage.grain(0))
        stage.read(stage.grain(1))
        stage.sync()
    }

    /// What lies in the cache has turned over on a disk.
    static let cacheRotten = caching("cache-rotten", stride: 97) { stage in
        someCached(stage)
        stage.site.spoil(0)
    } body: { stage in
        stage.read(0..<128)
        stage.finish()
        stage.write(18..<22, fua: true)
        stage.finish()
        guard stage.site.scrub() else { return }
        stage.read(0..<128)
        stage.finish()
    }

    /// The process is killed with something in the cache that is not durable.
    static let cacheAfterKill = caching("cache-after-kill", stride: 7) { stage in
        someCached(stage)
        stage.write(20..<36)
        stage.write(2048 + 8..<2048 + 24)
        stage.write(2 * 2048..<2 * 2048 + 32)
        stage.finish()
        stage.write(24..<28)
        stage.flush()
        stage.steps(3)
        stage.site.killProcess()
    } body: { stage in
        guard stage.site.recover() else { return }
        stage.read(0..<128)
        stage.read(2048..<2048 + 128)
        stage.write(28..<44)
        stage.finish()
        stage.site.killProcess()
        guard stage.site.recover() else { return }
        stage.read(0..<128)
        stage.finish()
    }.with { $0.crashesByItself = true }
}
