import PoolFormat

/// Where the disks of a pool are: a value, so that a space on another shard resolves addresses
/// without asking. Whoever is granted something is given the places it lies on with it.
struct DiskPlaces: Sendable {
    private struct Place: Sendable {
        var device: DeviceIndex
        var layout: DiskLayout
    }

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

    /// Whether an address that was read from somewhere lies on a disk that is here.
    func contains(_ slab: SlabAddress) -> Bool {
        place(slab.disk)?.layout.contains(slab: slab.slab) ?? false
    }

    func contains(_ piece: PieceAddress) -> Bool {
        contains(SlabAddress(disk: piece.disk, slab: piece.slab))
            && MetadataSlab.pieceNumbers.contains(Int(piece.piece))
    }

    /// Device and offset of a slab; its disk is here (``contains(_:)-(SlabAddress)`` says so).
    func base(_ slab: SlabAddress) -> SlabGroups.Base {
        guard let place = place(slab.disk) else {
            preconditionFailure("a disk that is not here")
        }
        return SlabGroups.Base(
            device: place.device, offsetBytes: place.layout.slabOffset(slab.slab))
    }

    func base(_ piece: PieceAddress) -> SlabGroups.Base {
        guard let place = place(piece.disk) else {
            preconditionFailure("a disk that is not here")
        }
        return SlabGroups.Base(
            device: place.device,
            offsetBytes: place.layout.pieceOffset(slab: piece.slab, piece: piece.piece))
    }

    func bases(of copies: [PieceAddress]) -> [SlabGroups.Base] { copies.map { base($0) } }
}
