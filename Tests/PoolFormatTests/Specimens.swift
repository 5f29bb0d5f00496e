import PoolFormat
import Testing

/// One valid example of a durable structure, with the way to read it back and write it again.
struct Specimen: Sendable, CustomTestStringConvertible {
    var structure: Structure
    /// What the structure occupies on the disk.
    var bytes: [UInt8]
    /// Bytes that its checksum covers, its head counted.
    var coveredBytes: Int
    /// Reads the bytes and writes what was read.
    var rewrite: @Sendable (Memory) throws(FormatError) -> [UInt8]

    var testDescription: String { structure.name }
}

enum Sample {
    static let pool = PoolUUID(high: 0x0011_2233_4455_6677, low: 0x8899_aabb_ccdd_eeff)
    static let diskUUID = PoolUUID(high: 0x1021_3243_5465_7687, low: 0x98a9_bacb_dced_fe0f)
    static let lineage = Lineage(0x0102_0304_0506_0708)
    static let epoch: UInt64 = 0x1112_1314_1516_1718
    static let sequence: UInt64 = 0x2122_2324_2526_2728

    static let label = Label(
        poolUUID: pool, diskUUID: diskUUID, diskNumber: DiskNumber(0x0304), poolName: "täby",
        compatibleFeatures: 0x3132_3334_3536_3738, readOnlyCompatibleFeatures: 0x4142_4344,
        incompatibleFeatures: Features.draft, draft: Features.currentDraft,
        slabBytes: UInt64(Units.slabBytes), grainBytes: UInt32(Units.grainBytes),
        sectorBytes: 512, checksumAlgorithm: Checksum.algorithm, mediaClass: .ssd,
        diskBytes: 0x12_3456_7000, sequence: sequence)

    static func address(_ n: UInt16) -> PieceAddress {
        PieceAddress(disk: DiskNumber(0x0500 + n), slab: 0x6162_6300 + UInt32(n), piece: 0x70 + n)
    }

    static let configuration: Configuration = {
        var value = withoutHistory
        value.sequenceBefore = 0x0a1a_2a3a_4a5a_6a7a
        value.disks[0].leftAfterSequence = 0x0b1b_2b3b_4b5b_6b7b
        return value
    }()

    private static let withoutHistory = Configuration(
        poolUUID: pool, poolName: "tank",
        version: ConfigurationVersion(poolEpoch: 0x31, sequence: sequence), nextDiskNumber: 7,
        nextLineage: 0x0102_0304_0506_0709, nextGeneration: 0x5152_5354_5556_5758, exported: true,
        disks: [
            DiskRecord(
                number: DiskNumber(3), uuid: diskUUID, sizeBytes: 0x12_3456_7000, mediaClass: .hdd,
                state: .rebuilding, enclosure: "e1", node: "", rack: "rack nine",
                pathHint: "/dev/disk/by-id/x"),
            DiskRecord(
                number: DiskNumber(6), uuid: pool, sizeBytes: 1 << 40, mediaClass: .ssd,
                state: .online, enclosure: "", node: "n", rack: "", pathHint: ""),
        ],
        spaces: [
            SpaceRecord(
                lineage: lineage, name: "vm", sizeBytes: 0x12_3450_0000, resiliency: .mirror2,
                copies: 2, columns: 5, interleaveBytes: 256 << 10, flags: [.noChecksums, .readOnly],
                whenFull: .enospc, readOnlyReason: "why", ssdTierBytes: 0x81, ssdResiliency: 3,
                writeCacheBytes: 0x82, root: [address(1), address(2)], currentCopies: 2,
                owner: "node-a")
        ],
        voters: [DiskNumber(3), DiskNumber(6)],
        departures: [Departure(disk: DiskNumber(6), lineage: lineage, generation: 0x99)],
        settings: PoolSettings(
            chosenThresholds: .init(notice: 60, warning: 80, critical: 90),
            chosenCompaction: false, repairDelaySeconds: 0x0102_0304, repairPriority: .high))

