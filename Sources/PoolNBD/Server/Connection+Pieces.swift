import PoolEngine

/// From requests to pieces and back.
extension Connection {
    // MARK: - out

    /// The next piece of the record, with a buffer where its kind needs one; -1: none to be had.
    func takePiece(_ record: Int16) -> Int32 {
        let next = nextPiece(record)
        var bufferBytes = 0
        switch requests[Int(record)].kind {
        case .read, .write:
            // A piece of a long READ serves its later pieces too, so it is as large as they get.
            bufferBytes =
                requests[Int(record)].isLong && requests[Int(record)].kind == .read
                ? 1 << 20
                : Piece.bufferBytes(offsetBytes: next.offsetBytes, lengthBytes: next.lengthBytes)
        case .trim, .writeZeroes, .cache:
            guard shared.takeTurnShare() else { return -1 }
        case .flush, .blockStatus: preconditionFailure("\(requests[Int(record)].kind) in pieces")
        }
        let piece = takePiece(record, bufferBytes: bufferBytes)
        guard piece >= 0 else { return -1 }
        place(next, piece, record)
        return piece
    }

    func takePiece(_ record: Int16, bufferBytes: Int) -> Int32 {
        guard heldPieces < NBDLimits.piecesPerConnection else { return -1 }
        let piece = shared.take(
            usage, &holdings, connection: index, request: record, bufferBytes: bufferBytes)
        guard piece >= 0 else { return -1 }
        requests[Int(record)].heldPieces += 1
        return piece
    }

    /// The record goes on when something is given back: by this connection, which then has a turn
    /// anyway, or by another.
    func starve(_ record: Int16) {
        starved.append(record, requests)
        if heldPieces < NBDLimits.piecesPerConnection { waitForShared() }
    }

    private func nextPiece(_ record: Int16) -> (offsetBytes: UInt64, lengthBytes: UInt32) {
        let start = requests[Int(record)].nextOffset
        let end = requests[Int(record)].endOffset
        let grain: UInt64 = 1 << 20
        return (start, UInt32(min(end - start, grain - start % grain)))
    }

    private func place(
        _ range: (offsetBytes: UInt64, lengthBytes: UInt32), _ piece: Int32, _ record: Int16
    ) {
        shared.pieces[Int(piece)].offsetBytes = range.offsetBytes
        shared.pieces[Int(piece)].lengthBytes = range.lengthBytes
        shared.pieces[Int(piece)].isDone = false
        requests[Int(record)].nextOffset = range.offsetBytes + UInt64(range.lengthBytes)
    }

    func submit(_ piece: Int32, _ record: Int16) {
        guard let session else { return }
        requests[Int(record)].enginePieces += 1
        var flags = requests[Int(record)].flags
        // One flush at the end serves all pieces of a long request.
        if requests[Int(record)].isLong { flags.remove(.fua) }
        shared.submit(piece, requests[Int(record)].kind, flags, session.space)
    }

    /// Issues as many pieces of a READ, TRIM, WRITE_ZEROES or CACHE as its window and the shared
    /// resources allow. One that holds none joins the starved; one that holds some goes on as they
    /// return.
    func issue(_ record: Int16) {
        let at = Int(record)
        if requests[at].kind == .blockStatus { return issueBlockStatus(record) }
        if requests[at].isSpanning { return issueSpanning(record) }
        let window = requests[at].kind == .read ? NBDLimits.readWindow : NBDLimits.trimWindow
        while requests[at].nextOffset < requests[at].endOffset, requests[at].heldPieces < window {
            let piece = takePiece(record)
            guard piece >= 0 else {
                if requests[at].heldPieces == 0 { starve(record) }
                return
            }
            send(piece, record)
        }
    }

    /// One buffer for the whole range, and one request for each of its grains, in turn: the reply
    /// is one chunk, so it cannot begin before the last.
    private func issueSpanning(_ record: Int16) {
        let at = Int(record)
        let start = requests[at].startOffset
        let length = UInt32(requests[at].endOffset - start)
        let bytes = Piece.bufferBytes(offsetBytes: start, lengthBytes: length)
        let piece = takePiece(record, bufferBytes: bytes)
        guard piece >= 0 else { return starve(record) }
        shared.pieces[Int(piece)].offsetBytes = start
        shared.pieces[Int(piece)].lengthBytes = length
        submitSpanning(piece, record)
    }

    private func submitSpanning(_ piece: Int32, _ record: Int16) {
        guard let session else { return }
        let next = nextPiece(record)
        requests[Int(record)].nextOffset = next.offsetBytes + UInt64(next.lengthBytes)
        requests[Int(record)].enginePieces += 1
        shared.submitPart(
            piece, session.space, offsetBytes: next.offsetBytes, lengthBytes: next.lengthBytes)
    }

