import Foundation
import PoolControl
import PoolDevices
import PoolEngine
import PoolFormat

/// Finding a pool's disks and opening it.
extension PoolRegistry {
    /// How long an open waits for another holder of a disk. At the start that may be a daemon that
    /// was just killed and whose last writes are landing; somebody who waits at a terminal is told
    /// earlier; a search that comes back in a few seconds need not wait at all.
    enum Patience {
        static let start = PoolDevices.Disk.lockWaitNs
        static let request: UInt64 = 2_000_000_000
        static let search: UInt64 = 0
    }

    /// Opens every pool of DIR/pools.json. One that cannot be opened is detached, and explained.
    func openKnownPools() throws(ControlFailure) {
        for record in try KnownPools.load(directory.knownPools).pools {
            guard let uuid = UUIDText.parse(record.uuid), NameRules.isValid(record.name) else {
                throw ControlFailure(
                    .failed, "\(directory.knownPools) is damaged: a pool without identity",
                    hint: "move it away and import the pools: poolctl pool import DISK...")
            }
            open(
                Entry(record: record, uuid: uuid, condition: .detached(.notTried)),
                waitNs: Patience.start)
        }
    }

    /// Looks again for the disks of detached pools and for those that open ones lack, and at what
    /// has become read-only.
    func lookAgain() {
        let entries = all
        searches.withLock { searches in
            searches = searches.filter { search in entries.contains { $0.uuid == search.key } }
        }
        for entry in entries {
            switch entry.condition {
            case .open: break
            case .detached(let detachment):
                if detachment.mayPass, mayBeThere(entry, detachment) {
                    open(entry, waitNs: Patience.search)
                }
            }
        }
        let stocks = try? shard.call { state throws(ControlFailure) in
            var stocks: [PoolUUID: Stock] = [:]
            for (uuid, pool) in state.pools {
                stocks[uuid] = Stock(pool, try await Self.publish(pool, state))
            }
            return stocks
        }
        if stocks == nil { logger.debug("the shard is stopping") }
        lookAfterDisks(stocks ?? [:])
        sampleFill()
    }

    /// What a detached pool lacks is where it was, or it is time to search for it; or it lacks
    /// nothing but something else has to pass.
    private func mayBeThere(_ entry: Entry, _ detachment: Detachment) -> Bool {
        let missing = detachment.missing.compactMap { disk in
            UUIDText.parse(disk.uuid).map { (uuid: $0, path: disk.path) }
        }
        if missing.isEmpty { return true }
        let paths = (detachment.missing + entry.record.disks).map(\.path)
        return isSearchDue(of: entry.uuid, missing: missing.map(\.uuid), paths: paths)
            || missing.contains { (try? FoundDisk(path: $0.path))?.label?.diskUUID == $0.uuid }
    }

    /// Whether disks of a pool are to be searched for now.
    func isSearchDue(of pool: PoolUUID, missing: [PoolUUID], paths: [String]) -> Bool {
        let surroundings = Surroundings(missing: Set(missing), around: paths)
        return searches.withLock {
            $0[pool, default: SearchPace()].isDue(surroundings, seconds: uptime)
        }
    }

    private func open(_ entry: Entry, waitNs: UInt64) {
        var discovery = DiskDiscovery(logger: logger)
        var next = entry
        do throws(OpenFailure) {
            let opening = Opening(
                uuid: entry.uuid, record: entry.record, witness: try readWitness(entry.uuid),
                waitNs: waitNs, before: entry.detachment)
            let (record, devices) = try openFound(opening, &discovery)
            next = Entry(record: record, uuid: entry.uuid, condition: .open(devices: devices))
            let count = record.disks.count
            let isWhole = devices.count == count
            logger.info(
                "pool \(record.name): open, \(isWhole ? "" : "\(devices.count) of ")\(count) disks")
        } catch {
            if error.isGone {
                logger.notice("pool \(entry.record.name): \(error.failure.what), forgotten")
                return log(Result { () throws(ControlFailure) in try forget(entry.uuid) })
            }
            next.condition = .detached(error.detachment)
            if next.condition != entry.condition {
                logger.warning(
                    """
                    pool \(entry.record.name): detached: \(error.failure.what); \
                    \(error.failure.hint)
                    """)
            }
        }
        put(next)
        if next.record != entry.record {
            log(Result { () throws(ControlFailure) in try save() })
        }
    }

