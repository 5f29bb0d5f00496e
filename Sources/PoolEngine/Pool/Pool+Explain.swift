import PoolFormat

/// Where a space lies, and what that means for it should a disk go.
extension Pool {
    /// Everything there is to know of where a space lies, taken at one moment. It costs a copy of
    /// the space's group records; what is worked out from them may be worked out elsewhere.
    public struct Explanation: Sendable {
        /// A disk as far as placement goes.
        public struct Place: Hashable, Sendable {
            public var number: DiskNumber
            public var domain: FaultDomain
            /// Takes writes: what it holds is up to date.
            public var serves: Bool

            public init(number: DiskNumber, domain: FaultDomain, serves: Bool) {
                self.number = number
                self.domain = domain
                self.serves = serves
            }
        }

        /// Every disk of the pool.
        public var places: [Place]
        /// Ascending by id.
        public var groups: [GroupRecord]
        /// For each piece of the space's metadata the disks with a copy, ascending.
        public var metadata: [[DiskNumber]]

        public init(places: [Place], groups: [GroupRecord], metadata: [[DiskNumber]]) {
            self.places = places
            self.groups = groups
            self.metadata = metadata
        }
    }

    /// - Throws: ``PoolError/nameUnknown(_:)``; ``PoolError/spaceUnavailable(name:reason:)`` for a
    ///   space that is not open: where it lies is not known then.
    public func explain(_ name: String) throws(PoolError) -> Explanation {
        guard let record = configuration.spaces.first(where: { $0.name == name }) else {
            throw .nameUnknown(name)
        }
        guard let space = space(named: name) else {
            throw .spaceUnavailable(
                name: name, reason: unavailable[record.lineage] ?? "the pool is closed")
        }
        return Explanation(
            places: domainPlaces(record.lineage), groups: facts(space).groups,
            metadata: metadataCopies(record.lineage))
    }

    /// Whether some disk was said to fail together with others.
    public var hasFaultDomains: Bool {
        configuration.disks.contains { FaultDomain($0) != .disk($0.number) }
    }

    private func domainPlaces(_ lineage: Lineage) -> [Explanation.Place] {
        let departed = Set(
            configuration.departures.filter { $0.lineage == lineage }.map(\.disk))
        return configuration.disks.map { record in
            let serves = disk(record.number)?.serves ?? false
            return Explanation.Place(
                number: record.number, domain: FaultDomain(record),
                serves: serves && !departed.contains(record.number))
        }
    }

    /// From the piece tables, which know every piece, the root's and the journal's too.
    private func metadataCopies(_ lineage: Lineage) -> [[DiskNumber]] {
        var copies: [PieceEntry: [DiskNumber]] = [:]
        for disk in disks {
            for slab in disk.metadataSlabs {
                for entry in slab.table.entries where entry.lineage == lineage {
                    // Copies of one piece may have been granted one after the other.
                    var piece = entry
                    piece.generation = 0
                    copies[piece, default: []].append(disk.number)
                }
            }
        }
        return copies.values.sorted { $0.lexicographicallyPrecedes($1) }
    }
}

extension GroupRecord {
    /// Slabs that stand for each other, the copies of a column or a whole stripe, and how many of them
    /// have to be there.
    fileprivate var parts: (together: Int, needed: Int) {
        layout.isParity ? (slabs.count, Int(columns)) : (max(1, Int(copies)), 1)
    }
}

extension Pool.Explanation {
    /// What the loss of a disk, or of a whole fault domain, would take with it now.
    public struct Loss: Hashable, Sendable {
        /// Slab groups with a part on it.
        public var touched = 0
        /// Of those, groups whose only copy of some part is there.
        public var lostGroups = 0
        /// Some of the space's metadata is on it.
        public var touchesMetadata = false
        /// The only copy of some metadata is there.
        public var losesMetadata = false
        public var losesData: Bool { lostGroups > 0 || losesMetadata }
        public init() {}
    }

    /// Losses by disk and by domain, and what is lost already.
    public struct Losses: Sendable {
        public var disks: [DiskNumber: Loss] = [:]
        public var domains: [FaultDomain: Loss] = [:]
        /// Slab groups with a part that no serving disk has.
        public var lostGroups = 0
        public var losesMetadata = false
    }

