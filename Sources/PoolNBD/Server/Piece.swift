import PoolEngine

/// A part of a request within one grain: what the engine knows as a ``SpaceRequest``.
struct Piece {
    /// Grows each time the record is used, so that a reply to an older use is recognised.
    var serial: UInt32 = 0
    var isInUse = false
    /// The engine has answered; a READ's bytes are in the buffer.
    var isDone = false
    var bufferClass: UInt8 = 0
    var connection: UInt16 = 0
    var request: Int16 = -1
    /// Free list, or the next piece of a READ answered in order.
    var next: Int32 = -1
    var lengthBytes: UInt32 = 0
    var offsetBytes: UInt64 = 0
    /// -1: none.
    var bufferOffset = -1

    /// Where the space's bytes begin in the arena: block boundaries fall on page boundaries.
    var dataOffset: Int { bufferOffset + Int(offsetBytes % 4096) }

    /// Room for every block the range touches.
    static func bufferBytes(offsetBytes: UInt64, lengthBytes: UInt32) -> Int {
        let end = Int(offsetBytes % 4096) + Int(lengthBytes)
        return (end + 4095) & ~4095
    }
}

/// What the connections of one shard share: memory, pieces, the way to the engine and the ring.
///
/// Fairness: an export, with the connection that asks counted twice, may hold as much as is left
/// free; a connection that holds nothing yet gets a first one while a quarter is left. However many
/// clients are stuck, behind a hung disk or because they do not read, something stays for another
/// export, and for the other connections of theirs.
/// (After Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches",
/// IEEE/ACM Transactions on Networking, 1998.)
@safe final class SharedResources {
    let arena: BufferArena
    let pieces: FixedTable<Piece>
    private var firstFree: Int32 = 0
    private(set) var freePieces: Int
    /// What the engine is asked to do; ``NBDServer/requests`` hands it over.
    var requests: [SpaceRequest] = []
    /// Connections with something to do in this turn, and those that wait for memory or pieces.
    var ready: [UInt16] = []
    var waiting: [UInt16] = []
    /// Something was given back since the waiting ones were last tried.
    var hasFreed = false
    private(set) var nowNs: UInt64 = 0
    /// Pieces without data that may still go to the engine in this turn.
    private(set) var turnShare = NBDLimits.dataFreePiecesPerTurn
    /// Until then the ring wakes the shard by itself, should a send make no progress.
    var wakesAtNs: UInt64 = 0

    init(arena: BufferArena, pieceCount: Int) {
        self.arena = arena
        pieces = FixedTable(count: pieceCount, repeating: Piece())
        freePieces = pieceCount
        for index in 0..<pieceCount {
            pieces[index].next = index + 1 < pieceCount ? Int32(index + 1) : -1
        }
        requests.reserveCapacity(pieceCount)
        ready.reserveCapacity(NBDLimits.connections)
        waiting.reserveCapacity(NBDLimits.connections)
    }

    /// A new turn of the loop, told by its time: those that had their share may go on.
    func beginTurn(nowNs: UInt64) {
        if arena.hasReturns {
            arena.hasReturns = false
            hasFreed = true
        }
        guard nowNs != self.nowNs else { return }
        self.nowNs = nowNs
        if turnShare == 0 { hasFreed = true }
        turnShare = NBDLimits.dataFreePiecesPerTurn
    }

    /// Whether one more piece without data may go to the engine in this turn.
    func takeTurnShare() -> Bool {
        guard turnShare > 0 else { return false }
        turnShare -= 1
        return true
    }

    private func admits(_ held: Int, _ own: Int, free: Int) -> Bool {
        own == 0 ? held < free * 3 : held + own < free
    }

    /// A piece with a buffer of that many bytes (0: none), or -1 while others go first.
    ///
    /// - Parameter own: what the connection holds; updated, as is what its export holds.
    func take(
        _ usage: ExportUsage, _ own: inout Holdings, connection: UInt16, request: Int16,
        bufferBytes: Int
    ) -> Int32 {
        guard admits(usage.holdings.pieces, own.pieces, free: freePieces) else { return -1 }
        var buffer = -1
        var bufferClass: UInt8 = 0
        if bufferBytes > 0 {
            bufferClass = Holdings.bufferClass(bytes: bufferBytes)
            let free = arena.freeBuffers(bytes: bufferBytes)
            guard admits(usage.holdings[bufferClass], own[bufferClass], free: free),
                let offset = arena.take(bytes: bufferBytes)
            else { return -1 }
            buffer = offset
            usage.holdings[bufferClass] += 1
            own[bufferClass] += 1
        }
        let index = firstFree
        firstFree = pieces[Int(index)].next
        freePieces -= 1
        usage.holdings.pieces += 1
        own.pieces += 1
        pieces[Int(index)].isInUse = true
        pieces[Int(index)].isDone = false
        pieces[Int(index)].next = -1
        pieces[Int(index)].connection = connection
        pieces[Int(index)].request = request
        pieces[Int(index)].bufferOffset = buffer
        pieces[Int(index)].bufferClass = bufferClass
        return index
    }

    func give(_ index: Int32, _ usage: ExportUsage, _ own: inout Holdings) {
        let at = Int(index)
        precondition(pieces[at].isInUse)
        if pieces[at].bufferOffset >= 0 {
            arena.give(pieces[at].bufferOffset)
            usage.holdings[pieces[at].bufferClass] -= 1
            own[pieces[at].bufferClass] -= 1
        }
        usage.holdings.pieces -= 1
        own.pieces -= 1
        pieces[at].isInUse = false
        pieces[at].serial &+= 1
        pieces[at].next = firstFree
        firstFree = index
        freePieces += 1
        hasFreed = true
    }

    /// Hands a piece to the engine.
    func submit(
        _ index: Int32, _ kind: SpaceRequest.Kind, _ flags: SpaceRequest.Flags,
        _ space: SpaceHandle
    ) {
        let piece = pieces[Int(index)]
        requests.append(
            SpaceRequest(
                kind: kind, flags: flags, space: space, offsetBytes: piece.offsetBytes,
                lengthBytes: piece.lengthBytes, bufferOffset: max(0, piece.bufferOffset),
                cookie: cookie(of: index)))
    }

    /// Hands a part of a READ's piece to the engine: a range inside the piece's own.
    func submitPart(
        _ index: Int32, _ space: SpaceHandle, offsetBytes: UInt64, lengthBytes: UInt32
    ) {
        let piece = pieces[Int(index)]
        let blocks = offsetBytes / 4096 - piece.offsetBytes / 4096
        requests.append(
            SpaceRequest(
                kind: .read, flags: [], space: space, offsetBytes: offsetBytes,
                lengthBytes: lengthBytes, bufferOffset: piece.bufferOffset + Int(blocks) * 4096,
                cookie: cookie(of: index)))
    }

    private func cookie(of index: Int32) -> UInt64 {
        UInt64(pieces[Int(index)].serial) << 32 | UInt64(UInt32(bitPattern: index))
    }

    /// The piece a reply belongs to; nil for one that is not under way.
    func piece(cookie: UInt64) -> Int32? {
        let index = Int(truncatingIfNeeded: cookie & 0xffff_ffff)
        guard index < pieces.count, pieces[index].isInUse,
            pieces[index].serial == UInt32(truncatingIfNeeded: cookie >> 32)
        else { return nil }
        return Int32(index)
    }
}
