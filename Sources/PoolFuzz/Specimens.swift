import PoolFormat

/// Valid examples of every durable structure, for inputs that change little.
enum Specimen {
    static let pool = PoolUUID(high: 0x0011_2233_4455_6677, low: 0x8899_aabb_ccdd_eeff)
    static let diskUUID = PoolUUID(high: 0x1021_3243_5465_7687, low: 0x98a9_bacb_dced_fe0f)
    static let disk = DiskNumber(4)
    static let lineage = Lineage(8)
    static let pageIndex: UInt64 = 3

    static func address(_ number: UInt16) -> PieceAddress {
        PieceAddress(disk: DiskNumber(number), slab: UInt32(number), piece: number)
    }

    /// Encodes a value that is valid because it stands here.
    private static func image(
        _ bytes: Int, _ encode: (Image) throws(FormatError) -> Void
    ) -> [UInt8] {
        let image = Image(bytes)
        do throws(FormatError) { try encode(image) } catch {
            preconditionFailure("a specimen is valid: \(error)")
        }
        return image.content
    }

    static let label = image(Label.bytes) { image throws(FormatError) in
        let label = Label(
            poolUUID: pool, diskUUID: diskUUID, diskNumber: disk, poolName: "tank",
            compatibleFeatures: 0, readOnlyCompatibleFeatures: 0,
            incompatibleFeatures: Features.draft, draft: Features.currentDraft,
            slabBytes: UInt64(Units.slabBytes), grainBytes: UInt32(Units.grainBytes),
            sectorBytes: 512, checksumAlgorithm: Checksum.algorithm, mediaClass: .ssd,
            diskBytes: 8 << 30, sequence: 3)
        try unsafe label.encode(into: image.bytes)
    }

    static let space = SpaceRecord(
        lineage: lineage, name: "vm", sizeBytes: 64 << 20, resiliency: .mirror2, copies: 2,
        columns: 2, interleaveBytes: 256 << 10, flags: [], whenFull: .wait, readOnlyReason: "",
        ssdTierBytes: 0, ssdResiliency: 0, writeCacheBytes: 0, root: [address(1), address(2)],
        currentCopies: 3, owner: "")

    static let configuration: [UInt8] = {
        var value = Configuration(
            poolUUID: pool, poolName: "tank",
            version: ConfigurationVersion(poolEpoch: 2, sequence: 7), nextDiskNumber: 5,
            nextLineage: 9, nextGeneration: 100, exported: false,
            disks: [
                DiskRecord(
                    number: disk, uuid: diskUUID, sizeBytes: 8 << 30, mediaClass: .ssd,
                    state: .online, enclosure: "e", node: "n", rack: "r", pathHint: "/d1"),
                DiskRecord(
                    number: DiskNumber(2), uuid: pool, sizeBytes: 8 << 30, mediaClass: .hdd,
                    state: .missing, enclosure: "", node: "", rack: "", pathHint: ""),
            ],
            spaces: [space], voters: [DiskNumber(2), disk],
            departures: [Departure(disk: disk, lineage: lineage, generation: 6)],
            settings: PoolSettings(repairDelaySeconds: 0, repairPriority: .low))
        value.sequenceBefore = 6
        value.disks[1].leftAfterSequence = 5
        var written = 0
        let slot = image(Configuration.slotBytes) { image throws(FormatError) in
            written = try unsafe value.encode(into: image.bytes)
        }
        return Array(slot[..<written])
    }()

    static let fenceTable = image(FenceTable.slotBytes) { image throws(FormatError) in
        let owner = PoolUUID(high: 0, low: 0)
        let table = FenceTable(
            poolUUID: pool, disk: disk, sequence: 5,
            entries: [
                FenceEntry(lineage: lineage, epoch: 4, owner: owner),
                FenceEntry(lineage: .metadata, epoch: 1, owner: diskUUID),
            ])
        try unsafe table.encode(into: image.bytes)
    }

    static let slabTable = image(PageImage.bytes) { image throws(FormatError) in
        let page = image.page
        SlabTablePage.setEntry(
            in: page, at: 0, SlabEntry(lineage: .metadata, group: 0, column: 0, generation: 1))
        SlabTablePage.setEntry(
            in: page, at: 1, SlabEntry(lineage: .none, group: 0, column: 0, generation: 2))
        SlabTablePage.setEntry(
            in: page, at: 2, SlabEntry(lineage: lineage, group: 1, column: 3, generation: 3))
        SlabTablePage.seal(page, pool: pool, disk: disk, page: 0, sequence: 9)
    }

