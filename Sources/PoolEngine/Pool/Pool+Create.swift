import PoolFormat

/// Making a pool, and adding disks to one.
///
/// Order, each step flushed on every disk before the next:
///
///     create   old labels wiped ─► tables laid out ─► configuration 1 ─► labels
///              ─► configuration 2 ─► witness: the pool exists
///     add      old labels wiped ─► tables laid out ─► labels
///              ─► a configuration that names the disks ─► witness: they belong
///
/// 1. Until its labels are there a disk belongs to no pool, whatever else lies on it.
/// 2. Configuration 2 exists only once every disk is labelled. A crash before leaves at most
///    configuration 1 on some disks: with all of them there it is a complete, empty pool, otherwise
///    ``PoolError/creationUnfinished(pool:)`` says that there never was one.
/// 3. A labelled disk that no configuration names is nobody's; opening ignores it.
extension Pool {
    /// Makes a pool of the disks; what was on them is lost.
    ///
    /// - Throws: a ``PoolError`` about the members before anything is written, or
    ///   ``PoolError/writeFailed(disk:during:)``.
    public static func create(
        _ engine: Engine, name: String, uuid: PoolUUID, members: [Member]
    ) async throws(PoolError) -> Pool {
        guard isValid(name: name) else { throw .badPoolName(name) }
        guard !members.isEmpty else { throw .noDisks }
        let pool = Pool(
            engine,
            configuration: Configuration(
                poolUUID: uuid, poolName: name,
                version: ConfigurationVersion(poolEpoch: 1, sequence: 0), nextDiskNumber: 1,
                nextLineage: 1, nextGeneration: 1, exported: false, disks: [], spaces: [],
                voters: [], departures: []))
        let disks = try pool.makeDisks(members)
        for disk in disks { pool.attach(disk) }
        try await pool.layOut(disks)

        var first = pool.configuration
        pool.append(disks, members, to: &first)
        first.nextGeneration = Self.generationReserve
        first.version.sequence = 1
        guard try await pool.writeConfiguration(first) != nil else {
            throw pool.writeFailure(disks)
        }
        for disk in disks { disk.configurationSlot = 1 - disk.configurationSlot }
        pool.configuration = first
        pool.commonSequence = first.version.sequence
        pool.generationLimit = first.nextGeneration
        guard try await pool.writeLabels(disks, during: "while it was labelled") else {
            throw pool.writeFailure(disks)
        }
        try await pool.changeConfiguration { _ in }
        guard disks.allSatisfy(\.serves) else { throw pool.writeFailure(disks) }
        pool.engine.spawn { await pool.supervise() }
        return pool
    }

