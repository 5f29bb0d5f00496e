import PoolFormat

/// One of the pieces that hold a space's pages: the directory's own are among them.
struct PieceName: Hashable, Sendable {
    var kind: PieceKind
    var index: UInt32
}

/// Where the pages of a space's metadata lie, and which of them the disks are behind with.
///
/// Page `p` of a kind lies in that kind's piece `p / 128`, in two slots on every copy. A checkpoint
/// writes the slot that is not the newer one, so the page before it stays until the new is flushed.
struct PieceDirectory {
    struct Piece {
        var entry: DirectoryEntry
        /// Its place in the directory.
        var slot: UInt32
        var bases: [SlabGroups.Base]
    }

    /// What is tracked for each kind of page.
    private struct Kind {
        var pieces: [Piece?] = []
        /// Pages with changes since their last checkpoint: the oldest batch with one.
        var dirty: [UInt32: UInt64] = [:]
        /// Bit `p`: slot 1 of page `p` is the newer one.
        var newerSlots: [UInt64] = []
    }

    private var kinds: [Kind] = Array(repeating: Kind(), count: 16)
    /// The directory's own pieces, named by the root.
    private(set) var rootDirectory: [[SlabGroups.Base]]
    /// What each place of the directory names.
    private var slots: [(kind: PieceKind, index: UInt32)?] = []
    private(set) var count: Int

    /// - Parameter fixedPieces: root and journal pieces, counted but not listed here.
    init(rootDirectory: [[SlabGroups.Base]], fixedPieces: Int) {
        self.rootDirectory = rootDirectory
        count = fixedPieces + rootDirectory.count
    }

    static let pagedKinds: [PieceKind] = [
        .directory, .group, .map, .dirty, .missed, .checksum, .cacheIndex,
    ]

    private func index(_ kind: PieceKind) -> Int { Int(kind.rawValue) }

    var entries: [DirectoryEntry] {
        (Self.pagedKinds + [.cache]).flatMap { kinds[index($0)].pieces.compactMap { $0?.entry } }
    }

    /// A disk has come back, as another device.
    mutating func find(_ disk: DiskNumber, on device: DeviceIndex) {
        rootDirectory = rootDirectory.map { $0.found(disk, on: device) }
        for kind in kinds.indices {
            for index in kinds[kind].pieces.indices {
                guard let bases = kinds[kind].pieces[index]?.bases else { continue }
                kinds[kind].pieces[index]?.bases = bases.found(disk, on: device)
            }
        }
    }

    /// A piece lies elsewhere from here on, its pages as they were.
    mutating func replace(
        _ kind: PieceKind, _ index: UInt32, _ entry: DirectoryEntry, bases: [SlabGroups.Base]
    ) {
        guard piece(kind, index) != nil else { return }
        kinds[self.index(kind)].pieces[Int(index)]?.entry = entry
        kinds[self.index(kind)].pieces[Int(index)]?.bases = bases
    }

    mutating func replaceRootDirectory(_ bases: [[SlabGroups.Base]]) { rootDirectory = bases }

    /// Every piece that holds pages, the directory's own first.
    var names: [PieceName] {
        rootDirectory.indices.map { PieceName(kind: .directory, index: UInt32($0)) }
            + Self.pagedKinds.filter { $0 != .directory }.flatMap { kind in
                kinds[index(kind)].pieces.indices.filter { kinds[index(kind)].pieces[$0] != nil }
                    .map { PieceName(kind: kind, index: UInt32($0)) }
            }
    }

    /// None: there is no such piece any more.
    func copies(of name: PieceName) -> [SlabGroups.Base] {
        guard name.kind == .directory else { return piece(name.kind, name.index)?.bases ?? [] }
        return Int(name.index) < rootDirectory.count ? rootDirectory[Int(name.index)] : []
    }

    mutating func add(_ entry: DirectoryEntry, slot: UInt32, bases: [SlabGroups.Base]) {
        guard let kind = entry.kind else { return }
        let at = index(kind)
        while kinds[at].pieces.count <= Int(entry.index) { kinds[at].pieces.append(nil) }
        if kinds[at].pieces[Int(entry.index)] == nil { count += 1 }
        kinds[at].pieces[Int(entry.index)] = Piece(entry: entry, slot: slot, bases: bases)
        while slots.count <= Int(slot) { slots.append(nil) }
        slots[Int(slot)] = (kind, entry.index)
    }

    /// Forgets a piece and which of its slots are the newer ones: the next piece of that index
    /// begins with the first.
    mutating func remove(_ kind: PieceKind, _ index: UInt32) {
        let at = self.index(kind)
        guard let piece = piece(kind, index) else { return }
        kinds[at].pieces[Int(index)] = nil
        slots[Int(piece.slot)] = nil
        count -= 1
        if kind == .cache { return }
        for page in 0..<UInt32(MetadataPage.pagesPerPiece) {
            setNewerSlot(kind, index * UInt32(MetadataPage.pagesPerPiece) + page, 0)
        }
    }

