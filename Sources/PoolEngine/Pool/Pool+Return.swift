import PoolFormat

/// Disks leave on their owner's wish, and come back.
///
/// A disk that comes back, each step durable before the next:
///
/// 1. It is read: its label says that it is the one, its configurations that it has not gone another
///    way since, and is not from a time before it left.
/// 2. Its tables are read. They confirm whatever a space claims there; what nobody claims was given
///    back while it was away, and is freed.
/// 3. The epochs in force are in its fence table.
/// 4. It has the configuration in effect; then one has it online, with a vote. Its departures stay.
///    So a crash that keeps the newer one from it leaves no disk that seems to be from an older time.
/// 5. Spaces find it, give it what it lacks, and have their departure taken back, each by itself.
///
/// A crash before 4 leaves a disk that is still away. What was written there is what it would be
/// given again.
extension Pool {
    /// Takes a disk that is away back into use.
    ///
    /// - Parameter member: the disk, on a device opened since it left: a device that has failed a
    ///   flush is not believed again.
    /// - Throws: a ``PoolError`` that says why it cannot be the disk that left; nothing has changed.
    public func onlineDisk(_ number: DiskNumber, _ member: Member) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard let record = configuration.disks.first(where: { $0.number == number }) else {
                throw .diskUnknown(number)
            }
            if let disk = disk(number), disk.serves {
                // Its owner had put it offline, or nothing was wrong.
                throw .diskServes(disk: disk.name)
            }
            // Its leaving comes to its end first.
            await recordFailures()
            if hasLostQuorum { throw .noQuorum(pool: name) }
            let disk = try await readReturning(member, record)
            try await takeBack(disk, record)
        }
    }

    /// Takes a disk out of use until its owner wants it back. One that is retired leaves for good:
    /// it could not be both, and the next opening would use it again.
    ///
    /// - Parameter force: though data becomes unreadable until then.
    public func offlineDisk(_ number: DiskNumber, force: Bool) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard let record = configuration.disks.first(where: { $0.number == number }) else {
                throw .diskUnknown(number)
            }
            if record.state == .offline { return }
            if record.state == .retired {
                throw .diskRetired(disk: Disk.name(number, record.pathHint))
            }
            if !force { try await requireExpendable(number) }
            guard let disk = disk(number), disk.serves else {
                return try await changeConfiguration { next in
                    for index in next.disks.indices where next.disks[index].number == number {
                        next.disks[index].state = .offline
                    }
                }
            }
            guard servingDisks.count > 1 else { throw .lastDisk(disk: disk.name) }
            // What is acknowledged and not flushed would count as missed.
            stopUsing(disk, as: .offline, "put offline")
            await recordFailures()
            if hasLostQuorum { throw .noQuorum(pool: name) }
        }
    }

    /// Every space can do without the disk.
    func requireExpendable(_ number: DiskNumber) async throws(PoolError) {
        await refreshStatus()
        for space in spaces {
            guard let record = configuration.spaces.first(where: { $0.lineage == space.lineage })
            else { continue }
            let losses = try explain(record.name).losses
            if losses.disks[number]?.losesData == true {
                throw .diskNeeded(
                    disk: disk(number)?.name ?? Disk.name(number, ""), space: record.name)
            }
        }
    }

    // MARK: - a disk that comes back

    /// What could be taken back as it is must not be overwritten.
    public func requireNoReturn(
        _ number: DiskNumber, _ member: Member
    ) async throws(PoolError) {
        guard let record = configuration.disks.first(where: { $0.number == number }) else {
            throw .diskUnknown(number)
        }
        let label = try await Self.readLabel(engine, member.device).label
        guard let label, label.poolUUID == uuid, label.is(record) else { return }
        do throws(PoolError) {
            _ = try await readReturning(member, record)
        } catch {
            if error.isOfAnotherPast { return }
            throw error
        }
        throw .diskReturns(path: member.pathHint)
    }

    /// Steps 1 and 2, as far as they only read.
    private func readReturning(
        _ member: Member, _ record: DiskRecord
    ) async throws(PoolError) -> Disk {
        guard let found = try await Self.readMembers(engine, [member]).first else { throw .noDisks }
        guard found.label.poolUUID == uuid else {
            throw .otherPool(path: member.pathHint, pool: found.label.poolName)
        }
        guard found.label.is(record) else { throw .otherDisk(path: member.pathHint) }
        guard found.hasFlushed else {
            throw .writeFailed(disk: member.pathHint, during: "while it was opened")
        }
        let newest = found.configurations.compactMap { $0?.version }.max()
        let hasGoneOtherWay =
            newest.map {
                $0.poolEpoch != configuration.version.poolEpoch || $0 > highestVersion
            } ?? false
        if hasGoneOtherWay || record.leftAfterSequence == DiskRecord.givenUp,
            !Mutant.isActive(.acceptOtherHistory)
        {
            throw .otherHistory(path: member.pathHint)
        }
        guard found.isCurrent(record, configuration) else {
            throw .olderTime(path: member.pathHint)
        }
        let disk = found.makeDisk(configuration)
        (disk.failure, disk.awayState, disk.isFailureRecorded) = ("coming back", record.state, true)
        disk.isRetired = record.state == .retired
        try await loadTables(disk)
        return disk
    }

    private func takeBack(_ disk: Disk, _ record: DiskRecord) async throws(PoolError) {
        let before = self.disk(record.number)
        if let before { detach(before) }
        attach(disk)
        do throws(PoolError) {
            try await confirmClaims(disk)
            disk.failure = nil
            engine.failedDevices.remove(disk.device)
            guard try await writeFences([disk]), try await commitReturned(disk) else {
                throw .writeFailed(disk: disk.name, during: disk.failure ?? "")
            }
            try await holding(configurationLock) { () async throws(PoolError) in
                try await bringOnline(disk)
            }
        } catch {
            // Spaces that were told of a failure wait until it is durable.
            await recordFailures()
            engine.failedDevices.insert(disk.device)
            detach(disk)
            if let before { attach(before) } else { placeNowhere(record.number, disk.layout) }
            throw error
        }
        guard disk.serves else {
            throw .writeFailed(disk: disk.name, during: disk.failure ?? "")
        }
        try await announceReturn(disk.number)
        roomMayHaveReturned()
    }

    /// Under the configuration lock: what says that it is online names as older what it has been given,
    /// and no other change comes in between.
    private func bringOnline(_ disk: Disk) async throws(PoolError) {
        guard try await giveConfiguration(to: [disk]) else {
            throw .writeFailed(disk: disk.name, during: disk.failure ?? "")
        }
        var next = configuration
        for index in next.disks.indices where next.disks[index].number == disk.number {
            if !disk.isRetired { next.disks[index].state = .online }
        }
        if !next.voters.contains(disk.number) { next.voters.append(disk.number) }
        try await putIntoEffect(next)
    }

    /// What was freed is durable there before anything is granted on it.
    private func commitReturned(_ disk: Disk) async throws(PoolError) -> Bool {
        try await holding(tableLock) { () async throws(PoolError) in
            try await commitTables(during: "while it came back")
        }
    }

    private func announceReturn(_ number: DiskNumber) async throws(PoolError) {
        let places = self.places
        for space in spaces {
            try await engine.on(space.engine.shard) { _ in space.noteReturned(number, places) }
        }
        await refreshStatus()
        noteResyncs()
    }

    /// Compares the disk's tables with what spaces claim on it, and frees what nobody does.
    private func confirmClaims(_ disk: Disk) async throws(PoolError) {
        // What a space was granted before the disk left it may claim only now. Where that goes on and
        // on, what nobody claims is freed by the next return, or opening.
        for _ in 0..<100 {
            if try await freeUnclaimed(disk) { return }
            let isDue = Signal(engine)
            engine.fire(isDue, atNs: engine.nowNs &+ 10_000_000)
            await isDue.wait()
        }
    }

    /// - Returns: false: the room of some space is changing, of which nothing was freed.
    private func freeUnclaimed(_ disk: Disk) async throws(PoolError) -> Bool {
        let number = disk.number
        var claimed = Claims()
        var confirmed: Set<Lineage> = []
        for space in spaces {
            // In this order: what is claimed no more must not be claimed after a crash either.
            let (claims, isDurable) = try await on(space) { space in
                (space.claims(on: number), await space.commit())
            }
            claimed.formUnion(claims)
            if isDurable { confirmed.insert(space.lineage) }
        }
        // Of a space that is not open, or commits no more, nobody knows what it claims.
        var unknown = Set(configuration.spaces.map(\.lineage)).subtracting(confirmed)
            .union([.metadata])
        return try await holding(tableLock) { () async throws(PoolError) in
            var isSettled = true
            // Nothing is given back meanwhile: what is claimed now has to be there.
            for space in spaces {
                let (claims, isChanging) = try await on(space) {
                    ($0.claims(on: number), $0.claimsChanging > 0)
                }
                guard disk.has(claims, of: space.lineage) else {
                    throw .olderTime(path: disk.name)
                }
                claimed.formUnion(claims)
                guard isChanging else { continue }
                unknown.insert(space.lineage)
                isSettled = false
            }
            if Mutant.isActive(.returnKeepsSlabs) { return true }
            free(on: [disk]) { entry, address in
                !unknown.contains(entry.lineage) && claimed.slabs[address] == nil
            } pieces: { entry, address in
                !unknown.contains(entry.lineage) && !claimed.pieces.contains(address)
            }
            return isSettled
        }
    }

    /// A space has given a disk all that it lacked: from here on it counts.
    func noteCaughtUp(_ number: DiskNumber, _ lineage: Lineage) async throws(PoolError) {
        try await changeConfiguration { next in
            next.departures.removeAll { $0.disk == number && $0.lineage == lineage }
        }
        let isStillAway = configuration.departures.contains {
            $0.disk == number && $0.lineage == lineage
        }
        if isStillAway { throw .ioError }
        noteResyncs()
        departuresChanged += 1
        wantSupervision()
    }
}

