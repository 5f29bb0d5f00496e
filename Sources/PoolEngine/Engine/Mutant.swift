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
    /// What could not be read of a simple space is settled all the same.
    case settleUnread
    /// A flush that somebody had is taken for one of what was written since.
    case joinLateFlush
    /// A grain is moved as it was before somebody wrote to it.
    case moveIgnoresWrites
    /// A slab that is to replace another one is not written to meanwhile.
    case replacingLacksWrites
    /// A slab takes another's place before what was copied to it is flushed.
    case replacedUnflushed
    /// A move is recorded as a mapping afresh, which forgets the grain's values.
    case moveForgetsValues
    /// What a killed process had acknowledged is not committed.
    case forgetUnflushed
    /// The log of what is not durable forgets a commit before that is durable.
    case forgetUnflushedEarly
    /// A killed process's log is believed in bytes that the disks have lost.
    case believeUnflushed
    /// What one copy still has of what a killed process wrote is not given to the others.
    case leaveUnequal
    /// A write over a block whose first value is not durable is not noted before it goes out.
    case forgetIntents
    /// A checkpoint that a crash cut short is not brought to the copies that lack it.
    case leaveCopiesBehind
    /// A write that a disk is away from is not noted as missed by it.
    case forgetMissed
    /// After a crash dirty regions are not missed by the disks that are away.
    case forgetDirtyWhenAway
    /// The configuration does not say that a disk has left a space.
    case forgetDeparture
    /// A disk that has come back counts before it is made equal.
    case skipMissed
    /// What a disk that has come back was given is not flushed before it counts.
    case caughtUpUnflushed
    /// What is found wrong on a copy is not put right.
    case repairNothing
    /// What a disk lacks does not begin with what no flush had made durable there.
    case departWithoutUnflushed
    /// A region is cleaned while a disk is away, and not recorded as missed by it.
    case forgetMissedMark
    /// What a disk takes with it out of the commit under way is not recorded.
    case forgetLateMissed
    /// What a killed process had acknowledged without a disk is not missed by it.
    case forgetMissedLeftBehind
    /// What it had recorded of disks that had caught up takes back what one lacks now.
    case takeBackMissed
    /// A disk that has come back counts before the configuration says so.
    case readReturning
    /// The pages of a disk that has come back stay as they are.
    case keepStaleMetadata
    /// Pages that are written while a disk is away are not missed by it.
    case forgetMissedPages
    /// Nor are those that were on their way when it left.
    case forgetPagesUnderWay
    /// Of a page that a disk has missed it is given the older slot instead of the newer.
    case copyOlderSlots
    /// What a disk lacks of blocks that were UNWRITTEN is not recorded with their values.
    case forgetFreshMissed
    /// The copy of the journal of a disk that has come back stays as it is.
    case keepStaleJournal
    /// A flush that fails counts as done.
    case ignoreFailedFlush
    /// A write that fails on one copy counts as done there.
    case ignoreFailedWrite
    /// A disk that has been restored from an older image is taken back.
    case acceptOlderTime
    /// One that is from an older time votes.
    case countStaleVoters
    /// A disk of another history is taken back.
    case acceptOtherHistory
    /// A scrub takes the first copy for the right one.
    case scrubFromWrong
    /// A scrub looks at a grain without holding its range.
    case scrubUnheld
    /// A scrub passes over what cannot be read.
    case scrubSkipsUnreadable
    /// The old copy of a piece is free before the record of its new place is durable.
    case pieceFreedEarly
    /// The record of a piece's new place is written before the piece is flushed there.
    case pieceUnflushed
    /// A root that names new places is not flushed before the old ones are free.
    case rootUnflushed
    /// A disk that is emptied leaves with a slab group on it.
    case retireForgetsGroup
    /// A slab group that was granted with fewer copies stays so.
    case forgetHoles
    /// Copies on a disk that has come back, and is not equal yet, are chosen after a crash.
    case settleFromReturning
    /// A disk that has come back takes no writes before it counts.
    case returningLacksWrites
    /// When one of two disks is equal again, what the other lacks is forgotten.
    case forgetOthersMissed
    /// What was given back while a disk was away stays taken on it.
    case returnKeepsSlabs
    /// Past its budget, what a disk lacks is forgotten instead of kept by the region.
    case forgetPastBudget
    /// What a disk is given is not compared with its values.
    case resyncUnverified
    /// Block status says of written blocks that they are a hole.
    case statusForgetsData
    /// A new space's metadata keeps what an older pool has left in its places.
    case keepOlderPool
    /// A copy of the root that a crash left behind stays as it is.
    case keepOlderRoot
    /// A slab group without grains is forgotten, and its slabs with it.
    case groupLeaks
    /// A write to a parity grain keeps others from its blocks only, not from the grain.
    case stripeShared
    /// The same of one that waited for the pool's room, once there is some.
    case parkedStripeShared
    /// The new stripe of a grain is not flushed before the map names it.
    case rewriteUnflushed
    /// The old stripe of a grain is free before the record of the new one is durable.
    case stripeFreedEarly
    /// Bytes of a parity grain are not compared with their values.
    case stripeUnverified
    /// A disk that has come back counts in stripes that were written without it.
    case solveFromReturning
    /// What a crash has made of two disks that lacked something each is not looked for on either.
    case solveWithoutReturning
    /// The last free grain of a parity space goes to a grain that is not mapped.
    case takeLastStripe
    /// A disk that has come back gets the columns of data that it lacks, not those of parity.
    case resyncSkipsParity
    /// A scrub does not look at parities.
    case scrubKeepsParity
    /// A record that names a slot of the cache is written before the slot is flushed.
    case slotUnflushed
    /// A slot of the cache is free before the record that its block lies elsewhere is durable.
    case slotFreedEarly
    /// The new stripe of what lay in the cache is not flushed before the map names it.
    case destageUnflushed
    /// The record of a new stripe does not name the blocks that have come from the cache.
    case destageUnsaid
    /// A grain is written anew without what lies in the cache of it.
    case rewriteIgnoresCache
    /// A cached block counts as valid in its stripe, too.
    case stripeBelievesCached
    /// A trimmed block stays in the cache.
    case trimKeepsCached
    /// What is read of the cache is not compared with its values.
    case slotUnverified
    /// A page of the cache's index has slots whose records are not durable.
    case cachePageFromMemory
    /// After a crash blocks are in the cache though a later record says that they lie elsewhere.
    case replayKeepsCached
    /// What a killed process had written to the cache is believed to be there.
    case believeCached
    /// A disk that has come back is not given what lies in the cache.
    case resyncSkipsCache

    /// Whether it does harm only in a crash; the others show in what clients see, or in the
    /// books, while everything runs.
    public var needsCrash: Bool {
        switch self {
        case .recordBeforeData, .acknowledgeBeforeFlush, .forgetDirtyMark, .checkpointFromMemory,
            .retireEarly, .reuseEarly, .skipResync, .configurationUnflushed, .grantUnflushed,
            .cleanEarly, .replayKeepsValues, .discardEarly, .moveBeforeData, .joinLateFlush,
            .keepOlderRoot, .moveForgetsValues, .replacedUnflushed, .groupFreedEarly,
            .forgetUnflushed, .forgetUnflushedEarly, .believeUnflushed, .leaveUnequal,
            .forgetIntents, .leaveCopiesBehind, .forgetDirtyWhenAway, .caughtUpUnflushed,
            .forgetLateMissed, .forgetMissedLeftBehind, .takeBackMissed, .pieceFreedEarly,
            .pieceUnflushed, .rootUnflushed, .settleFromReturning, .forgetOthersMissed,
            .keepStaleMetadata, .forgetMissedPages, .forgetPagesUnderWay, .rewriteUnflushed,
            .solveWithoutReturning, .stripeFreedEarly, .copyOlderSlots, .forgetFreshMissed,
            .forgetMissedMark, .slotUnflushed, .slotFreedEarly, .destageUnflushed, .destageUnsaid,
            .cachePageFromMemory, .replayKeepsCached, .believeCached:
            true
        case .repairNothing, .forgetDeparture, .forgetMissed, .skipMissed, .statusForgetsData,
            .groupLeaks, .keepOlderPool, .departWithoutUnflushed, .readReturning,
            .ignoreFailedFlush, .ignoreFailedWrite, .acceptOlderTime, .countStaleVoters,
            .acceptOtherHistory, .scrubFromWrong, .scrubUnheld, .scrubSkipsUnreadable,
            .retireForgetsGroup, .forgetHoles, .returnKeepsSlabs, .returningLacksWrites,
            .keepStaleJournal, .forgetPastBudget, .moveIgnoresWrites, .replacingLacksWrites,
            .resyncUnverified, .settleUnread, .shrinkKeepsRecords, .stripeShared,
            .parkedStripeShared, .stripeUnverified, .solveFromReturning, .takeLastStripe,
            .resyncSkipsParity, .scrubKeepsParity, .rewriteIgnoresCache, .stripeBelievesCached,
            .trimKeepsCached, .slotUnverified, .resyncSkipsCache:
            false
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
