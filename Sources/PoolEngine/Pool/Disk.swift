import PoolFormat

/// Entries of a table whose pages alternate between two slots, as they are in memory.
///
/// 1. A page's `slot` holds its newest image that is durable, of `sequence`; the next image goes to
///    the other slot.
/// 2. `isDirty`: an entry in memory may differ from that image.
struct PagedTable<Entry: Sendable>: Sendable {
    struct Page: Sendable {
        var slot = 0
        var sequence: UInt64 = 0
        var isDirty = false
    }

    private(set) var entries: [Entry]
    var pages: [Page]
    let entriesPerPage: Int
    private(set) var dirtyPages: [Int] = []

    init(count: Int, entriesPerPage: Int, fill: Entry) {
        self.entriesPerPage = entriesPerPage
        entries = Array(repeating: fill, count: count)
        pages = Array(
            repeating: Page(), count: (count + entriesPerPage - 1) / entriesPerPage)
    }

    subscript(index: Int) -> Entry {
        get { entries[index] }
        set {
            entries[index] = newValue
            markDirty(page: index / entriesPerPage)
        }
    }

    func indices(ofPage page: Int) -> Range<Int> {
        let start = page * entriesPerPage
        return start..<min(start + entriesPerPage, entries.count)
    }

    mutating func markDirty(page: Int) {
        guard !pages[page].isDirty else { return }
        pages[page].isDirty = true
        dirtyPages.append(page)
    }

    /// Takes over what a page on disk says.
    mutating func load(page: Int, slot: Int, sequence: UInt64, _ loaded: [Entry]) {
        let range = indices(ofPage: page)
        entries.replaceSubrange(range, with: loaded.prefix(range.count))
        pages[page].slot = slot
        pages[page].sequence = sequence
    }

    /// The pages to be written now; they count as clean, and whoever writes them answers for that.
    mutating func takeDirtyPages() -> [Int] {
        let taken = dirtyPages
        dirtyPages.removeAll()
        for page in taken { pages[page].isDirty = false }
        return taken
    }
}

/// A metadata slab's piece table in memory.
struct MetadataSlab: Sendable {
    let slab: UInt32
    var table: PagedTable<PieceEntry>
    /// Of the 255 that can be handed out.
    private(set) var freePieces: Int

    init(slab: UInt32) {
        self.slab = slab
        table = PagedTable(
            count: Units.piecesPerSlab, entriesPerPage: PieceTablePage.entriesPerPage, fill: .free)
        freePieces = Units.piecesPerSlab - 1
    }

    /// Piece 0 is the table itself.
    static var pieceNumbers: Range<Int> { 1..<Units.piecesPerSlab }
    var isEmpty: Bool { freePieces == Units.piecesPerSlab - 1 }

    subscript(piece: Int) -> PieceEntry {
        get { table[piece] }
        set {
            if !table[piece].isFree { freePieces += 1 }
            if !newValue.isFree { freePieces -= 1 }
            table[piece] = newValue
        }
    }

    mutating func recount() {
        freePieces = Self.pieceNumbers.reduce(0) { $0 + (table[$1].isFree ? 1 : 0) }
    }

    func firstFreePiece() -> Int? {
        guard freePieces > 0 else { return nil }
        return Self.pieceNumbers.first { table[$0].isFree }
    }
}

/// Errors of one disk since the pool was opened.
public struct DiskErrorCounters: Hashable, Sendable {
    public var read: UInt64 = 0
    public var write: UInt64 = 0
    public var checksum: UInt64 = 0
    public init() {}
}

/// One disk of an open pool: its tables in memory, and which of its slots come next.
///
/// The table is written only under the pool's table lock, and nothing is written once `failure` is
/// set: what a failed disk holds is stale.
final class Disk: @unchecked Sendable {
    let label: Label
    let description: DeviceDescription
    let layout: DiskLayout
    /// What people call it: its name in the pool, and where it is.
    let name: String

    var errors = DiskErrorCounters()
    /// What it was doing when it failed, or why else it takes no writes; nil while it serves.
    var failure: String? {
        didSet { if failure == nil { isFailureRecorded = false } }
    }
    /// What the configuration is to say of it then.
    var awayState = DiskState.failed
    /// The configuration in effect says that it takes none.
    var isFailureRecorded = false
    /// Whether it serves, as every other shard has been told; nil before the first time.
    var announced: Bool?
    /// The configuration in effect has it; before that nothing is granted on it.
    var isMember = true
    /// Spaces that said, when it failed, that without it no copy of some of their metadata is left.
    var lastOf: Set<Lineage> = []
    /// Simple spaces that said then that they have nothing on it that they use.
    var sparedBy: Set<Lineage> = []
    /// It is being emptied: nothing more is granted on it.
    var isRetired = false

    /// The slot that holds the configuration in effect.
    var configurationSlot = 1
    var fenceSlot = 0
    var fenceSequence: UInt64 = 0