    private func spanningPartCompleted(_ piece: Int32, _ record: Int16) {
        if requests[Int(record)].error != .none {
            release(piece)
            finish(record)
        } else if requests[Int(record)].nextOffset < requests[Int(record)].endOffset {
            submitSpanning(piece, record)
        } else {
            answerWithData(piece, record)
        }
    }

    private func send(_ piece: Int32, _ record: Int16) {
        let at = Int(record)
        if isAnsweredInOrder(record) {
            shared.pieces[Int(piece)].next = -1
            if requests[at].lastPiece >= 0 {
                shared.pieces[Int(requests[at].lastPiece)].next = piece
            } else {
                requests[at].firstPiece = piece
            }
            requests[at].lastPiece = piece
        }
        submit(piece, record)
    }

    func issueFlush(_ record: Int16) {
        guard let session else { return }
        let piece = takePiece(record, bufferBytes: 0)
        guard piece >= 0 else { return starve(record) }
        requests[Int(record)].enginePieces += 1
        requests[Int(record)].hasFlushed = true
        shared.pieces[Int(piece)].offsetBytes = 0
        shared.pieces[Int(piece)].lengthBytes = 0
        shared.submit(piece, .flush, [], session.space)
    }

    /// Tries the starved again, first come, first served.
    func issueStarved() {
        while !isWaiting, heldPieces < NBDLimits.piecesPerConnection,
            let record = starved.popFirst(requests)
        {
            let needsFlush = requests[Int(record)].nextOffset == requests[Int(record)].endOffset
            if needsFlush { issueFlush(record) } else { issue(record) }
        }
    }

    // MARK: - back

    /// The engine has answered one piece.
    func pieceCompleted(_ piece: Int32, _ reply: SpaceReply) {
        let record = shared.pieces[Int(piece)].request
        let at = Int(record)
        requests[at].enginePieces -= 1
        markReady()
        guard phase != .broken else { return release(piece) }
        shared.pieces[Int(piece)].isDone = true
        if reply.status != .ok && requests[at].error == .none {
            note(NBDError(reply.status), record)
        }
        switch requests[at].kind {
        case .write, .trim, .writeZeroes, .flush, .cache:
            release(piece)
            advance(record)
        case .blockStatus:
            extentCompleted(piece, record, reply.extent)
        case .read:
            if requests[at].isSpanning {
                spanningPartCompleted(piece, record)
            } else if isAnsweredInOrder(record) {
                inOrderPieceCompleted(piece, record)
            } else {
                chunkCompleted(piece, record, isGood: reply.status == .ok)
            }
        }
    }

    /// Notes the first error of a record: nothing more is issued for it.
    private func note(_ error: NBDError, _ record: Int16) {
        let at = Int(record)
        requests[at].error = error
        if requests[at].kind != .write { requests[at].nextOffset = requests[at].endOffset }
    }

    /// A record without data to send: issues what is left, or finishes.
    private func advance(_ record: Int16) {
        let at = Int(record)
        if requests[at].isReceiving { return }
        if requests[at].isAnswered { return releaseIfDone(record) }
        if requests[at].nextOffset < requests[at].endOffset { return issue(record) }
        guard requests[at].enginePieces == 0 else { return }
        let needsFlush =
            requests[at].isLong && requests[at].flags.contains(.fua)
            && !requests[at].hasFlushed && requests[at].error == .none
        if needsFlush { issueFlush(record) } else { finish(record) }
    }

    /// All bytes of a piece have gone out: it serves the next part of a long READ, or goes back.
    func pieceSent(_ piece: Int32) {
        let record = shared.pieces[Int(piece)].request
        let at = Int(record)
        guard requests[at].nextOffset < requests[at].endOffset else {
            release(piece)
            return releaseIfDone(record)
        }
        // Keeping one's own buffer is what lets a READ of any length end: it never has to wait for
        // memory that answers queued behind it hold.
        place(nextPiece(record), piece, record)
        send(piece, record)
        issue(record)
    }

    func release(_ piece: Int32) {
        let record = shared.pieces[Int(piece)].request
        shared.give(piece, usage, &holdings)
        requests[Int(record)].heldPieces -= 1
    }

    func releaseIfDone(_ record: Int16) {
        let at = Int(record)
        guard requests[at].isAnswered, requests[at].heldPieces == 0 else { return }
        precondition(requests[at].isInUse)
        requests[at].isInUse = false
        activeRequests -= 1
        freeRequests.append(record, requests)
    }
}
