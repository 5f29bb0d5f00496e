import PoolEngine

/// From finished pieces and requests to replies.
///
/// A simple reply to a READ is one header and all of its bytes, so a long one (more than a grain)
/// goes out in order and no other reply may come in between: it becomes the *stream*, the answers
/// that finish meanwhile are deferred. It keeps its buffers until its last byte is sent, so it
/// never waits for what the deferred ones hold. Structured replies need none of that: each piece
/// is a chunk of its own.
extension Connection {
    /// Whether the record's bytes have to leave in order.
    func isAnsweredInOrder(_ record: Int16) -> Bool {
        !usesStructuredReplies && requests[Int(record)].isLong
            && requests[Int(record)].kind == .read
    }

    /// Nothing of the record is with the engine any more, and its answer carries no data.
    func finish(_ record: Int16) {
        if defers(record) { return }
        let at = Int(record)
        let cookie = requests[at].cookie
        let error = requests[at].error
        let header: ReplyHeader
        switch requests[at].kind {
        case .read where usesStructuredReplies, .blockStatus where usesStructuredReplies:
            header = error == .none ? .done(cookie: cookie) : .failed(cookie: cookie, error: error)
        case .read, .blockStatus, .write, .trim, .writeZeroes, .flush, .cache:
            header = .simple(cookie: cookie, error: error)
        }
        replies.append(header)
        requests[at].isAnswered = true
        releaseIfDone(record)
    }

    /// Puts the record behind the stream, if there is one that is not its own.
    private func defers(_ record: Int16) -> Bool {
        guard streamRequest >= 0 && streamRequest != record else { return false }
        if !requests[Int(record)].isDeferred {
            requests[Int(record)].isDeferred = true
            deferred.append(record, requests)
        }
        return true
    }

    // MARK: - reads of one piece, and chunks

    /// A piece of a READ that is answered by itself.
    func chunkCompleted(_ piece: Int32, _ record: Int16, isGood: Bool) {
        let at = Int(record)
        if !isGood { release(piece) }
        if !requests[at].isLong && isGood {
            return answerWithData(piece, record)
        }
        let isEverythingIssued = requests[at].nextOffset == requests[at].endOffset
        let isLast = isEverythingIssued && requests[at].enginePieces == 0
        if isGood {
            appendChunk(piece, record, isLast: isLast && requests[at].error == .none)
        }
        guard isLast else { return }
        if requests[at].error == .none {
            requests[at].isAnswered = true
        } else {
            finish(record)
        }
    }

    /// Answers a READ whose bytes are all in one piece; they wait there while it is deferred.
    func answerWithData(_ piece: Int32, _ record: Int16) {
        let at = Int(record)
        requests[at].firstPiece = piece
        if defers(record) { return }
        requests[at].firstPiece = -1
        requests[at].isAnswered = true
        if usesStructuredReplies { return appendChunk(piece, record, isLast: true) }
        let source = shared.pieces[Int(piece)]
        replies.append(
            .simple(cookie: requests[at].cookie, error: .none), piece: piece,
            payloadOffset: source.dataOffset, payloadBytes: source.lengthBytes)
    }

    private func appendChunk(_ piece: Int32, _ record: Int16, isLast: Bool) {
        let source = shared.pieces[Int(piece)]
        replies.append(
            .data(
                cookie: requests[Int(record)].cookie, offsetBytes: source.offsetBytes,
                lengthBytes: source.lengthBytes, isLast: isLast),
            piece: piece, payloadOffset: source.dataOffset, payloadBytes: source.lengthBytes)
    }

    // MARK: - long simple reads

    func inOrderPieceCompleted(_ piece: Int32, _ record: Int16) {
        let at = Int(record)
        guard requests[at].error != .none else { return advanceStream(record) }
        // The header has promised bytes that do not exist: the protocol's only way out.
        if requests[at].hasStarted { return fail() }
        let isInList = requests[at].firstPiece >= 0
        if isInList {
            releaseDonePieces(record)
        } else {
            release(piece)
        }
        if requests[at].enginePieces == 0 { finish(record) }
    }

    /// Queues the parts that are next in order.
    private func advanceStream(_ record: Int16) {
        let at = Int(record)
        guard requests[at].firstPiece >= 0,
            shared.pieces[Int(requests[at].firstPiece)].isDone, !defers(record)
        else { return }
        streamRequest = record
        if !requests[at].hasStarted {
            requests[at].hasStarted = true
            replies.append(.simple(cookie: requests[at].cookie, error: .none))
        }
        while requests[at].firstPiece >= 0 {
            let piece = requests[at].firstPiece
            let source = shared.pieces[Int(piece)]
            guard source.isDone else { return }
            requests[at].firstPiece = source.next
            if source.next < 0 { requests[at].lastPiece = -1 }
            replies.append(
                nil, piece: piece, payloadOffset: source.dataOffset,
                payloadBytes: source.lengthBytes)
        }
        guard requests[at].nextOffset == requests[at].endOffset else { return }
        // Everything was issued and the list is empty: the last byte is queued.
        requests[at].isAnswered = true
        streamRequest = -1
        answerDeferred()
    }

    private func answerDeferred() {
        while streamRequest < 0, phase != .broken, let record = deferred.popFirst(requests) {
            let at = Int(record)
            requests[at].isDeferred = false
            if requests[at].error != .none {
                if requests[at].enginePieces == 0 { finish(record) }
            } else if isAnsweredInOrder(record) {
                advanceStream(record)
            } else if requests[at].kind == .read && requests[at].firstPiece >= 0 {
                answerWithData(requests[at].firstPiece, record)
            } else {
                finish(record)
            }
        }
    }

    // MARK: - after an error

    /// Gives back the pieces of a request that the engine does not have, and forgets the order of
    /// the others: each goes back when it is answered.
    private func releaseDonePieces(_ record: Int16) {
        var piece = requests[Int(record)].firstPiece
        requests[Int(record)].firstPiece = -1
        requests[Int(record)].lastPiece = -1
        while piece >= 0 {
            let next = shared.pieces[Int(piece)].next
            if shared.pieces[Int(piece)].isDone { release(piece) }
            piece = next
        }
    }

    /// The connection ends: pieces that wait for their turn have nobody to go to.
    func releaseWaitingPieces() {
        for record in 0..<requests.count where requests[record].isInUse {
            releaseDonePieces(Int16(record))
        }
    }
}
