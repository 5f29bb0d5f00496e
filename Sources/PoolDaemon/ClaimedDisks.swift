import Foundation
import PoolControl
import PoolDevices
import PoolEngine
import PoolFormat

/// Disks that this daemon has opened and locked for one request, with the way back.
struct ClaimedDisks: Sendable {
    struct Claimed: Sendable {
        var disk: PoolDevices.Disk
        var index: DeviceIndex
        var uuid: PoolUUID
        var mediaClass: MediaClass
    }

    private(set) var disks: [Claimed] = []
    private var createdFiles: [String] = []

    var indices: [DeviceIndex] { disks.map(\.index) }
    var paths: [PoolUUID: String] {
        Dictionary(disks.map { ($0.uuid, $0.disk.path) }, uniquingKeysWith: { first, _ in first })
    }

    /// Opens and locks one more disk.
    ///
    /// - Parameter device: where this daemon has that very disk open and in use: it is opened
    ///   beside that.
    mutating func open(
        path: String, uuid: PoolUUID, media: MediaClass?, waitNs: UInt64,
        beside device: DeviceIndex? = nil, in registry: PoolRegistry
    ) throws(ControlFailure) {
        let logger = registry.logger
        let disk: PoolDevices.Disk
        do throws(DiskError) {
            disk = try PoolDevices.Disk.open(
                path: path, waitNs: waitNs, beside: device.flatMap(registry.shards.disks.disk)
            ) { logger.notice("\($0)") }
        } catch {
            throw ControlFailure(disk: error)
        }
        guard let index = registry.shards.disks.add(disk, beside: device) else {
            throw ControlFailure(
                .refused, "\(path) is named twice, or there are too many disks",
                hint: "name each disk once")
        }
        let guess: MediaClass = disk.isRotational == true ? .hdd : .ssd
        disks.append(
            Claimed(disk: disk, index: index, uuid: uuid, mediaClass: media ?? guess))
    }

    mutating func create(path: String, bytes: UInt64) throws(ControlFailure) {
        do throws(DiskError) {
            try PoolDevices.Disk.createSparseFile(path: path, bytes: bytes)
        } catch {
            throw ControlFailure(disk: error)
        }
        createdFiles.append(path)
    }

    /// Hands the disks to every shard's driver. Called at home.
    func attach(_ state: ShardState) async throws(ControlFailure) -> [Pool.Member] {
        let disks = self.disks
        let attached = try await state.onEvery { state in
            disks.map { state.driver.attach($0.disk, as: $0.index) }
        }
        return zip(disks, attached[0]).map { claimed, device in
            Pool.Member(
                device: device, uuid: claimed.uuid, mediaClass: claimed.mediaClass,
                pathHint: claimed.disk.path)
        }
    }

    /// Those whose index is one of `isTaken`, and the others with the files made for them.
    func divided(_ isTaken: (DeviceIndex) -> Bool) -> (taken: ClaimedDisks, refused: ClaimedDisks) {
        var (taken, refused) = (ClaimedDisks(), ClaimedDisks())
        for disk in disks {
            if isTaken(disk.index) { taken.disks.append(disk) } else { refused.disks.append(disk) }
        }
        refused.createdFiles = createdFiles.filter { path in
            !taken.disks.contains { $0.disk.path == path }
        }
        return (taken, refused)
    }

    /// Gives everything back: disks that the shards' drivers have, too, and files made for this.
    func release(_ registry: PoolRegistry) {
        registry.release(indices)
        for path in createdFiles { _ = unsafe unlink(path) }
    }
}

extension PoolRegistry {
    /// Closes disks: each driver lets go once nothing is under way, and with the last their locks
    /// go.
    func release(_ devices: [DeviceIndex]) {
        let disks = shards.disks
        let isDone: [Void]? = try? shards.runNow { state in
            for device in devices {
                if state.driver.isAttached(device) {
                    state.driver.detach(device)
                } else {
                    disks.remove(device)
                }
            }
        }
        // A stopping shard takes everything with it.
        if isDone == nil { logger.debug("the shard is stopping, disks go with it") }
    }

    // MARK: - new disks

    /// Opens the disks that a request names for a new pool or as an addition.
    ///
    /// Everything is looked at before anything is made or claimed, so that a refusal leaves all as
    /// it was; what a later step finds is undone by the caller with ``ClaimedDisks/release(_:)``.
    ///
    /// - Parameter replaced: the disk that they take the place of, which one of them may be.
    func claimNew(
        _ choices: [DiskChoice], createSizeBytes: UInt64?, force: Bool,
        replaced: ChosenDisk? = nil
    ) throws(ControlFailure) -> ClaimedDisks {
        takeStock()
        let missing = try checkNew(choices, createSizeBytes, force, replaced)
        var claimed = ClaimedDisks()
        do throws(ControlFailure) {
            for choice in choices {
                if let createSizeBytes, missing.contains(choice.path) {
                    try claimed.create(path: choice.path, bytes: createSizeBytes)
                }
                try claimed.open(
                    path: choice.path, uuid: UUIDText.random(), media: choice.media?.mediaClass,
                    waitNs: 1_000_000_000, in: self)
            }
        } catch {
            claimed.release(self)
            throw error
        }
        return claimed
    }

