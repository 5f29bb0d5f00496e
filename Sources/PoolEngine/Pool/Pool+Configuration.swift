import PoolFormat

/// Changing the configuration: the pool's only way to decide something for all disks at once.
///
/// 1. One change at a time. What is in effect is durable on every disk that serves, in the slot
///    `configurationSlot`; a change is written to the other slot, so a torn write, or any number of
///    attempts that never took effect, leave what is in effect readable.
/// 2. A change takes effect only when it is flushed on the disks and recorded at the witness, or,
///    while the witness does not answer, flushed on a majority of the voters before it.
/// 3. Every version written is higher than any written before, whether or not that took effect.
/// 4. A disk that fails, here or elsewhere, is part of the next change: its state, the voters
///    without it, its departure from every mirror that has something on it, and read-only for every
///    simple space that uses something on it. Its copy is stale from then on and does not vote.
///    From the last disk with a space's metadata nobody departs: nothing goes on without it, so
///    that nothing makes it stale. The space is read-only, and whole again once that disk is
///    opened.
///
/// A crash before the last flush leaves some disks with the new version and some with the one
/// before. Opening takes the newest there is and writes it to all, before anything relies on it.
extension Pool {
    /// How many generations are reserved at a time: enough for the slabs of 256 TiB.
    static var generationReserve: UInt64 { 1 << 20 }
    /// Numbers beyond this were handed out by nobody; below it nothing can overflow.
    static var numberLimit: UInt64 { 1 << 62 }

    /// Carries one change out on every disk. When it returns the change is in effect.
    ///
    /// - Throws: ``PoolError/noQuorum(pool:)`` when too few disks took it: the spaces are read-only
    ///   then, and the change may or may not be there at the next opening.
    func changeConfiguration(
        _ edit: (inout Configuration) -> Void
    ) async throws(PoolError) {
        try await holding(configurationLock) { () async throws(PoolError) in
            var next = configuration
            edit(&next)
            try await putIntoEffect(next)
        }
    }

    /// Makes durable what is marked: disks that failed since the last change.
    func recordFailures() async {
        guard disks.contains(where: { !$0.serves && !$0.isFailureRecorded }) else { return }
        do throws(PoolError) {
            try await holding(configurationLock) { () async throws(PoolError) in
                // Another slow path may have recorded them meanwhile.
                guard disks.contains(where: { !$0.serves && !$0.isFailureRecorded }) else { return }
                try await putIntoEffect(configuration)
            }
        } catch {
            // The spaces are read-only already, or the engine has stopped.
        }
    }

    /// The first failed write or flush of a device. Returns once that is durable, or cannot be.
    func deviceFailed(_ device: DeviceIndex, during what: String) async {
        guard let disk = disk(of: device) else { return }
        markFailed(disk, during: what)
        await recordFailures()
    }

    /// Under the configuration lock.
    func putIntoEffect(_ wanted: Configuration) async throws(PoolError) {
        if hasLostQuorum { throw .noQuorum(pool: name) }
        let oldVoters = configuration.voters
        var next = wanted
        while true {
            try await announceDisks()
            let leaving = foldFailures(into: &next)
            guard !servingDisks.isEmpty, highestVersion.sequence < Self.numberLimit else {
                return try loseQuorum()
            }
            next.version = ConfigurationVersion(
                poolEpoch: highestVersion.poolEpoch, sequence: highestVersion.sequence + 1)
            next.sequenceBefore = commonSequence
            // Of whichever attempt takes effect.
            let known = Set(configuration.departures)
            for index in next.departures.indices where !known.contains(next.departures[index]) {
                next.departures[index].generation = next.version.sequence
            }
            let written = try await writeConfiguration(next)
            guard let written else { continue }
            let isRecorded = await engine.recordAtWitness(uuid, next.version)
            if engine.isStopped { throw .stopped }
            let votes = oldVoters.filter { voter in written.contains { $0.number == voter } }
            guard isRecorded || votes.count * 2 > oldVoters.count else {
                return try loseQuorum()
            }
            for disk in written { disk.configurationSlot = 1 - disk.configurationSlot }
            for disk in leaving { disk.isFailureRecorded = true }
            configuration = next
            commonSequence = next.version.sequence
            generationLimit = next.nextGeneration
            try await announceDepartures(of: leaving.map(\.number))
            try await announceReadOnly()
            return
        }
    }

