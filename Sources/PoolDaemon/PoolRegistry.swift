import Foundation
import Logging
import PoolControl
import PoolDevices
import PoolEngine
import PoolFormat
import Synchronization

/// The pools of this daemon: which it knows, which are open, and every request about them.
///
///     unknown --create, import--> open --export, destroy--> unknown
///     known   --enough disks----> open           (at the start, and again while disks are missing)
///     known   --otherwise-------> detached, with the reason and the disks that are missing
///
/// A pool may be open without some of its disks; those are looked for and brought back
/// (`PoolRegistry+Disks.swift`).
///
/// Requests that change something come from one thread, one at a time; those that look come from
/// others. The lock covers the table only, never a disk or a call to the shard.
final class PoolRegistry: Sendable {
    struct Entry: Sendable {
        var record: KnownPools.Pool
        var uuid: PoolUUID
        var condition: Condition
    }

    enum Condition: Hashable, Sendable {
        case open(devices: [DeviceIndex])
        case detached(Detachment)
    }

    /// Why a pool is not open.
    struct Detachment: Hashable, Sendable {
        var reason: String
        var action: String
        /// Disks that were not found.
        var missing: [KnownPools.Disk]
        /// Whether looking again may help.
        var mayPass: Bool
    }

    let directory: DaemonDirectory
    let witness: WitnessStore
    let shards: ShardGroup
    let logger: Logger
    /// What `GET /v1/daemon` says, apart from the time.
    let info: DaemonInfo
    /// Where the pools are.
    var shard: Shard { shards.home }
    private let started = ContinuousClock.now
    let fills = FillWatches()
    let rates = JobRates()
    /// Of all open pools.
    let returns = Mutex(DiskReturns())
    /// By pool that lacks disks: when it is time to search for them.
    let searches = Mutex<[PoolUUID: SearchPace]>([:])
    /// How quickly their disks answer.
    let paces = Mutex(DiskPaces())
    /// By pool: what the log has been told.
    let news = Mutex<[PoolUUID: PoolNews]>([:])
    private let entries = Mutex<[Entry]>([])

    init(
        directory: DaemonDirectory, witness: WitnessStore, shards: ShardGroup,
        info: DaemonInfo, logger: Logger
    ) {
        self.directory = directory
        self.witness = witness
        self.shards = shards
        self.info = info
        self.logger = logger
    }

    var uptimeSeconds: UInt64 { UInt64(max(0, uptime)) }

    /// Seconds since the start, with their fractions.
    var uptime: Double {
        let parts = (ContinuousClock.now - started).components
        return Double(parts.seconds) + Double(parts.attoseconds) / 1e18
    }

    // MARK: - the table

    var all: [Entry] { entries.withLock { $0 } }

    /// - Throws: not found, with the nearest name as the hint.
    func entry(named name: String) throws(ControlFailure) -> Entry {
        let all = self.all
        if let entry = all.first(where: { $0.record.name == name }) { return entry }
        let names = all.map(\.record.name)
        throw ControlFailure(
            .notFound, "there is no pool \(name)",
            hint: Nearest.match(name, among: names).map { "did you mean '\($0)'?" }
                ?? (names.isEmpty
                    ? "make one: poolctl pool create \(name) DISK..."
                    : "the pools are: \(names.prefix(10).joined(separator: ", "))"))
    }

    /// The entry of an open pool, with its devices.
    func openEntry(
        named name: String
    ) throws(ControlFailure) -> (entry: Entry, devices: [DeviceIndex]) {
        let entry = try entry(named: name)
        switch entry.condition {
        case .open(let devices): return (entry, devices)
        case .detached(let detachment):
            throw ControlFailure(
                .refused, "pool \(name) is detached: \(detachment.reason)", hint: detachment.action)
        }
    }

    func put(_ entry: Entry) {
        entries.withLock { entries in
            entries.removeAll { $0.uuid == entry.uuid }
            entries.append(entry)
            entries.sort { $0.record.name < $1.record.name }
        }
    }

    /// Puts the pool into the table and its record on disk.
    func remember(_ entry: Entry) throws(ControlFailure) {
        put(entry)
        try save()
    }

    func forget(_ uuid: PoolUUID) throws(ControlFailure) {
        entries.withLock { $0.removeAll { $0.uuid == uuid } }
        fills.forget(uuid)
        rates.forget(uuid)
        news.withLock { $0[uuid] = nil }
        try save()
        try witness.forget(uuid)
    }

    func save() throws(ControlFailure) {
        try KnownPools(pools: all.map(\.record)).save(directory.knownPools)
    }

    func requireFreeName(_ name: String) throws(ControlFailure) {
        guard all.contains(where: { $0.record.name == name }) else { return }
        throw ControlFailure(
            .refused, "a pool named \(name) exists", hint: "choose another name")
    }

    // MARK: - the record of an open pool

    /// What DIR/pools.json keeps of a pool: its disks, at the paths where they are now.
    ///
    /// - Parameter paths: where disks were found; of the others the configuration has a hint.
    static func record(
        _ configuration: Configuration, paths: [PoolUUID: String]
    ) -> KnownPools.Pool {
        KnownPools.Pool(
            name: configuration.poolName, uuid: UUIDText.format(configuration.poolUUID),
            disks: configuration.disks.map { disk in
                KnownPools.Disk(disk, path: paths[disk.uuid])
            })
    }
}

extension KnownPools.Pool {
    /// Where its disks were last.
    var paths: [PoolUUID: String] {
        Dictionary(
            disks.compactMap { disk in UUIDText.parse(disk.uuid).map { ($0, disk.path) } },
            uniquingKeysWith: { first, _ in first })
    }
}

extension KnownPools.Disk {
    init(_ disk: DiskRecord, path: String? = nil) {
        self.init(
            number: Int(disk.number.rawValue), uuid: UUIDText.format(disk.uuid),
            path: path ?? disk.pathHint, media: Media(disk.mediaClass), sizeBytes: disk.sizeBytes)
    }
}

extension Media {
    init(_ mediaClass: MediaClass) {
        switch mediaClass {
        case .ssd: self = .ssd
        case .hdd: self = .hdd
        }
    }

    var mediaClass: MediaClass {
        switch self {
        case .ssd: .ssd
        case .hdd: .hdd
        }
    }
}

extension ControlFailure {
    init(pool error: PoolError) {
        let kind: Kind =
            switch error {
            case .stopped: .unavailable
            case .nameUnknown: .notFound
            case .ioError, .unreadable, .writeFailed, .damaged, .noQuorum, .claimRefused: .failed
            default: .refused
            }
        self.init(kind, error.what, hint: error.hint)
    }
}
