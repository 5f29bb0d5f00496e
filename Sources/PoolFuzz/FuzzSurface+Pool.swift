import PoolEngine
import PoolFormat

/// A whole pool, opened and used by an engine after some of its structures were changed.
extension FuzzSurface {
    /// Input: changes of five bytes each: structure (2), offset in it (2), value (1).
    func runPool(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        let world = memory.pool
        world.restart()
        var changes: [Int: [(offset: Int, value: UInt8)]] = [:]
        while reader.remainingBytes >= 5 {
            let structure = Int(reader.u16()) % world.structures.count
            changes[structure, default: []].append((Int(reader.u16()), reader.u8()))
        }
        for structure in changes.keys.sorted() {
            world.change(structure, changes[structure] ?? [])
        }
        let pool: Pool
        switch try world.open() {
        case .failure: return false
        case .success(let opened): pool = opened
        }
        _ = pool.status()
        guard let space = pool.configuration.spaces.lazy.compactMap({ record in
            pool.space(named: record.name)
        }).first else { return false }
        try use(space, world)
        _ = pool.status()
        if case .failure = try world.run({ _ throws(PoolError) in try await pool.close() }) {
            return false
        }
        return true
    }

    /// Whatever became of the space, each request is answered.
    private func use(_ space: Space, _ world: HostilePool) throws(FuzzFinding) {
        for grain: UInt64 in [0, 5, 200, 300, 301] {
            let offset = grain << 20
            guard offset + 1 << 20 <= space.sizeBytes else { continue }
            try world.perform(.read, space, offset, 16384)
            try world.perform(.blockStatus, space, offset, 1 << 20)
            try world.perform(.write, space, offset + 4096, 4096)
        }
        try world.perform(.flush, space)
        try world.perform(.trim, space, 0, 1 << 20)
        try world.perform(.flush, space)
        try world.perform(.read, space, 0, 4096)
    }
}
