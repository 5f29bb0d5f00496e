/// A place of a disk that does not hold what it should, without the disk's saying so.
public struct SilentFault: Hashable, Sendable {
    public enum Kind: Hashable, Sendable, CaseIterable {
        /// Bits have flipped.
        case rot
        /// The last write here was acknowledged and changed nothing.
        case lostWrite
        /// The last write here was acknowledged and went elsewhere.
        case misdirectedWrite
        /// A write that was meant for elsewhere landed here.
        case strayWrite
    }

    public var offset: UInt64
    public var length: UInt64
    public var kind: Kind

    public init(offset: UInt64, length: UInt64, kind: Kind) {
        self.offset = offset
        self.length = length
        self.kind = kind
    }

    var range: Range<UInt64> { offset..<offset + length }

    /// What of it lies inside a range.
    fileprivate func clipped(to bounds: Range<UInt64>) -> SilentFault? {
        let inside = range.clamped(to: bounds)
        guard !inside.isEmpty else { return nil }
        return SilentFault(
            offset: inside.lowerBound, length: UInt64(inside.count), kind: kind)
    }
}

/// What is wrong with the bytes of a medium.
///
/// 1. A page of 4 KiB is bad until the whole of it is written anew; a discard leaves it bad.
/// 2. A silent fault ends where something else is written, or where whole pages are discarded: it
///    shrinks, falls into two, or is forgotten.
/// 3. Damage belongs to the bytes: the cached state of a disk and its durable one have their own,
///    so a rewrite that a power cut takes back brings the damage back.
struct DiskDamage: Hashable, Sendable {
    /// Only ever asked for members.
    private var badPages: Set<UInt64> = []
    /// In the order in which they happened.
    private(set) var silent: [SilentFault] = []

    var hasBadPages: Bool { !badPages.isEmpty }
    var badPageCount: Int { badPages.count }

    func isUnreadable(_ range: Range<UInt64>) -> Bool {
        !badPages.isEmpty && Self.pages(touching: range).contains { badPages.contains($0) }
    }

    mutating func addBadPages(touching range: Range<UInt64>) {
        for page in Self.pages(touching: range) { badPages.insert(page) }
    }

    mutating func removeBadPages() { badPages.removeAll() }

    mutating func add(_ fault: SilentFault) {
        // The same place again is not worse for it.
        if !silent.contains(fault) { silent.append(fault) }
    }

    mutating func removeSilent() { silent.removeAll() }

    mutating func noteWritten(_ range: Range<UInt64>) {
        if !badPages.isEmpty {
            for page in Self.pages(inside: range) { badPages.remove(page) }
        }
        removeSilent(range)
    }

    mutating func noteDiscarded(_ range: Range<UInt64>) {
        let pages = Self.pages(inside: range)
        guard !pages.isEmpty else { return }
        removeSilent(pages.lowerBound * Self.pageBytes..<pages.upperBound * Self.pageBytes)
    }

    /// The bytes of the range have been copied from where this is the damage.
    mutating func take(from other: DiskDamage, _ range: Range<UInt64>) {
        for page in Self.pages(touching: range) {
            if other.badPages.contains(page) {
                badPages.insert(page)
            } else if Self.pages(inside: range).contains(page) {
                badPages.remove(page)
            }
        }
        removeSilent(range)
        for fault in other.silent.compactMap({ $0.clipped(to: range) }) { add(fault) }
    }

    private mutating func removeSilent(_ range: Range<UInt64>) {
        guard silent.contains(where: { $0.range.overlaps(range) }) else { return }
        silent = silent.flatMap { fault -> [SilentFault] in
            let before = fault.clipped(to: 0..<range.lowerBound)
            let after = fault.clipped(to: range.upperBound..<UInt64.max)
            return [before, after].compactMap { $0 }
        }
    }

    private static let pageBytes = UInt64(DiskImage.pageBytes)

    private static func pages(touching range: Range<UInt64>) -> Range<UInt64> {
        guard !range.isEmpty else { return 0..<0 }
        return range.lowerBound / pageBytes..<(range.upperBound - 1) / pageBytes + 1
    }

    private static func pages(inside range: Range<UInt64>) -> Range<UInt64> {
        let first = (range.lowerBound + pageBytes - 1) / pageBytes
        return first..<max(first, range.upperBound / pageBytes)
    }
}

/// The bytes of a disk and what is wrong with them: kept, cached and lost together.
struct DiskMedium {
    private(set) var image: DiskImage
    var damage = DiskDamage()

    init(image: DiskImage) { self.image = image }

    mutating func write(_ offset: UInt64, from source: UnsafeRawBufferPointer) {
        unsafe image.write(offset, from: source)
        damage.noteWritten(offset..<offset + UInt64(source.count))
    }

    mutating func discard(_ offset: UInt64, _ length: UInt64) {
        image.forget(offset, length)
        damage.noteDiscarded(offset..<offset + length)
    }

    /// Changes bytes without mending anything.
    mutating func spoil(_ offset: UInt64, from source: UnsafeRawBufferPointer) {
        unsafe image.write(offset, from: source)
    }

    /// The range becomes what it is in another medium.
    mutating func take(from other: DiskMedium, _ range: Range<UInt64>) {
        var bytes = [UInt8](repeating: 0, count: range.count)
        unsafe bytes.withUnsafeMutableBytes { unsafe other.image.read(range.lowerBound, into: $0) }
        unsafe bytes.withUnsafeBytes { unsafe image.write(range.lowerBound, from: $0) }
        damage.take(from: other.damage, range)
    }

    /// One bit of every byte turns over; which one, the pattern says.
    mutating func flip(_ range: Range<UInt64>, pattern: UInt64) {
        var bytes = [UInt8](repeating: 0, count: range.count)
        unsafe bytes.withUnsafeMutableBytes { unsafe image.read(range.lowerBound, into: $0) }
        for index in bytes.indices {
            let word = SplitMix.mix(pattern ^ (range.lowerBound + UInt64(index)))
            bytes[index] ^= 1 << UInt8(truncatingIfNeeded: word & 7)
        }
        unsafe bytes.withUnsafeBytes { unsafe image.write(range.lowerBound, from: $0) }
        damage.add(
            SilentFault(offset: range.lowerBound, length: UInt64(range.count), kind: .rot))
    }
}
