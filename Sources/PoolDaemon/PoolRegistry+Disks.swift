import Foundation
import PoolControl
import PoolDevices
import PoolEngine
import PoolFormat

/// Disks of open pools that go, come back and are replaced.
///
/// The order of each change: find and claim what it takes (a disk is opened anew, so that neither
/// its flushes nor its errors are those of before), hand that to the engine, and then take stock:
/// what the engine has now stays open, everything else is let go of, whatever the outcome was.
extension PoolRegistry {
    func offlineDisk(
        in name: String, _ request: DiskOfflineRequest
    ) throws(ControlFailure) -> DiskList {
        let chosen = try choose(request.disk, in: name)
        try change(chosen) { pool, number, _ async throws(PoolError) in
            try await pool.offlineDisk(number, force: request.force)
        }
        return try diskList(name)
    }

    /// Brings a disk back. One that is here already stays as it is.
    func onlineDisk(
        in name: String, _ request: DiskOnlineRequest
    ) throws(ControlFailure) -> DiskList {
        let chosen = try choose(request.disk, in: name)
        switch chosen.status.state {
        case .online, .rebuilding: return try diskList(name)
        case .offline, .missing, .failed, .retired: break
        }
        var discovery = DiskDiscovery(logger: logger)
        let paths = [request.disk, chosen.status.path].filter { $0.hasPrefix("/") }
        let found = paths.lazy.compactMap { discovery.find(chosen.uuid, lastPath: $0) }.first
        guard let found, found.label?.poolUUID == chosen.entry.uuid else {
            throw Self.notFound(chosen, paths, discovery.places(of: chosen.uuid), in: name)
        }
        try bringBack(chosen, found, waitNs: Patience.request)
        returns.withLock { $0.forget(chosen.uuid) }
        return try diskList(name)
    }

    /// What is there instead, where something is: a disk that was cut short, or copies of one.
    private static func notFound(
        _ chosen: ChosenDisk, _ paths: [String], _ places: [String], in pool: String
    ) -> ControlFailure {
        let name = chosen.status.name
        if places.count > 1 {
            return ControlFailure(
                .refused,
                "\(name) of pool \(pool) is there more than once: "
                    + places.joined(separator: ", "),
                hint: "name the right one: poolctl disk online \(pool) PATH")
        }
        for found in paths.compactMap({ try? FoundDisk(path: $0) }) {
            if let label = found.label, label.diskUUID == chosen.uuid, !found.isWhole {
                let (was, now) = (label.diskBytes, found.probe.sizeBytes)
                return ControlFailure(
                    .refused,
                    "\(found.path) has \(SizeText.format(now)), it had \(SizeText.format(was)) "
                        + "when it was labelled",
                    hint: "make it \(was) bytes again, then poolctl pool scrub \(pool) mends what "
                        + "was cut off; or poolctl disk replace \(pool) \(name) NEW")
            }
        }
        return ControlFailure(
            .refused, "\(name) of pool \(pool) was not found",
            hint: "connect it; where it has a new path: poolctl disk online \(pool) PATH")
    }

    func retireDisk(
        in name: String, _ request: DiskRetireRequest
    ) throws(ControlFailure) -> JobAnswer {
        let job = try change(try choose(request.disk, in: name)) {
            pool, number, _ async throws(PoolError) in try await pool.retireDisk(number)
        }
        return try answer(job, of: name)
    }

    func replaceDisk(
        in name: String, _ request: DiskReplaceRequest
    ) throws(ControlFailure) -> JobAnswer {
        let chosen = try choose(request.disk, in: name)
        let claimed = try claimNew(
            [request.new], createSizeBytes: request.createSizeBytes, force: request.force,
            replaced: chosen)
        let job = try change(chosen, with: claimed) {
            pool, number, members async throws(PoolError) in
            try await pool.requireNoReturn(number, members[0])
            return try await pool.replaceDisk(number, with: members[0])
        }
        return try answer(job, of: name)
    }

    private func diskList(_ name: String) throws(ControlFailure) -> DiskList {
        DiskList(pool: name, disks: try status(of: try entry(named: name)).disks)
    }

    // MARK: - the steps

    /// Opens a disk anew and hands it to the engine. Where it is still open, because a disk that
    /// has failed is read for as long as it answers, it is opened beside that.
    private func bringBack(
        _ chosen: ChosenDisk, _ found: FoundDisk, waitNs: UInt64
    ) throws(ControlFailure) {
        let beside = chosen.devices.first {
            shards.disks.disk($0)?.identity == found.probe.identity
        }
        if let beside, try shards.runNow({ $0.driver.isStuck(beside) }).contains(true) {
            throw ControlFailure(
                .refused, "\(found.path) has not answered yet what it was asked before",
                hint: "wait until it does, or replace it: poolctl disk replace")
        }
        var claimed = ClaimedDisks()
        try claimed.open(
            path: found.path, uuid: chosen.uuid, media: found.label?.mediaClass, waitNs: waitNs,
            beside: beside, in: self)
        try change(chosen, with: claimed) { pool, number, members async throws(PoolError) in
            try await pool.onlineDisk(number, members[0])
        }
    }

