import Foundation

/// The control protocol: HTTP/1.1 with one JSON object each way, over `DIR/control.sock`.
///
///     GET    /v1/daemon                       DaemonInfo
///     GET    /v1/pools                        PoolList
///     POST   /v1/pools                        PoolCreateRequest  -> PoolStatus
///     POST   /v1/imports                      PoolImportRequest  -> PoolList
///     GET    /v1/pools/POOL                   PoolStatus
///     DELETE /v1/pools/POOL                   Outcome
///     POST   /v1/pools/POOL/export            Outcome
///     GET    /v1/pools/POOL/settings          SettingList
///     POST   /v1/pools/POOL/settings          SettingsRequest    -> SettingList
///     GET    /v1/pools/POOL/disks             DiskList
///     POST   /v1/pools/POOL/disks             PoolAddRequest     -> PoolStatus
///     POST   /v1/pools/POOL/disks/settings    DiskSetRequest     -> DiskList
///     POST   /v1/pools/POOL/disks/offline     DiskOfflineRequest -> DiskList
///     POST   /v1/pools/POOL/disks/online      DiskOnlineRequest  -> DiskList
///     POST   /v1/pools/POOL/disks/retire      DiskRetireRequest  -> JobAnswer
///     POST   /v1/pools/POOL/disks/replace     DiskReplaceRequest -> JobAnswer
///     GET    /v1/pools/POOL/jobs              JobList
///     POST   /v1/pools/POOL/scrub             ScrubRequest       -> JobAnswer
///     POST   /v1/pools/POOL/repair            JobAnswer
///     POST   /v1/pools/POOL/rebalance         JobAnswer
///     GET    /v1/spaces                       SpaceList
///     POST   /v1/pools/POOL/spaces            SpaceCreateRequest -> SpaceStatus
///     GET    /v1/pools/POOL/spaces/SPACE      SpaceStatus
///     DELETE /v1/pools/POOL/spaces/SPACE      Outcome
///     POST   /v1/pools/POOL/spaces/SPACE/settings     SettingsRequest    -> SpaceStatus
///     POST   /v1/pools/POOL/spaces/SPACE/size         SpaceResizeRequest -> SpaceStatus
///     GET    /v1/pools/POOL/spaces/SPACE/explanation  SpaceExplanation
///
/// A failure is any status from 400 with a ``FailureMessage``. The path's prefix and each object's
/// `version` say which protocol it is; either end refuses one it does not know.
public enum ControlProtocol {
    public static let version = 1
    public static let pathPrefix = "/v1"
    /// No request has a larger body.
    public static let maximumRequestBytes = 1 << 20
    /// No response has: some thousands of spaces and disks.
    public static let maximumResponseBytes = 16 << 20
    public static let socketName = "control.sock"
    public static let defaultDirectory = "/var/lib/poold"
    public static let programVersion = "0.1.0"
    /// What a Unix socket's address holds, its closing zero left out (unix(7)).
    public static let maximumSocketPathBytes = 107
    public static let maximumDirectoryBytes =
        maximumSocketPathBytes - "/".utf8.count - socketName.utf8.count

    /// What one request asks for: a method and a path that exist.
    public enum Route: Hashable, Sendable {
        case daemonInfo
        case poolList, poolCreate, poolImport
        case poolStatus(String), poolDestroy(String), poolExport(String)
        case settingList(String), poolSet(String)
        case diskList(String), poolAdd(String), diskSet(String)
        case diskOffline(String), diskOnline(String), diskRetire(String), diskReplace(String)
        case jobList(String), poolScrub(String), poolRepair(String), poolRebalance(String)
        case spaceList, spaceCreate(pool: String)
        case spaceStatus(SpacePath), spaceDestroy(SpacePath)
        case spaceSet(SpacePath), spaceResize(SpacePath), spaceExplain(SpacePath)

        public var method: String {
            switch self {
            case .daemonInfo, .poolList, .poolStatus, .settingList, .diskList, .jobList,
                .spaceList, .spaceStatus, .spaceExplain:
                "GET"
            case .poolCreate, .poolImport, .poolExport, .poolSet, .poolAdd, .poolScrub,
                .poolRepair, .poolRebalance, .diskSet, .diskOffline, .diskOnline, .diskRetire,
                .diskReplace, .spaceCreate, .spaceSet, .spaceResize:
                "POST"
            case .poolDestroy, .spaceDestroy: "DELETE"
            }
        }

