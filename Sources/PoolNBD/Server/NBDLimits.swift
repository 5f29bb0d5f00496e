/// Every bound of the NBD face, checked against each other.
public enum NBDLimits {
    /// What is advertised: smallest unit, best unit, longest READ or WRITE.
    public static let minimumBlockBytes: UInt64 = 512
    public static let preferredBlockBytes: UInt64 = 4096
    public static let maximumPayloadBytes: UInt64 = 32 << 20
    /// A refused WRITE up to this length is read and dropped; a longer one ends the connection.
    public static let drainedPayloadBytes: UInt64 = 64 << 20

    /// Longest export name the protocol allows.
    public static let nameBytes = 4096
    /// Longest option data that is looked at: a name and far more information requests than exist.
    public static let optionBytes: UInt32 = 8192
    /// A longer option up to this length is skipped and refused; beyond it the connection ends.
    public static let skippedOptionBytes: UInt32 = 1 << 20

    public static let connections = 256
    /// Connections that have not chosen their export yet; one more drops the oldest.
    public static let handshakes = 64
    public static let handshakeNs: UInt64 = 10_000_000_000
    /// While others wait for memory, a client that holds some must move a byte this often.
    public static let stallNs: UInt64 = 10_000_000_000

    /// Requests of one connection that are not fully answered; at the bound it stops receiving.
    public static let requestsPerConnection = 256
    /// Receive staging of one connection.
    public static let stagingBytes = 64 << 10
    /// From this payload on, a WRITE is expected to be followed by another such WRITE.
    static let bulkBytes: UInt32 = 32 << 10
    /// Replies of one connection not yet sent. Parsing stops at `repliesBeforeParsing`, and what
    /// is under way by then (a final reply a request, a chunk a piece) still fits.
    static let repliesPerConnection = 1024
    static let repliesBeforeParsing = 384
    /// One sendmsg: at most this many replies (two I/O vectors each, IOV_MAX is 1024), and no more
    /// once this many bytes are in it, so that a slow receiver shows progress.
    static let repliesPerSend = 512
    static let bytesPerSend = 1 << 20

    /// Pieces of one READ, and of one TRIM or WRITE_ZEROES, under way at a time.
    static let readWindow = 8
    static let trimWindow = 16
    /// Pieces of one connection, whatever they do.
    static let piecesPerConnection = 256

    static func check() {
        precondition(optionBytes >= UInt32(nameBytes) + 6 + 64)
        precondition(stagingBytes >= Int(optionBytes) + Wire.optionHeaderBytes)
        precondition(
            repliesBeforeParsing + requestsPerConnection + piecesPerConnection
                < repliesPerConnection)
        precondition(repliesPerSend * 2 <= 1024)
        precondition(requestsPerConnection <= Int(Int16.max) && connections <= Int(UInt16.max))
        precondition(drainedPayloadBytes >= maximumPayloadBytes)
    }
}
