import PoolEngine
import PoolFormat

/// Seeds with more faults than any resiliency promises to bear: everything may fail, and a read may
/// say so; but what it returns is right, every request ends, and what can be opened is.
extension SeedRun {
    /// Opens the pool, with more of the disks each time it is refused.
    ///
    /// - Returns: false when the power went again, or something is wrong.
    func recoverBeyond() -> Bool {
        for index in machine.disks.indices { takeBackLoudFaults(index) }
        var hidden = machine.disks.indices.filter { machine.disks[$0].isUnreachable }
        // Without any disk there is no pool to look for.
        if let last = site.members.last, site.members.allSatisfy(hidden.contains) {
            hidden.removeAll { $0 == last }
            takeBackAway(last)
        }
        while true {
            guard site.recover(allowing: { _ in true }) else { return false }
            if site.isOpen { return true }
            machine.shutDown()
            guard let index = hidden.popLast() else {
                // Every disk is there: what is lost is lost, and the pool says that it is. Or there has
                // not been one yet.
                machine.boot()
                return true
            }
            takeBackAway(index)
        }
    }

    private func takeBackAway(_ index: Int) {
        machine.takeBack(.unreachable, disk: index)
        if atlas.isAway(index) { atlas.noteBack(index) }
    }

    /// Every disk is there again, and the machine started anew: what can be read is right.
    func finishBeyond() {
        endFaults()
        // A crash may take what is wrong for what was being written.
        if isBeyondRepair { return }
        site.cutPower(.keepCompleted)
        for index in machine.disks.indices {
            machine.takeBack(.unreachable, disk: index)
        }
        guard recoverBeyond(), site.isOpen else { return }
        _ = site.verify(.wholeGrains, sample: &random)
    }
}
