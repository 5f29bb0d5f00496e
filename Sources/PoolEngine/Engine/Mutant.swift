/// Deliberate faults, compiled only into the build that tests the tests.
///
/// Each breaks one rule that keeps data safe; the simulator has to find every one of them.
public enum Mutant: String, CaseIterable, Sendable {
    /// The flush between the data and the record that makes it readable is left out.
    case recordBeforeData
    /// A FLUSH is acknowledged before the devices' last flush.
    case acknowledgeBeforeFlush
    /// A valid block is overwritten without a durable dirty mark on its region.
    case forgetDirtyMark
    /// A checkpoint writes values that are not durable yet.
    case checkpointFromMemory
    /// Journal batches retire before the pages that hold them are flushed.
    case retireEarly
    /// A freed grain is reused before its unmapping is durable.
    case reuseEarly
    /// After a crash the copies of dirty regions are not made equal.
    case skipResync
    /// A configuration takes effect before it is flushed.
    case configurationUnflushed

    #if MUTANTS
        nonisolated(unsafe) public static var active: Mutant?
        @inline(__always)
        static func isActive(_ mutant: Mutant) -> Bool { unsafe active == mutant }
    #else
        @inline(__always)
        static func isActive(_ mutant: Mutant) -> Bool { false }
    #endif
}
