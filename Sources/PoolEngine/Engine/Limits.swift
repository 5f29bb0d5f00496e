import PoolFormat

/// Every bound of the engine, checked against each other.
public struct Limits: Sendable {
    /// Requests (pieces of at most a grain) under way in one shard.
    public var requestsInFlight = 1024
    /// Metadata pages (checksums and validity) kept in memory for each shard: 64 MiB.
    public var checksumPages = 16_384
    /// Blocks of one space whose new value is not durable yet; reached: the engine flushes.
    public var unflushedBlocks = 65_536
    /// Memory for each open space that outlives the process. Three eighths full: the engine flushes;
    /// three quarters: writes wait for that.
    public var restartLogBytes = 1 << 20
    /// Journal pieces (1 MiB each) of a new space.
    public var journalPieces = 8
    /// Regions of one space that may be dirty at a time; reached: the idle ones are cleaned.
    public var dirtyRegions = 4096
    /// A region without writes for this long is cleaned.
    public var cleanAfterNs: UInt64 = 5_000_000_000
    /// Grains of which it is known to the block what a disk that is away lacks; reached: all of it
    /// is known by the region.
    public var missedGrains = 65_536
    /// Grains of a space that wait for a copy to be put right that a read found wrong.
    public var repairQueue = 1024
    /// A read that has taken this long, and much longer than reads do, is tried on another copy.
    public var hedgeAfterNs: UInt64 = 5_000_000
    /// Of a hundred reads, how many may be.
    public var hedgePercent = 5
    /// A disk that kept a read is read last for this long, twice as long each time.
    public var lateNs: UInt64 = 1_000_000_000
    public var mostLateNs: UInt64 = 30_000_000_000
    /// Metadata pages that one checkpoint step writes together.
    public var checkpointPages = 256
    /// Most data columns x copies of a slab group.
    public var groupSlabs = 60

    /// Writes of one space that may wait for room at a time, and the bytes they hold.
    public var parkedWrites = 128
    public var parkedBytes = 16 << 20
    /// How long a write waits for room before it fails.
    public var parkNs: UInt64 = 60_000_000_000
    /// And how long one that is not to wait does, while room is being given back.
    public var reclaimNs: UInt64 = 10_000_000_000

    /// Sparse slab groups are emptied once a space was left alone by trims for this long.
    public var compactAfterNs: UInt64 = 5_000_000_000
    /// And no faster than this, unless somebody waits for the room: a grain each 16 ms.
    public var compactGrainNs: UInt64 = 16_000_000
    /// Grains that a repair copies at a time, each with a buffer of 1 MiB, and slab groups that share
    /// them.
    public var repairMovers = 8
    public var repairGroups = 4
    /// Grains of a write-back cache that are destaged at a time, each with two buffers of 1 MiB.
    public var destageMovers = 3
    /// While clients are at work one of them goes on, in chunks of so many bytes at a time, and not
    /// slower than this (`RepairPace.swift`).
    public var repairChunkBytes = 64 << 10
    public var repairFloorBytesPerSecond: UInt64 = 2 << 20
    /// Grains that one commit moves.
    public var compactBatch = 32
    /// Map entries looked at in one go.
    public var compactScan = 65_536

    /// Buffers of the engine's own, out of the arena: 4 KiB, 16 KiB and 1 MiB.
    public var scratchPages = 256
    public var scratchPairs = 128
    public var scratchGrains = 12
    /// And two of 1 MiB each for stripes that are solved.
    public var scratchStripes = 2
    /// And of 128 KiB for some rows of one: so many reads of a few blocks are solved at a time.
    public var scratchBands = 32

    public init() {}

    /// Those of one of several shards: what is kept in memory is divided.
    public init(shardCount: Int) {
        precondition(shardCount >= 1)
        checksumPages = max(checksumPages / shardCount, 2048)
        scratchPages = max(scratchPages / shardCount, 128)
        scratchPairs = max(scratchPairs / shardCount, 64)
        scratchBands = max(scratchBands / shardCount, 8)
    }

    func check() {
        precondition(requestsInFlight >= 16 && requestsInFlight < 1 << 22)
        // A request touches at most two checksum pages' worth of one grain, and replay holds some.
        precondition(checksumPages >= 16)
        precondition(unflushedBlocks >= Units.blocksPerGrain * 2)
        // While the journal is half full, all that may be pending still fits (Journal.hasRoom).
        let pendingBlocks = unflushedBlocks * ChangeSet.blockBytes / Units.blockBytes
        precondition(
            pendingBlocks + pendingBlocks / 2 + 3 * Journal.batchBlocks
                <= journalPieces * Journal.blocksPerPiece / 2)
        // So does, beside a commit that was cut short, what a killed process has left in its log.
        let logBlocks = restartLogBytes / Units.blockBytes
        let bothBlocks = min(pendingBlocks, logBlocks) + logBlocks
        precondition(
            bothBlocks + bothBlocks / 2 + 3 * Journal.batchBlocks
                <= journalPieces * Journal.blocksPerPiece / 2)
        precondition(restartLogBytes >= 16 << 10 && restartLogBytes % Units.blockBytes == 0)
        precondition(scratchPages >= 16 && scratchPairs >= 4 && scratchGrains >= 6
                && scratchStripes >= 1 && scratchBands >= 1)
        precondition(parkedWrites >= 0 && parkedBytes >= 0)
        precondition(hedgeAfterNs >= 2 && (0...100).contains(hedgePercent) && lateNs > 0)
        precondition(compactBatch >= 1 && compactScan >= 1)
        precondition(
            repairChunkBytes >= Units.blockBytes && repairChunkBytes % Units.blockBytes == 0
                && repairFloorBytesPerSecond >= 1)
        precondition(
            repairGroups >= 1 && repairMovers >= repairGroups
                && repairMovers + 2 <= scratchGrains && destageMovers >= 1)
        precondition(journalPieces >= 1 && dirtyRegions >= 2 && checkpointPages >= 1)
    }
}
