import PoolFormat

/// What fails together: a disk, or whatever its owner said it shares with others.
public enum FaultDomain: Hashable, Sendable {
    case rack(String), node(String), enclosure(String), disk(DiskNumber)

    /// The widest that is tagged: a rack takes its nodes with it, a node its enclosures.
    public init(_ record: DiskRecord) {
        self =
            if !record.rack.isEmpty {
                .rack(record.rack)
            } else if !record.node.isEmpty {
                .node(record.node)
            } else if !record.enclosure.isEmpty {
                .enclosure(record.enclosure)
            } else {
                .disk(record.number)
            }
    }
}

/// Which disks a slab group goes to. Pure: rooms in, disks out.
///
/// A group of c columns and k copies takes one slab on each of c x k distinct disks. Taking them
/// from the disks with the most room strands nothing that some placement of such groups could use;
/// a wider group than necessary may (rooms 3, 1, 1, 1 hold three mirrored columns one at a time,
/// but only two once a group is two columns wide). So an automatic width is the largest that keeps
/// the number of columns that still fit where the narrowest would have kept it.
///
/// Fault domains take part in the same way, one level up: a domain's room is that of its disks, the
/// copies of a column go to distinct domains, those with the most room first, and an automatic
/// width strands no column that could still have been kept apart. All slabs of a group are on
/// distinct domains where it has no more slabs than there are domains. Room comes before
/// separation: where keeping copies apart would strand slabs, or cannot be done, the group goes
/// where it would without domains, and ``isSeparated(_:copies:)`` says so. With every disk a domain
/// of its own the two levels are the same, and so are their choices.
enum Placement {
    struct Room: Hashable {
        var disk: DiskNumber
        /// Slabs that may be granted.
        var slabs: Int
        var domain: FaultDomain

        /// - Parameter domain: nil is the disk itself.
        init(disk: DiskNumber, slabs: Int, domain: FaultDomain? = nil) {
            self.disk = disk
            self.slabs = slabs
            self.domain = domain ?? .disk(disk)
        }
    }

    /// The most data columns an automatic group has.
    static let automaticColumnLimit = 16

    /// - Parameter columns: 0 chooses the width.
    /// - Returns: columns x copies distinct disks, column-major, or nil when that is impossible.
    static func chooseGroup(
        _ rooms: [Room], copies: Int, columns: Int, slabLimit: Int
    ) -> [DiskNumber]? {
        precondition(copies >= 1 && columns >= 0 && slabLimit >= copies)
        let open = rooms.filter { $0.slabs > 0 }.sorted {
            ($1.slabs, $0.disk) < ($0.slabs, $1.disk)
        }
        let choice = Choice(open: open, copies: copies)
        let widest = min(open.count, slabLimit) / copies
        if columns > 0 {
            guard columns <= widest else { return nil }
            return choice.fixed(width: columns).map(\.disk)
        }
        guard widest > 0 else { return nil }
        return choice.automatic(widest: min(widest, automaticColumnLimit)).map(\.disk)
    }

    /// How many mirrored columns fit, each on `copies` distinct places: the largest T for which
    /// the rooms, none counted beyond T, sum up to copies x T.
    static func columnsThatFit(_ slabs: [Int], copies: Int) -> Int {
        var fits = 0
        var tooMany = slabs.reduce(0, +) / copies + 1
        while tooMany - fits > 1 {
            let middle = fits + (tooMany - fits) / 2
            if slabs.reduce(0, { $0 + min($1, middle) }) >= copies * middle {
                fits = middle
            } else {
                tooMany = middle
            }
        }
        return fits
    }

    /// A group that is there: its disks, column-major, some of which may be away, or none (holes).
    struct Group {
        var disks: [DiskNumber]
        var copies: Int

        /// Where the other copies of a slab's column lie.
        func others(_ position: Int) -> [DiskNumber] {
            let first = position / copies * copies
            return (first..<min(first + copies, disks.count)).filter { $0 != position }
                .map { disks[$0] }
        }
    }

    /// Whether a slab there would share no domain with the other copies of its column.
    private static func isApart(
        _ disk: DiskNumber, from others: [DiskNumber], _ domains: [DiskNumber: FaultDomain]
    ) -> Bool {
        let domain = { (disk: DiskNumber) in domains[disk] ?? .disk(disk) }
        return !others.contains { domain($0) == domain(disk) }
    }