    /// Writes and flushes a version on every disk that serves.
    ///
    /// - Returns: the disks that have it, or nil when one failed: then the version is out of date.
    func writeConfiguration(_ next: Configuration) async throws(PoolError) -> [Disk]? {
        let targets = servingDisks
        highestVersion = next.version
        try await write(next, to: targets)
        // A disk may also have failed elsewhere meanwhile.
        return targets.allSatisfy(\.serves) ? targets : nil
    }

    /// Writes the configuration in effect, as it is, to disks that may lack it, flushed. Nothing may
    /// change it meanwhile.
    ///
    /// - Returns: whether all took it; those that did not are marked as failed.
    func giveConfiguration(to disks: [Disk]) async throws(PoolError) -> Bool {
        try await write(configuration, to: disks)
        for disk in disks where disk.serves { disk.configurationSlot = 1 - disk.configurationSlot }
        return disks.allSatisfy(\.serves)
    }

    /// Into the other slot, flushed. Disks that fail are marked.
    ///
    /// The buffer is one of its own: those who hold the others may wait for this very configuration.
    private func write(_ version: Configuration, to disks: [Disk]) async throws(PoolError) {
        if disks.isEmpty { return }
        let what = "while the configuration was written"
        let buffer = await engine.scratch.takeConfiguration()
        defer { engine.scratch.giveConfiguration(buffer) }
        var lengthBytes = 0
        do throws(FormatError) {
            lengthBytes = try unsafe version.encode(
                into: engine.arena.bytes(buffer, Configuration.slotBytes))
        } catch {
            throw .configurationRefused(error)
        }
        // One may have failed while the buffer was waited for.
        let disks = disks.filter(\.serves)
        let io = IOBatch(engine)
        for disk in disks {
            io.write(
                disk.device,
                at: DiskLayout.configurationOffset(slot: 1 - disk.configurationSlot),
                bytes: lengthBytes, from: buffer)
        }
        if await !io.run() {
            if engine.isStopped { throw .stopped }
            for (disk, status) in zip(disks, io.statuses) where status != .ok {
                markFailed(disk, during: what)
            }
        }
        if Mutant.isActive(.configurationUnflushed) { return }
        _ = try await flush(disks.filter(\.serves), during: what)
    }

    /// - Returns: the disks whose failure `next` says now and no version in effect did.
    private func foldFailures(into next: inout Configuration) -> [Disk] {
        let leaving = disks.filter { !$0.serves && !$0.isFailureRecorded }
        for disk in leaving {
            guard let record = next.disks.firstIndex(where: { $0.number == disk.number }) else {
                continue
            }
            next.voters.removeAll { $0 == disk.number }
            guard disk.isMember else {
                // It was about to join: it does not.
                next.disks.remove(at: record)
                continue
            }
            if next.disks[record].state != .retired { next.disks[record].state = disk.awayState }
            // One that fails on its way back need not have what was in effect meanwhile.
            let wasHere = configuration.disks.contains {
                $0.number == disk.number && !configuration.hasLeft($0)
            }
            if wasHere {
                next.disks[record].leftAfterSequence = max(
                    next.disks[record].leftAfterSequence, commonSequence)
            }
            for index in next.spaces.indices where disk.holds(next.spaces[index].lineage) {
                let lineage = next.spaces[index].lineage
                if disk.sparedBy.contains(lineage) { continue }
                let isRedundant = next.spaces[index].resiliency.tolerance > 0
                if isRedundant, goesOn(next.spaces[index], without: disk, next) {
                    if !Mutant.isActive(.forgetDeparture) { next.depart(disk.number, lineage) }
                } else if !next.spaces[index].flags.contains(.readOnly) {
                    next.spaces[index].flags.insert(.readOnly)
                    next.spaces[index].readOnlyReason = Self.reason(disk)
                }
            }
        }
        return leaving
    }

    /// Whether something of a space may be told that does without a disk.
    private func goesOn(
        _ space: SpaceRecord, without disk: Disk, _ next: Configuration
    ) -> Bool {
        spaces.contains { $0.lineage == space.lineage }
            ? !disk.lastOf.contains(space.lineage) : hasRoot(space, next)
    }

    /// Whether a disk that serves has a copy of the space's root that counts.
    func hasRoot(_ space: SpaceRecord, _ next: Configuration) -> Bool {
        space.root.contains { copy in
            disk(copy.disk)?.serves ?? false
                && !next.departures.contains {
                    $0.disk == copy.disk && $0.lineage == space.lineage
                }
        }
    }

