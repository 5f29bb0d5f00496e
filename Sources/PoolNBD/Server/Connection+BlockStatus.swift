import PoolEngine

/// BLOCK_STATUS: one piece with room for the descriptors, and one question to the engine after
/// the other until they cover the range.
///
///     buffer taken --> asked --extent--> noted --the range is covered, or a bound is reached--> sent
///                        ^                 |
///                        +-----------------+  in the next turn, where this one has had its share
///
/// A reply may be shorter than what was asked for: the client goes on where it ends. An extent may
/// be cut at a bound, it is never wrong.
extension Connection {
    func issueBlockStatus(_ record: Int16) {
        let at = Int(record)
        if requests[at].firstPiece < 0 {
            let length = UInt32(requests[at].endOffset - requests[at].startOffset)
            let piece = takePiece(record, bufferBytes: ExtentList.bufferBytes(lengthBytes: length))
            guard piece >= 0 else { return starve(record) }
            // Nobody's but the record's while it waits for its turn.
            shared.pieces[Int(piece)].isDone = true
            requests[at].firstPiece = piece
        }
        guard shared.takeTurnShare() else {
            yielded.append(record, requests)
            return waitForShared()
        }
        let piece = requests[at].firstPiece
        requests[at].firstPiece = -1
        let next = requests[at].nextOffset
        shared.pieces[Int(piece)].isDone = false
        shared.pieces[Int(piece)].offsetBytes = next
        shared.pieces[Int(piece)].lengthBytes = UInt32(requests[at].endOffset - next)
        submit(piece, record)
    }

    /// Those that waited for the next turn of the loop ask on.
    func issueYielded() {
        while !isWaiting, let record = yielded.popFirst(requests) { issueBlockStatus(record) }
    }

    /// The engine has named the extent at the piece's offset.
    func extentCompleted(_ piece: Int32, _ record: Int16, _ extent: SpaceExtent) {
        let at = Int(record)
        guard requests[at].error == .none else {
            release(piece)
            return finish(record)
        }
        let left = requests[at].endOffset - requests[at].nextOffset
        precondition(extent.lengthBytes > 0 && UInt64(extent.lengthBytes) <= left)
        requests[at].questions += 1
        if note(extent, piece, record) {
            requests[at].nextOffset += UInt64(extent.lengthBytes)
            if requests[at].nextOffset < requests[at].endOffset,
                Int(requests[at].questions) < NBDLimits.questionsPerReply
            {
                requests[at].firstPiece = piece
                shared.pieces[Int(piece)].isDone = true
                return issueBlockStatus(record)
            }
        }
        let count = Int(requests[at].extents)
        requests[at].nextOffset = requests[at].endOffset
        requests[at].isAnswered = true
        replies.append(
            .blockStatus(cookie: requests[at].cookie, extentCount: count), piece: piece,
            payloadOffset: shared.pieces[Int(piece)].bufferOffset,
            payloadBytes: UInt32(count * ExtentList.descriptorBytes))
    }

    /// - Returns: false where the reply has no place for it.
    private func note(_ extent: SpaceExtent, _ piece: Int32, _ record: Int16) -> Bool {
        let at = Int(record)
        var flags: UInt32 = 0
        if !extent.isMapped { flags |= Wire.Allocation.hole }
        if extent.readsAsZeros { flags |= Wire.Allocation.zero }
        let length = UInt32(requests[at].endOffset - requests[at].startOffset)
        let room =
            requests[at].asksOneExtent
            ? ExtentList.descriptorBytes : ExtentList.bufferBytes(lengthBytes: length)
        let memory = unsafe shared.arena.bytes(shared.pieces[Int(piece)].bufferOffset, room)
        let count = unsafe ExtentList.append(
            lengthBytes: extent.lengthBytes, flags: flags, to: memory,
            count: Int(requests[at].extents))
        guard let count else { return false }
        requests[at].extents = UInt16(count)
        return true
    }
}