    /// The disk for a slab that is to take the place of one of a group's: as far from the other copies
    /// of the column as can be, on a disk that has no other slab of the group, the most room first.
    ///
    /// - Parameters:
    ///   - rooms: of the disks to choose from.
    ///   - domains: of every disk, those that are away, too.
    ///   - mayShare: also beside another column of the group where that is no farther from the other
    ///     copies than another disk is.
    static func chooseSuccessor(
        _ rooms: [Room], for group: Group, at position: Int, mayShare: Bool,
        domains: [DiskNumber: FaultDomain]
    ) -> DiskNumber? {
        let others = group.others(position)
        let open = rooms.filter { $0.slabs > 0 && !others.contains($0.disk) }
        let isApart = { (room: Room) in Self.isApart(room.disk, from: others, domains) }
        let isFresh = { (room: Room) in !group.disks.contains(room.disk) }
        let fresh = open.filter(isFresh)
        let isNeeded = !fresh.isEmpty && !fresh.contains(where: isApart)
        return open.filter { isFresh($0) || mayShare || isNeeded && isApart($0) }.max {
            (isApart($0) ? 1 : 0, isFresh($0) ? 1 : 0, $0.slabs, $1.disk)
                < (isApart($1) ? 1 : 0, isFresh($1) ? 1 : 0, $1.slabs, $0.disk)
        }?.disk
    }

    /// A slab of a group, and the disk that it is to be moved to.
    struct Move: Hashable {
        var group: Int
        /// In the group's list of disks.
        var position: Int
        var disk: DiskNumber
    }

    /// The next slab to be moved off a disk with little room, to one with more by at least two: each
    /// such move lessens the sum of the squares of the rooms, so they end.
    ///
    /// It goes to a disk that the group does not lie on. Beside another column of the group, not
    /// another copy of the same, it goes only while some room could not be used otherwise: with
    /// such moves too, and no others, everything is used in the end that any placement could use
    /// (`PoolPlacementTests` compares the two). Copies that are in distinct domains stay so.
    ///
    /// - Parameter isRefused: moves that are not to be made.
    static func nextMove(
        _ rooms: [Room], groups: [Group], domains: [DiskNumber: FaultDomain] = [:],
        isRefused: (Move) -> Bool = { _ in false }
    ) -> Move? {
        let ordered = rooms.sorted { ($0.slabs, $0.disk) < ($1.slabs, $1.disk) }
        for mayShare in [false, true] {
            if mayShare, !strandsRoom(rooms, groups) { return nil }
            for full in ordered {
                for empty in ordered.reversed() where empty.slabs - full.slabs >= 2 {
                    for (index, group) in groups.enumerated() {
                        if !mayShare, group.disks.contains(empty.disk) { continue }
                        for position in group.disks.indices
                        where group.disks[position] == full.disk {
                            let others = group.others(position)
                            let move = Move(group: index, position: position, disk: empty.disk)
                            let staysApart =
                                isApart(empty.disk, from: others, domains)
                                || !isApart(full.disk, from: others, domains)
                            if !others.contains(empty.disk), staysApart, !isRefused(move) {
                                return move
                            }
                        }
                    }
                }
            }
        }
        return nil
    }

    /// Whether some room is too much for that of the other disks, for groups such as these.
    private static func strandsRoom(_ rooms: [Room], _ groups: [Group]) -> Bool {
        let slabs = rooms.map(\.slabs)
        let total = slabs.reduce(0, +)
        return Set(groups.map(\.copies)).contains {
            columnsThatFit(slabs, copies: $0) < total / $0
        }
    }

    /// Whether no column has two copies in one domain. `chosen` is column-major.
    static func isSeparated(_ chosen: [FaultDomain], copies: Int) -> Bool {
        stride(from: 0, to: chosen.count, by: copies).allSatisfy { first in
            let column = chosen[first..<min(first + copies, chosen.count)]
            return Set(column).count == column.count
        }
    }

    /// The disks for pieces of metadata: distinct domains before room, the most room first.
    static func chooseMetadataDisks(_ rooms: [Room], copies: Int) -> [DiskNumber] {
        let open = rooms.filter { $0.slabs > 0 }.sorted {
            ($1.slabs, $0.disk) < ($0.slabs, $1.disk)
        }
        var seen: Set<FaultDomain> = []
        let apart = open.filter { seen.insert($0.domain).inserted }
        let others = open.filter { room in !apart.contains(room) }
        return (apart + others).prefix(copies).map(\.disk)
    }
}

