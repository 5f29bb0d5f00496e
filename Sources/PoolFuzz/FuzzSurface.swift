import PoolFormat

/// Everything that takes bytes from a disk, a client or a command line, one entry point each.
///
/// The fuzzers (the package in `Fuzz`) and the replay of `Tests/Corpus` call the same function.
/// A surface must never trap, must refuse or accept, and what it accepts must keep the promises
/// that the code behind it relies on; a broken one is thrown as a ``FuzzFinding``.
public enum FuzzSurface: String, CaseIterable, Sendable {
    case label
    case configuration
    case fenceTable = "fence-table"
    case slabTable = "slab-table"
    case pieceTable = "piece-table"
    case spaceRoot = "space-root"
    /// Map, checksum, dirty, missed, directory, group pages, and those whose entries come later.
    case page
    /// One batch: its head and its records.
    case journal
    /// The copies of a whole journal merged.
    case journalScan = "journal-scan"
    /// What a killed process left of a space.
    case restartLog = "restart-log"
    /// A whole pool, opened and used by an engine.
    case pool
    /// The NBD handshake, cut anywhere.
    case handshake
    /// The head of an NBD request.
    case request
    /// The JSON that a control client sends, and what it is answered.
    case message
    /// Names, sizes and the paths of the control protocol.
    case words

    /// Runs one input.
    ///
    /// - Parameters:
    ///   - input: any bytes; borrowed.
    ///   - memory: the caller's, for one run at a time.
    /// - Returns: whether the code under test accepted what the input stands for.
    /// - Throws: ``FuzzFinding`` for accepted bytes that break a promise.
    public func run(
        _ input: UnsafeRawBufferPointer, in memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        var reader = unsafe InputReader(input)
        switch self {
        case .label: return try runLabel(&reader)
        case .configuration: return try runConfiguration(&reader, memory)
        case .fenceTable: return try runFenceTable(&reader, memory)
        case .slabTable: return try runSlabTable(&reader)
        case .pieceTable: return try runPieceTable(&reader)
        case .spaceRoot: return try runSpaceRoot(&reader, memory)
        case .page: return try runPage(&reader)
        case .journal: return try runJournal(&reader, memory)
        case .journalScan: return try runJournalScan(&reader, memory)
        case .restartLog: return try runRestartLog(&reader)
        case .pool: return try runPool(&reader, memory)
        case .handshake: return try runHandshake(&reader)
        case .request: return try runRequest(&reader)
        case .message: return try runMessage(&reader)
        case .words: return try runWords(&reader)
        }
    }
}

/// Memory that runs write over: fresh megabytes for each would take most of the time.
public final class FuzzMemory {
    /// What is written back.
    let copy = Image(Configuration.slotBytes)
    /// One piece of a journal on one copy; zeros between two runs.
    let journalPiece = Image(Units.pieceBytes)

    private(set) lazy var pool = HostilePool()

    public init() {}
}

/// A promise that accepted input has broken.
public struct FuzzFinding: Error, Hashable, Sendable, CustomStringConvertible {
    public var description: String
    init(_ description: String) { self.description = description }
}

/// Throws a finding unless the promise is kept.
func promise(
    _ isKept: Bool, _ what: @autoclosure () -> String
) throws(FuzzFinding) {
    guard isKept else { throw FuzzFinding(what()) }
}
