import PoolEngine

/// Where a mutant is found, and what it looks like there.
struct Killer {
    /// Without a crash for mutants that need none, else at the cuts.
    var workload: Workload
    /// What the check says; found for another reason is not found.
    var symptoms: [String]

    init(_ workload: Workload, _ symptoms: String...) {
        self.workload = workload
        self.symptoms = symptoms
    }

    func expects(_ violation: String) -> Bool { symptoms.contains { violation.contains($0) } }
}

extension Mutant {
    /// The one place that says it. Every other workload and any seed may find it too.
    var killer: Killer {
        switch self {
        // Bytes that are not those of a durable value.
        case .recordBeforeData: Killer(.allocation, Self.mismatch, Self.garbage)
        case .forgetDirtyMark: Killer(.overlap, Self.mismatch)
        case .skipResync: Killer(.overlap, Self.mismatch)
        case .cleanEarly: Killer(.cleaningElsewhere, Self.mismatch)
        case .checkpointFromMemory: Killer(.busyShrink, Self.mismatch)
        case .reuseEarly: Killer(.refill, Self.mismatch, Self.foreign)
        case .discardEarly: Killer(.refill, Self.mismatch, Self.garbage)
        case .moveIgnoresWrites: Killer(.retireWide, Self.mismatch, Self.stale)
        case .moveBeforeData: Killer(.compaction, Self.mismatch, Self.garbage)
        case .joinLateFlush: Killer(.retireWide, Self.mismatch, Self.garbage)
        case .keepOlderRoot: Killer(.retireMetadata, "a piece that does not exist")
        case .settleUnread: Killer(.simpleAway, Self.mismatch)
        case .replayKeepsValues: Killer(.trim, Self.mismatch, Self.garbage)

        // What was durable is gone.
        case .acknowledgeBeforeFlush: Killer(.fua, Self.stale, Self.zeros)
        case .retireEarly: Killer(.freshCheckpoint, Self.zeros, "which does not exist")
        case .moveForgetsValues: Killer(.compaction, Self.zeros)

        // Claims that the pool does not confirm.
        case .configurationUnflushed: Killer(.configuration, "witnessNewer")
        case .grantUnflushed: Killer(.grants, Self.notGranted, "piece table page is damaged")
        case .groupFreedEarly: Killer(.release, Self.notGranted)
        case .shrinkKeepsRecords: Killer(.shrink, "its journal maps past its end")

        // What a killed process leaves.
        case .forgetUnflushed: Killer(.rewrite, Self.zeros)
        case .forgetUnflushedEarly: Killer(.allocation, Self.zeros)
        case .believeUnflushed: Killer(.allocation, Self.mismatch, Self.garbage)
        case .leaveUnequal: Self.unequal(.flushError)
        case .forgetIntents: Killer(.rewrite, Self.zeros)
        case .leaveCopiesBehind: Killer(.freshCheckpoint, Self.stale, Self.zeros, Self.mismatch)

        // Disks that are away, and come back.
        case .forgetMissed: Self.unequal(.departure)
        case .forgetDirtyWhenAway: Killer(.departure, Self.stale, Self.zeros, Self.mismatch)
        case .forgetDeparture: Self.unequal(.departure)
        case .skipMissed: Self.unequal(.departure)
        case .caughtUpUnflushed: Self.unequal(.returning)

        case .departWithoutUnflushed: Self.unequal(.returningWithoutCache)
        case .forgetMissedMark: Self.unequal(.cleanedAway)
        case .forgetLateMissed: Self.unequal(.departureFresh)
        case .forgetFreshMissed: Self.unequal(.freshAway)
        case .forgetMissedLeftBehind: Self.unequal(.killedAway)
        case .takeBackMissed: Self.unequal(.alternating)
        case .forgetPastBudget: Self.unequal(.missedBudget)
        case .forgetOthersMissed: Self.unequal(.returningMirror3)
        case .returningLacksWrites: Self.unequal(.checkpointAway)
        case .ignoreFailedWrite: Self.unequal(.writeError)
        case .ignoreFailedFlush: Self.unequal(.flushError)
        case .readReturning: Killer(.returningPlain, Self.stale)
        case .settleFromReturning: Killer(.returningPlain, Self.stale)
        case .keepStaleMetadata: Killer(.checkpointAway, Self.mismatch, Self.stale, Self.zeros, Self.noGroup)
        case .forgetMissedPages:
            Killer(.checkpointAway, Self.mismatch, Self.stale, Self.zeros, Self.noGroup)
        case .forgetPagesUnderWay: Killer(.checkpointLeft, Self.mismatch, Self.stale, Self.zeros)
        case .copyOlderSlots:
            Killer(.checkpointAway, Self.mismatch, Self.stale, Self.zeros, Self.noGroup)
        case .keepStaleJournal: Killer(.departure, "of its journal is lost")
        case .returnKeepsSlabs: Killer(.releaseAway, "slabs and claims", "failed: noSpace")

        // Disks that are not what they seem.
        case .acceptOlderTime: Killer(.restored, Self.accepted)
        case .acceptOtherHistory: Killer(.otherHistory, Self.accepted)
        case .countStaleVoters: Killer(.staleVoters, "fewer than its voters", "no copy of its root")

        // Copies that are wrong, or too few.
        case .replacingLacksWrites: Self.unequal(.rebuild)
        case .replacedUnflushed: Self.unequal(.retireMetadata)
        case .repairNothing: Self.unequal(.rotten)
        case .scrubFromWrong: Killer(.rotten, Self.mismatch)
        case .scrubUnheld: Killer(.scrubBusy, "wrong on every copy")
        case .scrubSkipsUnreadable: Killer(.latent, Self.mismatch)
        case .resyncUnverified: Killer(.rottenMirror3, Self.mismatch)
        case .forgetHoles: Killer(.newSpaceAway, "are never made equal")
        case .retireForgetsGroup: Killer(.retire, "slab group 0 cannot be")
        case .pieceFreedEarly: Killer(.retireMetadata, Self.notGranted)
        case .pieceUnflushed: Killer(.retireMetadata, "its metadata cannot be read", Self.mismatch)
        case .rootUnflushed: Killer(.retireMetadata, Self.notGranted, "a piece that does not exist")

        // Stripes.
        case .stripeShared: Killer(.stripesOver, Self.mismatch, Self.stale, Self.zeros)
        case .parkedStripeShared: Killer(.stripesParked, Self.mismatch, Self.zeros)
        case .rewriteUnflushed: Killer(.stripes, Self.mismatch, Self.garbage)
        case .stripeFreedEarly: Killer(.stripesRetireNarrow, Self.mismatch, "ioError")
        case .solveWithoutReturning: Killer(.stripesTwoDepartures, Self.mismatch)
        case .stripeUnverified: Killer(.stripesRottenData, Self.garbage, Self.foreign)
        case .solveFromReturning: Self.unequal(.stripesPlain)
        case .takeLastStripe: Killer(.stripesFull, "was refused in a full pool")
        case .resyncSkipsParity: Self.unequal(.stripesDeparture)
        case .scrubKeepsParity: Self.unequal(.stripesRotten)

        // The write-back cache.
        case .slotUnflushed: Killer(.cacheWrites, Self.mismatch)
        case .slotFreedEarly: Killer(.cacheReuse, Self.mismatch, Self.foreign, "two blocks")
        case .destageUnflushed: Killer(.cacheDestage, Self.mismatch, Self.garbage)
        case .destageUnsaid: Killer(.cacheDestage, Self.mismatch, "two blocks")
        case .rewriteIgnoresCache: Killer(.cacheDestage, Self.mismatch, Self.stale)
        case .stripeBelievesCached: Killer(.cacheDegraded, Self.mismatch)
        case .trimKeepsCached: Killer(.cacheTrim, Self.mismatch, Self.stale, "cannot lie in")
        case .slotUnverified: Killer(.cacheRotten, Self.garbage, Self.foreign)
        case .cachePageFromMemory:
            Killer(.cacheCheckpoint, Self.mismatch, "cannot lie in", "two blocks")
        case .replayKeepsCached: Killer(.cacheTrim, Self.mismatch, "cannot lie in", "two blocks")
        case .believeCached: Killer(.cacheWrites, Self.mismatch)
        case .resyncSkipsCache: Self.unequal(.cacheReturning)

        case .statusForgetsData: Killer(.overlap, "block status says zeros")
        case .keepOlderPool: Killer(.poolAgain, "claimRefused")
        case .groupLeaks: Killer(.release, "failed: noSpace")
        }
    }

    /// The copies differ: a scrub that is to find nothing says so, or one of them alone does.
    private static func unequal(_ workload: Workload) -> Killer {
        Killer(workload, "are not the same on all disks", mismatch, stale, zeros)
    }

    private static let mismatch = "failed: ioError"
    private static let garbage = ": garbage"
    private static let foreign = ": the bytes of operation"
    private static let stale = "is stale"
    private static let zeros = ": zeros; allowed"
    private static let accepted = "which is to be refused, is taken back"
    private static let noGroup = "which does not exist"
    private static let notGranted = "which is not granted to it"
}
