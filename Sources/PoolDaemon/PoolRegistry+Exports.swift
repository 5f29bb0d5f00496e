import PoolControl
import PoolEngine
import PoolNBD

/// What NBD clients can attach to. Called at home, where the handshakes are; a space of another
/// shard is in that shard's table, too, which counts its clients:
///
///     publish    its own shard, then home: nobody is sent to a shard that knows nothing of it
///     withdraw   home, then its own shard: whoever is on the way then is let go
extension PoolRegistry {
    /// Offers every space of a pool that is open, as it is now.
    @discardableResult
    static func publish(
        _ pool: Pool, _ state: ShardState
    ) async throws(ControlFailure) -> Pool.Status {
        await pool.refreshStatus()
        let status = pool.status()
        for space in status.spaces { try await publish(space, of: pool.name, state) }
        return status
    }

    static func publish(
        _ name: String, of pool: Pool, _ state: ShardState
    ) async throws(ControlFailure) {
        await pool.refreshStatus()
        guard let space = pool.status().spaces.first(where: { $0.name == name }) else { return }
        try await publish(space, of: pool.name, state)
    }

    private static func publish(
        _ space: Pool.SpaceStatus, of pool: String, _ state: ShardState
    ) async throws(ControlFailure) {
        guard let handle = space.handle else { return }
        for shard in Set([space.shard, state.engine.shard]).sorted(by: >) {
            try await state.on(shard) { state in
                state.server.exports.publish(
                    name: "\(pool)/\(space.name)", space: handle, sizeBytes: space.sizeBytes,
                    isReadOnly: !space.reason.isEmpty, shard: space.shard)
            }
        }
    }

    static func withdraw(_ pool: Pool, _ state: ShardState) async throws(ControlFailure) {
        for record in pool.configuration.spaces {
            let name = "\(pool.name)/\(record.name)"
            state.server.exports.withdraw(name: name)
            let shard = pool.space(named: record.name)?.shard ?? state.engine.shard
            try await state.on(shard) { _ = $0.server.exports.withdraw(name: name) }
        }
    }

    /// Withdraws spaces that nobody is attached to.
    ///
    /// - Returns: 0, or how many clients are attached: then they are all offered as before.
    static func withdrawUnused(
        _ spaces: [String], of pool: Pool, _ state: ShardState
    ) async throws(ControlFailure) -> Int {
        let attached = try await connections(state)
        let clients = spaces.reduce(0) { $0 + (attached["\(pool.name)/\($1)"] ?? 0) }
        guard clients == 0 else { return clients }
        var latecomers = 0
        for space in spaces {
            let name = "\(pool.name)/\(space)"
            let shard = pool.space(named: space)?.shard ?? state.engine.shard
            // No suspension between the look and the withdrawal: nobody attaches in between.
            latecomers += try await state.on(shard) { state in
                let clients = state.server.exports.connections(name: name)
                if clients == 0 { state.server.exports.withdraw(name: name) }
                return clients
            }
            guard latecomers == 0 else { break }
            state.server.exports.withdraw(name: name)
        }
        if latecomers > 0 { try await publish(pool, state) }
        return latecomers
    }

    /// - Throws: while clients are attached to it.
    static func withdrawUnused(
        _ path: SpacePath, of pool: Pool, _ state: ShardState, to verb: String
    ) async throws(ControlFailure) {
        let clients = try await withdrawUnused([path.space], of: pool, state)
        guard clients > 0 else { return }
        throw ControlFailure(
            .refused,
            "space \(path) is in use: \(clients) "
                + (clients == 1 ? "client is" : "clients are") + " attached",
            hint: "disconnect them, then \(verb)")
    }

    /// How many clients are attached, by the name of the export.
    static func connections(_ state: ShardState) async throws(ControlFailure) -> [String: Int] {
        let counts = try await state.onEvery { state in
            let exports = state.server.exports
            return exports.names.map { ($0, exports.connections(name: $0)) }
        }
        return Dictionary(counts.joined(), uniquingKeysWith: +)
    }
}
