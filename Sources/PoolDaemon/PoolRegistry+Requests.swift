import Foundation
import PoolControl

/// The control protocol's routes, each to the function that serves it.
extension PoolRegistry: ControlService {
    func answer(
        _ route: ControlProtocol.Route, _ body: Data
    ) throws(ControlFailure) -> Data {
        switch route {
        case .daemonInfo:
            var info = self.info
            info.uptimeSeconds = uptimeSeconds
            return try encode(info)
        case .poolList:
            return try encode(PoolList(pools: try statuses()))
        case .poolCreate:
            return try encode(createPool(ControlJSON.decode(PoolCreateRequest.self, from: body)))
        case .poolImport:
            return try encode(importPools(ControlJSON.decode(PoolImportRequest.self, from: body)))
        case .poolStatus(let name):
            return try encode(status(of: try entry(named: name)))
        case .poolDestroy(let name):
            return try encode(destroyPool(name))
        case .poolExport(let name):
            return try encode(exportPool(name))
        case .settingList(let name):
            return try encode(settings(of: name))
        case .poolSet(let name):
            return try encode(setPool(name, ControlJSON.decode(SettingsRequest.self, from: body)))
        case .diskSet(let name):
            return try encode(
                setDisk(in: name, ControlJSON.decode(DiskSetRequest.self, from: body)))
        case .diskOffline(let name):
            return try encode(
                offlineDisk(in: name, ControlJSON.decode(DiskOfflineRequest.self, from: body)))
        case .diskOnline(let name):
            return try encode(
                onlineDisk(in: name, ControlJSON.decode(DiskOnlineRequest.self, from: body)))
        case .diskRetire(let name):
            return try encode(
                retireDisk(in: name, ControlJSON.decode(DiskRetireRequest.self, from: body)))
        case .diskReplace(let name):
            return try encode(
                replaceDisk(in: name, ControlJSON.decode(DiskReplaceRequest.self, from: body)))
        case .jobList(let name):
            return try encode(jobs(of: name))
        case .poolScrub(let name):
            return try encode(scrub(name, ControlJSON.decode(ScrubRequest.self, from: body)))
        case .poolRepair(let name):
            return try encode(repair(name))
        case .poolRebalance(let name):
            return try encode(rebalance(name))
        case .diskList(let name):
            return try encode(
                DiskList(pool: name, disks: try status(of: try entry(named: name)).disks))
        case .poolAdd(let name):
            return try encode(
                addDisks(to: name, ControlJSON.decode(PoolAddRequest.self, from: body)))
        case .spaceList:
            let pools = try statuses()
            return try encode(
                SpaceList(
                    spaces: pools.flatMap(\.spaces),
                    detachedPools: pools.filter { $0.health == .detached }.map(\.name)))
        case .spaceCreate(let pool):
            return try encode(
                createSpace(in: pool, ControlJSON.decode(SpaceCreateRequest.self, from: body)))
        case .spaceStatus(let path):
            return try encode(spaceStatus(path))
        case .spaceDestroy(let path):
            return try encode(destroySpace(path))
        case .spaceSet(let path):
            return try encode(setSpace(path, ControlJSON.decode(SettingsRequest.self, from: body)))
        case .spaceResize(let path):
            return try encode(
                resizeSpace(path, ControlJSON.decode(SpaceResizeRequest.self, from: body)))
        case .spaceExplain(let path):
            return try encode(explainSpace(path))
        }
    }

    private func encode(_ message: some ControlMessage) throws(ControlFailure) -> Data {
        do {
            return try ControlJSON.encode(message)
        } catch {
            throw ControlFailure(
                .failed, "the answer cannot be written: \(error)", hint: "look at the log")
        }
    }
}
