/// The number in a record's first byte. 64 and above are reserved.
enum RecordKind: UInt8, CaseIterable {
    case map = 1, unmap, values, mark, clean, groupAdded, groupRemoved, pieceGranted, activation
    case move = 10, pieceReleased, missed, caughtUp, rewrite, cached
}

extension JournalRecord {
    static let headBytes = 8
    static let mapBytes = 32
    static let numberBytes = 16
    static let valuesHeadBytes = 16
    static let cachedHeadBytes = 24
    static let valueBytes = 8
    static let blockBitsBytes = Units.blocksPerGrain / 8
    static let grainLimit = Units.maximumSpaceBytes / UInt64(Units.grainBytes)
    static let blockLimit = Units.maximumSpaceBytes / UInt64(Units.blockBytes)
    static let regionLimit = grainLimit / UInt64(Units.grainsPerRegion)

    /// The whole record in a batch; a multiple of 8.
    public var encodedBytes: Int {
        switch self {
        case .map, .move: Self.mapBytes
        case .unmap, .mark, .clean, .activation, .missed: Self.numberBytes
        case .values(_, let changes): Self.valuesHeadBytes + changes.count * Self.valueBytes
        case .groupAdded(let group): Self.headBytes + group.encodedBytes
        case .groupRemoved, .pieceReleased, .caughtUp: Self.headBytes
        case .pieceGranted: Self.headBytes + DirectoryPage.entryBytes
        case .rewrite(_, _, let rewritten): Self.rewriteBytes(blocks: rewritten.count)
        case .cached(_, _, let changes): Self.cachedHeadBytes + changes.count * Self.valueBytes
        }
    }

    static func rewriteBytes(blocks: Int) -> Int {
        mapBytes + blockBitsBytes + blocks * valueBytes
    }

    /// Writes ``encodedBytes`` bytes. A record that breaks an invariant is a programmer's error.
    public func encode(into writer: inout ByteWriter) {
        switch self {
        case .map(let grain, let entry):
            Self.encodeMap(.map, grain: grain, entry: entry, into: &writer)
        case .unmap(let grain):
            precondition(grain < Self.grainLimit)
            Self.encodeNumber(.unmap, grain, into: &writer)
        case .values(let firstBlock, let changes):
            unsafe changes.withUnsafeBufferPointer {
                unsafe Self.encodeValues(firstBlock: firstBlock, changes: $0, into: &writer)
            }
        case .mark(let region):
            precondition(region < Self.regionLimit)
            Self.encodeNumber(.mark, region, into: &writer)
        case .clean(let region):
            precondition(region < Self.regionLimit)
            Self.encodeNumber(.clean, region, into: &writer)
        case .groupAdded(let group):
            // A group that replay refuses must never become durable.
            precondition((try? group.validate(.journalBatch)) != nil)
            Self.encodeHead(.groupAdded, encodedBytes, into: &writer)
            writer.u32(0)
            group.encode(into: &writer)
        case .groupRemoved(let id):
            Self.encodeHead(.groupRemoved, encodedBytes, into: &writer)
            writer.u32(id)
        case .pieceGranted(let slot, let entry):
            Self.encodeHead(.pieceGranted, encodedBytes, into: &writer)
            writer.u32(slot)
            entry.encode(into: &writer)
        case .activation(let epoch):
            Self.encodeNumber(.activation, epoch, into: &writer)
        case .move(let grain, let entry):
            Self.encodeMap(.move, grain: grain, entry: entry, into: &writer)
        case .pieceReleased(let slot):
            Self.encodeHead(.pieceReleased, encodedBytes, into: &writer)
            writer.u32(slot)
        case .missed(let region):
            precondition(region < Self.regionLimit)
            Self.encodeNumber(.missed, region, into: &writer)
        case .caughtUp:
            Self.encodeHead(.caughtUp, encodedBytes, into: &writer)
            writer.u32(0)
        case .rewrite(let grain, let entry, let rewritten):
            Self.encodeRewrite(grain, entry, rewritten, into: &writer)
        case .cached(let firstBlock, let slot, let changes):
            unsafe changes.withUnsafeBufferPointer {
                unsafe Self.encodeCached(
                    firstBlock: firstBlock, slot: slot, changes: $0, into: &writer)
            }
        }
    }

    private static func encodeRewrite(
        _ grain: UInt64, _ entry: MapEntry, _ rewritten: RewrittenBlocks,
        into writer: inout ByteWriter
    ) {
        encodeHead(.rewrite, rewriteBytes(blocks: rewritten.count), into: &writer)
        encodePlace(grain, entry, count: rewritten.count, into: &writer)
        var bits = Array(repeating: UInt64(0), count: blockBitsBytes / 8)
        for block in rewritten.blocks { bits[Int(block) / 64] |= 1 << UInt64(block % 64) }
        for word in bits { writer.u64(word) }
        for change in rewritten.changes {
            writer.u32(change.old)
            writer.u32(change.new)
        }
    }