    /// Has the engine change something about a disk, offers the spaces as they are afterwards, and
    /// takes stock.
    private func change<T: Sendable>(
        _ chosen: ChosenDisk, with claimed: ClaimedDisks = ClaimedDisks(),
        _ body: @escaping @Sendable (Pool, DiskNumber, [Pool.Member]) async throws(PoolError) -> T
    ) throws(ControlFailure) -> T {
        let (poolUUID, diskUUID) = (chosen.entry.uuid, chosen.uuid)
        let result = Result { () throws(ControlFailure) in
            try shard.call { state throws(ControlFailure) in
                let pool = try Self.pool(poolUUID, state)
                let number = try Self.number(of: diskUUID, in: pool)
                let members = try await claimed.attach(state)
                let result: T
                do throws(PoolError) {
                    result = try await body(pool, number, members)
                } catch {
                    throw ControlFailure(pool: error)
                }
                try await Self.publish(pool, state)
                return result
            }
        }
        takeStock(of: poolUUID, with: claimed)
        return try result.get()
    }

    /// Lets go of what open pools no longer have: a disk that was emptied a moment ago is nobody's.
    func takeStock() {
        for entry in all where entry.detachment == nil {
            takeStock(of: entry.uuid, with: ClaimedDisks())
        }
    }

    /// Lets go of the devices that a pool no longer has, and records where its disks are now.
    ///
    /// - Parameter claimed: opened for a change that has ended, well or not.
    private func takeStock(of uuid: PoolUUID, with claimed: ClaimedDisks) {
        let stock = try? shard.runNow { state in state.pools[uuid].map(Stock.init) }
        guard let stock = stock ?? nil else { return claimed.release(self) }
        takeStock(of: uuid, stock, with: claimed)
    }

    private func takeStock(
        of uuid: PoolUUID, _ stock: Stock, with claimed: ClaimedDisks = ClaimedDisks()
    ) {
        guard let entry = all.first(where: { $0.uuid == uuid }) else {
            return claimed.release(self)
        }
        let devices: [DeviceIndex]
        switch entry.condition {
        case .open(let open): devices = open
        case .detached: return claimed.release(self)
        }
        let here = Set(stock.disks.compactMap(\.device))
        let (taken, refused) = claimed.divided { here.contains($0) }
        refused.release(self)
        release(devices.filter { !here.contains($0) })
        let next = Entry(
            record: Self.record(
                stock.configuration, paths: entry.record.paths.merging(taken.paths) { $1 }),
            uuid: uuid,
            condition: .open(devices: devices.filter(here.contains) + taken.indices))
        put(next)
        if next.record != entry.record {
            log(Result { () throws(ControlFailure) in try save() })
        }
    }

    // MARK: - what comes by itself

    /// What is known of an open pool at one moment.
    struct Stock: Sendable {
        var configuration: Configuration
        var disks: [Pool.DiskStatus]
        var jobs: [Pool.Job]

        init(_ pool: Pool) { self.init(pool, pool.status()) }

        init(_ pool: Pool, _ status: Pool.Status) {
            configuration = pool.configuration
            disks = status.disks
            jobs = pool.jobs
        }
    }

    /// Looks after the disks of open pools: those that were replaced or emptied are let go of,
    /// those that went away by themselves are looked for and brought back.
    func lookAfterDisks(_ stocks: [PoolUUID: Stock]) {
        if let seen = try? shards.runNow({ $0.driver.takePaces(nowNs: monotonicNs()) }) {
            paces.withLock { $0.note(seen) }
        }
        for (uuid, stock) in stocks {
            rates.note(uuid, seconds: uptime, stock.jobs)
            tell(uuid, stock)
            takeStock(of: uuid, stock)
        }
        let disks = stocks.values.flatMap(\.disks)
        returns.withLock { $0.keep(Set(disks.map(\.uuid))) }
        var discovery = DiskDiscovery(logger: logger)
        for (uuid, stock) in stocks {
            let due = stock.disks.filter(isDue)
            if due.isEmpty {
                if !stock.disks.contains(where: isAway) { searches.withLock { $0[uuid] = nil } }
                continue
            }
            discovery.searches = isSearchDue(
                of: uuid, missing: due.map(\.uuid), paths: due.map { lastPath($0, of: uuid) })
            for disk in due { bringBack(disk, of: uuid, &discovery) }
        }
    }

    private func lastPath(_ disk: Pool.DiskStatus, of pool: PoolUUID) -> String {
        all.first { $0.uuid == pool }?.record.paths[disk.uuid] ?? disk.pathHint
    }

    private func tell(_ uuid: PoolUUID, _ stock: Stock) {
        let name = stock.configuration.poolName
        let judge = PoolJudge(
            pool: name, disks: stock.disks, jobs: stock.jobs.map { JobStatus($0, of: name, nil) },
            repairDelaySeconds: stock.configuration.settings.delaySeconds,
            slow: slowDisks(stock.disks))
        for line in news.withLock({ $0[uuid, default: PoolNews()].lines(judge) }) {
            logger.log(level: line.isBad ? .warning : .notice, "pool \(name): \(line.text)")
        }
    }

