import PoolEngine

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
    /// Longest option data that is looked at: the longest name and the longest query. A longer
    /// option is skipped and refused.
    public static let optionBytes: UInt32 = 8704
    /// All options of one handshake; beyond either the connection ends.
    public static let handshakeOptions = 1024
    public static let handshakeBytes = 1 << 20

    /// Clients in the transmission phase.
    public static let connections = 256
    /// Clients that have not chosen their export yet; one more ends the one idle for longest.
    public static let handshakes = 256
    /// Those on their way out: the kernel gives them back in the next turn.
    static let endingHandshakes = 64
    public static let handshakeNs: UInt64 = 10_000_000_000
    /// While others wait for memory, a client that holds some must move a byte this often.
    public static let stallNs: UInt64 = 10_000_000_000
    /// A client that takes nothing of its replies for this long is gone, whoever waits.
    public static let unreadNs: UInt64 = 30_000_000_000
    /// Sends under way are looked at this often when nothing else happens.
    static let sendWatchNs: UInt64 = 5_000_000_000
    /// TCP: a client that has been silent for this long is asked whether it is there.
    static let keepAliveSeconds: Int32 = 30
    /// Connections not taken yet by the sockets that listen.
    static let backlog: Int32 = 1024

    /// Requests of one connection that are not fully answered; at the bound it stops receiving.
    public static let requestsPerConnection = 256
    /// Receive staging of one connection, and of one handshake.
    public static let stagingBytes = 64 << 10
    static let handshakeStagingBytes = 12 << 10
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
    /// Pieces without data that go to the engine in one turn of the loop, of all connections. Each
    /// may be answered at once, so without a bound sockets and disks would wait for the last one.
    static let dataFreePiecesPerTurn = 256
    /// A READ that asks not to be fragmented: as long as the longest chunk there is.
    static let unfragmentedBytes: UInt64 = 1 << 20
    /// One BLOCK_STATUS reply: descriptors, and questions to the engine on the way to them. The
    /// client asks on where a reply ends.
    static let extentsPerReply = 2048
    static let questionsPerReply = 4096
    /// Pieces of one connection, whatever they do.
    static let piecesPerConnection = 256

    static func check() {
        precondition(optionBytes >= UInt32(nameBytes) + 6 + 64)
        precondition(handshakeStagingBytes >= Int(optionBytes) + Wire.optionHeaderBytes)
        // What a handshake leaves unread goes with the connection.
        precondition(stagingBytes >= handshakeStagingBytes)
        precondition(handshakeBytes >= Int(optionBytes) * 8)
        precondition(
            repliesBeforeParsing + requestsPerConnection + piecesPerConnection
                < repliesPerConnection)
        precondition(repliesPerSend * 2 <= 1024)
        precondition(requestsPerConnection <= Int(Int16.max) && connections <= Int(UInt16.max))
        precondition(drainedPayloadBytes >= maximumPayloadBytes)
        precondition(handshakes + endingHandshakes <= Int(UInt16.max))
        precondition(extentsPerReply * ExtentList.descriptorBytes <= 16 << 10)
        precondition(extentsPerReply <= Int(UInt16.max) && questionsPerReply <= Int(UInt16.max))
        precondition(readWindow <= dataFreePiecesPerTurn && trimWindow <= dataFreePiecesPerTurn)
        // An unfragmented READ lies in one buffer, edge blocks included.
        precondition(unfragmentedBytes + 4096 <= UInt64(BufferArena.classBytes[3]))
        precondition(unfragmentedBytes <= 1 << 20)
    }
}
