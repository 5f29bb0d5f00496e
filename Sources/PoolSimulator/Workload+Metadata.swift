import PoolEngine
import PoolFormat

/// The journal, its checkpoints, and the pieces that hold a space's metadata.
extension Workload {
    static let metadata = [
        checkpoint, busyCheckpoint, freshCheckpoint, wrap, grants, neighbours,
    ]

    /// A journal that fills up to the end of its first piece, and is retired by checkpoints.
    static let checkpoint = Workload("checkpoint") { stage in
        stage.begin(Stage.shape(.mirror2))
        commits(stage, 240)
    } body: { stage in
        for round in 0..<14 {
            let start = (round % 5) * 2048 + round * 8
            stage.write(start..<start + 8, fua: true)
            stage.write(start + 64..<start + 80)
            stage.steps(7)
        }
        stage.flush()
    }.with { $0.sectorBytes = [4096] }

    /// One batch of the journal each.
    static func commits(_ stage: Stage, _ count: Int) {
        for round in 0..<count {
            stage.write((round * 8) % 512..<(round * 8) % 512 + 8, fua: true)
            stage.finish()
        }
    }

    /// Checkpoints of one page each under writes that never pause, over more checksum pages than
    /// memory holds.
    static let busyCheckpoint = Workload("busy-checkpoint") { stage in
        stage.begin(Stage.shape(.mirror2, grains: 60))
        for grain in stride(from: 0, to: 60, by: 3) {
            stage.write(grain * 2048..<grain * 2048 + 8)
            stage.finish()
        }
        stage.sync()
        commits(stage, 58)
    } body: { stage in
        for round in 0..<12 {
            let start = (round * 7 % 20) * 3 * 2048 + round * 8
            stage.write(start..<start + 16, fua: round % 3 == 0)
            stage.steps(4)
            stage.write(start + 4..<start + 20)
            stage.steps(4)
            if round % 4 == 3 { stage.trim(stage.grain((round * 7 % 20) * 3)) }
        }
        stage.flush()
    }.with {
        $0.limits.checksumPages = 16
        $0.limits.checkpointPages = 1
    }

    /// Checkpoints under the first writes of blocks: no dirty mark makes up for a value that is
    /// lost, nor for one without its bytes.
    static let freshCheckpoint = Workload("fresh-checkpoint") { stage in
        stage.begin(Stage.shape(.simple, grains: 60))
        for grain in stride(from: 0, to: 60, by: 3) {
            stage.write(grain * 2048..<grain * 2048 + 8)
            stage.finish()
        }
        stage.sync()
    } body: { stage in
        /// Of the `number`-th page in turn.
        func fresh(_ number: Int, block: Int) -> Range<Int> {
            let start = number * 7 % 20 * 3 * 2048 + block * 8
            return start..<start + 8
        }
        for round in 0..<8 {
            for number in round * 3..<round * 3 + 3 {
                stage.write(fresh(number, block: 1 + round), fua: true)
            }
            stage.steps(6)
            stage.write(fresh(max(0, round * 3 - 5), block: 100 + round))
            // A commit that waits for no data: the journal overtakes the page.
            stage.write(round % 4 * 2..<round % 4 * 2 + 2, fua: true)
            stage.steps(6)
        }
        stage.flush()
    }.with {
        $0.diskCount = 3
        $0.limits.requestsInFlight = 128
        $0.limits.checksumPages = 16
    }

    /// The journal's ring starts over, with batches of several blocks that do not fit its end.
    static let wrap = Workload("wrap") { stage in
        stage.begin(Stage.shape(.mirror2))
        commits(stage, 490)
    } body: { stage in
        for round in 0..<4 {
            for grain in 0..<7 { stage.write(stage.grain(grain)) }
            stage.steps(20)
            // Every second block: a run of values for each in the journal.
            for block in 0..<10 { stage.trim(block * 16..<block * 16 + 8) }
            stage.write(round * 64..<round * 64 + 8, fua: true)
            stage.finish()
        }
        stage.flush()
    }.with { $0.cutStride = 7 }

    /// The first writes of all to a space, and to the grains of its second checksum piece: slab
    /// group, group, map and checksum pieces are granted while requests wait. Of the second space's
    /// first group one slab lies on a disk that gets no data yet, and no flush for any.
    static let grants = Workload("grants") { stage in
        stage.begin(Stage.shape(.mirror2, grains: 400), Stage.shape(.simple, columns: 3))
    } body: { stage in
        stage.write(130..<140, space: 1, fua: true)
        stage.write(0..<16)
        stage.write(390 * 2048..<390 * 2048 + 16)
        stage.steps(6)
        stage.flush()
        stage.steps(9)
        stage.write(385 * 2048..<385 * 2048 + 24)
        stage.write(8..<32, fua: true)
        stage.zeroes(stage.grain(395), noHole: true)
        stage.sync()
        stage.write(stage.grain(384))
        stage.flush()
    }.with { $0.diskCount = 3 }

    /// Two spaces whose journals and data share both disks: a flush of one is no flush of the other.
    static let neighbours = Workload("neighbours") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.simple, columns: 2))
        for space in 0..<2 {
            stage.write(0..<64, space: space)
            stage.write(stage.grain(2), space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        for round in 0..<4 {
            let start = round * 16
            stage.write(start..<start + 24, space: 0)
            stage.write(start + 3..<start + 30, space: 1)
            stage.steps(3)
            stage.flush(space: round % 2)
            stage.write(stage.grain(3 + round), space: 1 - round % 2)
            stage.steps(4)
            stage.trim(stage.grain(2 + round), space: round % 2)
            stage.write(start..<start + 4, space: round % 2, fua: true)
        }
        stage.flush(space: 0)
        stage.flush(space: 1)
    }
}
