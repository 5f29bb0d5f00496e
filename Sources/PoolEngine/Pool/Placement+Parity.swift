import PoolFormat

/// Where parity groups go: one slab on each of k + m distinct disks, for k data columns and m
/// parities.
///
/// A wider group has less of its slabs in parities, but may strand slabs that narrower ones could
/// use. So an automatic width is the largest that, on the disks with the most room, keeps as much
/// data as any groups could hold: granted one after the other, they hold all of that, and one more
/// disk adds to it where groups may still be wider.
///
/// All slabs of a group go to distinct domains where that strands none of them: where groups with
/// one slab a domain, a domain's room being that of its disks, could use as many slabs as groups
/// with one slab a disk. Slabs are compared and not what they hold, since groups over domains are
/// narrower, with more parities. Otherwise a group goes where it would without domains.
extension Placement {
    /// - Parameters:
    ///   - parity: slabs of a group that hold parities, 1 or 2.
    ///   - dataColumns: 2 to 16, all or nothing; 0 chooses the width.
    ///   - slabLimit: the most slabs of a group.
    /// - Returns: distinct disks in the order of the group's slabs, or nil when that is impossible.
    static func chooseStripe(
        _ rooms: [Room], parity: Int, dataColumns: Int, slabLimit: Int
    ) -> [DiskNumber]? {
        let stripes = Stripes(parity: parity, dataColumns: dataColumns, slabLimit: slabLimit)
        guard let stripes else { return nil }
        let disks = mostFirst(rooms.filter { $0.slabs > 0 })
        // A domain has the room of its disks, and grants a slab on the one with the most of it.
        let domains = mostFirst(
            Dictionary(grouping: disks, by: \.domain).values.map { members in
                var domain = members[0]
                domain.slabs = members.reduce(0) { $0 + $1.slabs }
                return domain
            })
        let isTagged = domains.count < disks.count
        let apart = isTagged ? stripes.widestApart(disks, domains: domains) : nil
        if let apart { return domains.prefix(apart).map(\.disk) }
        return stripes.widest(disks).map { disks.prefix($0).map(\.disk) }
    }

    private static func mostFirst(_ places: [Room]) -> [Room] {
        places.sorted { ($1.slabs, $0.disk) < ($0.slabs, $1.disk) }
    }

    /// What fits into rooms, for groups with one slab a place, of any widths in a range.
    ///
    /// G groups cover min(room, G) slabs of each place, S(G) together. They exist where that is G
    /// times the narrowest, and then their widths may differ by one at most. The steps of S never
    /// grow, so neither do those of what G groups hold: halving finds the best G.
    struct Stripes {
        let parity: Int
        let widths: ClosedRange<Int>

        /// Nil when there is no such group.
        init?(parity: Int, dataColumns: Int, slabLimit: Int) {
            precondition((1...2).contains(parity) && dataColumns >= 0)
            let columns =
                dataColumns == 0 ? 2...Parity.columnLimit : dataColumns...dataColumns
            let widest = min(columns.upperBound + parity, slabLimit)
            guard columns.lowerBound >= 2, columns.upperBound <= Parity.columnLimit,
                columns.lowerBound + parity <= widest
            else { return nil }
            self.parity = parity
            widths = columns.lowerBound + parity...widest
        }

        /// The most slabs that any groups use.
        func slabsThatFit(_ rooms: [Int]) -> Int {
            slabs(rooms, groups: mostGroups(rooms))
        }

        /// The most slabs of data that any groups hold.
        func dataThatFits(_ rooms: [Int]) -> Int {
            let data = { groups in slabs(rooms, groups: groups) - parity * groups }
            var best = 0
            var tooMany = mostGroups(rooms) + 1
            while tooMany - best > 1 {
                let middle = best + (tooMany - best) / 2
                if data(middle) > data(middle - 1) { best = middle } else { tooMany = middle }
            }
            return data(best)
        }

        private func mostGroups(_ rooms: [Int]) -> Int {
            columnsThatFit(rooms, copies: widths.lowerBound)
        }

        private func slabs(_ rooms: [Int], groups: Int) -> Int {
            min(rooms.reduce(0) { $0 + min($1, groups) }, widths.upperBound * groups)
        }

        /// The widest group on the first places that leaves room for all other data that could be
        /// had. There is one wherever a group fits at all.
        ///
        /// - Parameters:
        ///   - places: with room, the most first.
        ///   - isFit: what else is asked of a width.
        fileprivate func widest(
            _ places: [Room], where isFit: (Int) -> Bool = { _ in true }
        ) -> Int? {
            let most = dataThatFits(places.map(\.slabs))
            return stride(
                from: min(widths.upperBound, places.count), through: widths.lowerBound, by: -1
            ).first {
                let rest = rest(places, without: places.prefix($0))
                return $0 - parity + dataThatFits(rest) == most && isFit($0)
            }
        }

        /// The width of a group in distinct domains; nil where such groups strand slabs.
        ///
        /// It is one after which they strand none either. With two parities there may be none: one
        /// more group can use one slab more and hold less data, so slabs stay that are no loss.
        fileprivate func widestApart(_ disks: [Room], domains: [Room]) -> Int? {
            guard slabsThatFit(domains.map(\.slabs)) == slabsThatFit(disks.map(\.slabs)) else {
                return nil
            }
            let lasting = widest(domains) {
                let chosen = domains.prefix($0)
                return slabsThatFit(rest(domains, without: chosen))
                    == slabsThatFit(rest(disks, without: chosen))
            }
            return lasting ?? widest(domains)
        }

        /// Rooms once these have given a slab each.
        private func rest(_ places: [Room], without chosen: ArraySlice<Room>) -> [Int] {
            let taken = Set(chosen.map(\.disk))
            return places.map { $0.slabs - (taken.contains($0.disk) ? 1 : 0) }
        }
    }
}