    func piece(_ kind: PieceKind, _ index: UInt32) -> Piece? {
        let pieces = kinds[self.index(kind)].pieces
        return Int(index) < pieces.count ? pieces[Int(index)] : nil
    }

    func pieceCount(_ kind: PieceKind) -> Int { kinds[index(kind)].pieces.count }

    @inline(__always)
    func has(_ kind: PieceKind, page: UInt32) -> Bool {
        let at = Int(page) / MetadataPage.pagesPerPiece
        return at < kinds[index(kind)].pieces.count && kinds[index(kind)].pieces[at] != nil
    }

    /// The first free place in the directory; nil: it is full.
    func freeSlot() -> UInt32? {
        let slot = slots.firstIndex { $0 == nil } ?? slots.count
        let place = DirectoryPage.place(ofSlot: UInt32(slot))
        let pages = rootDirectory.count * MetadataPage.pagesPerPiece
        return place.page < UInt64(pages) ? UInt32(slot) : nil
    }

    func entry(inSlot slot: UInt32) -> DirectoryEntry? {
        guard Int(slot) < slots.count, let place = slots[Int(slot)] else { return nil }
        return piece(place.kind, place.index)?.entry
    }

    /// The copies of a page's slot.
    func addresses(_ kind: PieceKind, page: UInt32, slot: Int) -> [SlabGroups.Base] {
        let (piece, within) = MetadataPage.place(of: UInt64(page))
        let bases = copies(of: PieceName(kind: kind, index: UInt32(piece)))
        let offset = MetadataPage.slotOffset(page: within, slot: slot)
        return bases.map {
            SlabGroups.Base(
                device: $0.device, disk: $0.disk, offsetBytes: $0.offsetBytes + offset)
        }
    }

    // MARK: - what the disks are behind with

    mutating func markDirty(_ kind: PieceKind, _ page: UInt32, since sequence: UInt64) {
        if kinds[index(kind)].dirty[page] == nil { kinds[index(kind)].dirty[page] = sequence }
    }

    mutating func markClean(_ kind: PieceKind, _ page: UInt32) {
        kinds[index(kind)].dirty[page] = nil
    }

    func dirtySince(_ kind: PieceKind, _ page: UInt32) -> UInt64? {
        kinds[index(kind)].dirty[page]
    }

    /// Dirty pages of a kind, oldest change first.
    func dirtyPages(_ kind: PieceKind) -> [(page: UInt32, since: UInt64)] {
        kinds[index(kind)].dirty.map { (page: $0.key, since: $0.value) }
            .sorted { ($0.since, $0.page) < ($1.since, $1.page) }
    }

    var dirtyCount: Int { kinds.reduce(0) { $0 + $1.dirty.count } }
    var oldestDirty: UInt64? { kinds.compactMap { $0.dirty.values.min() }.min() }

    func newerSlot(_ kind: PieceKind, _ page: UInt32) -> Int {
        let bits = kinds[index(kind)].newerSlots
        let word = Int(page) / 64
        return word < bits.count ? Int(bits[word] >> UInt64(page % 64) & 1) : 0
    }

    mutating func setNewerSlot(_ kind: PieceKind, _ page: UInt32, _ slot: Int) {
        let at = index(kind)
        let word = Int(page) / 64
        while kinds[at].newerSlots.count <= word { kinds[at].newerSlots.append(0) }
        let bit = UInt64(1) << UInt64(page % 64)
        if slot == 0 {
            kinds[at].newerSlots[word] &= ~bit
        } else {
            kinds[at].newerSlots[word] |= bit
        }
    }
}

extension [SlabGroups.Base] {
    /// The same places, those of one disk on another device.
    func found(_ disk: DiskNumber, on device: DeviceIndex) -> [SlabGroups.Base] {
        map { base in
            guard base.disk == disk else { return base }
            return SlabGroups.Base(device: device, disk: disk, offsetBytes: base.offsetBytes)
        }
    }
}

extension ChecksumPage {
    @inline(__always)
    static func index(ofGrain grain: UInt64) -> UInt32 { UInt32(grain / UInt64(grainsPerPage)) }

    /// The value of a block of a space's grain.
    @inline(__always)
    static func value(_ page: PageImage, grain: UInt64, block: Int) -> UInt32 {
        value(in: page, grain: Int(grain % UInt64(grainsPerPage)), block: block)
    }

    @inline(__always)
    static func setValue(_ page: PageImage, grain: UInt64, block: Int, _ value: UInt32) {
        setValue(in: page, grain: Int(grain % UInt64(grainsPerPage)), block: block, value)
    }
}

extension MapPage {
    static func index(ofGrain grain: UInt64) -> UInt32 { UInt32(grain / UInt64(entriesPerPage)) }
}
