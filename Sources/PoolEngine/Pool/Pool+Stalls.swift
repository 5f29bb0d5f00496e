import PoolFormat

/// Devices that do not answer.
///
/// A disk that is slow is not dead, so nothing is done without it before it has kept an operation
/// for as long as its driver's bound says. Then it leaves as one that has failed, if every space can
/// do without it; where data would be lost, waiting is better, for as long as it takes.
///
/// 1. From one instant on nothing more goes to it (`stopUsing`), as with any failure.
/// 2. Every shard's driver gives up what it has under way, which fails: so whoever waits for it,
///    one that holds the configuration's lock among them, goes on.
/// 3. The departure is recorded as any other.
extension Engine {
    /// A device has kept an operation for longer than it may. Said by the driver of any shard, and
    /// again as long as that is so.
    ///
    /// - Parameter home: the shard on which pools are opened.
    public func noteStalled(_ device: DeviceIndex, home: Int) {
        post(to: home) { engine in
            guard !engine.stallsLookedAt.contains(device) else { return }
            engine.stallsLookedAt.insert(device)
            engine.spawn {
                if let pool = engine.pool(of: device) {
                    await pool.deviceStalls(device)
                } else {
                    // Of no pool that is open: somebody waits for it who is about to open one.
                    engine.abandonEverywhere(device)
                }
                engine.stallsLookedAt.remove(device)
            }
        }
    }

    func abandonEverywhere(_ device: DeviceIndex) {
        for shard in 0..<shardCount {
            post(to: shard) { $0.abandonments.append(device) }
        }
    }
}

extension Pool {
    func deviceStalls(_ device: DeviceIndex) async {
        guard let disk = disk(of: device) else { return }
        if disk.serves {
            guard await canDoWithout(disk.number), disk.serves else { return }
            stopUsing(disk, as: .failed, "to answer")
        }
        engine.abandonEverywhere(device)
        await recordFailures()
    }

    private func canDoWithout(_ number: DiskNumber) async -> Bool {
        guard servingDisks.count > 1 else { return false }
        do throws(PoolError) {
            try await requireExpendable(number)
            return !engine.isStopped
        } catch {
            return false
        }
    }
}
