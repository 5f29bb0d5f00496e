import PoolEngine

/// One request of a client between its header and the last byte of its answer.
///
///     taken --> pieces issued, at most a window of them at a time --> answered --> released
///                      |                                                ^
///                      +-- first error: no more pieces, wait for those -+
///
/// `heldPieces` counts pieces taken and not given back, those whose bytes wait to be sent included;
/// `enginePieces` those that the engine has yet to answer. A record is released once it is answered
/// and holds nothing.
struct RequestRecord {
    var cookie: UInt64 = 0
    var startOffset: UInt64 = 0
    /// Where the next piece starts; equal to `endOffset` once all are issued.
    var nextOffset: UInt64 = 0
    var endOffset: UInt64 = 0
    var kind = SpaceRequest.Kind.flush
    var flags: SpaceRequest.Flags = []
    /// The first thing that went wrong.
    var error = NBDError.none
    var heldPieces: UInt16 = 0
    var enginePieces: UInt16 = 0
    /// A READ's pieces in the order of their bytes, where the answer needs that order; the piece
    /// of a READ or BLOCK_STATUS that waits.
    var firstPiece: Int32 = -1
    var lastPiece: Int32 = -1
    /// Of a BLOCK_STATUS: descriptors in its buffer, and questions that the engine has answered.
    var extents: UInt16 = 0
    var questions: UInt16 = 0
    /// The next record of the list this one is in: free, starved, yielded or deferred, never two.
    var link: Int16 = -1
    var isInUse = false
    /// Cut into more than one piece.
    var isLong = false
    /// A WRITE whose payload is not complete.
    var isReceiving = false
    /// The header of a simple reply in parts has gone out: an error can no longer be told.
    var hasStarted = false
    /// Waits its turn behind a simple reply in parts.
    var isDeferred = false
    /// The flush that makes a long FUA request durable has been asked for.
    var hasFlushed = false
    /// A BLOCK_STATUS that wants one descriptor.
    var asksOneExtent = false
    /// A READ across a grain boundary that has to come as one chunk.
    var isSpanning = false
    /// The end of its answer is queued.
    var isAnswered = false
}

/// A first-in, first-out list of request records, linked through the records themselves.
struct RequestList {
    private(set) var first: Int16 = -1
    private var last: Int16 = -1
    var isEmpty: Bool { first < 0 }

    mutating func append(_ index: Int16, _ records: borrowing FixedTable<RequestRecord>) {
        records[Int(index)].link = -1
        if last >= 0 { records[Int(last)].link = index } else { first = index }
        last = index
    }

    mutating func popFirst(_ records: borrowing FixedTable<RequestRecord>) -> Int16? {
        guard first >= 0 else { return nil }
        let index = first
        first = records[Int(index)].link
        if first < 0 { last = -1 }
        records[Int(index)].link = -1
        return index
    }
}