/// What a space, or several, have on a disk.
struct Claims: Sendable {
    var slabs: [SlabAddress: SlabEntry] = [:]
    var pieces: Set<PieceAddress> = []

    var isEmpty: Bool { slabs.isEmpty && pieces.isEmpty }

    mutating func formUnion(_ other: Claims) {
        slabs.merge(other.slabs) { _, new in new }
        pieces.formUnion(other.pieces)
    }
}

extension Disk {
    /// Whether its tables say so, too.
    fileprivate func has(_ claims: Claims, of lineage: Lineage) -> Bool {
        claims.slabs.allSatisfy { address, entry in
            slabs.entries.indices.contains(Int(address.slab)) && slabs[Int(address.slab)] == entry
        } && claims.pieces.allSatisfy { entry(of: $0)?.lineage == lineage }
    }
}

extension Space {
    /// What it has on a disk, as its tables should say.
    func claims(on number: DiskNumber) -> Claims {
        var claims = Claims()
        for group in groups.records {
            for (column, slab) in group.slabs.enumerated() where slab.address.disk == number {
                claims.slabs[slab.address] = SlabEntry(
                    lineage: lineage, group: group.id, column: UInt16(column),
                    generation: slab.generation)
            }
        }
        // Either of these may be what the group has in the end.
        for replacement in groups.replacements {
            for slab in [replacement.old, replacement.slab] where slab.address.disk == number {
                claims.slabs[slab.address] = SlabEntry(
                    lineage: lineage, group: replacement.group,
                    column: UInt16(replacement.position), generation: slab.generation)
            }
        }
        claims.pieces = Set(claimedPieceAddresses.filter { $0.disk == number })
        return claims
    }
}