    private static func encodeHead(
        _ kind: RecordKind, _ bytes: Int, into writer: inout ByteWriter
    ) {
        precondition(bytes % 8 == 0 && bytes <= Int(UInt16.max))
        writer.u8(kind.rawValue)
        writer.u8(0)
        writer.u16(UInt16(bytes))
    }

    static func encodeNumber(
        _ kind: RecordKind, _ number: UInt64, into writer: inout ByteWriter
    ) {
        encodeHead(kind, numberBytes, into: &writer)
        writer.u32(0)
        writer.u64(number)
    }

    /// - Parameter kind: `map` or `move`.
    static func encodeMap(
        _ kind: RecordKind, grain: UInt64, entry: MapEntry, into writer: inout ByteWriter
    ) {
        encodeHead(kind, mapBytes, into: &writer)
        encodePlace(grain, entry, count: 0, into: &writer)
    }

    private static func encodePlace(
        _ grain: UInt64, _ entry: MapEntry, count: Int, into writer: inout ByteWriter
    ) {
        precondition(grain < grainLimit && entry.physicalGrain < MapPage.physicalGrainLimit)
        precondition(entry.state == .mapped)
        writer.u32(entry.group)
        writer.u64(grain)
        writer.u32(UInt32(entry.state.rawValue) << 24 | entry.physicalGrain)
        writer.u16(UInt16(count))
        writer.u16(0)
        writer.u64(entry.birth)
    }

    static func encodeValues(
        firstBlock: UInt64, changes: UnsafeBufferPointer<ValueChange>,
        into writer: inout ByteWriter
    ) {
        encodeRun(
            .values, valuesHeadBytes, firstBlock: firstBlock, count: changes.count, into: &writer)
        unsafe encode(changes, into: &writer)
    }

    static func encodeCached(
        firstBlock: UInt64, slot: UInt32, changes: UnsafeBufferPointer<ValueChange>,
        into writer: inout ByteWriter
    ) {
        precondition(isInOnePiece(slot: slot, count: changes.count))
        encodeRun(
            .cached, cachedHeadBytes, firstBlock: firstBlock, count: changes.count, into: &writer)
        writer.u32(slot)
        writer.u32(0)
        unsafe encode(changes, into: &writer)
    }

    private static func isInOnePiece(slot: UInt32, count: Int) -> Bool {
        Int(slot) % CachePage.slotsPerPage + count <= CachePage.slotsPerPage
    }

    private static func encode(
        _ changes: UnsafeBufferPointer<ValueChange>, into writer: inout ByteWriter
    ) {
        for index in 0..<changes.count {
            let change = unsafe changes[index]
            writer.u32(change.old)
            writer.u32(change.new)
        }
    }

    private static func encodeRun(
        _ kind: RecordKind, _ headBytes: Int, firstBlock: UInt64, count: Int,
        into writer: inout ByteWriter
    ) {
        precondition(count >= 1 && firstBlock < blockLimit)
        precondition(Int(firstBlock % UInt64(Units.blocksPerGrain)) + count <= Units.blocksPerGrain)
        encodeHead(kind, headBytes + count * valueBytes, into: &writer)
        writer.u16(UInt16(count))
        writer.u16(0)
        writer.u64(firstBlock)
    }
}

extension JournalRecord {
    /// Reads one record whose head (`kind`, `lengthBytes`) has been read and found in bounds.
    /// `reader` stands behind those four bytes and ends with the record.
    static func decode(
        kind: UInt8, from reader: inout ByteReader
    ) throws(FormatError) -> JournalRecord {
        guard let kind = RecordKind(rawValue: kind) else {
            throw .outOfRange(.journalBatch, field: "record kind", value: UInt64(kind))
        }
        let record: JournalRecord
        switch kind {
        case .map:
            let (grain, entry) = try decodeMap(from: &reader)
            record = .map(grain: grain, entry: entry)
        case .move:
            let (grain, entry) = try decodeMap(from: &reader)
            record = .move(grain: grain, entry: entry)
        case .pieceReleased:
            record = .pieceReleased(slot: try reader.u32())
        case .unmap:
            record = .unmap(grain: try number(&reader, "grain", below: grainLimit))
        case .values:
            let (firstBlock, count) = try decodeRun(from: &reader)
            let changes = try decodeChanges(count, from: &reader)
            record = .values(firstBlock: firstBlock, changes: changes)
        case .mark:
            record = .mark(region: try number(&reader, "region", below: regionLimit))
        case .clean:
            record = .clean(region: try number(&reader, "region", below: regionLimit))
        case .groupAdded:
            try reader.reserved(4)
            record = .groupAdded(try GroupRecord.decode(from: &reader))
        case .groupRemoved:
            record = .groupRemoved(id: try reader.u32())
        case .pieceGranted:
            let slot = try reader.u32()
            record = .pieceGranted(slot: slot, try DirectoryEntry.decode(from: &reader))
        case .activation:
            try reader.reserved(4)
            record = .activation(epoch: try reader.u64())
        case .missed:
            record = .missed(region: try number(&reader, "region", below: regionLimit))
        case .caughtUp:
            try reader.reserved(4)
            record = .caughtUp
        case .rewrite:
            record = try decodeRewrite(from: &reader)
        case .cached:
            record = try decodeCached(from: &reader)
        }
        try reader.finish()
        return record
    }