    var slabs: PagedTable<SlabEntry>
    private(set) var freeSlabs: Int
    /// No slab below is free.
    private var lowestFree = 0
    /// Ascending by slab.
    var metadataSlabs: [MetadataSlab] = []

    /// - Parameter layout: that of the size in the label.
    init(label: Label, layout: DiskLayout, description: DeviceDescription, pathHint: String) {
        self.label = label
        self.layout = layout
        self.description = description
        name = Self.name(label.diskNumber, pathHint)
        slabs = PagedTable(
            count: Int(layout.slabCount), entriesPerPage: SlabTablePage.entriesPerPage, fill: .free)
        freeSlabs = Int(layout.slabCount)
    }

    static func name(_ number: DiskNumber, _ pathHint: String) -> String {
        pathHint.isEmpty ? "disk\(number.rawValue)" : "disk\(number.rawValue) (\(pathHint))"
    }

    var number: DiskNumber { label.diskNumber }
    var device: DeviceIndex { description.index }
    /// Takes writes.
    var serves: Bool { failure == nil }
    /// Something new may be put on it.
    var takesGrants: Bool { serves && isMember && !isRetired }

    // MARK: - slabs

    func setSlab(_ slab: Int, _ entry: SlabEntry) {
        if slabs[slab].isFree && !entry.isFree { freeSlabs -= 1 }
        if !slabs[slab].isFree && entry.isFree {
            freeSlabs += 1
            lowestFree = min(lowestFree, slab)
        }
        slabs[slab] = entry
    }

    func freeSlab(_ slab: Int) {
        var entry = SlabEntry.free
        entry.generation = slabs[slab].generation
        setSlab(slab, entry)
    }

    func recountSlabs() {
        freeSlabs = slabs.entries.reduce(0) { $0 + ($1.isFree ? 1 : 0) }
        lowestFree = 0
    }

    func firstFreeSlab() -> Int? {
        guard freeSlabs > 0 else { return nil }
        while lowestFree < slabs.entries.count, !slabs[lowestFree].isFree { lowestFree += 1 }
        return lowestFree < slabs.entries.count ? lowestFree : nil
    }

    // MARK: - pieces

    var freePieces: Int { metadataSlabs.reduce(0) { $0 + $1.freePieces } }

    func metadataIndex(ofSlab slab: UInt32) -> Int? {
        metadataSlabs.firstIndex { $0.slab == slab }
    }

    func entry(of piece: PieceAddress) -> PieceEntry? {
        guard let index = metadataIndex(ofSlab: piece.slab),
            MetadataSlab.pieceNumbers.contains(Int(piece.piece))
        else { return nil }
        return metadataSlabs[index][Int(piece.piece)]
    }

    func freePiece(_ index: Int, _ piece: Int) {
        var entry = PieceEntry.free
        entry.generation = metadataSlabs[index][piece].generation
        metadataSlabs[index][piece] = entry
    }

    func insert(_ slab: MetadataSlab) {
        let index = metadataSlabs.firstIndex { $0.slab > slab.slab } ?? metadataSlabs.count
        metadataSlabs.insert(slab, at: index)
    }

    /// Gives back metadata slabs without a piece in use.
    func freeEmptyMetadataSlabs() {
        for slab in metadataSlabs where slab.isEmpty { freeSlab(Int(slab.slab)) }
        metadataSlabs.removeAll(where: \.isEmpty)
    }

    // MARK: - room

    /// Below this many free pieces one free slab is kept for metadata.
    static let pieceReserve = 32
    /// Pieces that fixed spaces have not taken yet, and will find when they need them.
    var reservedPieces = 0

    /// Slabs that a group may take. A full pool still has room for what describes it, so that
    /// mapped addresses keep working and space can be given back.
    var grantableSlabs: Int {
        guard takesGrants else { return 0 }
        let perSlab = Units.piecesPerSlab - 1
        let lacking = max(0, Self.pieceReserve + reservedPieces - freePieces)
        return max(0, freeSlabs - (lacking + perSlab - 1) / perSlab)
    }

    /// Pieces of metadata it could still take.
    var pieceRoom: Int {
        takesGrants ? freePieces + freeSlabs * (Units.piecesPerSlab - 1) : 0
    }

    /// Those that are nobody's claim.
    var unreservedPieceRoom: Int { max(0, pieceRoom - reservedPieces) }

    /// What a space has said when it was told of the failure.
    func note(_ loss: Space.Loss, of lineage: Lineage) {
        switch loss {
        case .disk: break
        case .lastCopy: lastOf.insert(lineage)
        case .nothing: sparedBy.insert(lineage)
        }
    }

    /// Whether anything of a space lies here.
    func holds(_ lineage: Lineage) -> Bool {
        slabs.entries.contains { $0.lineage == lineage }
            || metadataSlabs.contains { $0.table.entries.contains { $0.lineage == lineage } }
    }
}
