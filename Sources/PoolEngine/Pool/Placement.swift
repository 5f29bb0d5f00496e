import PoolFormat

/// Which disks a slab group goes to. Pure: rooms in, disks out.
///
/// A group of c columns and k copies takes one slab on each of c x k distinct disks. Taking them
/// from the disks with the most room strands nothing that some placement of such groups could use;
/// a wider group than necessary may (rooms 3, 1, 1, 1 hold three mirrored columns one at a time,
/// but only two once a group is two columns wide). So an automatic width is the largest that keeps
/// the number of columns that still fit where the narrowest would have kept it.
enum Placement {
    struct Room: Hashable {
        var disk: DiskNumber
        /// Slabs that may be granted.
        var slabs: Int
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
        var width = columns
        if width == 0 {
            width = min(open.count / copies, automaticColumnLimit, slabLimit / copies)
            let slabs = open.map(\.slabs)
            let most = columnsThatFit(slabs, copies: copies)
            while width > 1, columnsLeft(slabs, copies: copies, width: width) != most - width {
                width -= 1
            }
        }
        guard width > 0, width * copies <= min(open.count, slabLimit) else { return nil }
        return open.prefix(width * copies).map(\.disk)
    }

    /// How many mirrored columns fit, each on `copies` distinct disks: the largest T for which
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

    /// - Parameter slabs: in descending order.
    private static func columnsLeft(_ slabs: [Int], copies: Int, width: Int) -> Int {
        var rest = slabs
        for index in 0..<(width * copies) { rest[index] -= 1 }
        return columnsThatFit(rest, copies: copies)
    }

    /// The disks with the most room for pieces of metadata, most first.
    static func chooseMetadataDisks(_ rooms: [Room], copies: Int) -> [DiskNumber] {
        let open = rooms.filter { $0.slabs > 0 }.sorted {
            ($1.slabs, $0.disk) < ($0.slabs, $1.disk)
        }
        return open.prefix(copies).map(\.disk)
    }
}
