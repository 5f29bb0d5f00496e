import PoolEngine
import PoolFormat

/// Trims and zeroes, of blocks, of their parts and of whole grains.
extension Workload {
    static let zeroes = [trim, refill, zeroEdges, noHole]

    /// Trims and zeroes of blocks, of their parts and of whole grains; reuse of what they free.
    static let trim = Workload("trim") { stage in
        someData(stage)
    } body: { stage in
        stage.trim(8..<24)
        stage.write(16..<32)
        stage.flush()
        stage.steps(8)
        // The next grain must not lie where this one did while a crash may bring it back.
        stage.trim(stage.grain(1))
        stage.write(3 * 2048..<3 * 2048 + 64)
        stage.trim(35..<77)
        stage.steps(5)
        stage.write(2048..<2056)
        stage.sync()
        stage.zeroes(0..<16)
        stage.zeroes(3 * 2048 + 9..<3 * 2048 + 30)
        stage.write(stage.grain(4))
        stage.status(0..<8 * 2048)
        stage.flush()
    }

    /// A grain is written again at every stage of its release: unmapped in memory, in the journal,
    /// while its discard is at the disks, free.
    static let refill = Workload("refill") { stage in
        someData(stage)
        stage.write(stage.grain(2))
        stage.sync()
    } body: { stage in
        for round in 0..<5 {
            let grain = 1 + round % 2
            stage.trim(stage.grain(grain))
            stage.status(stage.grain(grain))
            if round % 2 == 0 { stage.flush() }
            stage.steps(2 + 3 * round)
            stage.write(grain * 2048 + 16 * round..<grain * 2048 + 16 * round + 40)
            stage.write(stage.grain(4 + round % 3))
            stage.steps(2)
            stage.read(stage.grain(grain))
            stage.trim(stage.grain(4 + round % 3))
            stage.flush()
        }
    }

    /// Zeroes that begin and end within blocks, next to and across writes of the same blocks.
    static let zeroEdges = Workload("zero-edges") { stage in
        someData(stage)
    } body: { stage in
        for (round, start) in [3, 13, 62, 129].enumerated() {
            stage.trim(start..<start + 21)
            stage.write(start + 19..<start + 23)
            stage.steps(2)
            stage.zeroes(start + 1..<start + 3, fua: round == 2)
            stage.zeroes(2048 + start..<2048 + start + 7, noHole: round % 2 == 0)
            stage.steps(3)
            if round % 2 == 1 { stage.flush() }
            if round == 2 { stage.finish() }
        }
        // In a block nothing was ever written to: no room may be taken, nothing may show.
        stage.trim(3 * 2048 + 1..<3 * 2048 + 15)
        stage.status(3 * 2048..<4 * 2048)
        stage.sync()
        stage.read(0..<256)
    }

    /// Zeroes that keep their room: a fresh grain is mapped and says nothing.
    static let noHole = Workload("no-hole") { stage in
        someData(stage)
    } body: { stage in
        stage.zeroes(stage.grain(1), noHole: true)
        stage.zeroes(stage.grain(2), noHole: true)
        stage.steps(4)
        stage.write(2 * 2048 + 64..<2 * 2048 + 80)
        stage.status(stage.grain(2))
        stage.flush()
        stage.steps(5)
        stage.zeroes(8..<40, noHole: true, fua: true)
        stage.write(0..<16)
        stage.zeroes(3 * 2048 + 5..<3 * 2048 + 90, noHole: true)
        stage.write(stage.grain(1))
        stage.sync()
        stage.trim(stage.grain(2))
        stage.zeroes(stage.grain(2), noHole: true, fua: true)
        stage.read(stage.grain(2))
    }
}
