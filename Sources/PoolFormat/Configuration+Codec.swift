extension Configuration {
    static let recordsOffset = 128
    private static let exportedFlag: UInt32 = 1

    /// Writes the configuration at the head of a slot of ``slotBytes``.
    ///
    /// - Returns: how many bytes of it to write to the disk: a multiple of 4 KiB.
    public func encode(into slot: UnsafeMutableRawBufferPointer) throws(FormatError) -> Int {
        try validate()
        precondition(slot.count == Self.slotBytes)
        var writer = unsafe ByteWriter(slot, at: PageHeader.bytes)
        writer.count(disks.count)
        writer.count(spaces.count)
        writer.count(voters.count)
        writer.count(departures.count)
        writer.u32(UInt32(nextDiskNumber))
        writer.u32(exported ? Self.exportedFlag : 0)
        writer.u64(nextLineage)
        writer.u64(nextGeneration)
        settings.encode(into: &writer)
        writer.u64(sequenceBefore)
        precondition(writer.offset == Self.recordsOffset)
        writer.text(poolName)
        for disk in disks { disk.encode(into: &writer) }
        for space in spaces { space.encode(into: &writer) }
        for voter in voters { writer.u16(voter.rawValue) }
        for departure in departures {
            writer.u16(departure.disk.rawValue)
            writer.zeros(6)
            writer.u64(departure.lineage.rawValue)
            writer.u64(departure.generation)
        }
        let lengthBytes = writer.offset
        let block = Units.blockBytes
        let roundedBytes = (lengthBytes + block - 1) / block * block
        writer.fillWithZeros()
        let header = PageHeader(
            structure: .configuration, owner: .pool(poolUUID), sequence: version.sequence,
            index: version.poolEpoch)
        unsafe header.seal(slot, lengthBytes: lengthBytes)
        return roundedBytes
    }

    /// How much of a slot to read, from its first 4 KiB: a multiple of 4 KiB, at most a slot.
    public static func peek(_ firstBlock: UnsafeRawBufferPointer) throws(FormatError) -> Int {
        let (_, claim) = try unsafe PageHeader.peek(
            firstBlock, as: .configuration, limit: slotBytes)
        let block = Units.blockBytes
        return (claim.lengthBytes + block - 1) / block * block
    }

    /// Reads a configuration from a slot, or from as much of one as ``peek(_:)`` says.
    public static func decode(
        _ slot: UnsafeRawBufferPointer
    ) throws(FormatError) -> Configuration {
        let (header, claim) = try unsafe PageHeader.open(slot, as: .configuration)
        let covered = unsafe UnsafeRawBufferPointer(rebasing: slot[..<claim.lengthBytes])
        var reader = unsafe ByteReader(covered, of: .configuration, from: PageHeader.bytes)
        let diskCount = try reader.count("disks", limit: diskLimit)
        let spaceCount = try reader.count("spaces", limit: spaceLimit)
        let voterCount = try reader.count("voters", limit: diskLimit)
        let departureCount = try reader.count("departures", limit: departureLimit)
        let nextDisk = try reader.u32()
        guard let nextDiskNumber = UInt16(exactly: nextDisk) else {
            throw outOfRange("next disk number", UInt64(nextDisk))
        }
        let flags = try reader.u32()
        guard flags & ~exportedFlag == 0 else { throw outOfRange("flags", UInt64(flags)) }
        let nextLineage = try reader.u64()
        let nextGeneration = try reader.u64()
        let settings = try PoolSettings.decode(from: &reader)
        let sequenceBefore = try reader.u64()
        var configuration = Configuration(
            poolUUID: try header.poolUUID(),
            poolName: try reader.text("pool name", limit: nameLimitBytes),
            version: ConfigurationVersion(poolEpoch: header.index, sequence: header.sequence),
            nextDiskNumber: nextDiskNumber, nextLineage: nextLineage,
            nextGeneration: nextGeneration, exported: flags & exportedFlag != 0, disks: [],
            spaces: [], voters: [], departures: [], settings: settings)
        configuration.sequenceBefore = sequenceBefore
        for _ in 0..<diskCount {
            configuration.disks.append(try DiskRecord.decode(from: &reader))
        }
        for _ in 0..<spaceCount {
            configuration.spaces.append(try SpaceRecord.decode(from: &reader))
        }
        for _ in 0..<voterCount { configuration.voters.append(DiskNumber(try reader.u16())) }
        for _ in 0..<departureCount {
            let disk = DiskNumber(try reader.u16())
            try reader.reserved(6)
            let lineage = Lineage(try reader.u64())
            configuration.departures.append(
                Departure(disk: disk, lineage: lineage, generation: try reader.u64()))
        }
        try reader.finish()
        try configuration.validate()
        return configuration
    }
}

