/// What a disk says of itself. Two copies, at its head and its tail.
///
///      0 ..... header (owner: pool UUID, index: disk number)
///     64       80         88         96         104     108     112       120
///     +--------+----------+----------+----------+-------+-------+---------+---------+
///     | disk   | compat.  | ro-comp. | incompat.| draft | grain | slab    | disk    |
///     | UUID   | features | features | features |       | bytes | bytes   | bytes   |
///     +--------+-----+----+-----+----+----+-----+--+----+-------+---------+---------+ 128
///     | sector | alg | media    | disk no | name bytes | zero         | pool name    |
///     +--------+-----+----------+---------+------------+--------------+--------------+
///     128      132   133        134       136          138            144 .. 208, zeros to 4096
///
/// Invariants:
/// 1. Sizes are the ones this version is built for; feature bits say what else a reader must know.
/// 2. An incompatible bit, or a draft, that a reader does not know makes it refuse the disk before
///    it looks at any other field; a read-only-compatible one makes it refuse to write.
/// 3. Both copies say the same, except while they are rewritten; the higher sequence is right.
///
/// Write order: head, flush, tail, flush. A crash leaves at least one whole copy, and both name the
/// same pool and disk. A new disk is labelled last, behind its tables and a first configuration: one
/// without a label belongs to no pool, whatever else lies on it.
public struct Label: Hashable, Sendable {
    public var poolUUID: PoolUUID
    public var diskUUID: PoolUUID
    public var diskNumber: DiskNumber
    /// At most 64 bytes of UTF-8; for people and error messages, the configuration decides.
    public var poolName: String
    public var compatibleFeatures: UInt64
    public var readOnlyCompatibleFeatures: UInt64
    public var incompatibleFeatures: UInt64
    /// Counts format changes while the incompatible bit `draft` is set.
    public var draft: UInt32
    public var slabBytes: UInt64
    public var grainBytes: UInt32
    public var sectorBytes: UInt32
    public var checksumAlgorithm: UInt8
    public var mediaClass: MediaClass
    /// The size of the device the layout was made for.
    public var diskBytes: UInt64
    /// Grows each time the label is rewritten; the higher of two valid copies is right.
    public var sequence: UInt64

    public init(
        poolUUID: PoolUUID, diskUUID: PoolUUID, diskNumber: DiskNumber, poolName: String,
        compatibleFeatures: UInt64, readOnlyCompatibleFeatures: UInt64,
        incompatibleFeatures: UInt64, draft: UInt32, slabBytes: UInt64, grainBytes: UInt32,
        sectorBytes: UInt32, checksumAlgorithm: UInt8, mediaClass: MediaClass, diskBytes: UInt64,
        sequence: UInt64
    ) {
        self.poolUUID = poolUUID
        self.diskUUID = diskUUID
        self.diskNumber = diskNumber
        self.poolName = poolName
        self.compatibleFeatures = compatibleFeatures
        self.readOnlyCompatibleFeatures = readOnlyCompatibleFeatures
        self.incompatibleFeatures = incompatibleFeatures
        self.draft = draft
        self.slabBytes = slabBytes
        self.grainBytes = grainBytes
        self.sectorBytes = sectorBytes
        self.checksumAlgorithm = checksumAlgorithm
        self.mediaClass = mediaClass
        self.diskBytes = diskBytes
        self.sequence = sequence
    }
}

public enum MediaClass: UInt8, Sendable, CaseIterable { case hdd = 1, ssd = 2 }
