import PoolFormat

/// The memory that a killed process left: whatever stands there, what is taken from it is a list of
/// sound records, and the log goes on behind them.
extension FuzzSurface {
    /// The rest of an input, in one of three ways:
    ///
    ///     how % 3   0 raw      the bytes as they are, over zeros
    ///               1 entries  (kind 1, length 1, that many bytes) each: a sound entry around
    ///                          bytes of a record
    ///               2 patched  a sound log with (offset 2, byte 1) changed
    func runRestartLog(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let memory = Image(4096)
        switch reader.u8() % 3 {
        case 0: memory.overlay(reader.rest(), at: 0)
        case 1: enterRecords(&reader, into: memory)
        default:
            memory.overlay(Specimen.restartLog, at: 0)
            while reader.remainingBytes >= 3 {
                let offset = Int(reader.u16())
                memory.overlay([reader.u8()], at: offset)
            }
        }
        let resumed = unsafe RestartLog(
            resuming: memory.bytes, owner: Specimen.logOwner, journalEpoch: 3,
            journalSequence: 1 << 40)
        guard let log = resumed else { return false }
        let records = log.readAll().map(\.record)
        guard !records.isEmpty else { return false }
        try promise(log.epoch <= 3, "a log of an epoch to come is taken over")
        try checkTaken(records)
        return true
    }

    /// They can be written into a journal and into a new log, and are the same there.
    private func checkTaken(_ records: [JournalRecord]) throws(FuzzFinding) {
        let copy = Image(64 << 10)
        var log = unsafe RestartLog(emptying: copy.bytes, owner: Specimen.logOwner, epoch: 4)
        for record in records {
            try promise(log.append(record), "records of 4 KiB do not fit into 64")
        }
        let again = unsafe RestartLog(
            resuming: copy.bytes, owner: Specimen.logOwner, journalEpoch: 4, journalSequence: 0)
        guard let again else { throw FuzzFinding("a log that was just written is none") }
        try promise(again.readAll().map(\.record) == records, "records are read back as others")
        let batch = Image(JournalBatch.maximumBytes)
        var writer = unsafe BatchWriter(batch.bytes)
        for record in records {
            try promise(writer.append(record), "records of 4 KiB do not fit into a batch")
        }
    }

    private func enterRecords(_ reader: inout InputReader, into memory: Image) {
        memory.overlay(Array(Specimen.restartLog.prefix(RestartLog.headerBytes)), at: 0)
        var offset = RestartLog.headerBytes
        var ordinal: UInt8 = 1
        while reader.remainingBytes >= 2, ordinal < 128 {
            let kind = reader.u8()
            var record = [kind, 0, 0, 0]
            for _ in 0..<reader.u8() { record.append(reader.u8()) }
            while record.count % 8 != 0 { record.append(0) }
            record[2] = UInt8(truncatingIfNeeded: record.count)
            record[3] = UInt8(truncatingIfNeeded: record.count >> 8)
            let entry = [ordinal, 0, 0, 0] + record
            let checksum = unsafe entry.withUnsafeBytes { unsafe Checksum.crc32c($0) }
            let head = (0..<4).map { UInt8(truncatingIfNeeded: checksum >> (8 * UInt32($0))) }
            memory.overlay(head + entry, at: offset)
            offset += head.count + entry.count
            ordinal += 1
        }
    }
}

extension Specimen {
    static let logOwner = RestartLog.Owner(pool: pool, lineage: lineage)

    static let restartLog: [UInt8] = {
        let image = Image(4096)
        var log = unsafe RestartLog(emptying: image.bytes, owner: logOwner, epoch: 3)
        let entry = MapEntry(group: 2, physicalGrain: 5, state: .mapped, birth: 0)
        let records: [JournalRecord] = [
            .map(grain: 9, entry: entry),
            .values(firstBlock: 9 * 256, changes: [ValueChange(old: 0, new: 7)]),
            .unmap(grain: 8), .move(grain: 7, entry: entry), .pieceReleased(slot: 3),
            .groupRemoved(id: 4), .activation(epoch: 3), .rewrite(grain: 7, entry: entry, rewritten),
            .cached(firstBlock: 9 * 256, slot: 3, changes: [ValueChange(old: 7, new: 8)]),
        ]
        for record in records { precondition(log.append(record)) }
        return image.content
    }()
}