    static let fences = FenceTable(
        poolUUID: pool, disk: DiskNumber(0x0304), sequence: sequence,
        entries: [
            FenceEntry(lineage: lineage, epoch: epoch, owner: diskUUID),
            FenceEntry(lineage: .metadata, epoch: 9, owner: PoolUUID(high: 0, low: 0)),
        ])

    static let slabs: [Int: SlabEntry] = [
        0: SlabEntry(lineage: .metadata, group: 0, column: 0, generation: 1),
        1: SlabEntry(lineage: .none, group: 0, column: 0, generation: 0xa1a2),
        125: SlabEntry(
            lineage: lineage, group: 0xb1b2_b3b4, column: 0xc1c2,
            generation: 0xd1d2_d3d4_d5d6_d7d8),
    ]

    static let pieces: [Int: PieceEntry] = [
        0: PieceEntry(lineage: lineage, kind: .heat, index: 0xe1e2_e3e4, generation: 0xf1f2),
        125: PieceEntry(lineage: .none, kind: .root, index: 0, generation: 5),
    ]

    static let root = SpaceRoot(
        lineage: lineage, epoch: epoch, sequence: sequence,
        journal: [[address(1), address(2)], [address(3)]],
        directory: [[address(4), address(5), address(6)]])

    static let mapEntries: [Int: MapEntry] = [
        0: MapEntry(
            group: 0x0a0b_0c0d, physicalGrain: 0xfedcba, state: .mapped, birth: 0x1a1b_1c1d_1e1f),
        251: MapEntry(group: 1, physicalGrain: 2, state: .mapped, birth: 3),
    ]

    static let directoryEntries: [Int: DirectoryEntry] = [
        0: DirectoryEntry(
            kind: .dirty, index: 0x2a2b, generation: 0x3a3b, copies: [address(7), address(8)]),
        83: DirectoryEntry(kind: .map, index: 4, generation: 5, copies: [address(9)]),
    ]

    static let group = GroupRecord(
        id: 0x4a4b_4c4d, layout: .mirror2, mediaClass: .hdd, copies: 2, columns: 2,
        unitBytes: 256 << 10, rotation: 0x5a, parityGenerator: 0x6a, birth: 0x7a7b,
        slabs: (1...4).map {
            GroupSlab(
                address: SlabAddress(disk: DiskNumber($0), slab: 0x8a00 + UInt32($0)),
                generation: 0x9a00 + UInt64($0))
        })

    static let rewritten: RewrittenBlocks = {
        var blocks = RewrittenBlocks()
        blocks.append(0x41, ValueChange(old: 0x1020_3040, new: 0x5060_7080))
        blocks.append(255, ValueChange(old: 0, new: 1))
        return blocks
    }()

    static let records: [JournalRecord] = [
        .activation(epoch: epoch),
        .pieceGranted(slot: 0x1f2f, directoryEntries[0]!),
        .groupAdded(group),
        .map(grain: 0x3f4f, entry: mapEntries[0]!),
        .mark(region: 0x5f6f),
        .values(
            firstBlock: 0x3f4f << 8 | 0xfe,
            changes: [ValueChange(old: 0, new: 0x7f8f), ValueChange(old: 1, new: 0x9faf_bfcf)]),
        .clean(region: 0x5f6e),
        .unmap(grain: 0x3f4e),
        .groupRemoved(id: 0xdfef),
        .move(grain: 0x3f4d, entry: mapEntries[0]!),
        .pieceReleased(slot: 0x1f2e),
        .missed(region: 0x5f6d),
        .caughtUp,
        .rewrite(grain: 0x3f4c, entry: mapEntries[0]!, rewritten),
        .cached(
            firstBlock: 0x3f4b << 8 | 0xfe, slot: 0x6e7e_8efe,
            changes: [
                ValueChange(old: 0x1d2d_3d4d, new: 0x5d6d_7d8d),
                ValueChange(old: 0x9dad_bdcd, new: 0xdded_fd0e),
            ]),
    ]

