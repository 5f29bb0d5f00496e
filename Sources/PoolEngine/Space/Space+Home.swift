import PoolFormat

/// What a space asks of its pool, and the pool of its spaces. They may be on different shards: the
/// pool is touched only on its home shard, the space only on its own.
extension Space {
    /// Runs `body` on the pool's shard and goes on here with what it returns.
    func atHome<T: Sendable>(
        _ body: @escaping @Sendable (Pool) async throws(PoolError) -> T
    ) async throws(PoolError) -> T {
        let pool = self.pool
        return try await engine.on(pool.engine.shard) { _ async throws(PoolError) -> T in
            try await body(pool)
        }
    }

    func noteReadError(_ device: DeviceIndex) { pool.noteReadError(device, from: engine) }

    func noteChecksumError(_ device: DeviceIndex) {
        let pool = self.pool
        engine.post(to: pool.engine.shard) { _ in pool.noteChecksumError(device) }
    }
}

extension Pool {
    /// Runs `body` on a space's shard and goes on here with what it returns.
    func on<T: Sendable>(
        _ space: Space, _ body: @escaping @Sendable (Space) async throws(PoolError) -> T
    ) async throws(PoolError) -> T {
        try await engine.on(space.shard) { _ async throws(PoolError) -> T in
            try await body(space)
        }
    }

    /// From any shard.
    func noteReadError(_ device: DeviceIndex, from engine: Engine) {
        engine.post(to: self.engine.shard) { [self] _ in noteReadError(device) }
    }

    /// From any shard: has every failed disk recorded, one after the other, and made known to every
    /// shard; returns once that is durable, or cannot be.
    func devicesFailed(_ devices: DeviceSet, during what: String, from engine: Engine) async {
        var list: [DeviceIndex] = []
        devices.forEach { list.append($0) }
        let failed = list
        // A stopped engine is told nothing more.
        try? await engine.on(self.engine.shard) { [self] _ async throws(PoolError) in
            for device in failed { await deviceFailed(device, during: what) }
        }
    }

    /// From any shard: runs a batch of writes or flushes outside any space's commit.
    func runOrFail(_ io: IOBatch, during what: String) async throws(PoolError) {
        if await io.run() { return }
        if io.engine.isStopped { throw .stopped }
        await devicesFailed(io.devices(with: .ioError), during: what, from: io.engine)
        throw .ioError
    }
}
