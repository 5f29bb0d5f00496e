import PoolControl

/// Messages as people read them on an 80-column terminal.
enum Reports {
    static func outcome(_ outcome: Outcome) -> String { outcome.done }

    static func pools(_ list: PoolList) -> String {
        guard !list.pools.isEmpty else {
            return "no pools; make one with: poolctl pool create POOL DISK..."
        }
        var table = TextTable([
            .left("POOL"), .left("HEALTH"), .right("CAPACITY"), .right("ALLOCATED"),
            .right("FREE"), .right("DISKS"), .right("SPACES"),
        ])
        for pool in list.pools {
            table.add([
                pool.name, pool.health.rawValue, SizeText.format(pool.capacityBytes),
                SizeText.format(pool.allocatedBytes), SizeText.format(pool.freeBytes),
                "\(pool.disks.count)", "\(pool.spaces.count)",
            ])
        }
        return table.text
    }

    static func pool(_ pool: PoolStatus) -> String {
        var lines = heading("pool", pool.name, pool.health, pool.reason, pool.action)
        guard pool.health != .detached else {
            return (lines + ["", disks(pool.disks)]).joined(separator: "\n")
        }
        lines.append(
            "room:     \(SizeText.format(pool.freeBytes)) free of "
                + "\(SizeText.format(pool.capacityBytes)), "
                + "\(SizeText.format(pool.allocatedBytes)) allocated")
        lines += ["", disks(pool.disks)]
        if pool.spaces.isEmpty {
            lines += [
                "",
                "no spaces; make one with: "
                    + "poolctl space create \(pool.name)/NAME --size SIZE --resiliency KIND",
            ]
        } else {
            lines += ["", spaces(pool.spaces)]
        }
        if !pool.jobs.isEmpty { lines += ["", jobs(pool.jobs)] }
        return lines.joined(separator: "\n")
    }

    static func disks(_ disks: [DiskStatus]) -> String {
        // The path goes last: it may be long, and must stay whole to be copied.
        var table = TextTable([
            .left("DISK"), .left("STATE"), .left("MEDIA"), .right("SIZE"), .right("ALLOCATED"),
            .right("ERRORS"), .left("PATH"),
        ])
        for disk in disks {
            let errors = [disk.errors.read, disk.errors.write, disk.errors.checksum]
                .reduce(UInt64(0)) { $0.addingReportingOverflow($1).partialValue }
            table.add([
                disk.name, disk.state.rawValue, disk.media.rawValue,
                SizeText.format(disk.sizeBytes), SizeText.format(disk.allocatedBytes),
                "\(errors)", NameRules.printablePath(disk.path),
            ])
        }
        return table.text
    }

    static func spaces(_ spaces: [SpaceStatus]) -> String {
        guard !spaces.isEmpty else {
            return "no spaces; make one with: "
                + "poolctl space create POOL/NAME --size SIZE --resiliency KIND"
        }
        var table = TextTable([
            .left("SPACE"), .left("HEALTH"), .left("RESILIENCY"), .right("SIZE"),
            .right("MAPPED"), .right("ALLOCATED"), .right("CLIENTS"),
        ])
        for space in spaces {
            table.add([
                space.name, space.health.rawValue, space.resiliency.rawValue,
                SizeText.format(space.sizeBytes), SizeText.format(space.mappedBytes),
                SizeText.format(space.allocatedBytes), "\(space.connections)",
            ])
        }
        return table.text
    }

    static func space(_ space: SpaceStatus) -> String {
        var lines = heading("space", space.name, space.health, space.reason, space.action)
        let columns = space.columns == 0 ? "columns by the disks" : "\(space.columns) columns"
        lines.append("layout:   \(space.resiliency.rawValue), \(columns), "
            + "interleave \(SizeText.format(space.interleaveBytes)), "
            + (space.checksums ? "checksums" : "no checksums"))
        lines.append("size:     \(SizeText.format(space.sizeBytes)), "
            + space.provisioning.rawValue)
        lines.append("room:     \(SizeText.format(space.mappedBytes)) mapped, "
            + "\(SizeText.format(space.allocatedBytes)) allocated with copies and metadata")
        for tier in space.tiers {
            lines.append("on \(tier.media.rawValue):   "
                + "\(SizeText.format(tier.allocatedBytes)) allocated")
        }
        lines.append("clients:  \(space.connections)")
        lines.append("owner:    \(space.owner), epoch \(space.epoch)")
        return lines.joined(separator: "\n")
    }

    private static func jobs(_ jobs: [JobStatus]) -> String {
        var table = TextTable([.left("JOB"), .left("SUBJECT"), .left("STATE"), .right("DONE")])
        for job in jobs {
            let percent = Int((min(max(job.progress, 0), 1) * 100).rounded(.down))
            table.add([job.kind, job.subject, job.state, "\(percent) %"])
        }
        return table.text
    }

    private static func heading(
        _ noun: String, _ name: String, _ health: Health, _ reason: String, _ action: String
    ) -> [String] {
        var lines = [
            "\(noun):".padded(to: 10) + name,
            "health:   \(health.rawValue)",
        ]
        if !reason.isEmpty { lines.append("reason:   \(NameRules.printableLine(reason))") }
        if !action.isEmpty { lines.append("action:   \(NameRules.printableLine(action))") }
        return lines
    }
}

/// Columns as wide as their widest cell, two spaces apart.
struct TextTable {
    enum Column {
        case left(String)
        case right(String)

        var title: String {
            switch self {
            case .left(let title), .right(let title): title
            }
        }
    }

    private let columns: [Column]
    private var rows: [[String]]

    init(_ columns: [Column]) {
        self.columns = columns
        rows = [columns.map(\.title)]
    }

    mutating func add(_ cells: [String]) {
        precondition(cells.count == columns.count)
        rows.append(cells)
    }

    var text: String {
        let widths = columns.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (index, column) in columns.enumerated() {
                if index > 0 { line += "  " }
                switch column {
                case .left: line += row[index].padded(to: widths[index])
                case .right:
                    line += String(repeating: " ", count: widths[index] - row[index].count)
                    line += row[index]
                }
            }
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }
}

extension String {
    func padded(to width: Int) -> String {
        self + String(repeating: " ", count: max(0, width - count))
    }
}
