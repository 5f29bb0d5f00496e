import PoolFormat

/// Where the disks of a pool are: a value, so that a space on another shard resolves addresses
/// without asking. Whoever is granted something is given the places it lies on with it.
///
/// A disk of the pool that is not here has a place too, on no device: what lies on it can be named,
/// and nothing can be done there.
struct DiskPlaces: Sendable {
    private struct Place: Sendable {
        var device: DeviceIndex
        var layout: DiskLayout
    }

    /// The device of a disk that is not here.
    static let nowhere = DeviceIndex(.max)

    /// By disk number.
    private var places: [Place?] = []

    mutating func add(_ number: DiskNumber, _ device: DeviceIndex, _ layout: DiskLayout) {
        let index = Int(number.rawValue)
        while places.count <= index { places.append(nil) }
        places[index] = Place(device: device, layout: layout)
    }

    mutating func remove(_ number: DiskNumber) { places[Int(number.rawValue)] = nil }

    private func place(_ number: DiskNumber) -> Place? {
        let index = Int(number.rawValue)
        return index < places.count ? places[index] : nil
    }

    func device(of number: DiskNumber) -> DeviceIndex {
        place(number)?.device ?? Self.nowhere
    }

    /// The disk that is on a device; nil: none is.
    func disk(on device: DeviceIndex) -> DiskNumber? {
        places.firstIndex { $0?.device == device }.map { DiskNumber(UInt16($0)) }
    }

    func has(_ number: DiskNumber) -> Bool { place(number) != nil }

    /// Whether an address that was read from somewhere lies on a disk of the pool.
    func contains(_ slab: SlabAddress) -> Bool {
        place(slab.disk)?.layout.contains(slab: slab.slab) ?? false
    }

    func contains(_ piece: PieceAddress) -> Bool {
        contains(SlabAddress(disk: piece.disk, slab: piece.slab))
            && MetadataSlab.pieceNumbers.contains(Int(piece.piece))
    }

    /// Device and offset of a slab; its disk is known (``contains(_:)-(SlabAddress)`` says so), or it
    /// is a hole.
    func base(_ slab: SlabAddress) -> SlabGroups.Base {
        if slab.disk == .hole {
            return SlabGroups.Base(device: Self.nowhere, disk: .hole, offsetBytes: 0)
        }
        guard let place = place(slab.disk) else {
            preconditionFailure("a disk that is not of the pool")
        }
        return SlabGroups.Base(
            device: place.device, disk: slab.disk,
            offsetBytes: place.layout.slabOffset(slab.slab))
    }

    func base(_ piece: PieceAddress) -> SlabGroups.Base {
        guard let place = place(piece.disk) else {
            preconditionFailure("a disk that is not of the pool")
        }
        return SlabGroups.Base(
            device: place.device, disk: piece.disk,
            offsetBytes: place.layout.pieceOffset(slab: piece.slab, piece: piece.piece))
    }

    func bases(of copies: [PieceAddress]) -> [SlabGroups.Base] { copies.map { base($0) } }
}
