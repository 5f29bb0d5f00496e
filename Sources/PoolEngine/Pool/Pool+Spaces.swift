import PoolFormat

/// Spaces come and go, and the pool closes.
///
/// Order, each step durable before the next:
///
///     create    lineage reserved in the configuration ─► metadata granted and formatted
///               ─► the configuration names the space ─► epoch ─► open
///     destroy   closed ─► the configuration without it ─► its slabs and pieces freed
///
/// 1. A lineage is reserved before anything carries it, so what a crash leaves of a space that was
///    never named is never taken for a part of the next one.
/// 2. Slabs and pieces of a lineage that the configuration does not have are freed, here or at the
///    next opening.
extension Pool {
    public struct SpaceParameters: Hashable, Sendable {
        public var name: String
        public var sizeBytes: UInt64
        public var resiliency: ResiliencyKind
        /// Data columns; 0 leaves the choice to each slab group.
        public var columns: Int
        public var interleaveBytes: UInt32
        public var flags: SpaceFlags
        public var whenFull: WhenFull
        /// 0: none; nil: as much as suits the pool.
        public var writeCacheBytes: UInt64?

        public init(
            name: String, sizeBytes: UInt64, resiliency: ResiliencyKind, columns: Int = 0,
            interleaveBytes: UInt32 = 256 << 10, flags: SpaceFlags = [], whenFull: WhenFull = .wait,
            writeCacheBytes: UInt64? = nil
        ) {
            self.name = name
            self.sizeBytes = sizeBytes
            self.resiliency = resiliency
            self.columns = columns
            self.interleaveBytes = interleaveBytes
            self.flags = flags
            self.whenFull = whenFull
            self.writeCacheBytes = writeCacheBytes
        }
    }

