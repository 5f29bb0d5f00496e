import Foundation
import Glibc
import PoolDevices
import PoolFormat

/// When the disks that a pool lacks are searched for among everything there is.
///
///     something has come or gone, or another disk is missing ──► searched for at once
///     else                                   5 s, 10 s, 20 s, ... 5 min after the last time
///
/// A search reads the head of each device and of each file beside the ones that are missing, and
/// lets none of them sleep. Where a disk was last it is looked for at every turn: that costs
/// nothing.
struct SearchPace: Sendable {
    static let firstSeconds: Double = 5
    static let longestSeconds: Double = 300

    private var waitSeconds = firstSeconds
    private var dueSeconds: Double = 0
    private var seen: Surroundings?

    /// - Parameter seconds: of a clock that does not go back.
    /// - Returns: whether to search now; then the next time is later.
    mutating func isDue(_ surroundings: Surroundings, seconds: Double) -> Bool {
        if seen != surroundings {
            seen = surroundings
            waitSeconds = Self.firstSeconds
        } else if seconds < dueSeconds {
            return false
        } else {
            waitSeconds = min(2 * waitSeconds, Self.longestSeconds)
        }
        dueSeconds = seconds + waitSeconds
        return true
    }
}

/// What a search would look at, as far as names, sizes and times tell.
struct Surroundings: Hashable, Sendable {
    var missing: Set<PoolUUID>
    /// Block devices, and how large each is.
    var devices: [String: String] = [:]
    /// Folders, and when something last came or went there.
    var folders: [String: [Int]] = [:]

    init(missing: Set<PoolUUID>) { self.missing = missing }

    /// As they are now.
    ///
    /// - Parameter paths: where the pool's disks were last.
    init(missing: Set<PoolUUID>, around paths: [String]) {
        self.init(missing: missing)
        let kernel = "/sys/class/block"
        for name in (try? FileManager.default.contentsOfDirectory(atPath: kernel)) ?? [] {
            let size = try? String(contentsOfFile: "\(kernel)/\(name)/size", encoding: .utf8)
            devices[name] = size ?? ""
        }
        for folder in Set(paths.compactMap(DiskDiscovery.folder)) {
            folders[folder] = BoundedLook.at(folder) { Self.changed(folder) } ?? nil
        }
    }

    private static func changed(_ folder: String) -> [Int]? {
        var status = stat()
        guard unsafe stat(folder, &status) == 0 else { return nil }
        return [Int(status.st_ino), status.st_mtim.tv_sec, status.st_mtim.tv_nsec]
    }
}
