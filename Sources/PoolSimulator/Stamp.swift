import Glibc

/// The bytes of one 512-byte sector of a client's write: they say who wrote what, where.
///
///     0   operation   u64
///     8   space       u64   serial of the space in the run
///     16  sector      u64   address within the space, in sectors
///     24  check       u64   mix of the three
///     32  filler      480 bytes of a fixed table, from a place that depends on `check`
///
/// A sector is right only if all 512 bytes are; the head names the culprit when they are not.
enum Stamp {
    static let sectorBytes = 512
    private static let headBytes = 32
    private static let fillerBytes = sectorBytes - headBytes
    /// Words that are never zero, so that a torn or missing filler shows.
    private static let table: [UInt64] = (0..<1024).map { SplitMix.mix($0 &+ 77) | 1 }

    struct Head: Equatable {
        var operation: UInt64
        var space: UInt64
        var sector: UInt64
    }

    static func check(_ head: Head) -> UInt64 {
        SplitMix.mix(
            SplitMix.mix(head.operation &+ 1) ^ SplitMix.mix(head.space << 40 ^ head.sector)) | 1
    }

    private static func fillerOffset(_ check: UInt64) -> Int {
        Int(check >> 20) % (table.count * 8 - fillerBytes) & ~7
    }

    /// Writes one sector's stamp.
    static func write(_ head: Head, to sector: UnsafeMutableRawBufferPointer) {
        let check = check(head)
        unsafe sector.storeBytes(of: head.operation, toByteOffset: 0, as: UInt64.self)
        unsafe sector.storeBytes(of: head.space, toByteOffset: 8, as: UInt64.self)
        unsafe sector.storeBytes(of: head.sector, toByteOffset: 16, as: UInt64.self)
        unsafe sector.storeBytes(of: check, toByteOffset: 24, as: UInt64.self)
        unsafe table.withUnsafeBytes { filler in
            let from = fillerOffset(check)
            unsafe UnsafeMutableRawBufferPointer(rebasing: sector[headBytes..<sectorBytes])
                .copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: filler[from..<from + fillerBytes]))
        }
    }

    enum Content: Equatable {
        case zeros
        case stamp(Head)
        /// Neither zeros nor one whole stamp.
        case garbage(claimed: Head)
    }

    /// What a sector read from a space holds.
    static func read(_ sector: UnsafeRawBufferPointer) -> Content {
        let head = unsafe Head(
            operation: sector.loadUnaligned(fromByteOffset: 0, as: UInt64.self),
            space: sector.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
            sector: sector.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        let check = unsafe sector.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
        if check == 0 {
            return unsafe isZero(sector) ? .zeros : .garbage(claimed: head)
        }
        guard check == Self.check(head) else { return .garbage(claimed: head) }
        let whole = unsafe table.withUnsafeBytes { filler in
            let from = fillerOffset(check)
            return unsafe memcmp(
                filler.baseAddress! + from, sector.baseAddress! + headBytes, fillerBytes) == 0
        }
        return whole ? .stamp(head) : .garbage(claimed: head)
    }

    private static func isZero(_ sector: UnsafeRawBufferPointer) -> Bool {
        let first = unsafe sector.loadUnaligned(fromByteOffset: 0, as: UInt64.self)
        guard first == 0 else { return false }
        // Every byte equals the one before it, and the first is zero.
        return unsafe memcmp(sector.baseAddress!, sector.baseAddress! + 1, sectorBytes - 1) == 0
    }
}
