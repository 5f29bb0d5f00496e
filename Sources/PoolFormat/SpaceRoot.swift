/// The root of a space's metadata: it names the journal's and the directory's pieces.
/// Two alternating 64 KiB slots at the head of the root piece.
///
///      0 ..... header (owner: lineage and epoch, kind: root)
///     64       68          72     96
///     +--------+-----------+------+------------------+--------------------+
///     | journal| directory | zero | journal's pieces | directory's pieces | zeros to 65536
///     | pieces | pieces    |      | 32 bytes each    | 32 bytes each      |
///     +--------+-----------+------+------------------+--------------------+
///     pieces entry: | copies 1 | zero 7 | 3 piece addresses of 8 |
///
/// Invariants:
/// 1. Every entry has 1 to 3 copies; the order is the order of the journal's blocks and of the
///    directory's pages.
/// 2. The epoch is that of the activation which wrote it; a root of a higher epoch is right, within
///    one epoch that of the higher sequence.
///
/// Write order: the pieces it names are granted, blank and flushed; then the slot that is not
/// current on every current copy; then a flush; then use. A crash leaves the older root, whose
/// pieces are still granted: they are freed only after the newer one is flushed. One that a crash left
/// on some copies only is given to the others by the next opening, before anything else.
public struct SpaceRoot: Hashable, Sendable {
    public var lineage: Lineage
    public var epoch: UInt64
    public var sequence: UInt64
    /// The journal's pieces in order, one list of copies each.
    public var journal: [[PieceAddress]]
    /// The directory's pieces in order, likewise.
    public var directory: [[PieceAddress]]

    public init(
        lineage: Lineage, epoch: UInt64, sequence: UInt64, journal: [[PieceAddress]],
        directory: [[PieceAddress]]
    ) {
        self.lineage = lineage
        self.epoch = epoch
        self.sequence = sequence
        self.journal = journal
        self.directory = directory
    }

    /// Whether this one is right where both are found.
    public func isNewer(than other: SpaceRoot?) -> Bool {
        guard let other else { return true }
        return (epoch, sequence) > (other.epoch, other.sequence)
    }
}

/// Where a grain's bytes are: one entry of a map page.
public struct MapEntry: Hashable, Sendable {
    public var group: UInt32
    /// Physical grain within the group, < 2^24.
    public var physicalGrain: UInt32
    public var state: GrainState
    public var birth: UInt64

    public init(group: UInt32, physicalGrain: UInt32, state: GrainState, birth: UInt64) {
        self.group = group
        self.physicalGrain = physicalGrain
        self.state = state
        self.birth = birth
    }
}

public enum GrainState: UInt8, Sendable { case unmapped = 0, mapped = 1 }

/// One entry of a directory page: where a piece of the space's metadata lies.
public struct DirectoryEntry: Hashable, Sendable {
    /// nil for a free entry.
    public var kind: PieceKind?
    public var index: UInt32
    public var generation: UInt64
    /// One per copy, at most 3.
    public var copies: [PieceAddress]

    public init(kind: PieceKind?, index: UInt32, generation: UInt64, copies: [PieceAddress]) {
        self.kind = kind
        self.index = index
        self.generation = generation
        self.copies = copies
    }
}

/// One slab group.
public struct GroupRecord: Hashable, Sendable {
    public var id: UInt32
    public var layout: ResiliencyKind
    public var mediaClass: MediaClass
    public var copies: UInt8
    /// Those of data.
    public var columns: UInt16
    /// Interleave of a simple or mirror group; the column unit of a parity group. Bytes.
    public var unitBytes: UInt32
    /// Of a parity group: slabs by which each grain starts farther right than the one before it, and
    /// the polynomial of the field in which Q is the sum of 2^c x data column c. 0 elsewhere.
    public var rotation: UInt32
    public var parityGenerator: UInt32
    public var birth: UInt64
    /// columns x copies, column-major: slab of (column c, copy k) at c x copies + k. Of a parity group
    /// columns + parities: column c of grain g (P and Q are the last) at (c + g) % their number.
    public var slabs: [GroupSlab]

    public init(
        id: UInt32, layout: ResiliencyKind, mediaClass: MediaClass, copies: UInt8, columns: UInt16,
        unitBytes: UInt32, rotation: UInt32, parityGenerator: UInt32, birth: UInt64,
        slabs: [GroupSlab]
    ) {
        self.id = id
        self.layout = layout
        self.mediaClass = mediaClass
        self.copies = copies
        self.columns = columns
        self.unitBytes = unitBytes
        self.rotation = rotation
        self.parityGenerator = parityGenerator
        self.birth = birth
        self.slabs = slabs
    }
}

extension GroupRecord {
    /// Of a parity group.
    public static let parityRotation: UInt32 = 1
    public static let parityPolynomial: UInt32 = 0x11d

    /// What a grain takes of each slab of a parity group: its data columns share it, in whole blocks,
    /// the last has what is left.
    public static func parityUnitBytes(dataColumns: Int) -> Int {
        (Units.blocksPerGrain + dataColumns - 1) / dataColumns * Units.blockBytes
    }
}

public struct GroupSlab: Hashable, Sendable {
    public var address: SlabAddress
    public var generation: UInt64

    public init(address: SlabAddress, generation: UInt64) {
        self.address = address
        self.generation = generation
    }
}
