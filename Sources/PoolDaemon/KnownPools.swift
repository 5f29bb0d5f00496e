import Foundation
import PoolControl

/// DIR/pools.json: the pools this daemon opens at its start, and where their disks were last.
///
/// A hint for the search, and what there is to say of a pool that cannot be opened; what a pool
/// really is, its disks tell.
struct KnownPools: Hashable, ControlMessage {
    struct Disk: Hashable, Sendable, Codable {
        var number: Int
        var uuid: String
        var path: String
        var media: Media
        var sizeBytes: UInt64
    }

    struct Pool: Hashable, Sendable, Codable {
        var name: String
        var uuid: String
        var disks: [Disk]

        /// The same pool with disks that only its configuration knew of.
        func with(_ more: [Disk]) -> Pool {
            var result = self
            for disk in more where !disks.contains(where: { $0.uuid == disk.uuid }) {
                result.disks.append(disk)
            }
            return result
        }
    }

    /// A thousand pools of full size.
    static let maximumFileBytes = 64 << 20

    var version = ControlProtocol.version
    var pools: [Pool] = []

    static func load(_ path: String) throws(ControlFailure) -> KnownPools {
        guard let content = try DurableFile.read(path, limit: maximumFileBytes) else {
            return KnownPools()
        }
        do throws(ControlFailure) {
            return try ControlJSON.decode(KnownPools.self, from: content)
        } catch {
            throw ControlFailure(
                .failed, "\(path) is damaged: \(error.what)",
                hint: "move it away and import the pools again: poolctl pool import DISK...")
        }
    }

    func save(_ path: String) throws(ControlFailure) {
        let content: Data
        do {
            content = try ControlJSON.encode(self, pretty: true)
        } catch {
            throw ControlFailure(
                .failed, "cannot write \(path): \(error)", hint: "look at the daemon's log")
        }
        try DurableFile.replace(path, with: content + Data("\n".utf8))
    }

    /// Replaces the entry with the same uuid, or adds one.
    mutating func put(_ pool: Pool) {
        pools.removeAll { $0.uuid == pool.uuid }
        pools.append(pool)
        pools.sort { $0.name < $1.name }
    }

    mutating func remove(uuid: String) { pools.removeAll { $0.uuid == uuid } }
}
