import PoolEngine
import PoolFormat

/// Pools that fill up, spaces that change their size, grains that move.
extension Workload {
    static let room: [Workload] = [full]

    /// Every slab is taken: writes to new grains of a space without room are refused, everything
    /// else goes on, and what a trim gives back is taken at once.
    static let full = Workload("full") { stage in
        stage.begin(Stage.shape(.mirror2), Stage.shape(.mirror2), Stage.shape(.mirror2))
        for space in 0..<2 {
            stage.write(stage.grain(0), space: space)
            stage.sync(space: space)
        }
    } body: { stage in
        stage.write(stage.grain(3), space: 2)
        stage.write(0..<8, space: 2, fua: true)
        stage.write(32..<80)
        stage.steps(4)
        stage.write(stage.grain(5), space: 1)
        stage.flush(space: 2)
        stage.finish()
        stage.trim(stage.grain(0), space: 1)
        stage.steps(3)
        stage.write(16..<40, space: 2)
        stage.trim(stage.grain(5), space: 1)
        stage.flush(space: 1)
        stage.write(8..<24)
        stage.finish()
        stage.steps(12)
        stage.write(0..<64, space: 2)
        stage.sync(space: 2)
        stage.write(24..<40, space: 1)
        stage.write(2000..<2040, fua: true)
    }.with { $0.mayRunOutOfRoom = true }
}
