/// Which format features a disk uses.
public enum Features {
    /// The incompatible bit that says: the format is not final, ``Label/draft`` counts its changes.
    public static let draft: UInt64 = 1 << 0
    /// The only draft this version reads and writes.
    public static let currentDraft: UInt32 = 1

    public static let knownCompatible: UInt64 = 0
    public static let knownReadOnlyCompatible: UInt64 = 0
    public static let knownIncompatible: UInt64 = draft
}

extension Label {
    public static let bytes = Units.blockBytes
    public static let poolNameLimitBytes = 64

    /// Whether the disk uses features that this version may read past, but not write with.
    public var requiresReadOnly: Bool {
        readOnlyCompatibleFeatures & ~Features.knownReadOnlyCompatible != 0
    }

    /// Refuses what this version cannot serve, features first.
    public func validate() throws(FormatError) {
        try Self.checkFeatures(incompatible: incompatibleFeatures, draft: draft)
        try poolName.checkFits(Self.poolNameLimitBytes, .label, "pool name")
        try Self.check(slabBytes, is: UInt64(Units.slabBytes), "slab size")
        try Self.check(UInt64(grainBytes), is: UInt64(Units.grainBytes), "grain size")
        try Self.check(UInt64(checksumAlgorithm), is: UInt64(Checksum.algorithm), "checksum kind")
        guard sectorBytes == 512 || sectorBytes == 4096 else {
            throw .outOfRange(.label, field: "sector size", value: UInt64(sectorBytes))
        }
        _ = try DiskLayout(diskBytes: diskBytes)
    }

    private static func checkFeatures(
        incompatible: UInt64, draft: UInt32
    ) throws(FormatError) {
        let unknown = incompatible & ~Features.knownIncompatible
        guard unknown == 0 else { throw .unknownFeatures(unknown) }
        guard incompatible & Features.draft != 0, draft == Features.currentDraft else {
            throw .otherDraft(found: draft, supported: Features.currentDraft)
        }
    }

    private static func check(
        _ value: UInt64, is expected: UInt64, _ field: String
    ) throws(FormatError) {
        guard value == expected else { throw .outOfRange(.label, field: field, value: value) }
    }

    /// Writes the label into 4,096 bytes.
    public func encode(into page: UnsafeMutableRawBufferPointer) throws(FormatError) {
        try validate()
        precondition(page.count == Self.bytes)
        var writer = unsafe ByteWriter(page, at: PageHeader.bytes)
        writer.uuid(diskUUID)
        writer.u64(compatibleFeatures)
        writer.u64(readOnlyCompatibleFeatures)
        writer.u64(incompatibleFeatures)
        writer.u32(draft)
        writer.u32(grainBytes)
        writer.u64(slabBytes)
        writer.u64(diskBytes)
        writer.u32(sectorBytes)
        writer.u8(checksumAlgorithm)
        writer.u8(mediaClass.rawValue)
        writer.u16(diskNumber.rawValue)
        writer.u16(UInt16(poolName.utf8.count))
        writer.zeros(6)
        writer.rawText(poolName)
        writer.fillWithZeros()
        let header = PageHeader(
            structure: .label, owner: .pool(poolUUID), sequence: sequence,
            index: UInt64(diskNumber.rawValue))
        unsafe header.seal(page, lengthBytes: Self.bytes)
    }

    /// Reads a label from at least 4,096 bytes. A label of another draft, or with unknown
    /// incompatible features, is refused as such whatever else it says.
    public static func decode(_ page: UnsafeRawBufferPointer) throws(FormatError) -> Label {
        let (header, claim) = try unsafe PageHeader.open(page, as: .label)
        guard claim.lengthBytes == bytes else {
            throw .wrongLength(.label, found: UInt64(claim.lengthBytes))
        }
        var reader = unsafe ByteReader(
            UnsafeRawBufferPointer(rebasing: page[..<bytes]), of: .label, from: PageHeader.bytes)
        let diskUUID = try reader.uuid()
        let compatible = try reader.u64()
        let readOnlyCompatible = try reader.u64()
        let incompatible = try reader.u64()
        let draft = try reader.u32()
        try checkFeatures(incompatible: incompatible, draft: draft)
        let grainBytes = try reader.u32()
        let slabBytes = try reader.u64()
        let diskBytes = try reader.u64()
        let sectorBytes = try reader.u32()
        let algorithm = try reader.u8()
        let mediaClass = try reader.choice("media class", MediaClass.self)
        let number = try reader.u16()
        guard header.index == UInt64(number) else {
            throw .wrongIndex(.label, expected: UInt64(number), found: header.index)
        }
        let nameBytes = Int(try reader.u16())
        guard nameBytes <= poolNameLimitBytes else { throw .badText(.label, field: "pool name") }
        try reader.reserved(6)
        let name = try reader.text("pool name", bytes: nameBytes)
        // Behind the name a compatible feature may have put more: it is not looked at.
        let label = Label(
            poolUUID: try header.poolUUID(), diskUUID: diskUUID, diskNumber: DiskNumber(number),
            poolName: name, compatibleFeatures: compatible,
            readOnlyCompatibleFeatures: readOnlyCompatible, incompatibleFeatures: incompatible,
            draft: draft, slabBytes: slabBytes, grainBytes: grainBytes, sectorBytes: sectorBytes,
            checksumAlgorithm: algorithm, mediaClass: mediaClass, diskBytes: diskBytes,
            sequence: header.sequence)
        try label.validate()
        return label
    }
}