    /// Adds disks; what was on them is lost, what they can hold is there for every space.
    public func addDisks(_ members: [Member]) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            try await add(members)
        }
    }

    /// Under the administration lock.
    func add(_ members: [Member]) async throws(PoolError) {
        guard !members.isEmpty else { throw .noDisks }
        let disks = try makeDisks(members)
        for disk in disks { disk.isMember = false }
        try await layOut(disks)
        guard try await writeLabels(disks, during: "while it was labelled") else {
            throw writeFailure(disks)
        }
        for disk in disks { attach(disk) }
        do throws(PoolError) {
            try await changeConfiguration { append(disks, members, to: &$0) }
        } catch {
            for disk in disks { detach(disk) }
            throw error
        }
        for disk in disks {
            disk.isMember = disk.serves
            if !disk.serves { detach(disk) }
        }
        roomMayHaveReturned()
        guard disks.allSatisfy(\.serves) else { throw writeFailure(disks) }
    }

    static func isValid(name: String) -> Bool {
        (1...Configuration.nameLimitBytes).contains(name.utf8.count)
    }

    /// Checks what is offered, and numbers it.
    private func makeDisks(_ members: [Member]) throws(PoolError) -> [Disk] {
        guard configuration.disks.count + members.count <= Configuration.diskLimit else {
            throw .tooManyDisks(limit: Configuration.diskLimit)
        }
        guard Int(configuration.nextDiskNumber) + members.count < Int(UInt16.max) else {
            throw .numbersExhausted
        }
        var devices = Set(disks.map(\.device))
        var uuids = Set(configuration.disks.map(\.uuid))
        var made: [Disk] = []
        for (position, member) in members.enumerated() {
            let (path, device) = (member.pathHint, member.device)
            guard devices.insert(device.index).inserted, uuids.insert(member.uuid).inserted else {
                throw .diskTwice(path: path)
            }
            guard path.utf8.count <= Configuration.pathHintLimitBytes else {
                throw .badPathHint(path: path)
            }
            guard device.sectorBytes == 512 || device.sectorBytes == 4096 else {
                throw .badSectorSize(path: path, bytes: device.sectorBytes)
            }
            let layout: DiskLayout
            do throws(FormatError) {
                layout = try DiskLayout(diskBytes: device.sizeBytes)
            } catch {
                throw device.sizeBytes < Units.minimumDiskBytes
                    ? .diskTooSmall(path: path, bytes: device.sizeBytes)
                    : .diskTooLarge(path: path, bytes: device.sizeBytes)
            }
            let label = Label(
                poolUUID: uuid, diskUUID: member.uuid,
                diskNumber: DiskNumber(configuration.nextDiskNumber + UInt16(position)),
                poolName: name, compatibleFeatures: 0, readOnlyCompatibleFeatures: 0,
                incompatibleFeatures: Features.draft, draft: Features.currentDraft,
                slabBytes: UInt64(Units.slabBytes), grainBytes: UInt32(Units.grainBytes),
                sectorBytes: device.sectorBytes, checksumAlgorithm: Checksum.algorithm,
                mediaClass: member.mediaClass, diskBytes: device.sizeBytes, sequence: 1)
            made.append(
                Disk(label: label, layout: layout, description: device, pathHint: path))
        }
        return made
    }

    private func append(
        _ disks: [Disk], _ members: [Member], to configuration: inout Configuration
    ) {
        for (disk, member) in zip(disks, members) {
            configuration.disks.append(
                DiskRecord(
                    number: disk.number, uuid: disk.label.diskUUID,
                    sizeBytes: disk.layout.diskBytes, mediaClass: disk.label.mediaClass,
                    state: .online, enclosure: "", node: "", rack: "", pathHint: member.pathHint))
            configuration.voters.append(disk.number)
        }
        configuration.nextDiskNumber += UInt16(disks.count)
    }

    /// Everything but the configuration and the labels, on disks that are nobody's. Flushed.
    private func layOut(_ disks: [Disk]) async throws(PoolError) {
        let what = "while it was prepared"
        guard try await wipeLabels(disks, during: what) else { throw writeFailure(disks) }
        var blanks: [PageWrite] = []
        for disk in disks {
            for slot in 0..<2 {
                let offset = DiskLayout.configurationOffset(slot: slot)
                blanks.append(PageWrite(disk: disk, offsetBytes: offset) { _ in })
            }
            // The table itself goes to slot 0 below.
            blanks.append(
                PageWrite(disk: disk, offsetBytes: DiskLayout.fenceTableOffset(slot: 1)) { _ in })
            disk.fenceSlot = 1
        }
        guard try await writeDurably(blanks, during: what) else { throw writeFailure(disks) }
        guard try await writeFences(disks) else { throw writeFailure(disks) }
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        for disk in disks {
            guard try await writeEmptySlabTable(disk, buffer) else {
                throw .writeFailed(disk: disk.name, during: what)
            }
        }
        guard try await flush(disks, during: what) else { throw writeFailure(disks) }
    }

    private func writeFailure(_ disks: [Disk]) -> PoolError {
        let failed = disks.first { !$0.serves } ?? disks.first
        return .writeFailed(
            disk: failed?.name ?? name, during: failed?.failure ?? "while it was prepared")
    }
}