    private static func number(
        _ reader: inout ByteReader, _ field: String, below limit: UInt64
    ) throws(FormatError) -> UInt64 {
        try reader.reserved(4)
        let value = try reader.u64()
        guard value < limit else {
            throw .outOfRange(.journalBatch, field: field, value: value)
        }
        return value
    }

    private static func decodeMap(
        from reader: inout ByteReader
    ) throws(FormatError) -> (grain: UInt64, entry: MapEntry) {
        let (grain, entry, count) = try decodePlace(from: &reader)
        guard count == 0 else {
            throw .outOfRange(.journalBatch, field: "number of values", value: UInt64(count))
        }
        return (grain, entry)
    }

    private static func decodeRewrite(
        from reader: inout ByteReader
    ) throws(FormatError) -> JournalRecord {
        let (grain, entry, count) = try decodePlace(from: &reader)
        var blocks: [Int] = []
        for word in 0..<blockBitsBytes / 8 {
            let bits = try reader.u64()
            for bit in 0..<64 where bits >> UInt64(bit) & 1 == 1 { blocks.append(word * 64 + bit) }
        }
        guard blocks.count == count else {
            throw .outOfRange(.journalBatch, field: "number of values", value: UInt64(count))
        }
        var rewritten = RewrittenBlocks()
        for block in blocks {
            let old = try reader.u32()
            rewritten.append(block, ValueChange(old: old, new: try reader.u32()))
        }
        return .rewrite(grain: grain, entry: entry, rewritten)
    }

    private static func decodePlace(
        from reader: inout ByteReader
    ) throws(FormatError) -> (grain: UInt64, entry: MapEntry, count: Int) {
        let group = try reader.u32()
        let grain = try reader.u64()
        guard grain < grainLimit else {
            throw .outOfRange(.journalBatch, field: "grain", value: grain)
        }
        let packed = try reader.u32()
        guard packed >> 24 == UInt32(GrainState.mapped.rawValue) else {
            throw .outOfRange(.journalBatch, field: "grain state", value: UInt64(packed >> 24))
        }
        let count = Int(try reader.u16())
        try reader.reserved(2)
        let entry = MapEntry(
            group: group, physicalGrain: packed & 0xff_ffff, state: .mapped,
            birth: try reader.u64())
        return (grain, entry, count)
    }

    private static func decodeCached(
        from reader: inout ByteReader
    ) throws(FormatError) -> JournalRecord {
        let (firstBlock, count) = try decodeRun(from: &reader)
        let slot = try reader.u32()
        guard isInOnePiece(slot: slot, count: count) else {
            throw .outOfRange(.journalBatch, field: "slot", value: UInt64(slot))
        }
        try reader.reserved(4)
        let changes = try decodeChanges(count, from: &reader)
        return .cached(firstBlock: firstBlock, slot: slot, changes: changes)
    }

    private static func decodeRun(
        from reader: inout ByteReader
    ) throws(FormatError) -> (firstBlock: UInt64, count: Int) {
        let count = Int(try reader.u16())
        try reader.reserved(2)
        let firstBlock = try reader.u64()
        guard firstBlock < blockLimit else {
            throw .outOfRange(.journalBatch, field: "block", value: firstBlock)
        }
        let withinGrain = Int(firstBlock % UInt64(Units.blocksPerGrain))
        guard count >= 1, withinGrain + count <= Units.blocksPerGrain else {
            throw .outOfRange(.journalBatch, field: "number of values", value: UInt64(count))
        }
        return (firstBlock, count)
    }

    private static func decodeChanges(
        _ count: Int, from reader: inout ByteReader
    ) throws(FormatError) -> [ValueChange] {
        var changes: [ValueChange] = []
        changes.reserveCapacity(count)
        for _ in 0..<count {
            let old = try reader.u32()
            changes.append(ValueChange(old: old, new: try reader.u32()))
        }
        return changes
    }
}