    func log(_ result: Result<Void, ControlFailure>) {
        switch result {
        case .success: break
        case .failure(let failure): logger.error("\(failure.what); \(failure.hint)")
        }
    }

    private func readWitness(_ uuid: PoolUUID) throws(OpenFailure) -> ConfigurationVersion? {
        do throws(ControlFailure) {
            return try witness.read(uuid)
        } catch {
            throw OpenFailure(error)
        }
    }

    // MARK: - import

    /// Opens the pools that the named disks, or the disks in the named folders, belong to.
    func importPools(_ request: PoolImportRequest) throws(ControlFailure) -> PoolList {
        var discovery = DiskDiscovery(logger: logger)
        var pools: [(uuid: PoolUUID, name: String)] = []
        for path in request.disks {
            for label in try labels(at: path, &discovery)
            where !pools.contains(where: { $0.uuid == label.poolUUID }) {
                pools.append((label.poolUUID, label.poolName))
            }
        }
        guard let first = pools.first else {
            throw ControlFailure(
                .refused, "no pool's disk is there", hint: "name the disks, or their folders")
        }
        // A folder may hold disks of pools that are open here: they are not what was asked for,
        // unless there is nothing else.
        let isOpen = { (uuid: PoolUUID) in
            self.all.contains { $0.uuid == uuid && $0.detachment == nil }
        }
        pools.removeAll { isOpen($0.uuid) }
        guard !pools.isEmpty else {
            throw ControlFailure(
                .refused, "pool \(NameRules.printable(first.name)) is open here already",
                hint: "see poolctl pool ls")
        }
        var statuses: [PoolControl.PoolStatus] = []
        for pool in pools {
            do throws(ControlFailure) {
                let entry = try importPool(pool.uuid, pool.name, request.force, &discovery)
                statuses.append(try status(of: entry))
            } catch {
                guard !statuses.isEmpty else { throw error }
                let done = statuses.map(\.name).joined(separator: ", ")
                throw ControlFailure(
                    .failed, error.what, hint: "\(error.hint); open now: \(done)")
            }
        }
        return PoolList(pools: statuses)
    }

    private func labels(
        at path: String, _ discovery: inout DiskDiscovery
    ) throws(ControlFailure) -> [Label] {
        guard path.hasPrefix("/"), !path.utf8.contains(0) else {
            throw ControlFailure(
                .invalid, "'\(NameRules.printable(path))' is not an absolute path",
                hint: "name disks by absolute paths")
        }
        let isFolder = BoundedLook.at(path) {
            var status = stat()
            return unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
        }
        if isFolder == true {
            discovery.search(folder: path)
            let prefix = path.hasSuffix("/") ? path : path + "/"
            return discovery.labels(where: { $0.hasPrefix(prefix) })
        }
        let found = try FoundDisk(path: path)
        switch found.contents {
        case .label(let label):
            discovery.look(at: path)
            discovery.searchFolder(of: path)
            return [label]
        case .damagedLabel(let damage):
            throw ControlFailure(
                .refused, "\(path) carries a pool label that cannot be used: \(damage)",
                hint: "name the pool's other disks")
        case .foreign(let what):
            throw ControlFailure(
                .refused, "\(path) carries no pool label, it holds \(what)",
                hint: "name disks of a pool")
        case .nothing:
            throw ControlFailure(
                .refused, "\(path) carries no pool label", hint: "name disks of a pool")
        }
    }