    /// Makes a space and opens it. A fixed one has all its slabs, and a claim on the metadata it
    /// will need, before this returns: the cost is that of the slab tables, whatever its size.
    ///
    /// - Throws: a ``PoolError`` that says what is wrong with the parameters, or that there is no
    ///   room for its metadata.
    @discardableResult
    public func createSpace(_ parameters: SpaceParameters) async throws(PoolError) -> Lineage {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            try check(parameters)
            let lineage = Lineage(configuration.nextLineage)
            guard lineage.rawValue < Self.numberLimit else { throw .numbersExhausted }
            try await changeConfiguration { $0.nextLineage = lineage.rawValue + 1 }
            var record = SpaceRecord(
                lineage: lineage, name: parameters.name, sizeBytes: parameters.sizeBytes,
                resiliency: parameters.resiliency, copies: UInt8(parameters.resiliency.copies),
                columns: UInt16(parameters.columns),
                interleaveBytes: parameters.interleaveBytes, flags: parameters.flags,
                whenFull: parameters.whenFull, readOnlyReason: "", ssdTierBytes: 0,
                ssdResiliency: 0,
                writeCacheBytes: parameters.writeCacheBytes ?? defaultWriteCache(parameters),
                root: [], currentCopies: 0, owner: "")
            let copies = max(2, parameters.resiliency.tolerance + 1)
            do throws(PoolError) {
                record.root = try await Space.format(
                    self, lineage: lineage, disks: metadataDisks(copies: copies))
                record.currentCopies = UInt8((1 << record.root.count) - 1)
                try await changeConfiguration { $0.spaces.append(record) }
            } catch {
                if error == .stopped { throw error }
                // What was granted to it goes back; if that fails too, the next opening does it.
                try? await freeForgottenLineages()
                throw error
            }
            do throws(PoolError) {
                let epochs = try await activate([lineage])
                let current = configuration.spaces.first { $0.lineage == lineage } ?? record
                try await openSpace(current, epochs.first ?? 1)
            } catch {
                unavailable[lineage] = error.what
                throw error
            }
            if parameters.flags.contains(.fixed) {
                do throws(PoolError) {
                    try await grantAll(lineage)
                } catch {
                    if error != .stopped { try await destroy(record) }
                    throw error
                }
            }
            return lineage
        }
    }

    /// The slabs of a fixed space.
    private func grantAll(_ lineage: Lineage) async throws(PoolError) {
        updateReserves()
        guard reservesFit else { throw .noMetadataSpace }
        guard let space = spaces.first(where: { $0.lineage == lineage }) else { return }
        try await on(space) { space async throws(PoolError) in
            try await space.grantGrains(space.map.grainCount)
        }
    }

    private func check(_ parameters: SpaceParameters) throws(PoolError) {
        let name = parameters.name
        guard Self.isValid(name: name) else { throw .badSpaceName(name) }
        guard !configuration.spaces.contains(where: { $0.name == name }) else {
            throw .nameTaken(name)
        }
        guard configuration.spaces.count < Configuration.spaceLimit else {
            throw .tooManySpaces(limit: Configuration.spaceLimit)
        }
        try check(sizeBytes: parameters.sizeBytes)
        let interleave = Int(parameters.interleaveBytes)
        guard interleave >= Units.minimumInterleaveBytes, interleave <= Units.grainBytes,
            interleave & (interleave - 1) == 0
        else { throw .badInterleave(bytes: parameters.interleaveBytes) }
        try check(parameters.resiliency, columns: parameters.columns)
        try check(
            writeCacheBytes: parameters.writeCacheBytes ?? 0, parameters.resiliency,
            parameters.flags)
    }

    func check(
        writeCacheBytes bytes: UInt64, _ resiliency: ResiliencyKind, _ flags: SpaceFlags
    ) throws(PoolError) {
        if bytes == 0 { return }
        guard resiliency.isParity, !flags.contains(.noChecksums) else {
            throw .noWriteCache(resiliency)
        }
        let piece = UInt64(Units.pieceBytes)
        guard bytes % piece == 0, bytes / piece <= UInt64(Space.cachePieceLimit) else {
            throw .badWriteCache(bytes: bytes)
        }
    }

    /// 1 % of the SSDs, from 64 MiB to 1 GiB; 256 MiB without SSDs; none where it would be no use.
    private func defaultWriteCache(_ parameters: SpaceParameters) -> UInt64 {
        guard parameters.resiliency.isParity, !parameters.flags.contains(.noChecksums) else {
            return 0
        }
        let fast = configuration.disks.filter { $0.mediaClass == .ssd }
            .reduce(UInt64(0)) { $0 &+ $1.sizeBytes }
        guard fast > 0 else { return 256 << 20 }
        let share = fast / 100 / UInt64(Units.pieceBytes) * UInt64(Units.pieceBytes)
        return min(max(share, 64 << 20), 1 << 30)
    }

    private func check(_ layout: ResiliencyKind, columns: Int) throws(PoolError) {
        let slabLimit = min(engine.limits.groupSlabs, Units.maximumGroupSlabs)
        let allowed =
            layout.isParity
            ? layout.leastDisks ... Units.parityDataColumns.upperBound + layout.parityColumns
            : 1...slabLimit / layout.copies
        guard columns == 0 || allowed.contains(columns) else {
            throw .badColumns(columns: columns, allowed: allowed)
        }
        let chosen = max(columns, allowed.lowerBound)
        let needed = layout.isParity ? chosen : chosen * layout.copies
        let present = disks.count(where: \.takesGrants)
        guard needed <= present else {
            throw .tooFewDisks(
                resiliency: layout, columns: chosen, needed: needed, present: present)
        }
    }

    /// Ends a space and gives back all it has. Its lineage is never used again.
    public func destroySpace(_ name: String) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard let record = configuration.spaces.first(where: { $0.name == name }) else {
                throw .nameUnknown(name)
            }
            if hasLostQuorum { throw .noQuorum(pool: self.name) }
            try await destroy(record)
        }
    }

    private func destroy(_ record: SpaceRecord) async throws(PoolError) {
        if let space = spaces.first(where: { $0.lineage == record.lineage }) {
            await close(space)
            unavailable[record.lineage] = "it is being destroyed"
        }
        try await changeConfiguration { next in
            next.spaces.removeAll { $0.lineage == record.lineage }
            next.departures.removeAll { $0.lineage == record.lineage }
        }
        unavailable[record.lineage] = nil
        try await freeForgottenLineages()
        updateReserves()
    }

    // MARK: - the end of a pool

    /// Closes the pool so that another host may open it without this one's witness.
    public func export() async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            await closeSpaces()
            try await changeConfiguration { $0.exported = true }
            isClosed = true
        }
    }

    /// A clean end of the daemon: everything acknowledged is durable afterwards.
    public func close() async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            if isClosed { return }
            await closeSpaces()
            _ = try await flush(servingDisks, during: "while the pool was closed")
            await recordFailures()
            isClosed = true
        }
    }

    /// Ends the pool: its disks are free afterwards. The configuration says so first, so that a
    /// crash in between is finished by the next opening.
    public func destroy() async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            await closeSpaces()
            try await changeConfiguration { next in
                next.spaces = []
                next.disks = []
                next.voters = []
                next.departures = []
            }
            isClosed = true
            _ = try await wipeLabels(servingDisks, during: "while its label was wiped")
        }
    }

    private func closeSpaces() async {
        while let space = spaces.last { await close(space) }
    }

    /// It stays one of the pool's until it has ended: it has to be told of a disk that fails meanwhile,
    /// as it waits until that is durable.
    private func close(_ space: Space) async {
        defer { spaces.removeAll { $0 === space } }
        let shard = space.engine.shard
        // A stopped engine has closed its spaces in its own way.
        try? await engine.on(shard) { _ in await space.close() }
        engine.spacesPlaced[shard] -= 1
    }
}
