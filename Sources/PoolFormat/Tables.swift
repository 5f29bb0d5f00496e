/// One entry of a disk's slab table: to whom a slab is granted.
public struct SlabEntry: Hashable, Sendable {
    /// ``Lineage/none`` for a free slab, ``Lineage/metadata`` for a metadata slab.
    public var lineage: Lineage
    /// The slab group's id within its space; 0 for a metadata slab.
    public var group: UInt32
    /// The slab's position in its group: column x copies + copy.
    public var column: UInt16
    /// Grows at every grant of this slab.
    public var generation: UInt64

    public init(lineage: Lineage, group: UInt32, column: UInt16, generation: UInt64) {
        self.lineage = lineage
        self.group = group
        self.column = column
        self.generation = generation
    }
}

/// One entry of a metadata slab's piece table.
public struct PieceEntry: Hashable, Sendable {
    /// ``Lineage/none`` for a free piece.
    public var lineage: Lineage
    public var kind: PieceKind
    /// The piece's index among those of its kind in its space.
    public var index: UInt32
    public var generation: UInt64

    public init(lineage: Lineage, kind: PieceKind, index: UInt32, generation: UInt64) {
        self.lineage = lineage
        self.kind = kind
        self.index = index
        self.generation = generation
    }
}

public enum PieceKind: UInt8, Sendable, CaseIterable {
    case root = 1, journal, directory, map, checksum, dirty, group, missed, pins, heat
    /// 256 blocks of a write-back cache; and the pages that say whose each of them is.
    case cache, cacheIndex
}

/// One entry of a disk's fence table: the lowest epoch that may still write a lineage here.
public struct FenceEntry: Hashable, Sendable {
    public var lineage: Lineage
    public var epoch: UInt64
    /// The node that holds the epoch; zero on one machine.
    public var owner: PoolUUID

    public init(lineage: Lineage, epoch: UInt64, owner: PoolUUID) {
        self.lineage = lineage
        self.epoch = epoch
        self.owner = owner
    }
}
