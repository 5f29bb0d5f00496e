import PoolControl

/// Messages as people read them on an 80-column terminal.
enum Reports {
    static func outcome(_ outcome: Outcome) -> String { outcome.done }

    static func pools(_ list: PoolList) -> String {
        guard !list.pools.isEmpty else {
            return "no pools; make one with: poolctl pool create POOL DISK..."
        }
        var table = TextTable([
            .name("POOL"), .left("HEALTH"), .right("CAPACITY"), .right("FREE"), .left("FILL"),
            .right("DISKS"), .right("SPACES"),
        ])
        for pool in list.pools {
            let isOpen = pool.health != .detached
            let fill = "\(pool.fillPercent) %"
                + (pool.fill == .ok ? "" : " \(pool.fill.rawValue)")
            table.add([
                pool.name, pool.health.rawValue,
                isOpen ? SizeText.format(pool.capacityBytes) : "-",
                isOpen ? SizeText.format(pool.freeBytes) : "-",
                isOpen ? fill : "-", "\(pool.disks.count)",
                isOpen ? "\(pool.spaces.count)" : "-",
            ])
        }
        return table.text
    }

    static func pool(_ pool: PoolStatus) -> String {
        var lines = heading("pool", pool.name, pool.health, pool.reason, pool.action)
        guard pool.health != .detached else {
            return (lines + ["", disks(pool.disks)]).joined(separator: "\n")
        }
        var room = "\(SizeText.format(pool.freeBytes)) free of "
            + "\(SizeText.format(pool.capacityBytes)), "
            + "\(SizeText.format(pool.allocatedBytes)) allocated, \(pool.fillPercent) % full"
            + (pool.fill == .ok ? "" : " (\(pool.fill.rawValue))")
        if let seconds = pool.secondsToFull {
            room += "; at this rate it is full in \(DurationText.format(seconds))"
        }
        lines += field("room", room)
        lines += ["", disks(pool.disks)]
        if pool.spaces.isEmpty {
            lines += ["", noSpaces]
            lines.append("  poolctl space create \(pool.name)/NAME --size SIZE --resiliency KIND")
        } else {
            lines += ["", spaces(pool.spaces)]
        }
        let jobs = shown(pool.jobs)
        if !jobs.isEmpty { lines += ["", self.jobs(jobs)] }
        return lines.joined(separator: "\n")
    }

    private static let noSpaces = "no spaces; make one with:"

    static func disks(_ disks: [DiskStatus]) -> String {
        let tags = disks.map { tag($0) }
        let kinds = Set(tags.map(\.kind)).subtracting([""])
        // The path goes last: it may be long.
        var columns: [TextTable.Column] = [
            .left("DISK"), .left("STATE"), .left("MEDIA"), .right("SIZE"), .right("ALLOCATED"),
            .right("ERRORS"),
        ]
        if kinds.count == 1, let kind = kinds.first { columns.append(.name(kind.uppercased())) }
        if kinds.count > 1 { columns.append(.name("DOMAIN")) }
        var table = TextTable(columns + [.name("PATH")])
        for (disk, tag) in zip(disks, tags) {
            let errors = [disk.errors.read, disk.errors.write, disk.errors.checksum]
                .reduce(UInt64(0)) { $0.addingReportingOverflow($1).partialValue }
            let isKnown = disk.state != .offline && disk.state != .missing
            var cells = [
                disk.name, disk.state.rawValue, disk.media.rawValue,
                SizeText.format(disk.sizeBytes),
                isKnown ? SizeText.format(disk.allocatedBytes) : "-",
                errors > 99_999 ? ">99999" : "\(errors)",
            ]
            let domain = kinds.count == 1 ? tag.name : "\(tag.kind) \(tag.name)"
            if !kinds.isEmpty { cells.append(tag.kind.isEmpty ? "-" : domain) }
            table.add(cells + [NameRules.printablePath(disk.path)])
        }
        let remarks = remarks(disks)
        return ([table.text] + (remarks.isEmpty ? [] : [""]) + remarks).joined(separator: "\n")
    }

    /// One for all disks of which there is the same to say.
    private static func remarks(_ disks: [DiskStatus]) -> [String] {
        var names: [String: [String]] = [:]
        var order: [String] = []
        for disk in disks where !disk.reason.isEmpty {
            let text = remark(disk.reason, disk.action)
            if names[text] == nil { order.append(text) }
            names[text, default: []].append(disk.name)
        }
        return order.flatMap { text in
            Terminal.wrapped(
                "\((names[text] ?? []).joined(separator: ", ")): \(text)", first: "")
        }
    }