        public var path: String {
            let rest =
                switch self {
                case .daemonInfo: "daemon"
                case .poolList, .poolCreate: "pools"
                case .poolImport: "imports"
                case .poolStatus(let pool), .poolDestroy(let pool): "pools/\(pool)"
                case .poolExport(let pool): "pools/\(pool)/export"
                case .settingList(let pool), .poolSet(let pool): "pools/\(pool)/settings"
                case .diskList(let pool), .poolAdd(let pool): "pools/\(pool)/disks"
                case .diskSet(let pool): "pools/\(pool)/disks/settings"
                case .diskOffline(let pool): "pools/\(pool)/disks/offline"
                case .diskOnline(let pool): "pools/\(pool)/disks/online"
                case .diskRetire(let pool): "pools/\(pool)/disks/retire"
                case .diskReplace(let pool): "pools/\(pool)/disks/replace"
                case .jobList(let pool): "pools/\(pool)/jobs"
                case .poolScrub(let pool): "pools/\(pool)/scrub"
                case .poolRepair(let pool): "pools/\(pool)/repair"
                case .poolRebalance(let pool): "pools/\(pool)/rebalance"
                case .spaceList: "spaces"
                case .spaceCreate(let pool): "pools/\(pool)/spaces"
                case .spaceStatus(let path), .spaceDestroy(let path):
                    Self.path(path)
                case .spaceSet(let path): Self.path(path) + "/settings"
                case .spaceResize(let path): Self.path(path) + "/size"
                case .spaceExplain(let path): Self.path(path) + "/explanation"
                }
            return "\(ControlProtocol.pathPrefix)/\(rest)"
        }

        private static func path(_ path: SpacePath) -> String {
            "pools/\(path.pool)/spaces/\(path.space)"
        }

        /// Reads a request line. Names need no escaping: the rules leave nothing to escape.
        public init(method: String, path: String) throws(ControlFailure) {
            let parts = path.split(separator: "/", omittingEmptySubsequences: true).map(String.init)
            guard "/\(parts.first ?? "")" == ControlProtocol.pathPrefix else {
                throw ControlFailure(
                    .invalid, "'\(NameRules.printable(path))' is not a path of protocol version 1",
                    hint: "this poold speaks \(ControlProtocol.pathPrefix); "
                        + "use the poolctl that came with it")
            }
            self = try Self.route(method, Array(parts.dropFirst()), path)
        }

        private static func route(
            _ method: String, _ parts: [String], _ path: String
        ) throws(ControlFailure) -> Route {
            let pool = parts.count >= 2 ? parts[1] : ""
            switch (method, parts.first ?? "", parts.count) {
            case ("GET", "daemon", 1): return .daemonInfo
            case ("GET", "pools", 1): return .poolList
            case ("POST", "pools", 1): return .poolCreate
            case ("POST", "imports", 1): return .poolImport
            case ("GET", "spaces", 1): return .spaceList
            case ("GET", "pools", 2): return .poolStatus(try checked(pool))
            case ("DELETE", "pools", 2): return .poolDestroy(try checked(pool))
            case (_, "pools", 3...) where parts[2] != "spaces":
                let pool = try checked(pool)
                guard let route = route(method, pool, Array(parts.dropFirst(2))) else { break }
                return route
            case ("POST", "pools", 3): return .spaceCreate(pool: try checked(pool))
            case (_, "pools", 4...) where parts[2] == "spaces":
                let space = try SpacePath(pool: pool, space: parts[3])
                guard let route = route(method, space, Array(parts.dropFirst(4))) else { break }
                return route
            default: break
            }
            throw ControlFailure(
                .notFound, "there is no \(NameRules.printable("\(method) \(path)"))",
                hint: "the paths are listed in the control protocol's reference")
        }

