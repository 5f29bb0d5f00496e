import PoolFormat

/// Compares who owns what: the tables on the disks, what the spaces claim, and their maps.
///
/// 1. A slab or piece that is taken belongs to the metadata, or to a space of the configuration.
/// 2. A space's slabs are those of its groups, its pieces those of its root and directory.
/// 3. A physical grain is named by one map entry at most, and is not free then.
extension Pool {
    /// What disagrees, one line each; empty when all is well.
    ///
    /// Means something only while nothing is being granted or released: right after opening, or
    /// when everything has come to rest. Cost: one pass over the slab tables and the maps.
    public func audit() -> [String] {
        var wrong: [String] = []
        let known = Set(configuration.spaces.map(\.lineage))
        // What a disk says that is away is out of date.
        for disk in servingDisks { audit(disk, known, &wrong) }
        for space in spaces { audit(space, &wrong) }
        return wrong
    }

    /// Whether some space has fewer copies of something than it could have. Means something only as
    /// ``audit()`` does.
    public var lacksRedundancy: Bool {
        let plan = Space.RepairPlan(
            givenUp: [], serving: disks.count(where: \.takesGrants), priority: .normal)
        return spaces.contains { !$0.departed.isEmpty || $0.lacksRedundancy(plan) }
    }

    private func audit(_ disk: Disk, _ known: Set<Lineage>, _ wrong: inout [String]) {
        var free = 0
        var metadata: Set<UInt32> = []
        for (slab, entry) in disk.slabs.entries.enumerated() {
            if entry.isFree {
                free += 1
            } else if entry.lineage == .metadata {
                metadata.insert(UInt32(slab))
            } else if !known.contains(entry.lineage) {
                wrong.append("\(disk.name): slab \(slab) belongs to a space that is no more")
            }
        }
        if free != disk.freeSlabs {
            wrong.append("\(disk.name): \(free) slabs are free, \(disk.freeSlabs) are counted")
        }
        if metadata != Set(disk.metadataSlabs.map(\.slab)) {
            wrong.append("\(disk.name): its metadata slabs are not those of its slab table")
        }
        for slab in disk.metadataSlabs {
            if slab.isEmpty { wrong.append("\(disk.name): metadata slab \(slab.slab) is empty") }
            for piece in MetadataSlab.pieceNumbers {
                let entry = slab[piece]
                if !entry.isFree, !known.contains(entry.lineage) {
                    wrong.append(
                        "\(disk.name): piece \(piece) of slab \(slab.slab) belongs to nobody")
                }
            }
        }
    }

    private func audit(_ space: Space, _ wrong: inout [String]) {
        let name = "space \(space.lineage.rawValue)"
        let serving = Set(servingDisks.map(\.number))
        var claimed: Set<SlabAddress> = []
        for group in space.groupRecords {
            claimed.formUnion(group.slabs.map(\.address).filter { serving.contains($0.disk) })
        }
        let claimedPieces = space.claimedPieceAddresses.count { serving.contains($0.disk) }
        var granted: Set<SlabAddress> = []
        var pieces = 0
        for disk in servingDisks {
            for (slab, entry) in disk.slabs.entries.enumerated()
            where entry.lineage == space.lineage {
                granted.insert(SlabAddress(disk: disk.number, slab: UInt32(slab)))
            }
            for slab in disk.metadataSlabs {
                pieces += slab.table.entries.reduce(0) {
                    $0 + ($1.lineage == space.lineage ? 1 : 0)
                }
            }
        }
        // Of a slab that is being replaced, and of its successor, either may be granted, or both.
        let undecided = Set(
            space.groups.replacements.flatMap { [$0.old.address, $0.slab.address] })
        if granted.subtracting(undecided) != claimed.subtracting(undecided) {
            wrong.append("\(name): it has \(granted.count) slabs and claims \(claimed.count)")
        }
        if pieces != claimedPieces {
            wrong.append("\(name): it has \(pieces) pieces and claims \(claimedPieces)")
        }
        if let problem = space.auditMap() { wrong.append("\(name): \(problem)") }
    }
}

extension Pool {
    /// Where pieces of write-back caches lie on a disk; of spaces on this shard.
    public func cacheExtents(onDisk number: DiskNumber) -> [Range<UInt64>] {
        spaces.filter { $0.engine === engine }.flatMap { space in
            space.cache.pieceNumbers.flatMap { space.cache.bases(ofPiece: $0) }
                .filter { $0.disk == number }
                .map { $0.offsetBytes..<$0.offsetBytes + UInt64(Units.pieceBytes) }
        }
    }
}

extension Space {
    /// Copies of pieces: of the root, the journal, the directory, and of all it names.
    var claimedPieceAddresses: [PieceAddress] {
        rootAddresses + root.journal.joined() + root.directory.joined()
            + pieces.entries.flatMap(\.copies)
    }

    fileprivate func auditMap() -> String? {
        var seen: Set<UInt64> = []
        for range in map.populated {
            for number in range where number < map.grainCount {
                let entry = map[UInt64(number)]
                guard entry.isMapped else { continue }
                guard let group = groups[entry.group],
                    Int(entry.physicalGrain) < group.grainCount
                else { return "grain \(number) lies in no group" }
                if groups.isFree(entry) { return "grain \(number) lies on a free one" }
                if !seen.insert(entry.rawValue).inserted {
                    return "grain \(number) shares its place with another"
                }
            }
        }
        if seen.count != map.mappedCount {
            return "\(seen.count) grains are mapped, \(map.mappedCount) are counted"
        }
        return nil
    }
}
