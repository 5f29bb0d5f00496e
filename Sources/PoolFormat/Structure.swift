/// Every kind of durable structure, each with its own magic number.
public enum Structure: UInt8, Sendable, CaseIterable {
    case label = 1, configuration, fenceTable, slabTable, pieceTable
    case spaceRoot, mapPage, checksumPage, dirtyPage, directoryPage, groupPage
    case missedPage, pinPage, heatPage
    case journalBatch
    case cachePage

    /// The first four bytes, as a little-endian number: four letters in a hex dump.
    public var magic: UInt32 {
        switch self {
        case .label: 0x6c62_6c50  // "Plbl"
        case .configuration: 0x6766_6350  // "Pcfg"
        case .fenceTable: 0x636e_6650  // "Pfnc"
        case .slabTable: 0x626c_7350  // "Pslb"
        case .pieceTable: 0x6563_7050  // "Ppce"
        case .spaceRoot: 0x746f_7253  // "Srot"
        case .mapPage: 0x7061_6d53  // "Smap"
        case .checksumPage: 0x6b73_6353  // "Scsk"
        case .dirtyPage: 0x7974_6453  // "Sdty"
        case .directoryPage: 0x7269_6453  // "Sdir"
        case .groupPage: 0x7072_6753  // "Sgrp"
        case .missedPage: 0x7373_6d53  // "Smss"
        case .pinPage: 0x6e69_7053  // "Spin"
        case .heatPage: 0x7461_6853  // "Shat"
        case .cachePage: 0x6863_6353  // "Scch"
        case .journalBatch: 0x6c6e_6a53  // "Sjnl"
        }
    }

    /// What people call it in a message.
    public var name: String {
        switch self {
        case .label: "disk label"
        case .configuration: "pool configuration"
        case .fenceTable: "fence table"
        case .slabTable: "slab table page"
        case .pieceTable: "piece table page"
        case .spaceRoot: "space root"
        case .mapPage: "map page"
        case .checksumPage: "checksum page"
        case .dirtyPage: "dirty page"
        case .directoryPage: "directory page"
        case .groupPage: "group page"
        case .missedPage: "missed page"
        case .pinPage: "pin page"
        case .heatPage: "heat page"
        case .cachePage: "cache page"
        case .journalBatch: "journal batch"
        }
    }

    /// Whether the header names a space and its epoch; else it names the pool.
    public var isOfSpace: Bool {
        switch self {
        case .label, .configuration, .fenceTable, .slabTable, .pieceTable: false
        case .spaceRoot, .mapPage, .checksumPage, .dirtyPage, .directoryPage, .groupPage: true
        case .missedPage, .pinPage, .heatPage, .cachePage, .journalBatch: true
        }
    }
}

extension PieceKind {
    /// What the pages (or slots, or batches) of a piece of this kind are; of a cache's pieces, which
    /// hold whatever clients wrote, what those of its index are.
    public var structure: Structure {
        switch self {
        case .root: .spaceRoot
        case .journal: .journalBatch
        case .directory: .directoryPage
        case .map: .mapPage
        case .checksum: .checksumPage
        case .dirty: .dirtyPage
        case .group: .groupPage
        case .missed: .missedPage
        case .pins: .pinPage
        case .heat: .heatPage
        case .cache, .cacheIndex: .cachePage
        }
    }
}