    /// At most 128 bytes: a space's record has no more room.
    static func reason(_ disk: Disk) -> String {
        let text = "disk\(disk.number.rawValue) failed \(disk.failure ?? "")"
        return text.utf8.count <= Configuration.reasonLimitBytes
            ? text : "disk\(disk.number.rawValue) failed"
    }

    /// Tells every other shard which disks serve, and returns once each has answered: before a
    /// configuration that names a disk takes effect, so before anything is granted on it, and
    /// before its failure is recorded, so before anybody is told of it.
    private func announceDisks() async throws(PoolError) {
        while let disk = disks.first(where: { $0.announced != $0.serves }) {
            let (device, number, serves) = (disk.device, disk.number, disk.serves)
            let supportsDiscard = disk.description.supportsDiscard
            let lost = serves ? [] : spaces.filter { disk.holds($0.lineage) }
            let reason = Self.reason(disk)
            for shard in engine.otherShards {
                let told = try await engine.on(shard) { other -> [(Lineage, Space.Loss)] in
                    other.note(device, serves: serves, supportsDiscard: supportsDiscard)
                    return lost.filter { $0.engine === other }.map {
                        ($0.lineage, $0.noteDeparting(number, reason))
                    }
                }
                for (lineage, loss) in told { disk.note(loss, of: lineage) }
            }
            disk.announced = serves
        }
    }

    /// Tells open spaces that the departures of these disks are durable.
    private func announceDepartures(of away: [DiskNumber]) async throws(PoolError) {
        guard !away.isEmpty else { return }
        let departures = configuration.departures
        noteResyncs()
        departuresChanged += 1
        wantSupervision()
        for space in spaces {
            let lineage = space.lineage
            let departed = Set(departures.filter { $0.lineage == lineage }.map(\.disk))
            try await engine.on(space.engine.shard) { _ in
                for number in away {
                    space.noteDeparted(number, isDeparted: departed.contains(number))
                }
            }
        }
    }

    /// Tells open spaces what the configuration in effect says of them.
    func announceReadOnly() async throws(PoolError) {
        for record in configuration.spaces where record.flags.contains(.readOnly) {
            guard let space = spaces.first(where: { $0.lineage == record.lineage }) else {
                continue
            }
            try await engine.on(space.engine.shard) { _ in
                space.becomeReadOnly(record.readOnlyReason)
            }
        }
    }

    /// Disks that were away when the configuration in effect was chosen, and what they departed from.
    func departed(from record: SpaceRecord) -> DepartedDisks {
        var departed = DepartedDisks()
        let budget = engine.limits.missedGrains
        for departure in configuration.departures where departure.lineage == record.lineage {
            let isHere = disk(departure.disk)?.serves ?? false
            _ = departed.add(
                departure.disk, isHere ? .returning : .away, grainBudget: budget,
                missedPages: .everything)
        }
        // A simple space has nothing to resync: what lies on a disk that is away is away.
        for disk in configuration.disks where record.resiliency.tolerance == 0 {
            if self.disk(disk.number)?.serves != true {
                _ = departed.add(
                    disk.number, .away, grainBudget: budget, missedPages: .everything)
            }
        }
        return departed
    }

    private func loseQuorum() throws(PoolError) {
        hasLostQuorum = true
        for space in spaces {
            engine.post(to: space.engine.shard) { _ in
                space.becomeReadOnly("the pool's disks take no more changes")
            }
        }
        throw .noQuorum(pool: name)
    }

    // MARK: - generations

    /// Sees to it that a grant of any size finds reserved generations. Takes the configuration
    /// lock now and then, so it is called with no other lock held.
    func reserveGenerations() async throws(PoolError) {
        guard generationLimit - nextGeneration < 1 << 10 else { return }
        guard nextGeneration < Self.numberLimit else { throw .numbersExhausted }
        try await changeConfiguration { $0.nextGeneration += Self.generationReserve }
    }

    /// One generation, higher than any before, also after a crash.
    func takeGeneration() -> UInt64 {
        precondition(nextGeneration < generationLimit, "a generation that is not reserved")
        defer { nextGeneration += 1 }
        return nextGeneration
    }
}

extension Configuration {
    /// A disk leaves a space: in effect before anything is told that does without it. What goes
    /// into effect names its own sequence.
    mutating func depart(_ disk: DiskNumber, _ lineage: Lineage) {
        let isKnown = departures.contains { $0.disk == disk && $0.lineage == lineage }
        guard !isKnown else { return }
        departures.append(Departure(disk: disk, lineage: lineage, generation: 0))
    }
}
