/// Why some bytes are not the structure they should be, or a value cannot become bytes.
///
/// Only reported, never trapped on: the bytes come from a disk. The caller decides what a bad copy
/// means (the other slot, the other copy, or an incomplete space).
public enum FormatError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Fewer bytes than the structure, or the field being read, needs.
    case tooShort(Structure, neededBytes: Int, foundBytes: Int)
    /// All zeros where the magic number belongs: never written, or discarded.
    case blank(Structure)
    case wrongMagic(Structure, found: UInt32)
    case wrongVersion(Structure, found: UInt16)
    case wrongLength(Structure, found: UInt64)
    case wrongChecksum(Structure, stored: UInt32, computed: UInt32)
    /// A valid page of another pool, or of another space.
    case wrongOwner(Structure)
    /// A valid page that belongs elsewhere: a misdirected write.
    case wrongIndex(Structure, expected: UInt64, found: UInt64)
    /// A field's value is none that this version knows.
    case outOfRange(Structure, field: String, value: UInt64)
    case tooMany(Structure, field: String, count: Int, limit: Int)
    /// Text that is not UTF-8, or longer than its field.
    case badText(Structure, field: String)
    case duplicate(Structure, field: String, value: UInt64)
    case reservedNotZero(Structure, offsetBytes: Int)
    /// Incompatible feature bits that this version does not know.
    case unknownFeatures(UInt64)
    /// A draft of the format that this version does not speak.
    case otherDraft(found: UInt32, supported: UInt32)
    case diskTooSmall(bytes: UInt64)
    case diskTooLarge(bytes: UInt64)

    public var description: String {
        switch self {
        case .tooShort(let what, let needed, let found):
            "\(what.name) is cut short: \(needed) bytes needed, \(found) there"
        case .blank(let what):
            "no \(what.name) here: the bytes are zero"
        case .wrongMagic(let what, let found):
            "no \(what.name) here: it starts with 0x\(hex(found)), not 0x\(hex(what.magic))"
        case .wrongVersion(let what, let found):
            "\(what.name) has format version \(found), this program speaks "
                + "\(PageHeader.currentVersion)"
        case .wrongLength(let what, let found):
            "\(what.name) has the impossible length \(found)"
        case .wrongChecksum(let what, let stored, let computed):
            "\(what.name) is damaged: its checksum says \(hex(stored)), its bytes \(hex(computed))"
        case .wrongOwner(let what):
            "\(what.name) belongs to another pool or space"
        case .wrongIndex(let what, let expected, let found):
            "\(what.name) number \(found) lies where number \(expected) belongs"
        case .outOfRange(let what, let field, let value):
            "\(what.name) has the impossible \(field) \(value)"
        case .tooMany(let what, let field, let count, let limit):
            "\(what.name) has \(count) \(field), more than \(limit)"
        case .badText(let what, let field):
            "\(what.name) has a \(field) that is too long or no valid text"
        case .duplicate(let what, let field, let value):
            "\(what.name) has \(field) \(value) twice"
        case .reservedNotZero(let what, let offset):
            "\(what.name) uses byte \(offset), which this version keeps zero"
        case .unknownFeatures(let bits):
            "the disk uses format features this program does not know: bits "
                + (0..<64).filter { bits >> UInt64($0) & 1 == 1 }.map(String.init)
                .joined(separator: ", ")
        case .otherDraft(let found, let supported):
            "the disk was written in draft \(found) of the format, this program speaks draft "
                + "\(supported)"
        case .diskTooSmall(let bytes):
            "a disk of \(bytes) bytes is too small: a pool's disks have at least 1 GiB"
        case .diskTooLarge(let bytes):
            "a disk of \(bytes) bytes is too large: a pool's disks have at most 1 EiB"
        }
    }
}

private func hex(_ value: UInt32) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 8 - digits.count) + digits
}