    /// What the disk fails together with: the widest tag.
    private static func tag(_ disk: DiskStatus) -> (kind: String, name: String) {
        for (kind, tag) in [
            ("rack", disk.rack), ("node", disk.node), ("enclosure", disk.enclosure),
        ] where !tag.isEmpty { return (kind, NameRules.printable(tag)) }
        return ("", "")
    }

    static func spaces(_ list: SpaceList) -> String {
        let detached = list.detachedPools.flatMap { pool in
            Terminal.wrapped(
                "pool \(pool) is detached, its spaces are not known; see poolctl pool status "
                    + pool, first: "")
        }
        if !list.spaces.isEmpty {
            return ([spaces(list.spaces)] + (detached.isEmpty ? [] : [""]) + detached)
                .joined(separator: "\n")
        }
        guard detached.isEmpty else { return detached.joined(separator: "\n") }
        return "\(noSpaces)\n  poolctl space create POOL/NAME --size SIZE --resiliency KIND"
    }

    private static func spaces(_ spaces: [SpaceStatus]) -> String {
        var table = TextTable([
            .name("SPACE"), .left("HEALTH"), .left("RESILIENCY"), .right("SIZE"),
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
        let columns =
            switch space.columns {
            case 0: "columns by the disks"
            case 1: "1 column"
            default: "\(space.columns) columns"
            }
        lines += field(
            "layout",
            "\(space.resiliency.rawValue), \(columns), "
                + (space.resiliency.isParity
                    ? "" : "interleave \(SizeText.format(space.interleaveBytes)), ")
                + (space.checksums ? "checksums" : "no checksums"))
        lines += field(
            "size", "\(SizeText.format(space.sizeBytes)), \(space.provisioning.rawValue)")
        lines += field(
            "room",
            "\(SizeText.format(space.mappedBytes)) mapped, "
                + "\(SizeText.format(space.allocatedBytes)) allocated with "
                + (space.resiliency.isParity ? "parity" : "copies") + " and metadata")
        for tier in space.tiers {
            lines += field(
                "on \(tier.media.rawValue)", "\(SizeText.format(tier.allocatedBytes)) allocated")
        }
        if space.writeCacheBytes > 0 { lines += field("cache", cache(space)) }
        switch space.whenFull {
        case .wait:
            lines += field("if full", "writes wait for room, after 60 s they fail with ENOSPC")
        case .enospc: lines += field("if full", "writes that need room fail with ENOSPC")
        }
        lines += field(
            "clients",
            "\(space.connections)"
                + (space.waitingWrites == 0 ? "" : ", writes that wait: \(space.waitingWrites)"))
        lines += field("owner", "\(space.owner), epoch \(space.epoch)")
        return lines.joined(separator: "\n")
    }

    private static func cache(_ space: SpaceStatus) -> String {
        let size = SizeText.format(space.writeCacheBytes)
        guard space.writeCacheDirtyBytes > 0 else { return "\(size), empty" }
        return "\(size), \(SizeText.format(space.writeCacheDirtyBytes)) on its way to stripes, "
            + "\(SizeText.format(space.writeCacheDestageBytesPerSecond))/s"
    }

    static func settings(_ list: SettingList) -> String {
        var lines: [String] = []
        let width = (list.settings.map(\.key.count).max() ?? 0) + 2
        for setting in list.settings {
            let isDefault = setting.value == setting.default
            lines += Terminal.wrapped(
                NameRules.printableLine(setting.value)
                    + (isDefault ? " (default)" : " (default: \(setting.default))"),
                first: "\(setting.key): ".padded(to: width))
            lines += Terminal.wrapped(
                NameRules.printableLine(setting.meaning), first: "".padded(to: width))
        }
        return lines.joined(separator: "\n")
    }

    // MARK: - parts

    static func remark(_ reason: String, _ action: String) -> String {
        NameRules.printableLine(action.isEmpty ? reason : "\(reason); \(action)")
    }

    static func heading(
        _ noun: String, _ name: String, _ health: Health, _ reason: String, _ action: String
    ) -> [String] {
        var lines = field(noun, name) + field("health", health.rawValue)
        if !reason.isEmpty { lines += field("reason", NameRules.printableLine(reason)) }
        if !action.isEmpty { lines += field("action", NameRules.printableLine(action)) }
        return lines
    }

    static func field(_ label: String, _ text: String) -> [String] {
        Terminal.wrapped(text, first: "\(label):".padded(to: 10))
    }
}
