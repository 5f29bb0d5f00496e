import PoolFormat

/// Opening a pool: what the disks say becomes what is in effect.
///
/// Order: flush every disk (what is read from here on is what a power cut would leave) ─► labels
/// ─► configurations ─► choose ─► tables, only read ─► the configuration, as a new version, on
/// every disk and at the witness ─► labels repaired ─► forgotten slabs freed ─► new epochs
/// ─► spaces.
///
/// 1. Nothing is written before everything has been read and makes sense.
/// 2. The newest configuration that any disk shows is taken, if all its voters are here and the
///    witness knows no newer one. It may be one that never took effect: nothing that depends on it
///    was acknowledged, and nothing it replaces is touched before it is durable on every disk.
/// 3. If voters of the newest are missing, an older one is taken only when the witness names
///    exactly that: the newer one then never took effect.
/// 4. Slabs are freed only by a configuration that is durable on every disk.
extension Pool {
    /// What disks say of a pool that is not open.
    public struct Examination: Sendable {
        public var configuration: Configuration
        /// Voters of that configuration that are not among the members.
        public var missing: [DiskRecord]
    }

    /// Reads, without a write, what the members say of their pool.
    public static func examine(
        _ engine: Engine, members: [Member], witness: ConfigurationVersion? = nil
    ) async throws(PoolError) -> Examination {
        let found = try await readMembers(engine, members)
        let chosen = try choose(found, witness)
        return Examination(configuration: chosen.configuration, missing: chosen.missing)
    }

    /// Opens a pool and its spaces. A space that cannot be opened is named in the status, the
    /// others serve.
    ///
    /// - Parameter witness: the newest version the witness knows; nil when it knows nothing.
    /// - Throws: ``PoolError/detached(missing:reason:)`` while voters are missing,
    ///   ``PoolError/witnessNewer(witness:disks:)`` when only stale disks are here.
    public static func open(
        _ engine: Engine, members: [Member], witness: ConfigurationVersion?
    ) async throws(PoolError) -> Pool {
        let found = try await readMembers(engine, members)
        let chosen = try choose(found, witness)
        let adopted = chosen.configuration
        guard chosen.missing.isEmpty else {
            throw adopted.version.sequence <= 1
                ? .creationUnfinished(pool: adopted.poolName)
                : .detached(
                    missing: chosen.missing,
                    reason: "disks of pool \(adopted.poolName) are missing")
        }
        let pool = Pool(engine, configuration: adopted)
        pool.highestVersion = found.flatMap(\.configurations).compactMap { $0?.version }
            .reduce(adopted.version, max)
        guard !adopted.disks.isEmpty else {
            for member in found { pool.attach(member.makeDisk(adopted)) }
            _ = try await pool.wipeLabels(pool.disks, during: "while its label was wiped")
            throw .destroyed(pool: adopted.poolName)
        }
        var damagedLabels: [Disk] = []
        for record in adopted.disks {
            guard let member = found.first(where: { $0.label.is(record) }) else { continue }
            let disk = member.makeDisk(adopted)
            try await pool.attach(disk, record, member)
            if member.needsLabelRepair, disk.serves { damagedLabels.append(disk) }
        }
        try await pool.loadFences()
        try await pool.changeConfiguration { next in
            next.exported = false
            next.nextGeneration += generationReserve
            for member in found where !member.pathHint.isEmpty {
                for index in next.disks.indices where member.label.is(next.disks[index]) {
                    next.disks[index].pathHint = member.pathHint
                }
            }
        }
        _ = try await pool.writeLabels(damagedLabels, during: "while its label was repaired")
        try await pool.freeForgottenLineages()
        pool.updateReserves()
        try await pool.openSpaces()
        return pool
    }

