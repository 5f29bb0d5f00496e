import Foundation
import PoolControl
import PoolDevices
import PoolEngine
import PoolFormat

/// Pools come, grow and go.
extension PoolRegistry {
    /// Makes a pool. The order: every check, then files, locks, the pool on its disks (which is not
    /// a pool until its last step), then the record. A crash before the record leaves a pool that
    /// `pool import` opens without force, since the witness knows it.
    func createPool(_ request: PoolCreateRequest) throws(ControlFailure) -> PoolControl.PoolStatus {
        try NameRules.check(request.name, "pool")
        try requireFreeName(request.name)
        let claimed = try claimNew(
            request.disks, createSizeBytes: request.createSizeBytes, force: request.force)
        let uuid = UUIDText.random()
        let record: KnownPools.Pool
        do throws(ControlFailure) {
            record = try shard.call { state throws(ControlFailure) in
                let members = try await claimed.attach(state)
                do throws(PoolError) {
                    let pool = try await Pool.create(
                        state.engine, name: request.name, uuid: uuid, members: members)
                    state.pools[uuid] = pool
                    return Self.record(pool.configuration, paths: claimed.paths)
                } catch {
                    throw ControlFailure(pool: error)
                }
            }
        } catch {
            claimed.release(self)
            try? witness.forget(uuid)
            throw error
        }
        let entry = Entry(
            record: record, uuid: uuid, condition: .open(devices: claimed.indices))
        try remember(entry)
        return try status(of: entry)
    }

    func addDisks(
        to name: String, _ request: PoolAddRequest
    ) throws(ControlFailure) -> PoolControl.PoolStatus {
        let (entry, devices) = try openEntry(named: name)
        let claimed = try claimNew(
            request.disks, createSizeBytes: request.createSizeBytes, force: request.force)
        let uuid = entry.uuid
        let paths = claimed.paths.merging(entry.record.paths) { new, _ in new }
        let record: KnownPools.Pool
        do throws(ControlFailure) {
            record = try shard.call { state throws(ControlFailure) in
                let pool = try Self.pool(uuid, state)
                let members = try await claimed.attach(state)
                do throws(PoolError) {
                    try await pool.addDisks(members)
                } catch {
                    throw ControlFailure(pool: error)
                }
                return Self.record(pool.configuration, paths: paths)
            }
        } catch {
            claimed.release(self)
            throw error
        }
        let grown = Entry(
            record: record, uuid: uuid, condition: .open(devices: devices + claimed.indices))
        try remember(grown)
        return try status(of: grown)
    }

    /// Closes a pool so that another host may open it.
    func exportPool(_ name: String) throws(ControlFailure) -> Outcome {
        let (entry, devices) = try openEntry(named: name)
        try leave(entry, verb: "export") { pool async throws(PoolError) in try await pool.export() }
        release(devices)
        try forget(entry.uuid)
        return Outcome(done: "pool \(name) is exported; its disks can go to another host")
    }

    /// Takes a pool apart: its disks are nobody's afterwards. Files stay.
    ///
    /// A detached one is only forgotten: nothing can be written on disks that are not there.
    func destroyPool(_ name: String) throws(ControlFailure) -> Outcome {
        let known = try entry(named: name)
        if case .detached = known.condition {
            try forget(known.uuid)
            return Outcome(
                done: "pool \(name) was detached and is forgotten; its disks are as before")
        }
        let (entry, devices) = try openEntry(named: name)
        try leave(entry, verb: "destroy") { pool async throws(PoolError) in
            try await pool.destroy()
        }
        release(devices)
        try forget(entry.uuid)
        return Outcome(done: "pool \(name) is destroyed; its disks are free")
    }

    /// Withdraws a pool's exports, unless clients are attached, and runs its last step.
    private func leave(
        _ entry: Entry, verb: String,
        _ step: @escaping @Sendable (Pool) async throws(PoolError) -> Void
    ) throws(ControlFailure) {
        let uuid = entry.uuid
        try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            let spaces = pool.configuration.spaces.map(\.name)
            let clients = try await Self.withdrawUnused(spaces, of: pool, state)
            guard clients == 0 else {
                throw ControlFailure(
                    .refused,
                    "pool \(pool.name) is in use: \(clients) "
                        + (clients == 1 ? "client is" : "clients are") + " attached",
                    hint: "disconnect them, then \(verb) it; see poolctl space ls")
            }
            do throws(PoolError) {
                try await step(pool)
            } catch {
                if !pool.isClosed { try await Self.publish(pool, state) }
                throw ControlFailure(pool: error)
            }
            state.pools[uuid] = nil
        }
    }

    /// Closes every open pool cleanly: the daemon is stopping, its clients are gone.
    func closeAll() {
        for entry in all {
            let uuid = entry.uuid
            do throws(ControlFailure) {
                try shard.call { state throws(ControlFailure) in
                    guard let pool = state.pools[uuid] else { return }
                    try await Self.withdraw(pool, state)
                    do throws(PoolError) {
                        try await pool.close()
                    } catch {
                        throw ControlFailure(pool: error)
                    }
                    state.pools[uuid] = nil
                }
            } catch {
                logger.error("closing pool \(entry.record.name): \(error.what)")
            }
        }
    }

    // MARK: - on the shard

    static func pool(_ uuid: PoolUUID, _ state: ShardState) throws(ControlFailure) -> Pool {
        guard let pool = state.pools[uuid] else {
            throw ControlFailure(.failed, "the pool is closing", hint: "look at pool ls")
        }
        return pool
    }
}
