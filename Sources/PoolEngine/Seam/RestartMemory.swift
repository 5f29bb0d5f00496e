import PoolFormat

/// Memory that outlives the process but not the machine: each open space has a region of it, where
/// it notes what it acknowledged before that is durable (``RestartLog``).
///
/// What was left by a process of an earlier start of the machine is never handed out: the disks'
/// caches are gone, and with them what the region speaks of.
public protocol RestartMemory: Sendable {
    /// The region of a space: as it was left, or zeros.
    ///
    /// - Parameter bytes: a multiple of 4 KiB. A region of another size is not the space's.
    /// - Returns: memory aligned to 8 that stays until `discard`; nil: there is none to be had, and
    ///   the space does without.
    func region(of owner: RestartLog.Owner, bytes: Int) -> UnsafeMutableRawBufferPointer?
    /// The space ended cleanly: nobody uses its region any more, or needs it again.
    func discard(_ owner: RestartLog.Owner)
}