extension DiskRecord {
    func encode(into writer: inout ByteWriter) {
        writer.u16(number.rawValue)
        writer.u8(mediaClass.rawValue)
        writer.u8(state.rawValue)
        writer.zeros(4)
        writer.uuid(uuid)
        writer.u64(sizeBytes)
        writer.u64(leftAfterSequence)
        writer.zeros(8)
        writer.text(enclosure)
        writer.text(node)
        writer.text(rack)
        writer.text(pathHint)
    }

    static func decode(from reader: inout ByteReader) throws(FormatError) -> DiskRecord {
        let number = DiskNumber(try reader.u16())
        let mediaClass = try reader.choice("media class", MediaClass.self)
        let state = try reader.choice("disk state", DiskState.self)
        try reader.reserved(4)
        let uuid = try reader.uuid()
        let sizeBytes = try reader.u64()
        let leftAfterSequence = try reader.u64()
        try reader.reserved(8)
        var record = DiskRecord(
            number: number, uuid: uuid, sizeBytes: sizeBytes, mediaClass: mediaClass, state: state,
            enclosure: try reader.text("enclosure", limit: Configuration.tagLimitBytes),
            node: try reader.text("node", limit: Configuration.tagLimitBytes),
            rack: try reader.text("rack", limit: Configuration.tagLimitBytes),
            pathHint: try reader.text("path hint", limit: Configuration.pathHintLimitBytes))
        record.leftAfterSequence = leftAfterSequence
        return record
    }
}

extension SpaceRecord {
    func encode(into writer: inout ByteWriter) {
        writer.u64(lineage.rawValue)
        writer.u64(sizeBytes)
        writer.u8(resiliency.rawValue)
        writer.u8(copies)
        writer.u16(columns)
        writer.u32(interleaveBytes)
        writer.u32(flags.rawValue)
        writer.u8(whenFull.rawValue)
        writer.u8(ssdResiliency)
        writer.u8(currentCopies)
        writer.u8(UInt8(root.count))
        writer.u64(ssdTierBytes)
        writer.u64(writeCacheBytes)
        root.encodeFixed(into: &writer)
        writer.zeros(24)
        writer.text(name)
        writer.text(readOnlyReason)
        writer.text(owner)
    }

    static func decode(from reader: inout ByteReader) throws(FormatError) -> SpaceRecord {
        let lineage = Lineage(try reader.u64())
        let sizeBytes = try reader.u64()
        let resiliency = try reader.choice("resiliency", ResiliencyKind.self)
        let copies = try reader.u8()
        let columns = try reader.u16()
        let interleaveBytes = try reader.u32()
        let flags = SpaceFlags(rawValue: try reader.u32())
        let whenFull = try reader.choice("when-full policy", WhenFull.self)
        let ssdResiliency = try reader.u8()
        let currentCopies = try reader.u8()
        let rootCount = Int(try reader.u8())
        let ssdTierBytes = try reader.u64()
        let writeCacheBytes = try reader.u64()
        let root = try [PieceAddress].decodeFixed(count: rootCount, from: &reader)
        try reader.reserved(24)
        let name = try reader.text("space name", limit: Configuration.nameLimitBytes)
        let reason = try reader.text("read-only reason", limit: Configuration.reasonLimitBytes)
        return SpaceRecord(
            lineage: lineage, name: name, sizeBytes: sizeBytes, resiliency: resiliency,
            copies: copies, columns: columns, interleaveBytes: interleaveBytes, flags: flags,
            whenFull: whenFull, readOnlyReason: reason, ssdTierBytes: ssdTierBytes,
            ssdResiliency: ssdResiliency, writeCacheBytes: writeCacheBytes, root: root,
            currentCopies: currentCopies,
            owner: try reader.text("owner", limit: Configuration.tagLimitBytes))
    }
}
