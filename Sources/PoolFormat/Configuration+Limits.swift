extension Configuration {
    public static let diskLimit = 256
    public static let spaceLimit = 1024
    public static let departureLimit = 8192
    public static let nameLimitBytes = 64
    public static let tagLimitBytes = 64
    public static let pathHintLimitBytes = 1024
    public static let reasonLimitBytes = 128

    /// Refuses what cannot be encoded, and what breaks an invariant.
    public func validate() throws(FormatError) {
        try Self.check(disks.count, "disks", Self.diskLimit)
        try Self.check(spaces.count, "spaces", Self.spaceLimit)
        try Self.check(voters.count, "voters", Self.diskLimit)
        try Self.check(departures.count, "departures", Self.departureLimit)
        try poolName.checkFits(Self.nameLimitBytes, .configuration, "pool name")
        try settings.validate()
        guard sequenceBefore < max(version.sequence, 1) else {
            throw Self.outOfRange("sequence before", sequenceBefore)
        }
        try validateDisks()
        try validateSpaces()
        var seen: Set<DiskNumber> = []
        for voter in voters {
            guard seen.insert(voter).inserted else {
                throw Self.duplicate("voter", UInt64(voter.rawValue))
            }
        }
    }

    private func validateDisks() throws(FormatError) {
        var numbers: Set<DiskNumber> = []
        var uuids: Set<PoolUUID> = []
        for disk in disks {
            let number = UInt64(disk.number.rawValue)
            guard numbers.insert(disk.number).inserted else {
                throw Self.duplicate("disk number", number)
            }
            guard uuids.insert(disk.uuid).inserted else {
                throw Self.duplicate("disk UUID", disk.uuid.low)
            }
            guard disk.number.rawValue < nextDiskNumber else {
                throw Self.outOfRange("disk number", number)
            }
            guard
                disk.leftAfterSequence <= version.sequence
                    || disk.leftAfterSequence == DiskRecord.givenUp
            else {
                throw Self.outOfRange("sequence after which a disk left", disk.leftAfterSequence)
            }
            try disk.enclosure.checkFits(Self.tagLimitBytes, .configuration, "enclosure")
            try disk.node.checkFits(Self.tagLimitBytes, .configuration, "node")
            try disk.rack.checkFits(Self.tagLimitBytes, .configuration, "rack")
            try disk.pathHint.checkFits(Self.pathHintLimitBytes, .configuration, "path hint")
        }
    }

    private func validateSpaces() throws(FormatError) {
        var lineages: Set<Lineage> = [.metadata, .none]
        var names: Set<String> = []
        for space in spaces {
            guard lineages.insert(space.lineage).inserted else {
                throw Self.duplicate("lineage", space.lineage.rawValue)
            }
            guard space.lineage.rawValue < nextLineage else {
                throw Self.outOfRange("lineage", space.lineage.rawValue)
            }
            guard names.insert(space.name).inserted else {
                throw Self.duplicate("name of space", space.lineage.rawValue)
            }
            try space.validate()
        }
    }

    private static func check(
        _ count: Int, _ field: String, _ limit: Int
    ) throws(FormatError) {
        guard count <= limit else {
            throw .tooMany(.configuration, field: field, count: count, limit: limit)
        }
    }

    static func outOfRange(_ field: String, _ value: UInt64) -> FormatError {
        .outOfRange(.configuration, field: field, value: value)
    }

    private static func duplicate(_ field: String, _ value: UInt64) -> FormatError {
        .duplicate(.configuration, field: field, value: value)
    }
}

extension SpaceRecord {
    func validate() throws(FormatError) {
        try name.checkFits(Configuration.nameLimitBytes, .configuration, "space name")
        try owner.checkFits(Configuration.tagLimitBytes, .configuration, "owner")
        try readOnlyReason.checkFits(
            Configuration.reasonLimitBytes, .configuration, "read-only reason")
        guard sizeBytes > 0, sizeBytes % UInt64(Units.grainBytes) == 0,
            sizeBytes <= Units.maximumSpaceBytes
        else { throw Configuration.outOfRange("space size", sizeBytes) }
        guard Int(copies) == resiliency.copies else {
            throw Configuration.outOfRange("number of copies", UInt64(copies))
        }
        guard Int(columns) * Int(copies) <= Units.maximumGroupSlabs else {
            throw Configuration.outOfRange("number of columns", UInt64(columns))
        }
        if resiliency.isParity, columns != 0 {
            let data = Int(columns) - resiliency.parityColumns
            guard Units.parityDataColumns.contains(data) else {
                throw Configuration.outOfRange("number of columns", UInt64(columns))
            }
        }
        guard hasUsableInterleave else {
            throw Configuration.outOfRange("interleave", UInt64(interleaveBytes))
        }
        guard flags.isSubset(of: SpaceFlags.known) else {
            throw Configuration.outOfRange("space flags", UInt64(flags.rawValue))
        }
        guard ssdResiliency == 0 || ResiliencyKind(rawValue: ssdResiliency) != nil else {
            throw Configuration.outOfRange("SSD resiliency", UInt64(ssdResiliency))
        }
        try root.validate(.configuration, "root copies")
        guard Int(currentCopies) >> root.count == 0 else {
            throw Configuration.outOfRange("set of current copies", UInt64(currentCopies))
        }
    }
}

extension SpaceRecord {
    /// Every slab group of the space is made with it, so a senseless one would be found only when a
    /// write needs the next group. Parity has units of its own.
    private var hasUsableInterleave: Bool {
        switch resiliency {
        case .simple, .mirror2, .mirror3:
            (Units.minimumInterleaveBytes...Units.grainBytes).contains(Int(interleaveBytes))
                && interleaveBytes.nonzeroBitCount == 1
        case .parity1, .parity2:
            interleaveBytes % UInt32(Units.blockBytes) == 0
                && interleaveBytes <= UInt32(Units.grainBytes)
        }
    }
}

extension SpaceFlags {
    static let known: SpaceFlags = [.noChecksums, .fixed, .readOnly]
}