    private func importPool(
        _ uuid: PoolUUID, _ labelName: String, _ force: Bool, _ discovery: inout DiskDiscovery
    ) throws(ControlFailure) -> Entry {
        try NameRules.check(labelName, "pool")
        if !all.contains(where: { $0.uuid == uuid }) { try requireFreeName(labelName) }
        let known = try witness.read(uuid)
        let record = KnownPools.Pool(
            name: labelName, uuid: UUIDText.format(uuid),
            disks: discovery.disks(of: uuid).compactMap { found in
                found.label.map { label in
                    KnownPools.Disk(
                        number: Int(label.diskNumber.rawValue),
                        uuid: UUIDText.format(label.diskUUID), path: found.path,
                        media: Media(label.mediaClass), sizeBytes: label.diskBytes)
                }
            })
        do throws(OpenFailure) {
            let opening = Opening(
                uuid: uuid, record: record, witness: known, isAsked: true, isForced: force,
                waitNs: Patience.request)
            let (opened, devices) = try openFound(opening, &discovery)
            put(Entry(record: opened, uuid: uuid, condition: .open(devices: devices)))
        } catch {
            throw error.failure
        }
        try save()
        return try entry(named: labelName)
    }

    // MARK: - opening

    /// One attempt to open a pool: what is known of it, and on what conditions.
    private struct Opening: Sendable {
        var uuid: PoolUUID
        var record: KnownPools.Pool
        /// What this host knows of it: nil for what may be another's pool.
        var witness: ConfigurationVersion?
        /// Somebody wants it here: it may be another's, which has exported it.
        var isAsked = false
        /// What keeps it from being opened as it is begins a new history.
        var isForced = false
        var startsHistory = false
        var waitNs: UInt64
        /// How the last attempt ended: while the same disks are missing another is not made.
        var before: Detachment?
    }

    private struct OpenFailure: Error {
        var failure: ControlFailure
        var missing: [KnownPools.Disk] = []
        var mayPass = false
        /// The pool was destroyed: there is nothing to open any more.
        var isGone = false

        init(_ failure: ControlFailure, missing: [KnownPools.Disk] = [], mayPass: Bool = false) {
            self.failure = failure
            self.missing = missing
            self.mayPass = mayPass
        }

        init(_ error: PoolError, missing: [KnownPools.Disk]) {
            self.init(ControlFailure(pool: error), missing: missing)
            switch error {
            case .detached, .witnessNewer: mayPass = true
            case .destroyed: isGone = true
            default: break
            }
        }

        var detachment: Detachment {
            Detachment(
                reason: failure.what, action: failure.hint, missing: missing, mayPass: mayPass)
        }
    }

    /// Finds the recorded disks, locks them and opens the pool with those that are there: whether
    /// they are enough is the engine's to say. Disks that only the configuration knows of (added
    /// just before a crash) are then looked for, too.
    private func openFound(
        _ asked: Opening, _ discovery: inout DiskDiscovery
    ) throws(OpenFailure) -> (KnownPools.Pool, [DeviceIndex]) {
        var opening = asked
        var wanted = opening.record.with(opening.before?.missing ?? [])
        while true {
            var found: [FoundDisk] = []
            var missing: [KnownPools.Disk] = []
            for disk in wanted.disks {
                let one = UUIDText.parse(disk.uuid)
                    .flatMap { discovery.find($0, lastPath: disk.path) }
                if let one, one.label?.poolUUID == opening.uuid {
                    found.append(one)
                } else {
                    missing.append(disk)
                }
            }
            guard !found.isEmpty else { throw Self.absent(missing) }
            if let before = opening.before, !missing.isEmpty, missing == before.missing {
                throw OpenFailure(
                    ControlFailure(.refused, before.reason, hint: before.action),
                    missing: missing, mayPass: before.mayPass)
            }
            switch try attempt(opening, found) {
            case .opened(let record, let devices): return (record, devices)
            case .notExported:
                guard opening.isForced else {
                    throw OpenFailure(
                        ControlFailure(
                            .refused,
                            "pool \(wanted.name) was not exported by the host that had it",
                            hint: "export it there; or, if that host is gone for good, use "
                                + "--force: what it still had to write is lost"))
                }
                opening.startsHistory = true
            case .failed(let error):
                let larger = wanted.with(Self.missing(error))
                if larger != wanted {
                    // Ends: a configuration has at most 256 disks.
                    wanted = larger
                } else if opening.isForced, !opening.startsHistory, error.endsWithForce {
                    opening.startsHistory = true
                } else {
                    throw OpenFailure(error, missing: missing)
                }
            }
        }
    }

