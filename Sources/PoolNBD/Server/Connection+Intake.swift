import PoolEngine

/// From received bytes to requests.
extension Connection {
    /// Whether one more request fits into what this connection may have under way.
    var canTakeRequest: Bool {
        !freeRequests.isEmpty && starved.isEmpty
            && replies.count < NBDLimits.repliesBeforeParsing
            && heldPieces < NBDLimits.piecesPerConnection
    }

    /// Whether only more bytes can help, not memory or room.
    var wantsInput: Bool {
        switch intake {
        case .header: staging.count < RequestHeader.bytes
        case .payload: writePiece >= 0
        case .discard: true
        }
    }

    /// Takes requests from staging until it is used up or something runs short.
    func parse() {
        // Staging is the kernel's while a receive is in flight; all that was there is parsed.
        guard !isReceiving else { return }
        while phase == .open {
            switch intake {
            case .header:
                guard staging.count >= RequestHeader.bytes, canTakeRequest else { return }
                takeHeader()
            case .payload:
                guard takePayload() else { return }
            case .discard(let remaining):
                guard discardPayload(remaining) else { return }
            }
        }
    }

    private func takeHeader() {
        guard let header = staging.withBytes({ RequestHeader($0) }), let session else {
            return fail()
        }
        staging.consume(RequestHeader.bytes)
        expectsBulk = header.payloadBytes >= NBDLimits.bulkBytes
        let verdict = header.verdict(
            sizeBytes: session.sizeBytes, isReadOnly: session.isReadOnly, terms: session.terms)
        switch verdict {
        case .disconnect:
            drain()
        case .succeed:
            finish(take(header, .none))
        case .refuse(let error):
            guard UInt64(header.payloadBytes) <= NBDLimits.drainedPayloadBytes else {
                return fail()
            }
            let record = take(header, error)
            if header.payloadBytes == 0 {
                finish(record)
            } else {
                writeRequest = record
                requests[Int(record)].isReceiving = true
                intake = .discard(remainingBytes: UInt64(header.payloadBytes))
            }
        case .proceed(let kind, let flags):
            proceed(header, kind, flags)
        }
    }

    private func proceed(
        _ header: RequestHeader, _ kind: SpaceRequest.Kind, _ flags: SpaceRequest.Flags
    ) {
        let record = take(header, .none)
        let at = Int(record)
        let end = header.offsetBytes + UInt64(header.lengthBytes)
        requests[at].kind = kind
        requests[at].flags = flags
        requests[at].startOffset = header.offsetBytes
        requests[at].nextOffset = header.offsetBytes
        requests[at].endOffset = end
        switch kind {
        case .flush:
            issueFlush(record)
        case .write:
            requests[at].isLong = isLong(header)
            requests[at].isReceiving = true
            writeRequest = record
            intake = .payload
        case .read:
            requests[at].isSpanning = isLong(header) && header.isUnfragmented
            requests[at].isLong = isLong(header) && !header.isUnfragmented
            issue(record)
        case .trim, .writeZeroes, .cache:
            requests[at].isLong = isLong(header)
            issue(record)
        case .blockStatus:
            requests[at].asksOneExtent = header.asksOneExtent
            issue(record)
        }
    }

    private func isLong(_ header: RequestHeader) -> Bool {
        let grain: UInt64 = 1 << 20
        return header.offsetBytes % grain + UInt64(header.lengthBytes) > grain
    }

    /// - Precondition: ``canTakeRequest``.
    private func take(_ header: RequestHeader, _ error: NBDError) -> Int16 {
        guard let record = freeRequests.popFirst(requests) else {
            preconditionFailure("no request record, though there was one")
        }
        var fresh = RequestRecord()
        fresh.isInUse = true
        fresh.cookie = header.cookie
        fresh.error = error
        // Refusals too are answered in the style of what was asked.
        fresh.kind = header.replyKind
        requests[Int(record)] = fresh
        activeRequests += 1
        return record
    }

    // MARK: - payloads

    /// - Returns: false where it has to wait, for bytes or for a buffer.
    private func takePayload() -> Bool {
        let record = writeRequest
        if writePiece < 0 {
            // The rest of a WRITE that has already failed is not worth a disk's time.
            if requests[Int(record)].error != .none {
                let rest = requests[Int(record)].endOffset - requests[Int(record)].nextOffset
                requests[Int(record)].nextOffset = requests[Int(record)].endOffset
                intake = .discard(remainingBytes: rest)
                return true
            }
            guard heldPieces < NBDLimits.piecesPerConnection else { return false }
            let piece = takePiece(record)
            guard piece >= 0 else {
                waitForShared()
                return false
            }
            writePiece = piece
            writeFilledBytes = 0
        }
        let piece = shared.pieces[Int(writePiece)]
        let missing = Int(piece.lengthBytes) - writeFilledBytes
        let copied = min(missing, staging.count)
        if copied > 0 {
            unsafe staging.move(
                copied, to: shared.arena.bytes(piece.dataOffset + writeFilledBytes, copied))
            writeFilledBytes += copied
        }
        guard copied == missing else { return false }
        let filled = writePiece
        writePiece = -1
        let isLast = requests[Int(record)].nextOffset == requests[Int(record)].endOffset
        if isLast {
            requests[Int(record)].isReceiving = false
            writeRequest = -1
            intake = .header
        }
        submit(filled, record)
        return true
    }

    private func discardPayload(_ remaining: UInt64) -> Bool {
        let discarded = min(UInt64(staging.count), remaining)
        staging.consume(Int(discarded))
        if discarded < remaining {
            intake = .discard(remainingBytes: remaining - discarded)
            return false
        }
        let record = writeRequest
        writeRequest = -1
        intake = .header
        requests[Int(record)].isReceiving = false
        if requests[Int(record)].enginePieces == 0 { finish(record) }
        return true
    }
}
