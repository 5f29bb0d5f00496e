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
    /// A slab or piece is used before its grant is flushed.
    case grantUnflushed
    /// A region counts as clean before its last write is durable.
    case cleanEarly
    /// Replay leaves a grain that was mapped afresh the values it had before.
    case replayKeepsValues
    /// An unmapped grain is discarded before its unmapping is durable.
    case discardEarly
    /// The record of a move is written before the copied bytes are flushed.
    case moveBeforeData
    /// An empty slab group's slabs are free before its removal is durable.
    case groupFreedEarly
    /// A space is cut off while its journal still speaks of what lay behind.
    case shrinkKeepsRecords
    /// A move is recorded as a mapping afresh, which forgets the grain's values.
    case moveForgetsValues
    /// Block status says of written blocks that they are a hole.
    case statusForgetsData
    /// A slab group without grains is forgotten, and its slabs with it.
    case groupLeaks

    /// Whether it does harm only in a crash; the others show in what clients see, or in the
    /// books, while everything runs.
    public var needsCrash: Bool {
        switch self {
        case .recordBeforeData, .acknowledgeBeforeFlush, .forgetDirtyMark, .checkpointFromMemory,
            .retireEarly, .reuseEarly, .skipResync, .configurationUnflushed, .grantUnflushed,
            .cleanEarly, .replayKeepsValues, .discardEarly, .moveBeforeData, .moveForgetsValues,
            .groupFreedEarly, .shrinkKeepsRecords:
            true
        case .statusForgetsData, .groupLeaks: false
        }
    }

    #if MUTANTS
        nonisolated(unsafe) public static var active: Mutant?
        @inline(__always)
        static func isActive(_ mutant: Mutant) -> Bool { unsafe active == mutant }
    #else
        @inline(__always)
        static func isActive(_ mutant: Mutant) -> Bool { false }
    #endif
}