    private enum Attempt: Sendable {
        case opened(KnownPools.Pool, [DeviceIndex])
        case notExported
        case failed(PoolError)

        var isOpened: Bool {
            switch self {
            case .opened: true
            case .notExported, .failed: false
            }
        }
    }

    private func attempt(
        _ opening: Opening, _ found: [FoundDisk]
    ) throws(OpenFailure) -> Attempt {
        var claimed = ClaimedDisks()
        let deadlineNs = monotonicNs() &+ opening.waitNs
        do throws(ControlFailure) {
            for one in found {
                guard let label = one.label else { continue }
                let nowNs = monotonicNs()
                try claimed.open(
                    path: one.path, uuid: label.diskUUID, media: label.mediaClass,
                    waitNs: deadlineNs > nowNs ? deadlineNs - nowNs : 0, in: self)
            }
            let disks = claimed
            let attempt = try shard.call { state throws(ControlFailure) in
                try await Self.attempt(opening, disks, state)
            }
            if !attempt.isOpened { claimed.release(self) }
            return attempt
        } catch {
            claimed.release(self)
            // Somebody else has a disk, for now.
            throw OpenFailure(error, mayPass: true)
        }
    }

    /// On the shard.
    private static func attempt(
        _ opening: Opening, _ disks: ClaimedDisks, _ state: ShardState
    ) async throws(ControlFailure) -> Attempt {
        let members = try await disks.attach(state)
        let pool: Pool
        do throws(PoolError) {
            if !opening.startsHistory {
                let seen = try await Pool.examine(
                    state.engine, members: members, witness: opening.witness
                ).configuration
                // Ours, unless another host has taken it by force since.
                let isOurs =
                    opening.witness.map { $0.poolEpoch >= seen.version.poolEpoch }
                    ?? !opening.isAsked
                guard isOurs || opening.isAsked && seen.exported else { return .notExported }
            }
            pool = try await Pool.open(
                state.engine, members: members, witness: opening.witness,
                startsHistory: opening.startsHistory)
        } catch {
            return .failed(error)
        }
        state.pools[opening.uuid] = pool
        try await publish(pool, state)
        let paths = disks.paths.merging(opening.record.paths) { found, _ in found }
        return .opened(record(pool.configuration, paths: paths), disks.indices)
    }

    private static func absent(_ missing: [KnownPools.Disk]) -> OpenFailure {
        let names = missing.map { "disk\($0.number) (\(NameRules.printablePath($0.path)))" }
        return OpenFailure(
            ControlFailure(
                .refused, "all its disks are missing: \(names.joined(separator: ", "))",
                hint: "connect them; the pool opens by itself"),
            missing: missing, mayPass: true)
    }

    private static func missing(_ error: PoolError) -> [KnownPools.Disk] {
        guard case .detached(let disks, _) = error else { return [] }
        return disks.map { KnownPools.Disk($0) }
    }
}

extension PoolRegistry.Entry {
    /// Why it is not open; nil while it is.
    var detachment: PoolRegistry.Detachment? {
        switch condition {
        case .open: nil
        case .detached(let detachment): detachment
        }
    }
}

extension PoolRegistry.Detachment {
    static let notTried = Self(
        reason: "not looked for yet", action: "wait a moment", missing: [], mayPass: true)
}
