/// The head of one message to the client, in room for the longest: 28 bytes, kept in words so that
/// a queued reply is a plain value.
///
///     simple reply             magic 4 | error 4 | cookie 8                                  = 16
///     structured, no payload   magic 4 | flags 2 | type 2 | cookie 8 | length 4              = 20
///     structured, error        ... | error 4 | message length 2 (none is sent)               = 26
///     structured, data         ... | offset 8, then the data                                 = 28
///     structured, extents      ... | context 4, then (length 4 | flags 4) each               = 24
struct ReplyHeader: Equatable {
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    var byteCount: Int

    static func simple(cookie: UInt64, error: NBDError) -> ReplyHeader {
        var header = ReplyHeader(byteCount: 16)
        header.words.0 = (UInt64(Wire.simpleReplyMagic) << 32 | UInt64(error.rawValue)).bigEndian
        header.words.1 = cookie.bigEndian
        return header
    }

    /// The last chunk of a reply that succeeded.
    static func done(cookie: UInt64) -> ReplyHeader {
        chunk(Wire.Chunk.none, flags: Wire.Chunk.doneFlag, cookie: cookie, lengthBytes: 0)
    }

    /// The last chunk of a reply that failed.
    static func failed(cookie: UInt64, error: NBDError) -> ReplyHeader {
        precondition(error != .none)
        var header = chunk(
            Wire.Chunk.error, flags: Wire.Chunk.doneFlag, cookie: cookie, lengthBytes: 6)
        header.words.2 |= UInt64(error.rawValue).bigEndian
        header.byteCount = 26
        return header
    }

    /// `lengthBytes` of data at `offsetBytes` of the space follow.
    static func data(
        cookie: UInt64, offsetBytes: UInt64, lengthBytes: UInt32, isLast: Bool
    ) -> ReplyHeader {
        var header = chunk(
            Wire.Chunk.offsetData, flags: isLast ? Wire.Chunk.doneFlag : 0, cookie: cookie,
            lengthBytes: lengthBytes + 8)
        header.words.2 |= (offsetBytes >> 32).bigEndian
        header.words.3 = (offsetBytes << 32).bigEndian
        header.byteCount = 28
        return header
    }

    /// `extentCount` descriptors follow, and nothing else: a whole reply.
    static func blockStatus(cookie: UInt64, extentCount: Int) -> ReplyHeader {
        var header = chunk(
            Wire.Chunk.blockStatus, flags: Wire.Chunk.doneFlag, cookie: cookie,
            lengthBytes: UInt32(4 + extentCount * ExtentList.descriptorBytes))
        header.words.2 |= UInt64(Wire.Allocation.contextID).bigEndian
        header.byteCount = 24
        return header
    }

    private static func chunk(
        _ type: UInt16, flags: UInt16, cookie: UInt64, lengthBytes: UInt32
    ) -> ReplyHeader {
        var header = ReplyHeader(byteCount: 20)
        header.words.0 =
            (UInt64(Wire.structuredReplyMagic) << 32 | UInt64(flags) << 16 | UInt64(type))
            .bigEndian
        header.words.1 = cookie.bigEndian
        header.words.2 = (UInt64(lengthBytes) << 32).bigEndian
        return header
    }

    static func == (a: ReplyHeader, b: ReplyHeader) -> Bool {
        a.words == b.words && a.byteCount == b.byteCount
    }

    /// The bytes as they go out; for tests, the data path sends them from where they lie.
    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        for word in [words.0, words.1, words.2, words.3] {
            bytes.appendBigEndian(UInt64(bigEndian: word))
        }
        return Array(bytes.prefix(byteCount))
    }
}
