/// A page of the grain map: 252 entries of 16 bytes at byte 64. Grain g is entry g % 252 of page
/// g / 252.
///
///     +-------+-----------------------+-------+-------+
///     | group | physical grain (24 b) | state | birth |
///     +-------+-----------------------+-------+-------+
///      0       4                       7       8 .. 16
///
/// Invariants:
/// 1. State 0 is unmapped: the grain reads as zeros. A zeroed entry is one never mapped.
/// 2. No two mapped entries of a space name the same physical grain of the same group.
///
/// Why the order is safe: see ``MetadataPage``; the map changes only by journal records.
public enum MapPage {
    public static let entriesPerPage = 252
    static let entryBytes = 16
    public static let physicalGrainLimit: UInt32 = 1 << 24

    @inlinable @inline(__always)
    public static func place(ofGrain grain: UInt64) -> (page: UInt64, entry: Int) {
        (grain / UInt64(entriesPerPage), Int(grain % UInt64(entriesPerPage)))
    }

    /// The entry as it stands; the page is validated or made here, so its state is known.
    @inlinable @inline(__always)
    public static func entry(in page: PageImage, at index: Int) -> MapEntry {
        precondition(index >= 0 && index < entriesPerPage)
        let offset = 64 + index * 16
        let packed = page.u32(offset + 4)
        guard let state = GrainState(rawValue: UInt8(packed >> 24)) else {
            preconditionFailure("a map page is validated before it is used")
        }
        return MapEntry(
            group: page.u32(offset), physicalGrain: packed & 0xff_ffff, state: state,
            birth: page.u64(offset + 8))
    }

    @inlinable @inline(__always)
    public static func setEntry(in page: PageImage, at index: Int, _ entry: MapEntry) {
        precondition(index >= 0 && index < entriesPerPage)
        precondition(entry.physicalGrain < physicalGrainLimit)
        let offset = 64 + index * 16
        page.setU32(offset, entry.group)
        page.setU32(offset + 4, UInt32(entry.state.rawValue) << 24 | entry.physicalGrain)
        page.setU64(offset + 8, entry.birth)
    }

    static func validateEntries(_ page: PageImage) throws(FormatError) {
        for index in 0..<entriesPerPage {
            let state = page.u8(64 + index * entryBytes + 7)
            guard GrainState(rawValue: state) != nil else {
                throw .outOfRange(.mapPage, field: "grain state", value: UInt64(state))
            }
        }
    }
}

extension MapEntry {
    /// Never mapped.
    public static let unmapped = MapEntry(group: 0, physicalGrain: 0, state: .unmapped, birth: 0)
}