    /// Takes a disk in with its tables. One that had failed before may be unreadable by now.
    private func attach(
        _ disk: Disk, _ record: DiskRecord, _ member: FoundMember
    ) async throws(PoolError) {
        if record.state == .failed {
            disk.failure = "before"
            disk.isFailureRecorded = true
        }
        attach(disk)
        if disk.serves && !member.hasFlushed {
            throw .writeFailed(disk: disk.name, during: "while it was opened")
        }
        do throws(PoolError) {
            try await loadTables(disk)
        } catch {
            guard record.state == .failed, error != .stopped else { throw error }
            detach(disk)
        }
    }

    private func openSpaces() async throws(PoolError) {
        let records = configuration.spaces
        let epochs = try await activate(records.map(\.lineage))
        for (record, epoch) in zip(records, epochs) {
            // A disk may have failed meanwhile: the record in effect counts.
            let current = configuration.spaces.first { $0.lineage == record.lineage } ?? record
            do throws(PoolError) {
                try await openSpace(current, epoch)
            } catch {
                if error == .stopped { throw error }
                unavailable[record.lineage] = error.what
            }
        }
    }

    func openSpace(_ record: SpaceRecord, _ epoch: UInt64) async throws(PoolError) {
        for piece in record.root where !places.contains(piece) {
            throw .claimRefused(
                lineage: record.lineage,
                what: "its root lies on disk\(piece.disk.rawValue), which is not here")
        }
        let shard = chooseShard()
        engine.spacesPlaced[shard] += 1
        let (places, settings) = (places, configuration.settings)
        do throws(PoolError) {
            let space = try await engine.on(shard) { [self] engine async throws(PoolError) in
                try await Space.open(
                    self, on: engine, places, settings, record, epoch: epoch)
            }
            spaces.append(space)
        } catch {
            engine.spacesPlaced[shard] -= 1
            throw error
        }
        // What was recorded while it opened.
        try await announceReadOnly()
    }

    /// The shard with the fewest spaces: the lowest of them.
    private func chooseShard() -> Int {
        var best = 0
        for shard in engine.spacesPlaced.indices
        where engine.spacesPlaced[shard] < engine.spacesPlaced[best] {
            best = shard
        }
        return best
    }

    // MARK: - reading members

    struct FoundMember {
        var device: DeviceDescription
        var pathHint: String
        var label: Label
        var layout: DiskLayout
        var needsLabelRepair: Bool
        var hasFlushed: Bool
        /// What the two configuration slots hold.
        var configurations: [Configuration?] = [nil, nil]

        func makeDisk(_ adopted: Configuration) -> Disk {
            let disk = Disk(
                label: label, layout: layout, description: device, pathHint: pathHint)
            // The slot to keep: what was adopted, or else the newer one.
            let versions = configurations.map { $0?.version }
            let kept = versions.firstIndex { $0 == adopted.version }
            disk.configurationSlot = kept ?? newerSlot
            return disk
        }

        private var newerSlot: Int {
            switch (configurations[0], configurations[1]) {
            case (let first?, let second?): first.version > second.version ? 0 : 1
            case (_?, nil): 0
            case (nil, _): 1
            }
        }
    }

    static func readMembers(
        _ engine: Engine, _ members: [Member]
    ) async throws(PoolError) -> [FoundMember] {
        guard !members.isEmpty else { throw .noDisks }
        let io = IOBatch(engine)
        for member in members { io.flush(member.device.index) }
        _ = await io.run()
        if engine.isStopped { throw .stopped }
        let flushes = io.statuses
        var found: [FoundMember] = []
        for (member, flush) in zip(members, flushes) {
            let next = try await readMember(engine, member, hasFlushed: flush == .ok)
            if let first = found.first, first.label.poolUUID != next.label.poolUUID {
                throw .otherPool(path: member.pathHint, pool: next.label.poolName)
            }
            guard !found.contains(where: { $0.label.diskUUID == next.label.diskUUID }) else {
                throw .diskTwice(path: member.pathHint)
            }
            found.append(next)
        }
        return found
    }

