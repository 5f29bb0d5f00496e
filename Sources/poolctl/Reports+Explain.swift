import PoolControl

extension Reports {
    /// More rows than this fill screens; --json has all.
    private static let placementRows = 20

    static func explanation(_ space: SpaceExplanation) -> String {
        var lines = heading("space", space.name, space.health, space.reason, space.action)
        let groups = space.groups.count + space.groupsOmitted
        let placed = groups == 1 ? "1 slab group" : "\(groups) slab groups"
        lines += field(
            "lies on", "\(placed), \(space.resiliency.rawValue), metadata on "
                + list(space.metadataDisks))
        if space.resiliency.isParity, !space.widths.isEmpty {
            lines += field("stripes", stripes(space.widths))
        }
        if space.writeCacheBytes > 0 {
            lines += field(
                "cache",
                "\(SizeText.format(space.writeCacheBytes)), "
                    + "\(SizeText.format(space.writeCacheDirtyBytes)) on its way to stripes")
        }
        lines += field("may fail", space.mayFail)
        lines += ["", disks(space.disks)]
        if !space.domains.isEmpty { lines += ["", domains(space.domains)] }
        if groups > 0 { lines += ["", placements(space.placements)] }
        if !space.repairs.isEmpty { lines += ["", jobs(space.repairs)] }
        return lines.joined(separator: "\n")
    }

    /// Disks of data and of parity, and what that leaves of them for data.
    private static func stripes(_ widths: [SpaceExplanation.Width]) -> String {
        let kinds = widths.map { width in
            let disks = "\(width.columns) + \(width.parity) disks"
            return widths.count == 1 ? disks : "\(disks) in \(width.count) groups"
        }
        let data = widths.reduce(0.0) { $0 + Double($1.count) * Double($1.columns) }
        let parity = widths.reduce(0.0) { $0 + Double($1.count) * Double($1.parity) }
        let percent = Int(data / max(1, data + parity) * 100)
        return kinds.joined(separator: ", ") + ": \(percent) % of it is data"
    }

    private static func list(_ names: [String]) -> String {
        names.isEmpty ? "no disk" : names.joined(separator: ", ")
    }

    private static func disks(_ disks: [SpaceExplanation.DiskPlace]) -> String {
        let hasDomains = disks.contains { !$0.domain.isEmpty }
        var columns: [TextTable.Column] = [.left("DISK"), .left("STATE"), .right("GROUPS")]
        if hasDomains { columns.append(.name("DOMAIN")) }
        var table = TextTable(columns + [.left("IF IT IS PULLED NOW")])
        for disk in disks {
            var cells = [disk.name, disk.state.rawValue, "\(disk.groups)"]
            if hasDomains { cells.append(disk.domain.isEmpty ? "-" : disk.domain) }
            table.add(cells + [disk.reason])
        }
        return table.text
    }

    private static func domains(_ domains: [SpaceExplanation.DomainPlace]) -> String {
        var table = TextTable([
            .name("DOMAIN"), .name("DISKS"), .left("IF ALL OF THEM ARE LOST NOW"),
        ])
        for domain in domains { table.add([domain.name, list(domain.disks), domain.reason]) }
        return table.text
    }

    /// Groups on the same disks share a row; the copies of a column are joined by `+`.
    private static func placements(_ placements: [SpaceExplanation.Placement]) -> String {
        let shown = placements.prefix(placementRows)
        let ids = shown.map { Terminal.shortened($0.groups, to: 24) }
        let width = max("GROUPS".count, ids.map(Terminal.width).max() ?? 0)
        var lines = ["GROUPS".padded(to: width + 2) + "COUNT  DISKS"]
        for (placement, id) in zip(shown, ids) {
            let count = "\(placement.count)"
            let first = id.padded(to: width + 2)
                + String(repeating: " ", count: max(0, 5 - count.count)) + count + "  "
            lines += Terminal.wrapped(
                placement.columns.map { $0.joined(separator: "+") }.joined(separator: " "),
                first: first)
        }
        let more = placements.dropFirst(placementRows)
        if !more.isEmpty {
            let groups = more.reduce(0) { $0 + $1.count }
            lines.append("and \(groups) groups in \(more.count) more ways; --json shows all")
        }
        return lines.joined(separator: "\n")
    }
}
