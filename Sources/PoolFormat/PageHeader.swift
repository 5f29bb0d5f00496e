/// The 64 bytes at the head of every durable structure.
///
///      0        4        8    10    12         16                      32
///     +--------+--------+-----+-----+----------+-----------------------+
///     | magic  | crc32c | ver | 64  | length   | owner                 |
///     +--------+--------+-----+-----+----------+----+------------------+
///     | sequence        | index           | kind | zero                |
///     +-----------------+-----------------+------+---------------------+ 64
///      32                40                48     49
///
/// Invariants:
/// 1. `crc32c` covers bytes 8..<length, so it covers the length itself; the magic is compared.
/// 2. `owner` is the pool's UUID for what belongs to a disk; lineage and epoch for what belongs to
///    a space. With `index` a page says whose it is and where it belongs, so a misdirected or stale
///    page is never taken for another.
/// 3. `sequence` decides between two valid slots: the higher one is right.
/// 4. Reserved bytes are zero; a reader of this version refuses others.
/// 5. `sequence` is below 2^62, which no counting reaches: whoever writes the next one may add to
///    any that was read.
///
/// Crash safety: a structure with two slots overwrites only the slot that is not current, and the
/// other stays valid until the new one is flushed; a torn write fails the CRC and the reader falls
/// back to the slot before it.
public struct PageHeader: Hashable, Sendable {
    public static let bytes = 64
    public static let currentVersion: UInt16 = 1
    static let sequenceLimit: UInt64 = 1 << 62

    public enum Owner: Hashable, Sendable {
        case pool(PoolUUID)
        case space(Lineage, epoch: UInt64)
    }

    public var structure: Structure
    public var owner: Owner
    public var sequence: UInt64
    /// Where the page belongs among its kind.
    public var index: UInt64
    /// ``PieceKind`` for what lies in a space's pieces, else 0.
    public var kind: UInt8

    public init(
        structure: Structure, owner: Owner, sequence: UInt64, index: UInt64, kind: UInt8 = 0
    ) {
        self.structure = structure
        self.owner = owner
        self.sequence = sequence
        self.index = index
        self.kind = kind
    }

    /// The epoch that wrote the page; 0 for what belongs to a disk.
    public var epoch: UInt64 {
        switch owner {
        case .pool: 0
        case .space(_, let epoch): epoch
        }
    }

    /// Writes the header in front of `lengthBytes` of finished content (the header's own bytes
    /// counted) and checksums the whole.
    ///
    /// - Returns: the checksum.
    @discardableResult
    public func seal(_ page: UnsafeMutableRawBufferPointer, lengthBytes: Int) -> UInt32 {
        precondition(lengthBytes >= Self.bytes && lengthBytes <= page.count)
        var writer = unsafe ByteWriter(page)
        writer.u32(structure.magic)
        writer.u32(0)
        writer.u16(Self.currentVersion)
        writer.u16(UInt16(Self.bytes))
        writer.u32(UInt32(lengthBytes))
        switch owner {
        case .pool(let uuid):
            precondition(!structure.isOfSpace)
            writer.uuid(uuid)
        case .space(let lineage, let epoch):
            precondition(structure.isOfSpace)
            writer.u64(lineage.rawValue)
            writer.u64(epoch)
        }
        writer.u64(sequence)
        writer.u64(index)
        writer.u8(kind)
        writer.zeros(Self.bytes - writer.offset)
        let covered = unsafe UnsafeRawBufferPointer(rebasing: page[8..<lengthBytes])
        let checksum = unsafe Checksum.crc32c(covered)
        unsafe page.storeBytes(of: checksum.littleEndian, toByteOffset: 4, as: UInt32.self)
        return checksum
    }

    /// What a header claims, before its checksum is known to be right.
    public struct Claim: Hashable, Sendable {
        public var lengthBytes: Int
        public var checksum: UInt32
    }

    /// The header and the length it claims, without a look at the rest: to know how much to read.
    ///
    /// - Parameter limit: the most bytes the structure may have.
    public static func peek(
        _ page: UnsafeRawBufferPointer, as structure: Structure, limit: Int
    ) throws(FormatError) -> (header: PageHeader, claim: Claim) {
        guard page.count >= bytes else {
            throw .tooShort(structure, neededBytes: bytes, foundBytes: page.count)
        }
        var reader = unsafe ByteReader(page, of: structure)
        let magic = try reader.u32()
        guard magic == structure.magic else {
            throw magic == 0 ? .blank(structure) : .wrongMagic(structure, found: magic)
        }
        let checksum = try reader.u32()
        let version = try reader.u16()
        guard version == currentVersion else { throw .wrongVersion(structure, found: version) }
        let headerBytes = try reader.u16()
        guard headerBytes == UInt16(bytes) else {
            throw .wrongLength(structure, found: UInt64(headerBytes))
        }
        let length = try reader.u32()
        guard length >= UInt32(bytes), length <= limit else {
            throw .wrongLength(structure, found: UInt64(length))
        }
        let owner: Owner
        if structure.isOfSpace {
            owner = .space(Lineage(try reader.u64()), epoch: try reader.u64())
        } else {
            owner = .pool(try reader.uuid())
        }
        let sequence = try reader.u64()
        guard sequence < sequenceLimit else {
            throw .outOfRange(structure, field: "sequence", value: sequence)
        }
        let header = PageHeader(
            structure: structure, owner: owner, sequence: sequence, index: try reader.u64(),
            kind: try reader.u8())
        try reader.reserved(bytes - reader.offset)
        return (header, Claim(lengthBytes: Int(length), checksum: checksum))
    }

    /// Reads and verifies a header and the checksum of all it covers, within `page`.
    public static func open(
        _ page: UnsafeRawBufferPointer, as structure: Structure
    ) throws(FormatError) -> (header: PageHeader, claim: Claim) {
        let (header, claim) = try unsafe peek(page, as: structure, limit: page.count)
        let covered = unsafe UnsafeRawBufferPointer(rebasing: page[8..<claim.lengthBytes])
        let computed = unsafe Checksum.crc32c(covered)
        guard computed == claim.checksum else {
            throw .wrongChecksum(structure, stored: claim.checksum, computed: computed)
        }
        return (header, claim)
    }

    /// The pool that a disk's structure names; of a space's structure there is none.
    func poolUUID() throws(FormatError) -> PoolUUID {
        guard case .pool(let uuid) = owner else { throw .wrongOwner(structure) }
        return uuid
    }

    /// The space and epoch that a space's structure names.
    func spaceOwner() throws(FormatError) -> (lineage: Lineage, epoch: UInt64) {
        guard case .space(let lineage, let epoch) = owner else { throw .wrongOwner(structure) }
        return (lineage, epoch)
    }
}