    static let cachedBlocks: [Int: UInt64] = [0: 0x1e2e_3e4e_5e6e, 1: 0, 255: 1 << 48 - 1]

    /// `recordBytes` and `recordCount` are those of `records`.
    static let batchHeader = BatchHeader(
        lineage: lineage, epoch: epoch, sequence: sequence, previousChecksum: 0x1b2b_3b4b,
        confirmedSequence: 0x5b6b, tailSequence: 0x7b8b, tailBlock: 0x9bab,
        recordBytes: 16 + 56 + (8 + 64 + 64) + 32 + 16 + 32 + 16 + 16 + 8 + 32 + 8 + 16 + 8
            + (64 + 2 * 8) + (24 + 2 * 8),
        recordCount: 15)
}

extension Specimen {
    static let all: [Specimen] = [
        label, configuration, fenceTable, slabTable, pieceTable, spaceRoot, map, checksum, dirty,
        missed, directory, group, cache, batch,
    ]

    private static func make(
        _ structure: Structure, _ memory: Memory, covered: Int? = nil,
        rewrite: @escaping @Sendable (Memory) throws(FormatError) -> [UInt8]
    ) -> Specimen {
        let bytes = memory.content
        return Specimen(
            structure: structure, bytes: bytes, coveredBytes: covered ?? bytes.count,
            rewrite: rewrite)
    }

    private static func written(
        _ count: Int, _ body: Encoder
    ) throws(FormatError) -> Memory {
        // Not zero, so that whoever leaves bytes unwritten is found out.
        let memory = Memory(count, fill: 0xa5)
        try body(memory)
        return memory
    }

    /// A specimen whose value is encoded as a whole.
    private static func whole(
        _ structure: Structure, _ bytes: Int, _ encode: @escaping Encoder,
        _ rewrite: @escaping @Sendable (Memory) throws(FormatError) -> Encoder
    ) -> Specimen {
        do {
            return make(structure, try written(bytes, encode)) {
                memory throws(FormatError) in
                try written(bytes, try rewrite(memory)).content
            }
        } catch { preconditionFailure("the sample is valid: \(error)") }
    }

    typealias Encoder = @Sendable (Memory) throws(FormatError) -> Void

    static let label = whole(
        .label, 4096, { to throws(FormatError) in try unsafe Sample.label.encode(into: to.bytes) },
        { memory throws(FormatError) in
            let label = try unsafe Label.decode(memory.readOnly)
            return { to throws(FormatError) in try unsafe label.encode(into: to.bytes) }
        })

    static let fenceTable = whole(
        .fenceTable, FenceTable.slotBytes,
        { to throws(FormatError) in try unsafe Sample.fences.encode(into: to.bytes) },
        { memory throws(FormatError) in
            let table = try unsafe FenceTable.decode(memory.readOnly)
            return { to throws(FormatError) in try unsafe table.encode(into: to.bytes) }
        })

    static let spaceRoot = whole(
        .spaceRoot, SpaceRoot.slotBytes,
        { to throws(FormatError) in try unsafe Sample.root.encode(into: to.bytes) },
        { memory throws(FormatError) in
            let root = try unsafe SpaceRoot.decode(memory.readOnly, lineage: Sample.lineage)
            return { to throws(FormatError) in try unsafe root.encode(into: to.bytes) }
        })

    static let configuration: Specimen = {
        @Sendable func encode(_ value: Configuration) throws(FormatError) -> [UInt8] {
            let memory = Memory(Configuration.slotBytes, fill: 0xa5)
            let bytes = try unsafe value.encode(into: memory.bytes)
            return Array(memory.content[..<bytes])
        }
        do {
            let memory = Memory(try encode(Sample.configuration))
            let covered = Int(
                unsafe memory.bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
            return make(.configuration, memory, covered: covered) { memory throws(FormatError) in
                try encode(try unsafe Configuration.decode(memory.readOnly))
            }
        } catch { preconditionFailure("the sample is valid: \(error)") }
    }()
}
