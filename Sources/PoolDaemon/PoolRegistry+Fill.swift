import PoolControl
import PoolEngine
import PoolFormat

/// Pools that fill up: samples for the forecast, and a line in the log at each threshold.
extension PoolRegistry {
    /// How often the samples are taken when nobody asks.
    static let fillSampleSeconds: Double = 60

    /// Called every few seconds by whoever has the clock; looks once a minute.
    func sampleFill() {
        let now = uptime
        guard fills.isDue(now) else { return }
        let rooms = try? shard.runNow { state in
            state.pools.map { (uuid: $0.key, name: $0.value.name, room: $0.value.room) }
        }
        for pool in rooms ?? [] { noteRoom(pool.uuid, pool.name, pool.room) }
    }

    /// Takes one sample, says in the log what was crossed, and tells what is known now.
    @discardableResult
    func noteRoom(_ uuid: PoolUUID, _ name: String, _ room: FillWatch.Room) -> UInt64? {
        let (crossed, secondsToFull) = fills.note(uuid, seconds: uptime, room)
        if let crossed { logCrossing(name, crossed, room) }
        return secondsToFull
    }

    private func logCrossing(
        _ name: String, _ crossed: (before: FillState, now: FillState), _ room: FillWatch.Room
    ) {
        guard crossed.now > crossed.before else {
            let now = crossed.now == .ok ? "" : ", \(crossed.now.rawValue) still"
            return logger.notice(
                """
                pool \(name): \(room.percent) % full, \(crossed.before.rawValue) no longer\(now)
                """)
        }
        let line = "pool \(name): \(room.reason); add a disk: poolctl pool add \(name) DISK"
        switch crossed.now {
        case .ok, .notice: logger.notice("\(line)")
        case .warning: logger.warning("\(line)")
        case .critical: logger.error("\(line)")
        }
    }
}

extension Pool {
    /// What its disks have room for, how much of that is taken, and whether somebody waits.
    var room: FillWatch.Room {
        let bytes = fillBytes
        return FillWatch.Room(
            allocatedBytes: bytes.allocated, freeBytes: bytes.grantable,
            waitingWrites: waitingWrites, thresholds: configuration.settings.thresholds)
    }
}