/// One question of where a group goes, and the rooms it is asked about.
private struct Choice {
    /// Disks with room, the most first.
    let open: [Placement.Room]
    let copies: Int
    /// Disks with room of each domain, the most first.
    let members: [FaultDomain: [Placement.Room]]

    init(open: [Placement.Room], copies: Int) {
        self.open = open
        self.copies = copies
        members = Dictionary(grouping: open, by: \.domain)
    }

    func fixed(width: Int) -> [Placement.Room] {
        let plain = Array(open.prefix(width * copies))
        if let spread = spread(width: width), fits(without: spread) >= fits(without: plain) {
            return spread
        }
        return arranged(plain)
    }

    func automatic(widest: Int) -> [Placement.Room] {
        let most = Placement.columnsThatFit(open.map(\.slabs), copies: copies)
        let apart = Placement.columnsThatFit(domainRooms(without: []), copies: copies)
        let members = members.values.map(\.count)
        for width in stride(
            from: min(widest, Placement.columnsThatFit(members, copies: copies)), to: 0, by: -1)
        {
            guard let spread = spread(width: width), fits(without: spread) == most - width,
                Placement.columnsThatFit(domainRooms(without: spread), copies: copies)
                    == apart - width
            else { continue }
            return spread
        }
        var width = widest
        while width > 1, fits(without: Array(open.prefix(width * copies))) != most - width {
            width -= 1
        }
        return arranged(Array(open.prefix(width * copies)))
    }

    /// Columns that still fit, domains left aside, once these disks have given a slab each.
    private func fits(without chosen: [Placement.Room]) -> Int {
        let taken = Set(chosen.map(\.disk))
        return Placement.columnsThatFit(
            open.map { $0.slabs - (taken.contains($0.disk) ? 1 : 0) }, copies: copies)
    }

    private func domainRooms(without chosen: [Placement.Room]) -> [Int] {
        let taken = Set(chosen.map(\.disk))
        return members.values.map { rooms in
            rooms.reduce(0) { $0 + $1.slabs - (taken.contains($1.disk) ? 1 : 0) }
        }
    }

    /// Columns whose copies are in distinct domains; nil when there are not that many.
    private func spread(width: Int) -> [Placement.Room]? {
        // What is left of each domain, in the order in which its disks are taken.
        var rest = members.values.map { $0[...] }
        let roomFirst: (ArraySlice<Placement.Room>, ArraySlice<Placement.Room>) -> Bool = { a, b in
            let (roomA, roomB) = (a.reduce(0) { $0 + $1.slabs }, b.reduce(0) { $0 + $1.slabs })
            return (roomB, a.first?.disk.rawValue ?? 0) < (roomA, b.first?.disk.rawValue ?? 0)
        }
        rest.sort(by: roomFirst)
        if width * copies <= rest.count { return rest.prefix(width * copies).compactMap(\.first) }
        var chosen: [Placement.Room] = []
        for _ in 0..<width {
            // From the domains with the most disks left: so the last column finds enough of them.
            rest = rest.filter { !$0.isEmpty }
                .sorted { $0.count != $1.count ? $0.count > $1.count : roomFirst($0, $1) }
            guard rest.count >= copies else { return nil }
            for index in 0..<copies { chosen.append(rest[index].removeFirst()) }
        }
        return chosen
    }

    /// The same disks, dealt out so that copies of a column share a domain only where they must:
    /// the disks of a domain stand in a row and go to columns in turn.
    private func arranged(_ chosen: [Placement.Room]) -> [Placement.Room] {
        let width = chosen.count / copies
        let counts = Dictionary(grouping: chosen, by: \.domain).mapValues(\.count)
        let isApart = counts.values.allSatisfy { $0 == 1 }
        if isApart { return chosen }
        let firsts = Dictionary(
            chosen.enumerated().map { ($0.element.domain, $0.offset) },
            uniquingKeysWith: { first, _ in first })
        let rows = chosen.enumerated().sorted { a, b in
            let (countA, countB) = (counts[a.element.domain] ?? 0, counts[b.element.domain] ?? 0)
            if countA != countB { return countA > countB }
            let (firstA, firstB) = (firsts[a.element.domain] ?? 0, firsts[b.element.domain] ?? 0)
            return (firstA, a.offset) < (firstB, b.offset)
        }.map(\.element)
        return (0..<width).flatMap { column in
            (0..<copies).map { rows[column + $0 * width] }
        }
    }
}