        private static func route(_ method: String, _ pool: String, _ rest: [String]) -> Route? {
            switch (method, rest) {
            case ("POST", ["export"]): .poolExport(pool)
            case ("GET", ["settings"]): .settingList(pool)
            case ("POST", ["settings"]): .poolSet(pool)
            case ("GET", ["disks"]): .diskList(pool)
            case ("POST", ["disks"]): .poolAdd(pool)
            case ("POST", ["disks", "settings"]): .diskSet(pool)
            case ("POST", ["disks", "offline"]): .diskOffline(pool)
            case ("POST", ["disks", "online"]): .diskOnline(pool)
            case ("POST", ["disks", "retire"]): .diskRetire(pool)
            case ("POST", ["disks", "replace"]): .diskReplace(pool)
            case ("GET", ["jobs"]): .jobList(pool)
            case ("POST", ["scrub"]): .poolScrub(pool)
            case ("POST", ["repair"]): .poolRepair(pool)
            case ("POST", ["rebalance"]): .poolRebalance(pool)
            default: nil
            }
        }

        private static func route(
            _ method: String, _ space: SpacePath, _ rest: [String]
        ) -> Route? {
            switch (method, rest) {
            case ("GET", []): .spaceStatus(space)
            case ("DELETE", []): .spaceDestroy(space)
            case ("POST", ["settings"]): .spaceSet(space)
            case ("POST", ["size"]): .spaceResize(space)
            case ("GET", ["explanation"]): .spaceExplain(space)
            default: nil
            }
        }

        private static func checked(_ pool: String) throws(ControlFailure) -> String {
            try NameRules.check(pool, "pool")
            return pool
        }
    }
}

/// A message with a version: every object that crosses the control socket.
public protocol ControlMessage: Codable, Sendable {
    var version: Int { get }
}

/// How messages become bytes: snake_case keys, sorted, so that the same state reads the same.
public enum ControlJSON {
    public static func encode(_ message: some Encodable, pretty: Bool = false) throws -> Data {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if pretty { encoder.outputFormatting.insert(.prettyPrinted) }
        return try encoder.encode(message)
    }

    /// - Throws: ``ControlFailure`` of kind `invalid` that names the key at fault.
    public static func decode<M: ControlMessage>(
        _ type: M.Type, from data: Data
    ) throws(ControlFailure) -> M {
        let message: M
        do {
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            // The version goes first: a newer message may well lack keys of this one.
            let found = try decoder.decode(VersionOnly.self, from: data).version
            guard found == ControlProtocol.version else {
                throw ControlFailure(
                    .invalid, "the message is of version \(found), not \(ControlProtocol.version)",
                    hint: "use the poolctl that came with this poold")
            }
            message = try decoder.decode(type, from: data)
        } catch let failure as ControlFailure {
            throw failure
        } catch let error as DecodingError {
            throw explain(error)
        } catch {
            throw ControlFailure(.invalid, "the message is not JSON", hint: wellFormed)
        }
        return message
    }

    private struct VersionOnly: Decodable { var version: Int }
    private static let wellFormed = "send one JSON object with the documented keys"

    private static func explain(_ error: DecodingError) -> ControlFailure {
        switch error {
        case .keyNotFound(let key, let context):
            ControlFailure(
                .invalid, "the message lacks '\(name(context.codingPath + [key]))'",
                hint: wellFormed)
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            ControlFailure(
                .invalid, "'\(name(context.codingPath))' has the wrong type", hint: wellFormed)
        case .dataCorrupted(let context) where context.codingPath.isEmpty:
            // Foundation gives no path for a number that fits no integer.
            ControlFailure(
                .invalid, "the message is not JSON, or a number in it is out of range",
                hint: wellFormed)
        case .dataCorrupted(let context):
            ControlFailure(
                .invalid, "'\(name(context.codingPath))' has a value that is not known here",
                hint: wellFormed)
        @unknown default:
            ControlFailure(.invalid, "the message cannot be read", hint: wellFormed)
        }
    }

    private static func name(_ path: [any CodingKey]) -> String {
        guard !path.isEmpty else { return "the message" }
        return NameRules.printable(
            path.map { $0.intValue.map { "[\($0)]" } ?? snakeCase($0.stringValue) }
                .joined(separator: "."))
    }

    private static func snakeCase(_ key: String) -> String {
        key.reduce(into: "") { result, character in
            if character.isUppercase { result += "_" }
            result += character.lowercased()
        }
    }
}
