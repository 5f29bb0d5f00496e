/// Numbers of the NBD protocol (fixed newstyle), as the specification names them.
///
/// Source: NetworkBlockDevice/nbd, doc/proto.md, "Values". Everything on the wire is big-endian.
enum Wire {
    /// ASCII "NBDMAGIC" and "IHAVEOPT".
    static let greetingMagic: UInt64 = 0x4e42_444d_4147_4943
    static let optionMagic: UInt64 = 0x4948_4156_454f_5054
    static let optionReplyMagic: UInt64 = 0x0003_e889_0455_65a9
    static let requestMagic: UInt32 = 0x2560_9513
    static let simpleReplyMagic: UInt32 = 0x6744_6698
    static let structuredReplyMagic: UInt32 = 0x668e_33ef

    static let optionHeaderBytes = 16
    /// Reserved zeroes behind an EXPORT_NAME answer, unless NO_ZEROES was agreed.
    static let exportNamePaddingBytes = 124

    enum HandshakeFlag {
        static let fixedNewstyle: UInt16 = 1
        static let noZeroes: UInt16 = 2
    }

    enum Option {
        static let exportName: UInt32 = 1
        static let abort: UInt32 = 2
        static let list: UInt32 = 3
        static let info: UInt32 = 6
        static let go: UInt32 = 7
        static let structuredReply: UInt32 = 8
        static let listMetaContext: UInt32 = 9
        static let setMetaContext: UInt32 = 10
    }

    /// The one metadata context there is: whether addresses take up room, and read as zeros.
    enum Allocation {
        static let name = "base:allocation"
        /// Asks for every context of the namespace; only when listing.
        static let wildcard = "base:"
        /// What SET_META_CONTEXT says and BLOCK_STATUS repeats; any number would do.
        static let contextID: UInt32 = 1
        static let hole: UInt32 = 1
        static let zero: UInt32 = 2
    }

    enum Info {
        static let export: UInt16 = 0
        static let name: UInt16 = 1
        static let blockSize: UInt16 = 3
    }

    enum CommandFlag {
        static let fua: UInt16 = 1
        static let noHole: UInt16 = 2
        /// One content chunk in the reply to a READ.
        static let unfragmented: UInt16 = 4
        /// One extent in the reply to a BLOCK_STATUS.
        static let oneExtent: UInt16 = 8
        /// WRITE_ZEROES: at once or not at all.
        static let fastZero: UInt16 = 16
    }

    enum Command {
        static let read: UInt16 = 0
        static let write: UInt16 = 1
        static let disconnect: UInt16 = 2
        static let flush: UInt16 = 3
        static let trim: UInt16 = 4
        static let cache: UInt16 = 5
        static let writeZeroes: UInt16 = 6
        static let blockStatus: UInt16 = 7
    }

    enum Chunk {
        static let doneFlag: UInt16 = 1
        static let none: UInt16 = 0
        static let offsetData: UInt16 = 1
        static let blockStatus: UInt16 = 5
        static let error: UInt16 = 0x8001
    }
}

/// What an export tells its clients it can do.
public struct TransmissionFlags: OptionSet, Sendable {
    public var rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
    public static let readOnly = TransmissionFlags(rawValue: 1 << 1)
    public static let sendFlush = TransmissionFlags(rawValue: 1 << 2)
    public static let sendFUA = TransmissionFlags(rawValue: 1 << 3)
    public static let sendTrim = TransmissionFlags(rawValue: 1 << 5)
    public static let sendWriteZeroes = TransmissionFlags(rawValue: 1 << 6)
    /// Only where structured replies were agreed on.
    public static let sendUnfragmented = TransmissionFlags(rawValue: 1 << 7)
    /// True here: a flush on one connection covers what every connection was told is written.
    public static let canMultiConn = TransmissionFlags(rawValue: 1 << 8)
    public static let sendCache = TransmissionFlags(rawValue: 1 << 10)
    /// Zeroes are a change of metadata here, whatever their length: always fast.
    public static let sendFastZero = TransmissionFlags(rawValue: 1 << 11)

    /// What every space offers.
    public static let space: TransmissionFlags = [
        .hasFlags, .sendFlush, .sendFUA, .sendTrim, .sendWriteZeroes, .canMultiConn, .sendCache,
        .sendFastZero,
    ]
}

/// The final word on an option.
enum OptionReply: UInt32 {
    case acknowledge = 1
    case server = 2
    case info = 3
    case metaContext = 4
    case unsupported = 0x8000_0001
    case policy = 0x8000_0002
    case invalid = 0x8000_0003
    case unknown = 0x8000_0006
    case tooBig = 0x8000_0009
}

extension Span where Element == UInt8 {
    /// The big-endian integer at `offset`; the caller has checked that it is there.
    @inline(__always)
    func bigEndian<T: FixedWidthInteger & UnsignedInteger>(_ offset: Int, as: T.Type) -> T {
        var value: T = 0
        for index in offset..<offset + MemoryLayout<T>.size {
            value = (value << 8) | T(truncatingIfNeeded: self[index])
        }
        return value
    }
}

extension [UInt8] {
    mutating func appendBigEndian<T: FixedWidthInteger & UnsignedInteger>(_ value: T) {
        for shift in stride(from: T.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> T(shift)))
        }
    }
}