    /// - Returns: the paths where a file is to be made.
    private func checkNew(
        _ choices: [DiskChoice], _ createSizeBytes: UInt64?, _ force: Bool, _ replaced: ChosenDisk?
    ) throws(ControlFailure) -> Set<String> {
        guard !choices.isEmpty else {
            throw ControlFailure(.invalid, "no disk is named", hint: "name at least one disk")
        }
        guard choices.count <= 256 else {
            throw ControlFailure(.invalid, "a pool has at most 256 disks", hint: "name fewer")
        }
        if let createSizeBytes, createSizeBytes < Units.minimumDiskBytes {
            throw ControlFailure(
                .refused, "a disk of \(SizeText.format(createSizeBytes)) is too small",
                hint: "use a --create-size of 1G or more")
        }
        var identities: Set<PoolDevices.Disk.Identity> = []
        var missing: Set<String> = []
        for choice in choices {
            guard choice.path.hasPrefix("/"), !choice.path.utf8.contains(0) else {
                throw ControlFailure(
                    .invalid, "'\(NameRules.printable(choice.path))' is not an absolute path",
                    hint: "name disks by absolute paths")
            }
            let isAbsent = BoundedLook.at(choice.path) {
                var status = stat()
                return unsafe lstat(choice.path, &status) != 0 && errno == ENOENT
            }
            if createSizeBytes != nil, isAbsent == true {
                guard missing.insert(choice.path).inserted else { throw twice(choice.path) }
                continue
            }
            let found = try FoundDisk(path: choice.path)
            guard identities.insert(found.probe.identity).inserted else {
                throw twice(choice.path)
            }
            try checkUsable(found, force, replaced)
        }
        return missing
    }

    private func twice(_ path: String) -> ControlFailure {
        ControlFailure(.refused, "\(path) is named twice", hint: "name each disk once")
    }

    private func checkUsable(
        _ found: FoundDisk, _ force: Bool, _ replaced: ChosenDisk?
    ) throws(ControlFailure) {
        let isReplaced = force && replaced.map { found.isAway($0, in: self) } ?? false
        if let owner = owner(of: found), !isReplaced {
            throw ControlFailure(
                .refused, "\(found.path) belongs to pool \(owner)",
                hint: "name another disk; that pool is this daemon's")
        }
        guard found.probe.sizeBytes >= Units.minimumDiskBytes else {
            throw ControlFailure(
                .refused,
                "\(found.path) is too small: \(SizeText.format(found.probe.sizeBytes))",
                hint: "use a disk of 1 GiB or more")
        }
        guard !force else { return }
        switch found.contents {
        case .nothing: return
        case .label(let label):
            throw ControlFailure(
                .refused,
                "\(found.path) carries a label of pool \(NameRules.printable(label.poolName))",
                hint: "poolctl pool import opens that pool; --force destroys what it holds here")
        case .damagedLabel(let damage):
            throw ControlFailure(
                .refused, "\(found.path) carries a pool label that cannot be used: \(damage)",
                hint: "--force destroys what is there")
        case .foreign(let what):
            throw ControlFailure(
                .refused, "\(found.path) holds \(what)",
                hint: "name another disk; --force destroys what is there")
        }
    }

    /// The pool of this daemon that a disk belongs to, open or detached.
    private func owner(of found: FoundDisk) -> String? {
        let index = shards.disks.index(of: found.probe.identity)
        for entry in all {
            switch entry.condition {
            case .open(let devices):
                if let index, devices.contains(index) { return entry.record.name }
            case .detached: break
            }
            guard let label = found.label, label.poolUUID == entry.uuid else { continue }
            let uuid = UUIDText.format(label.diskUUID)
            if entry.record.disks.contains(where: { $0.uuid == uuid }) { return entry.record.name }
        }
        return nil
    }
}

extension FoundDisk {
    /// Whether it is this disk, which is not open here.
    func isAway(_ chosen: PoolRegistry.ChosenDisk, in registry: PoolRegistry) -> Bool {
        guard label?.poolUUID == chosen.entry.uuid, label?.diskUUID == chosen.uuid else {
            return false
        }
        let index = registry.shards.disks.index(of: probe.identity)
        return index.map { !chosen.devices.contains($0) } ?? true
    }
}