    static let pieceTable = image(PageImage.bytes) { image throws(FormatError) in
        let page = image.page
        PieceTablePage.setEntry(
            in: page, at: 1, PieceEntry(lineage: lineage, kind: .root, index: 0, generation: 1))
        PieceTablePage.setEntry(
            in: page, at: 2, PieceEntry(lineage: .none, kind: .root, index: 0, generation: 2))
        PieceTablePage.seal(page, pool: pool, disk: disk, slab: 1, page: 0, sequence: 9)
    }

    static let spaceRoot = image(SpaceRoot.slotBytes) { image throws(FormatError) in
        let root = SpaceRoot(
            lineage: lineage, epoch: 2, sequence: 3,
            journal: [[address(1), address(2)], [address(3)]],
            directory: [[address(4), address(5), address(6)]])
        try unsafe root.encode(into: image.bytes)
    }
}

extension Specimen {
    static let group = GroupRecord(
        id: 1, layout: .mirror2, mediaClass: .hdd, copies: 2, columns: 2, unitBytes: 256 << 10,
        rotation: 0, parityGenerator: 0, birth: 1,
        slabs: (1...4).map {
            GroupSlab(
                address: SlabAddress(disk: DiskNumber($0), slab: UInt32($0)),
                generation: UInt64($0))
        })

    static let mapped = MapEntry(group: 1, physicalGrain: 2, state: .mapped, birth: 1)
    static let directoryEntry = DirectoryEntry(
        kind: .map, index: 0, generation: 5, copies: [address(7), address(8)])

    static let pagedKinds = PieceKind.allCases.filter(\.isPaged)

    /// One page of each kind in ``pagedKinds``.
    static let pages = pagedKinds.map { kind in
        image(PageImage.bytes) { image throws(FormatError) in
            let page = image.page
            switch kind {
            case .map: MapPage.setEntry(in: page, at: 1, mapped)
            case .checksum: ChecksumPage.fill(in: page, grain: 1, with: 0x0102_0304)
            case .dirty, .missed: DirtyPage.set(in: page, region: 5, dirty: true)
            case .directory: DirectoryPage.setEntry(in: page, at: 1, directoryEntry)
            case .group: try GroupPage.setRecord(in: page, at: 1, group)
            case .cacheIndex: CachePage.setBlock(in: page, slot: 1, 256)
            case .pins, .heat, .root, .journal, .cache: break
            }
            MetadataPage.seal(
                page, kind: kind, lineage: lineage, epoch: 2, index: pageIndex, sequence: 6)
        }
    }

    static let rewritten: RewrittenBlocks = {
        var blocks = RewrittenBlocks()
        blocks.append(0, ValueChange(old: 0, new: 7))
        blocks.append(255, ValueChange(old: 2, new: 1))
        return blocks
    }()

    static let records: [JournalRecord] = [
        .activation(epoch: 2), .pieceGranted(slot: 1, directoryEntry), .groupAdded(group),
        .map(grain: 1, entry: mapped), .mark(region: 0),
        .values(
            firstBlock: 510, changes: [ValueChange(old: 0, new: 5), ValueChange(old: 1, new: 6)]),
        .clean(region: 0), .unmap(grain: 1), .groupRemoved(id: 1),
        .move(grain: 1, entry: mapped), .pieceReleased(slot: 1), .missed(region: 0), .caughtUp,
        .rewrite(grain: 1, entry: mapped, rewritten),
        .cached(
            firstBlock: 510, slot: 254,
            changes: [ValueChange(old: 5, new: 8), ValueChange(old: 6, new: 0)]),
    ]

    static let batchHeader = BatchHeader(
        lineage: lineage, epoch: 2, sequence: 10, previousChecksum: 0x1b2b_3b4b,
        confirmedSequence: 8, tailSequence: 5, tailBlock: 1, recordBytes: 0, recordCount: 0)

    static let batch: [UInt8] = {
        let image = Image(JournalBatch.blockBytes)
        var writer = unsafe BatchWriter(image.bytes)
        for record in records { precondition(writer.append(record)) }
        _ = writer.finish(batchHeader)
        return image.content
    }()
}
