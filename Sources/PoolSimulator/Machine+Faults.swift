import PoolEngine

/// Faults of the machine's disks: said, traced, and drawn for from the machine's own stream.
extension Machine {
    func set(_ fault: DiskFault, disk index: Int) {
        note("disk \(index): \(fault)")
        traceFault(0xfa11, index, fault.kind)
        disks[index].set(fault, random: &random)
    }

    func takeBack(_ kind: DiskFault.Kind, disk index: Int) {
        note("disk \(index): no more \(kind)")
        traceFault(0xfa12, index, kind)
        disks[index].takeBack(kind)
    }

    /// The disk is there again, without its cache; ``takeBack(_:disk:)`` is for one that kept it.
    func reconnect(disk index: Int, losingCache policy: CutPolicy) {
        note("disk \(index): there again, its power was cut (\(policy))")
        traceFault(0xfa13, index, .unreachable)
        disks[index].reconnect(losingCache: policy, random: &random)
    }

    /// An image of the disk is kept, which it may be restored from.
    func remember(disk index: Int) {
        note("disk \(index): an image of it is taken")
        disks[index].remember()
    }

    /// The disk is there again as an older self: what its ``SimulatedDisk/remember()`` kept.
    func comeBackAsRemembered(disk index: Int) {
        note("disk \(index): there again, restored from an older image")
        traceFault(0xfa14, index, .unreachable)
        disks[index].comeBackAsRemembered()
    }

    /// The device is opened anew, as whoever brings a disk back has to.
    func reopen(disk index: Int) {
        note("disk \(index): opened anew")
        disks[index].reopen()
    }

    private func traceFault(_ word: UInt64, _ index: Int, _ kind: DiskFault.Kind) {
        addToTrace(word << 32 | UInt64(index) << 8 | UInt64(kind.rawValue))
    }
}
