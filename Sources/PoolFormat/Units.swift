/// The sizes every other file is written in terms of.
public enum Units {
    /// A block: the unit of checksum and validity, and of every metadata write.
    public static let blockBytes = 4096
    /// A grain: the unit of mapping and thin allocation.
    public static let grainBytes = 1 << 20
    public static let blocksPerGrain = grainBytes / blockBytes
    /// A region: the unit of dirty marks.
    public static let grainsPerRegion = 16
    /// A slab: the unit of physical allocation.
    public static let slabBytes = 256 << 20
    public static let grainsPerSlab = slabBytes / grainBytes
    /// A piece: the unit in which metadata slabs are handed out.
    public static let pieceBytes = 1 << 20
    /// Piece 0 of a metadata slab holds the piece table.
    public static let piecesPerSlab = slabBytes / pieceBytes
    public static let minimumDiskBytes: UInt64 = 1 << 30
    /// A slab number has 32 bits: 2^32 slabs of 2^28 bytes.
    public static let maximumDiskBytes: UInt64 = 1 << 60
    /// No byte, block, grain or region number of a space can overflow below this.
    public static let maximumSpaceBytes: UInt64 = 1 << 60
    /// Most copies of a piece of metadata.
    public static let maximumPieceCopies = 3
    /// Shortest run of a grain on one column of a simple or mirror space: a request's legs, at most
    /// 65 on each of 3 copies, are numbered in 8 bits.
    public static let minimumInterleaveBytes = 16 << 10
    /// Most slabs (columns x copies, or columns + parities) of a slab group.
    public static let maximumGroupSlabs = 60
    /// Data columns of a parity group: fewer would be a mirror, with more the last would be short of
    /// blocks.
    public static let parityDataColumns = 2...16
}

/// A disk's number within its pool: the configuration hands it out and never reuses it.
public struct DiskNumber: Hashable, Sendable, Comparable {
    public var rawValue: UInt16
    public init(_ rawValue: UInt16) { self.rawValue = rawValue }
    public static func < (a: DiskNumber, b: DiskNumber) -> Bool { a.rawValue < b.rawValue }
}

/// The identity of a space's data, never reused. 0 is the pool's own metadata.
public struct Lineage: Hashable, Sendable, Comparable {
    public var rawValue: UInt64
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }
    public static let none = Lineage(UInt64.max)
    public static let metadata = Lineage(0)
    public static func < (a: Lineage, b: Lineage) -> Bool { a.rawValue < b.rawValue }
}

/// 16 bytes that name a pool or a disk for ever. Made by the caller: the engine has no randomness.
public struct PoolUUID: Hashable, Sendable {
    public var high: UInt64
    public var low: UInt64
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

/// Where one slab lies.
public struct SlabAddress: Hashable, Sendable {
    public var disk: DiskNumber
    public var slab: UInt32
    public init(disk: DiskNumber, slab: UInt32) {
        self.disk = disk
        self.slab = slab
    }
}

/// Where one copy of a 1 MiB metadata piece lies.
public struct PieceAddress: Hashable, Sendable {
    public var disk: DiskNumber
    /// 1..<256 within its metadata slab.
    public var piece: UInt16
    public var slab: UInt32
    public init(disk: DiskNumber, slab: UInt32, piece: UInt16) {
        self.disk = disk
        self.slab = slab
        self.piece = piece
    }
}
