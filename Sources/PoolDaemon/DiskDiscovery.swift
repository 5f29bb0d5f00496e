import Foundation
import Logging
import PoolControl
import PoolDevices
import PoolFormat

/// What a path turned out to be.
struct FoundDisk: Sendable {
    /// A pool label, or why what looks like one cannot be used.
    enum Contents: Sendable {
        case label(Label)
        case damagedLabel(String)
        /// Somebody else's, in words for people: "an ext4 file system".
        case foreign(String)
        case nothing
    }

    var path: String
    var probe: DiskProbe
    var contents: Contents

    var label: Label? {
        switch contents {
        case .label(let label): label
        case .damagedLabel, .foreign, .nothing: nil
        }
    }

    /// Whether it is as large as its label says. What was cut short has lost data: it counts as
    /// missing, and does not keep the other disks from being opened.
    var isWhole: Bool { (label?.diskBytes).map { $0 <= probe.sizeBytes } ?? true }

    /// Looks at a path without claiming or changing anything; for a few seconds at most.
    ///
    /// - Parameter leastBytes: a smaller file is not read: a folder may hold thousands.
    init(path: String, leastBytes: UInt64 = 0) throws(ControlFailure) {
        do throws(DiskError) {
            probe = try DiskProbe.bounded(path: path, leastBytes: leastBytes)
        } catch {
            throw ControlFailure(disk: error)
        }
        self.path = path
        contents = Self.contents(of: probe)
    }

    /// The label says more than a signature that may lie there by chance, and the head's copy is
    /// at a place that does not depend on the size.
    private static func contents(of probe: DiskProbe) -> Contents {
        let page = Label.bytes
        let tailStart = Int(probe.sizeBytes % UInt64(page))
        var damage: String?
        var best: Label?
        let copies = [
            probe.head.prefix(page),
            probe.tail.dropLast(min(tailStart, probe.tail.count)).suffix(page),
        ]
        for copy in copies where copy.count == page {
            do throws(FormatError) {
                let label = try decode(Array(copy))
                if label.sequence >= best?.sequence ?? 0 { best = label }
            } catch {
                switch error {
                case .blank, .wrongMagic: break
                default: damage = error.description
                }
            }
        }
        if let best { return .label(best) }
        if let damage { return .damagedLabel(damage) }
        return probe.foreignSignature.map { .foreign($0) } ?? .nothing
    }

    private static func decode(_ page: [UInt8]) throws(FormatError) -> Label {
        // The closure would lose the error's type, so it hands it out as a value.
        let result = unsafe page.withUnsafeBytes { bytes -> Result<Label, FormatError> in
            do throws(FormatError) {
                return .success(try unsafe Label.decode(bytes))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}

/// Finds labelled disks by identity: where they were last, then next to there, then among all block
/// devices.
struct DiskDiscovery {
    /// Entries of one folder that are looked at; a pool's disks do not lie among more.
    static let maximumFolderEntries = 4096

    private let logger: Logger
    /// Whether disks are looked for elsewhere than where they were last.
    var searches = true
    private var byDisk: [PoolUUID: [FoundDisk]] = [:]
    private var seen: Set<String> = []
    private var hasSearchedDevices = false

    init(logger: Logger) { self.logger = logger }

    /// The disk `uuid`, at `path` or wherever the search finds it; nil while it is nowhere.
    mutating func find(_ uuid: PoolUUID, lastPath path: String) -> FoundDisk? {
        if let found = try? FoundDisk(path: path), found.label?.diskUUID == uuid, found.isWhole {
            return found
        }
        if searches {
            searchFolder(of: path)
            searchBlockDevices()
        }
        let found = (byDisk[uuid] ?? []).filter(\.isWhole)
        guard let first = found.first else { return nil }
        guard found.allSatisfy({ $0.probe.identity == first.probe.identity }) else {
            let paths = found.map(\.path).joined(separator: ", ")
            logger.warning("one disk is there more than once, none of it is used: \(paths)")
            return nil
        }
        return first
    }

    /// Where the search has found the disk, or copies of it.
    func places(of uuid: PoolUUID) -> [String] {
        (byDisk[uuid] ?? []).filter(\.isWhole).map(\.path)
    }

    /// Every labelled disk of a pool that the search knows of, one for each disk identity.
    mutating func disks(of pool: PoolUUID) -> [FoundDisk] {
        searchBlockDevices()
        return byDisk.values.compactMap(\.first)
            .filter { $0.label?.poolUUID == pool }
            .sorted { ($0.label?.diskNumber.rawValue ?? 0) < ($1.label?.diskNumber.rawValue ?? 0) }
    }

    /// The labels found at paths for which `isWanted` holds.
    func labels(where isWanted: (String) -> Bool) -> [Label] {
        byDisk.values.joined().filter { isWanted($0.path) }.compactMap(\.label)
            .sorted { $0.diskNumber < $1.diskNumber }
    }

    /// Looks at one path, and remembers what it is.
    @discardableResult
    mutating func look(at path: String) -> FoundDisk? {
        guard seen.insert(path).inserted,
            let found = try? FoundDisk(path: path, leastBytes: Units.minimumDiskBytes)
        else { return nil }
        if let label = found.label {
            let isKnown = (byDisk[label.diskUUID] ?? [])
                .contains { $0.probe.identity == found.probe.identity }
            if !isKnown { byDisk[label.diskUUID, default: []].append(found) }
        }
        return found
    }

    mutating func searchFolder(of path: String) {
        if let folder = Self.folder(of: path) { search(folder: folder) }
    }

    /// The folder that is searched for what was at a path. /dev is searched by what the kernel
    /// lists, not by its thousand names.
    static func folder(of path: String) -> String? {
        guard let slash = path.lastIndex(of: "/"), slash > path.startIndex else { return nil }
        let folder = String(path[..<slash])
        let isSearched =
            folder != "/dev" && (!folder.hasPrefix("/dev/") || folder.hasPrefix("/dev/shm"))
        return isSearched ? folder : nil
    }

    mutating func search(folder: String) {
        guard seen.insert(folder + "/").inserted else { return }
        let names = BoundedLook.at(folder + "/") {
            (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        }
        for name in (names ?? []).sorted().prefix(Self.maximumFolderEntries) {
            look(at: folder + "/" + name)
        }
    }

    mutating func searchBlockDevices() {
        guard !hasSearchedDevices else { return }
        hasSearchedDevices = true
        let names = try? FileManager.default.contentsOfDirectory(atPath: "/sys/class/block")
        for name in (names ?? []).sorted() {
            // A slash in a device's name stands as an exclamation mark in /sys.
            look(at: "/dev/" + name.replacingOccurrences(of: "!", with: "/"))
        }
    }
}

extension ControlFailure {
    init(disk error: DiskError) {
        let hint =
            switch error {
            case .cannotOpen(_, let code):
                code == ENOENT
                    ? "check the path; files are made with --create-size SIZE"
                    : "check the path and its rights"
            case .notADisk: "name a block device or a file"
            case .inUse: "unmount it, or stop what uses it"
            case .lockRefused: "use a file system with file locks"
            case .sizeUnknown, .readFailed, .endOfDisk, .notAnswering: "check the device and the kernel's log"
            case .unsupportedSector: "use another disk"
            case .cannotCreate: "check that its folder exists and has room"
            case .sizeTooLarge: "use a smaller --create-size"
            }
        self.init(.refused, error.description, hint: hint)
    }
}
