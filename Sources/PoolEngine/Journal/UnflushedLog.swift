import PoolFormat

/// A space's ``RestartLog`` while it serves: what changed since the last durable commit, so that
/// the end of the process alone loses nothing that was acknowledged.
///
/// 1. A change of a client is in the log before its reply: room for it was reserved before its I/O
///    began.
/// 2. A change of the space's own that finds no room is left out; until the commit that makes it
///    durable, no request begins and nothing else of the space's own goes in. So no entry relies
///    on one that is missing.
/// 3. A block that is durably UNWRITTEN holds, when the process ends, a value of an entry: a write
///    over one that is not durable has its intent logged before it goes out. What else is found
///    there is nothing that this space has written.
/// 4. Entries go once the commit that captured them is durable.
struct UnflushedLog {
    private var log: RestartLog?
    /// Of writes at the devices.
    private var reservedBytes = 0
    private var captured: RestartLog.Position?
    private var missedBeforeCapture = false
    private var missedSinceCapture = false

    /// The part that only the space's own changes may use.
    private var slackBytes: Int { (log?.capacityBytes ?? 0) / 4 }
    private var isOverrun: Bool { missedBeforeCapture || missedSinceCapture }

    mutating func begin(_ log: RestartLog) { self.log = log }
    mutating func end() { log = nil }

    // MARK: - room

    /// Room that is left for requests, and whether a commit should make more.
    func room(bytes: Int) -> (fits: Bool, isTight: Bool) {
        guard let log else { return (true, false) }
        let used = log.usedBytes + reservedBytes
        let limit = log.capacityBytes - slackBytes
        return (!isOverrun && used + bytes <= limit, isOverrun || (used + bytes) * 2 > limit)
    }

    mutating func reserve(_ bytes: Int) { reservedBytes += bytes }
    mutating func unreserve(_ bytes: Int) { reservedBytes -= bytes }

    // MARK: - changes

    var isThere: Bool { log != nil }

    /// A change that a request was let in for.
    ///
    /// - Parameter isIntent: it is on its way to the disks; its end is not known yet.
    mutating func add(
        values changes: [ValueChange], firstBlock: UInt64, isIntent: Bool = false
    ) {
        unsafe changes.withUnsafeBufferPointer { changes in
            let isIn = unsafe log?.appendValues(
                firstBlock: firstBlock, changes: changes, isIntent: isIntent)
            if isIn == false { missedSinceCapture = true }
        }
    }

    mutating func add(cached changes: [ValueChange], firstBlock: UInt64, slot: UInt32) {
        unsafe changes.withUnsafeBufferPointer { changes in
            let isIn = unsafe log?.appendCached(
                firstBlock: firstBlock, slot: slot, changes: changes)
            if isIn == false { missedSinceCapture = true }
        }
    }

    mutating func add(_ record: JournalRecord) {
        if log?.append(record) == false { missedSinceCapture = true }
    }

    /// A change of the space's own.
    mutating func addOwn(_ record: JournalRecord) {
        guard let log, !isOverrun else {
            if log != nil { missedSinceCapture = true }
            return
        }
        // What is skipped at the memory's end, for this entry and a reserved one, is no room.
        let needed =
            2 * RestartLog.entryBytes(recordBytes: record.encodedBytes) + reservedBytes
            + RestartLog.valuesEntryBytes(blocks: Units.blocksPerGrain)
        guard log.usedBytes + needed <= log.capacityBytes else {
            missedSinceCapture = true
            return
        }
        add(record)
    }

    // MARK: - commits

    mutating func capture() {
        captured = log?.end
        if Mutant.isActive(.forgetUnflushedEarly), let end = log?.end {
            log?.release(to: end, sequence: 0)
        }
        missedBeforeCapture = missedBeforeCapture || missedSinceCapture
        missedSinceCapture = false
    }

    /// What was captured last is durable, in the journal's batches up to `sequence`.
    ///
    /// - Returns: whether there is more room now.
    mutating func confirm(sequence: UInt64) -> Bool {
        guard let position = captured, let before = log?.usedBytes else { return false }
        let wasOverrun = isOverrun
        log?.release(to: position, sequence: sequence)
        captured = nil
        missedBeforeCapture = false
        return log?.usedBytes != before || wasOverrun != isOverrun
    }
}