    public var domains: [DiskNumber: FaultDomain] {
        Dictionary(
            places.map { ($0.number, $0.domain) }, uniquingKeysWith: { first, _ in first })
    }

    /// Whether no two copies of one column share a fault domain.
    public func isSeparated(
        _ group: GroupRecord, _ domains: [DiskNumber: FaultDomain]
    ) -> Bool {
        let hasHole = group.slabs.contains(where: \.isHole)
        return hasHole
            || Placement.isSeparated(
                group.slabs.map { domains[$0.address.disk] ?? .disk($0.address.disk) },
                copies: group.parts.together)
    }

    /// Some slab group was granted with fewer disks than its copies need, and still waits.
    public var hasHoles: Bool {
        groups.contains { $0.slabs.contains(where: \.isHole) }
    }

    /// Slab groups with copies of a column in one fault domain.
    public var unseparatedGroups: Int {
        let domains = domains
        return groups.reduce(0) { $0 + (isSeparated($1, domains) ? 0 : 1) }
    }

    /// One pass over the groups, whatever the number of disks.
    public var losses: Losses {
        let domains = domains
        let serving = Set(places.filter(\.serves).map(\.number))
        var losses = Losses()
        for group in groups {
            // Of as many slabs as stand for each other, so many have to be there.
            let (together, needed) = group.parts
            let disks = group.slabs.map(\.address.disk)
            var lostDisks: Set<DiskNumber> = []
            var lostDomains: Set<FaultDomain> = []
            var isLost = false
            for first in stride(from: 0, to: disks.count, by: together) {
                let live = disks[first..<min(first + together, disks.count)]
                    .filter(serving.contains)
                if live.count < needed { isLost = true }
                if live.count == needed { lostDisks.formUnion(live) }
                let shared = Dictionary(grouping: live.compactMap { domains[$0] }, by: \.self)
                for (domain, slabs) in shared
                where live.count >= needed && live.count - slabs.count < needed {
                    lostDomains.insert(domain)
                }
            }
            if isLost { losses.lostGroups += 1 }
            for disk in Set(disks) where disk != .hole { losses.disks[disk, default: Loss()].touched += 1 }
            for domain in Set(disks.compactMap { domains[$0] }) {
                losses.domains[domain, default: Loss()].touched += 1
            }
            for disk in lostDisks { losses.disks[disk, default: Loss()].lostGroups += 1 }
            for domain in lostDomains { losses.domains[domain, default: Loss()].lostGroups += 1 }
        }
        addMetadata(to: &losses, serving, domains)
        return losses
    }

    private func addMetadata(
        to losses: inout Losses, _ serving: Set<DiskNumber>,
        _ domains: [DiskNumber: FaultDomain]
    ) {
        for copies in metadata {
            let live = copies.filter(serving.contains)
            for disk in copies { losses.disks[disk, default: Loss()].touchesMetadata = true }
            for domain in copies.compactMap({ domains[$0] }) {
                losses.domains[domain, default: Loss()].touchesMetadata = true
            }
            if live.isEmpty { losses.losesMetadata = true }
            if live.count == 1 { losses.disks[live[0], default: Loss()].losesMetadata = true }
            let shared = Set(live.compactMap { domains[$0] })
            if shared.count == 1, let only = shared.first {
                losses.domains[only, default: Loss()].losesMetadata = true
            }
        }
    }

    /// Groups that lie on the same disks in the same way, folded; the order of columns, and that of
    /// copies in a column, makes no difference to anybody.
    public struct Placed: Hashable, Sendable {
        /// Ascending.
        public var groups: [UInt32]
        /// Each column's disks, ascending.
        public var columns: [[DiskNumber]]
    }

    /// In the order of their first group.
    public var placed: [Placed] {
        var indices: [[[DiskNumber]]: Int] = [:]
        var placed: [Placed] = []
        for group in groups {
            let copies = group.layout.isParity ? 1 : max(1, Int(group.copies))
            let disks = group.slabs.map(\.address.disk)
            let columns = stride(from: 0, to: disks.count, by: copies).map { first in
                disks[first..<min(first + copies, disks.count)].sorted()
            }.sorted { $0.lexicographicallyPrecedes($1) }
            if let index = indices[columns] {
                placed[index].groups.append(group.id)
            } else {
                indices[columns] = placed.count
                placed.append(Placed(groups: [group.id], columns: columns))
            }
        }
        return placed
    }
}