    /// Whether a disk went away by itself, and it is time to look for it. One that is offline is so
    /// because somebody wants it.
    private func isDue(_ disk: Pool.DiskStatus) -> Bool {
        returns.withLock { $0.isDue(disk.uuid, isAway: isAway(disk), seconds: uptime) }
    }

    private func isAway(_ disk: Pool.DiskStatus) -> Bool {
        switch disk.state {
        case .missing, .failed: true
        case .online, .offline, .retired, .rebuilding: false
        }
    }

    private func bringBack(
        _ disk: Pool.DiskStatus, of uuid: PoolUUID, _ discovery: inout DiskDiscovery
    ) {
        guard let entry = all.first(where: { $0.uuid == uuid }) else { return }
        let name = SpaceExplainer.name(disk.number)
        let path = lastPath(disk, of: uuid)
        let found = discovery.find(disk.uuid, lastPath: path)
        // A disk that is nowhere is looked for there at each turn; one that does not answer is not.
        let isThere = found != nil || BoundedLook.at(path) { exists(path) } ?? false
        guard isThere else { return }
        returns.withLock { $0.noteAttempt(disk.uuid, seconds: uptime) }
        guard let found, found.label?.poolUUID == uuid else { return }
        do throws(ControlFailure) {
            let chosen = try choose(UUIDText.format(disk.uuid), in: entry.record.name)
            try bringBack(chosen, found, waitNs: Patience.search)
            logger.notice("pool \(entry.record.name): \(name) is back, \(found.path)")
        } catch {
            logger.warning(
                """
                pool \(entry.record.name): \(name) cannot be brought back: \(error.what); \
                \(error.hint)
                """)
        }
    }
}

// MARK: - choosing

extension PoolRegistry {
    /// A disk of an open pool, as a request named it.
    struct ChosenDisk: Sendable {
        var entry: Entry
        /// Of the pool.
        var devices: [DeviceIndex]
        var uuid: PoolUUID
        var status: PoolControl.DiskStatus
    }

    func choose(_ text: String, in name: String) throws(ControlFailure) -> ChosenDisk {
        let (entry, devices) = try openEntry(named: name)
        let status = try Self.find(text, among: try status(of: entry).disks, of: name)
        guard let uuid = UUIDText.parse(status.uuid) else {
            throw ControlFailure(.failed, "\(status.name) has no uuid", hint: "see disk ls \(name)")
        }
        return ChosenDisk(entry: entry, devices: devices, uuid: uuid, status: status)
    }

    /// On the shard: a disk may have gone since it was chosen.
    static func number(of disk: PoolUUID, in pool: Pool) throws(ControlFailure) -> DiskNumber {
        guard let record = pool.configuration.disks.first(where: { $0.uuid == disk }) else {
            throw unknownDisk(UUIDText.format(disk), [], of: pool.name)
        }
        return record.number
    }

    /// A disk by its path, its label's uuid, or the name that is shown; by its path also where it
    /// has come to since it was last seen.
    private static func find(
        _ text: String, among disks: [PoolControl.DiskStatus], of pool: String
    ) throws(ControlFailure) -> PoolControl.DiskStatus {
        let lowercased = text.lowercased()
        let found = disks.first { disk in
            disk.name == text || disk.uuid == lowercased || disk.path == text
        }
        if let found { return found }
        if text.hasPrefix("/"), !text.utf8.contains(0), let real = realPath(text) {
            if let same = disks.first(where: { realPath($0.path) == real }) { return same }
            let label = (try? FoundDisk(path: real))?.label
            let uuid = label.map { UUIDText.format($0.diskUUID) }
            if let same = disks.first(where: { $0.uuid == uuid }) { return same }
        }
        throw unknownDisk(text, disks, of: pool)
    }

    private static func realPath(_ path: String) -> String? {
        BoundedLook.at(path) {
            guard let resolved = unsafe realpath(path, nil) else { return nil }
            defer { unsafe free(resolved) }
            return unsafe String(cString: resolved)
        } ?? nil
    }

    private static func unknownDisk(
        _ text: String, _ disks: [PoolControl.DiskStatus], of pool: String
    ) -> ControlFailure {
        // A mistyped name reaches us as a path, its last part is what was typed.
        let last = text.split(separator: "/").last.map(String.init) ?? text
        let names = disks.flatMap { [$0.name, $0.path.split(separator: "/").last.map(String.init)] }
            .compactMap { $0 }
        return ControlFailure(
            .notFound, "pool \(pool) has no disk \(NameRules.printablePath(text))",
            hint: Nearest.match(last, among: names).map { "did you mean '\($0)'?" }
                ?? "name its path, its uuid or its name; see poolctl disk ls \(pool)")
    }
}

private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }
