import PoolFormat

/// Opening a pool: what the disks say becomes what is in effect.
///
/// Order: flush every disk (what is read from here on is what a power cut would leave) ─► labels
/// ─► configurations ─► choose ─► tables, only read ─► the configuration, as a new version, on
/// every disk and at the witness ─► labels repaired ─► forgotten slabs freed ─► new epochs
/// ─► spaces.
///
/// 1. Nothing is written before everything has been read and makes sense.
/// 2. The newest configuration that any disk shows is taken, if the witness knows no newer one, and
///    names just that one or a majority of its voters is here. It may be one that never took effect:
///    nothing that depends on it was acknowledged, and nothing it replaces is touched before it is
///    durable on the disks.
/// 3. Without such a majority, an older one is taken only when the witness names exactly that: the
///    newer one then never took effect.
/// 4. Disks that are missing have departed from every space before any of them opens. A disk that
///    had left and is here serves again, and is made equal by the spaces (`Space/Space+Resync.swift`).
/// 5. A disk that shows no version as new as one that it must have been given is from an older time:
///    it counts as missing.
/// 6. Slabs are freed only by a configuration that is durable on every disk that serves.
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
    /// - Parameters:
    ///   - witness: the newest version the witness knows; nil when it knows nothing.
    ///   - startsHistory: opens whatever is here as a new history, which no disk of the old one may
    ///     join again: what the missing disks know that these do not is given up.
    /// - Throws: ``PoolError/detached(missing:reason:)`` while too few voters are here,
    ///   ``PoolError/witnessNewer(witness:disks:)`` when only stale disks are.
    public static func open(
        _ engine: Engine, members: [Member], witness: ConfigurationVersion?,
        startsHistory: Bool = false
    ) async throws(PoolError) -> Pool {
        let found = try await readMembers(engine, members)
        let chosen = try choose(found, startsHistory ? nil : witness)
        let adopted = chosen.configuration
        guard chosen.hasQuorum || startsHistory else {
            throw adopted.version.sequence <= 1
                ? .creationUnfinished(pool: adopted.poolName)
                : .detached(
                    missing: chosen.missing,
                    reason: "disks of pool \(adopted.poolName) are missing")
        }
        let pool = Pool(engine, configuration: adopted)
        pool.highestVersion = found.flatMap(\.configurations).compactMap { $0?.version }
            .reduce(adopted.version, max)
        guard pool.highestVersion.poolEpoch < numberLimit else { throw .numbersExhausted }
        if startsHistory { pool.highestVersion.poolEpoch += 1 }
        guard !adopted.disks.isEmpty else {
            for member in found { pool.attach(member.makeDisk(adopted)) }
            _ = try await pool.wipeLabels(pool.disks, during: "while its label was wiped")
            throw .destroyed(pool: adopted.poolName)
        }
        let damagedLabels = try await pool.attachMembers(found)
        try await pool.loadFences()
        let left = Set(adopted.disks.filter(adopted.hasLeft).map(\.number))
        _ = try await pool.giveConfiguration(
            to: pool.servingDisks.filter { left.contains($0.number) })
        try await pool.changeConfiguration { next in
            next.exported = false
            next.nextGeneration += generationReserve
            pool.noteWhoIsHere(&next, found, startsHistory: startsHistory)
        }
        // Once more: whatever shows no version of this opening is from before it.
        if adopted.disks.count > 1 { try await pool.changeConfiguration { _ in } }
        _ = try await pool.writeLabels(damagedLabels, during: "while its label was repaired")
        try await pool.freeForgottenLineages()
        pool.updateReserves()
        try await pool.openSpaces()
        pool.noteResyncs()
        pool.engine.spawn { await pool.supervise() }
        return pool
    }

    /// - Returns: disks of which a copy of the label is damaged.
    private func attachMembers(_ found: [FoundMember]) async throws(PoolError) -> [Disk] {
        var damagedLabels: [Disk] = []
        for record in configuration.disks {
            let member = found.first {
                $0.label.is(record) && $0.isCurrent(record, configuration)
            }
            if let member {
                let disk = member.makeDisk(configuration)
                try await attach(disk, record, member)
                if member.needsLabelRepair, disk.serves { damagedLabels.append(disk) }
            }
            if disk(record.number) == nil { try attachAbsent(record) }
        }
        return damagedLabels
    }

    /// The place of a disk that is not here: what lies on it can be named.
    private func attachAbsent(_ record: DiskRecord) throws(PoolError) {
        do throws(FormatError) {
            placeNowhere(record.number, try DiskLayout(diskBytes: record.sizeBytes))
        } catch {
            throw .configurationRefused(error)
        }
    }

    /// Who is missing has departed; who is here serves, unless its owner has put it offline.
    private func noteWhoIsHere(
        _ next: inout Configuration, _ found: [FoundMember], startsHistory: Bool
    ) {
        for index in next.disks.indices {
            let record = next.disks[index]
            let member = found.first { $0.label.is(record) }
            if let member, !member.pathHint.isEmpty { next.disks[index].pathHint = member.pathHint }
            if let disk = disk(record.number), disk.serves {
                if record.state != .retired { next.disks[index].state = .online }
                if !next.voters.contains(record.number) { next.voters.append(record.number) }
            } else {
                next.voters.removeAll { $0 == record.number }
                if !configuration.hasLeft(record) {
                    if record.state != .retired {
                        next.disks[index].state = member == nil ? .missing : .failed
                    }
                    next.disks[index].leftAfterSequence = commonSequence
                }
                if startsHistory { next.disks[index].leftAfterSequence = DiskRecord.givenUp }
                // A space of which no disk here has what counts does not open, and misses nothing.
                for space in next.spaces
                where space.resiliency.tolerance > 0 && (startsHistory || hasRoot(space, next)) {
                    next.depart(record.number, space.lineage)
                }
            }
        }
        // Whatever of a simple space was lost with a disk has been told; now all of it is here.
        let isComplete = next.disks.allSatisfy { disk($0.number)?.serves ?? false }
        for index in next.spaces.indices where isComplete || next.spaces[index].resiliency.tolerance > 0 {
            next.spaces[index].flags.remove(.readOnly)
            next.spaces[index].readOnlyReason = ""
        }
    }

    /// Takes a disk in with its tables. One that had failed before may be unreadable by now.
    private func attach(
        _ disk: Disk, _ record: DiskRecord, _ member: FoundMember
    ) async throws(PoolError) {
        disk.isRetired = record.state == .retired
        let isAway = configuration.hasLeft(record) && record.state != .offline
        if record.state == .offline {
            (disk.failure, disk.awayState) = ("put offline", .offline)
            disk.isFailureRecorded = true
        }
        attach(disk)
        if disk.serves && !member.hasFlushed {
            guard configuration.disks.count > 1 else {
                throw .writeFailed(disk: disk.name, during: "while it was opened")
            }
            // Part of the next change of the configuration.
            stopUsing(disk, as: .failed, "while it was opened")
        }
        do throws(PoolError) {
            try await loadTables(disk)
        } catch {
            // The others have whatever does not lie on it alone.
            let isBearable = isAway || !disk.serves || configuration.disks.count > 1
            guard isBearable, error != .stopped else { throw error }
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
        let shard = chooseShard()
        engine.spacesPlaced[shard] += 1
        let (places, settings) = (places, configuration.settings)
        let departed = departed(from: record)
        let (departures, serving) = (configuration.departures, servingDisks.count)
        do throws(PoolError) {
            let space = try await engine.on(shard) { [self] engine async throws(PoolError) in
                try await Space.open(
                    self, on: engine, places, settings, record, departed, epoch: epoch)
            }
            spaces.append(space)
            try await announceDepartures(to: space, departed)
        } catch {
            engine.spacesPlaced[shard] -= 1
            // A disk has left while it opened: it opens without. From a simple space none departs,
            // but another has its metadata, and what else is there can be read.
            guard error == .ioError,
                departures != configuration.departures || servingDisks.count < serving
            else { throw error }
            let epochs = try await activate([record.lineage])
            let current = configuration.spaces.first { $0.lineage == record.lineage } ?? record
            return try await openSpace(current, epochs.first ?? epoch)
        }
        // What was recorded while it opened.
        try await announceReadOnly()
    }

    /// Disks that have left while a space opened, and that it has not met itself. Of those that the
    /// configuration is about to say it of, it is told by that.
    private func announceDepartures(
        to space: Space, _ known: DepartedDisks
    ) async throws(PoolError) {
        for disk in disks
        where !disk.serves && !disk.isFailureRecorded && disk.holds(space.lineage) {
            let number = disk.number
            let loss = try await engine.on(space.engine.shard) { _ in
                space.noteDeparting(
                    number, "disk\(number.rawValue) failed", missedPages: .everything)
            }
            disk.note(loss, of: space.lineage)
        }
        for departure in configuration.departures where departure.lineage == space.lineage {
            let number = departure.disk
            let isKnown = known.index(of: number).map { known[$0].phase == .away } ?? false
            guard !isKnown, disk(number)?.serves != true else { continue }
            try await engine.on(space.engine.shard) { _ in
                space.noteDeparting(
                    number, "disk\(number.rawValue) failed", missedPages: .everything)
                space.noteDeparted(number, isDeparted: true)
            }
        }
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

        /// It shows a version as new as it must have been given in this history: else it is from an
        /// older time, or has gone another way.
        func isCurrent(_ record: DiskRecord, _ adopted: Configuration) -> Bool {
            if Mutant.isActive(.acceptOlderTime) { return true }
            let newest = configurations.compactMap { $0?.version }.max()
            // It may have begun a history of its own, with the same pool epoch as this one.
            if record.leftAfterSequence == DiskRecord.givenUp {
                return Mutant.isActive(.acceptOtherHistory)
            }
            // One that is just joining, or has lost both slots to rot.
            guard let newest else { return true }
            guard newest.poolEpoch == adopted.version.poolEpoch else { return false }
            return newest.sequence
                >= (adopted.hasLeft(record) ? record.leftAfterSequence : adopted.sequenceBefore)
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

    struct Choice {
        var configuration: Configuration
        /// Its voters that are not here.
        var missing: [DiskRecord]
        /// Enough of them are.
        var hasQuorum: Bool
    }

    static func choose(
        _ found: [FoundMember], _ witness: ConfigurationVersion?
    ) throws(PoolError) -> Choice {
        let candidates = found.flatMap(\.configurations).compactMap { $0 }
        guard let newest = candidates.max(by: { $0.version < $1.version }) else {
            throw .noConfiguration(pool: found.first?.label.poolName ?? "")
        }
        if let witness, witness > newest.version {
            throw .witnessNewer(witness: witness, disks: newest.version)
        }
        let choice = judge(newest, found, witness)
        if choice.hasQuorum { return choice }
        if let older = candidates.first(where: { $0.version == witness }) {
            return judge(older, found, witness)
        }
        return choice
    }

    private static func judge(
        _ configuration: Configuration, _ found: [FoundMember], _ witness: ConfigurationVersion?
    ) -> Choice {
        let missing = configuration.disks.filter { record in
            configuration.voters.contains(record.number)
                && !found.contains {
                    $0.label.is(record)
                        && ($0.isCurrent(record, configuration)
                            || Mutant.isActive(.countStaleVoters))
                }
        }
        let votes = configuration.voters.count - missing.count
        // The first configuration is whole on all disks, or the pool was never made.
        let isEnough =
            configuration.version.sequence > 1
            && (witness == configuration.version || votes * 2 > configuration.voters.count)
        return Choice(
            configuration: configuration, missing: missing,
            hasQuorum: missing.isEmpty || isEnough)
    }
}

extension Label {
    /// Whether a record of the configuration means this disk.
    func `is`(_ record: DiskRecord) -> Bool {
        diskNumber == record.number && diskUUID == record.uuid
    }
}

extension Configuration {
    /// A disk that is away, or is taken for it until it has been made equal. One that is being retired
    /// stays so, and has no vote while it is away.
    func hasLeft(_ record: DiskRecord) -> Bool {
        switch record.state {
        case .online, .rebuilding: false
        case .offline, .missing, .failed: true
        case .retired: !voters.contains(record.number)
        }
    }
}