    private static func readMember(
        _ engine: Engine, _ member: Member, hasFlushed: Bool
    ) async throws(PoolError) -> FoundMember {
        let path = member.pathHint
        let found = try await readLabel(engine, member.device)
        guard let label = found.label else {
            guard found.isReadable else { throw .unreadable(disk: path, what: "label") }
            if let damage = found.damage { throw .badLabel(path: path, damage.description) }
            throw .noLabel(path: path)
        }
        guard label.diskBytes <= member.device.sizeBytes else {
            throw .diskShrunk(
                path: path, wasBytes: label.diskBytes, isBytes: member.device.sizeBytes)
        }
        guard !label.requiresReadOnly else { throw .diskNeedsNewerProgram(path: path) }
        let layout: DiskLayout
        do throws(FormatError) {
            layout = try DiskLayout(diskBytes: label.diskBytes)
        } catch {
            throw .badLabel(path: path, error.description)
        }
        var next = FoundMember(
            device: member.device, pathHint: path, label: label, layout: layout,
            needsLabelRepair: found.needsRepair, hasFlushed: hasFlushed)
        for slot in 0..<2 {
            next.configurations[slot] = try await readConfiguration(
                engine, member.device.index, slot: slot, of: label.poolUUID)
        }
        return next
    }

    /// - Returns: nil for a slot that holds nothing that can be used.
    private static func readConfiguration(
        _ engine: Engine, _ device: DeviceIndex, slot: Int, of pool: PoolUUID
    ) async throws(PoolError) -> Configuration? {
        let buffer = await engine.scratch.take(bytes: Configuration.slotBytes)
        defer { engine.scratch.give(buffer) }
        let offset = DiskLayout.configurationOffset(slot: slot)
        let io = IOBatch(engine)
        io.read(device, at: offset, bytes: Units.blockBytes, into: buffer)
        guard await io.run() else {
            if engine.isStopped { throw .stopped }
            return nil
        }
        do throws(FormatError) {
            let bytes = try unsafe Configuration.peek(
                UnsafeRawBufferPointer(engine.arena.bytes(buffer, Units.blockBytes)))
            if bytes > Units.blockBytes {
                io.read(device, at: offset, bytes: bytes, into: buffer)
                guard await io.run() else { return nil }
            }
            let configuration = try unsafe Configuration.decode(
                UnsafeRawBufferPointer(engine.arena.bytes(buffer, bytes)))
            let isSane =
                configuration.poolUUID == pool && configuration.version.sequence < numberLimit
                && configuration.nextGeneration < numberLimit
                && configuration.nextLineage < numberLimit
            return isSane ? configuration : nil
        } catch {
            return nil
        }
    }

    // MARK: - choosing

    static func choose(
        _ found: [FoundMember], _ witness: ConfigurationVersion?
    ) throws(PoolError) -> (configuration: Configuration, missing: [DiskRecord]) {
        let candidates = found.flatMap(\.configurations).compactMap { $0 }
        guard let newest = candidates.max(by: { $0.version < $1.version }) else {
            throw .noConfiguration(pool: found.first?.label.poolName ?? "")
        }
        if let witness, witness > newest.version {
            throw .witnessNewer(witness: witness, disks: newest.version)
        }
        let missing = missingVoters(of: newest, found)
        if missing.isEmpty { return (newest, []) }
        if let older = candidates.first(where: { $0.version == witness }),
            missingVoters(of: older, found).isEmpty
        {
            return (older, [])
        }
        return (newest, missing)
    }

    private static func missingVoters(
        of configuration: Configuration, _ found: [FoundMember]
    ) -> [DiskRecord] {
        configuration.disks.filter { record in
            configuration.voters.contains(record.number)
                && !found.contains { $0.label.is(record) }
        }
    }
}

extension Label {
    /// Whether a record of the configuration means this disk.
    func `is`(_ record: DiskRecord) -> Bool {
        diskNumber == record.number && diskUUID == record.uuid
    }
}
