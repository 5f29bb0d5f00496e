import Glibc

/// Replies of one connection on their way out, oldest first: the head from the queue's own memory,
/// the payload straight from the arena.
@safe struct ReplyQueue: ~Copyable {
    struct Entry {
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        /// 0: this entry goes on with the reply before it.
        var headerBytes: UInt32 = 0
        var payloadBytes: UInt32 = 0
        var payloadOffset = 0
        /// Given back once sent; -1: none.
        var piece: Int32 = -1

        var byteCount: Int { Int(headerBytes) + Int(payloadBytes) }
    }

    private let entries: FixedTable<Entry>
    private let vectors: FixedTable<iovec>
    private var head = 0
    private(set) var count = 0
    /// Bytes of the oldest entry that have gone out.
    private var sentOfHead = 0

    init() {
        entries = FixedTable(count: NBDLimits.repliesPerConnection)
        unsafe vectors = FixedTable(count: NBDLimits.repliesPerSend * 2)
    }

    /// Gives the memory of an empty queue back.
    mutating func forget() {
        precondition(count == 0)
        (head, sentOfHead) = (0, 0)
        entries.forget()
        unsafe vectors.forget()
    }

    mutating func append(
        _ header: ReplyHeader?, piece: Int32 = -1, payloadOffset: Int = 0, payloadBytes: UInt32 = 0
    ) {
        precondition(count < entries.count)
        let at = (head + count) % entries.count
        entries[at] = Entry(
            words: header?.words ?? (0, 0, 0, 0), headerBytes: UInt32(header?.byteCount ?? 0),
            payloadBytes: payloadBytes, payloadOffset: payloadOffset, piece: piece)
        count += 1
    }

    /// Points the message at as much of the queue as one send should carry.
    ///
    /// - Returns: bytes the message holds.
    func fill(_ message: inout msghdr, _ base: UnsafeMutableRawPointer) -> Int {
        var vectorCount = 0
        var byteCount = 0
        var skip = sentOfHead
        for position in 0..<min(count, NBDLimits.repliesPerSend) {
            guard byteCount < NBDLimits.bytesPerSend else { break }
            let at = (head + position) % entries.count
            let headerBytes = Int(entries[at].headerBytes)
            let payloadBytes = Int(entries[at].payloadBytes)
            if skip < headerBytes {
                // The header's words lead the entry, which stays where it is until it is sent.
                unsafe vectors[vectorCount] = unsafe iovec(
                    iov_base: UnsafeMutableRawPointer(entries.pointer(at)) + skip,
                    iov_len: headerBytes - skip)
                vectorCount += 1
                byteCount += headerBytes - skip
                skip = headerBytes
            }
            let payloadSkip = skip - headerBytes
            if payloadSkip < payloadBytes {
                unsafe vectors[vectorCount] = unsafe iovec(
                    iov_base: base + entries[at].payloadOffset + payloadSkip,
                    iov_len: payloadBytes - payloadSkip)
                vectorCount += 1
                byteCount += payloadBytes - payloadSkip
            }
            skip = 0
        }
        unsafe message.msg_iov = vectors.pointer(0)
        unsafe message.msg_iovlen = vectorCount
        return byteCount
    }

    /// Counts bytes as sent.
    mutating func advance(_ byteCount: Int) {
        sentOfHead += byteCount
    }

    /// Takes the oldest reply out once all of it is sent.
    ///
    /// - Returns: its piece (-1: none), or nil while the oldest is not sent.
    mutating func popSent() -> Int32? {
        guard count > 0, sentOfHead >= entries[head].byteCount else { return nil }
        sentOfHead -= entries[head].byteCount
        return pop()
    }

    /// Takes the oldest reply out, sent or not.
    mutating func popUnsent() -> Int32? {
        guard count > 0 else { return nil }
        sentOfHead = 0
        return pop()
    }

    private mutating func pop() -> Int32 {
        let piece = entries[head].piece
        head = (head + 1) % entries.count
        count -= 1
        return piece
    }
}
