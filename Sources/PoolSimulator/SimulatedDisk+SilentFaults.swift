import PoolEngine

/// Damage that a disk does not speak of, and sectors it cannot read.
///
/// 12. *Latent sectors*. The 4 KiB that a range touches cannot be read until each is written anew
///    as a whole.
/// 13. *Rot* turns over one bit of every byte of a range, in the cache and behind it.
/// 14. *Lost writes*. A write that ``lostWrites`` strikes when it ends reports ok and changes
///    nothing. A flush makes that a fault; without one a power cut may take any write back.
/// 15. *Misdirected writes*. A write that ``misdirectedWrites`` strikes when it ends reports ok and
///    lands whole at another aligned place inside the given ranges, from where a power cut may take
///    it back; its own place stays as it was, as in 14. Where no other place has room for it, it
///    lands where it belongs.
///
/// With ``liesOnce`` the next flush that ends reports ok, and what it covers stays in the cache: a
/// later flush makes it durable, a power cut may lose it.
///
/// Under 12 and 13 lies what is at rest: what the cache holds of those 4 KiB lands first.
extension SimulatedDisk {
    /// Silent faults that are still there, and can be read: those that were overwritten are gone.
    public var silentFaults: [SilentFault] { current.damage.silent }

    /// Pages of 4 KiB that cannot be read.
    public var latentPages: Int { current.damage.badPageCount }

    /// Neither silent faults nor latent sectors are left, now or after a power cut.
    public var isUndamaged: Bool {
        [current, durable].allSatisfy { $0.damage.silent.isEmpty && !$0.damage.hasBadPages }
    }

    /// The ranges cannot be read until they are written anew.
    public mutating func makeUnreadable(_ ranges: [Range<UInt64>]) {
        for range in ranges {
            settle(range)
            current.damage.addBadPages(touching: range)
            durable.damage.addBadPages(touching: range)
        }
    }

    /// Every sector can be read again, with the bytes it had.
    public mutating func makeReadable() {
        current.damage.removeBadPages()
        durable.damage.removeBadPages()
    }

    /// Bits turn over.
    public mutating func rot(_ offset: UInt64, _ count: Int, random: inout SeededRandom) {
        precondition(count > 0 && offset + UInt64(count) <= fullSizeBytes)
        let range = offset..<offset + UInt64(count)
        let pattern = random.next()
        settle(range)
        current.flip(range, pattern: pattern)
        durable.flip(range, pattern: pattern)
        silentFaultCount += 1
    }

    /// What silent faults are left lies where nobody keeps anything: a scrub has found all right.
    public mutating func forgetSilentFaults() {
        current.damage.removeSilent()
        durable.damage.removeSilent()
    }

    mutating func loseWrite(_ range: Range<UInt64>) {
        silentFaultCount += 1
        cache(range, .missing(.lostWrite))
    }

    /// - Returns: whether the write has gone elsewhere.
    mutating func misdirects(
        _ payload: Payload, _ range: Range<UInt64>, _ random: inout SeededRandom
    ) -> Bool {
        guard let misdirection = misdirectedWrites else { return false }
        let length = UInt64(range.count)
        let places = places(outside: range, inside: misdirection.into, of: length)
        guard !places.isEmpty else { return false }
        var writes: WriteSelection? = misdirection.writes
        let isStruck = Self.strikes(&writes, range, &random)
        misdirectedWrites = writes.map { Misdirection($0, into: misdirection.into) }
        guard isStruck else { return false }
        let place = random.pick(places)
        let unit = UInt64(sectorBytes)
        let choices = (UInt64(place.count) - length) / unit + 1
        let target = place.lowerBound + unit * UInt64(random.below(Int(choices)))
        cache(range, .missing(.misdirectedWrite))
        cache(target..<target + length, .stray(payload, from: 0))
        silentFaultCount += 1
        return true
    }

    /// Aligned pieces of the ranges that leave out one range, and have room for a length.
    private func places(
        outside own: Range<UInt64>, inside ranges: [Range<UInt64>], of length: UInt64
    ) -> [Range<UInt64>] {
        let unit = UInt64(sectorBytes)
        return ranges.flatMap { range in
            let range = range.clamped(to: 0..<sizeBytes)
            return [
                range.clamped(to: 0..<own.lowerBound),
                range.clamped(to: own.upperBound..<UInt64.max),
            ]
        }.compactMap { (piece: Range<UInt64>) in
            let first = (piece.lowerBound + unit - 1) / unit * unit
            let end = piece.upperBound / unit * unit
            return end >= first + length ? first..<end : nil
        }
    }

    /// What the cache holds of these pages lands.
    private mutating func settle(_ range: Range<UInt64>) {
        let page = UInt64(DiskImage.pageBytes)
        let pages = range.lowerBound / page * page..<(range.upperBound + page - 1) / page * page
        guard pending.contains(where: { $0.range.overlaps(pages) }) else { return }
        for change in pending {
            let inside = change.range.clamped(to: pages)
            if !inside.isEmpty { durable.take(from: current, inside) }
        }
        pending = pending.flatMap { change in
            [
                change.clipped(to: 0..<pages.lowerBound),
                change.clipped(to: pages.upperBound..<UInt64.max),
            ].compactMap { $0 }
        }
    }
}

/// Writes that go elsewhere, and where to.
public struct Misdirection: Hashable, Sendable {
    public var writes: WriteSelection
    /// Where they may land: of data slabs, say.
    public var into: [Range<UInt64>]
    public init(_ writes: WriteSelection, into: [Range<UInt64>]) {
        self.writes = writes
        self.into = into
    }
}
