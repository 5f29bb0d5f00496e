import Foundation
import PoolControl
import PoolDevices

/// Where NBD is served: `unix:PATH` or `tcp:HOST:PORT`.
public enum NBDAddress: Hashable, Sendable, CustomStringConvertible {
    case unix(path: String)
    /// `host` is a literal address or a name; brackets of an IPv6 address are taken off.
    case tcp(host: String, port: UInt16)

    public init(_ text: String) throws(ControlFailure) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst(5))
            guard path.hasPrefix("/"),
                path.utf8.count <= ControlProtocol.maximumSocketPathBytes
            else {
                throw Self.malformed(
                    text, "the path is absolute and at most "
                        + "\(ControlProtocol.maximumSocketPathBytes) bytes long")
            }
            self = .unix(path: path)
        } else if text.hasPrefix("tcp:") {
            let rest = text.dropFirst(4)
            guard let colon = rest.lastIndex(of: ":"),
                let port = UInt16(rest[rest.index(after: colon)...]), port > 0
            else { throw Self.malformed(text, "write tcp:HOST:PORT, such as tcp:127.0.0.1:10809") }
            var host = rest[..<colon]
            if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
            guard !host.isEmpty, host.utf8.count <= 255 else {
                throw Self.malformed(text, "write tcp:HOST:PORT, such as tcp:127.0.0.1:10809")
            }
            self = .tcp(host: String(host), port: port)
        } else {
            throw Self.malformed(text, "write unix:PATH or tcp:HOST:PORT")
        }
    }

    private static func malformed(_ text: String, _ hint: String) -> ControlFailure {
        ControlFailure(
            .invalid, "'\(NameRules.printable(text))' is not an address for NBD", hint: hint)
    }

    public var description: String {
        switch self {
        case .unix(let path): "unix:\(path)"
        case .tcp(let host, let port):
            host.contains(":") ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
        }
    }

    /// Whether only this machine can reach it.
    public var isLocal: Bool {
        switch self {
        case .unix: true
        case .tcp(let host, _): host == "localhost" || host == "::1" || host.hasPrefix("127.")
        }
    }
}

/// What a daemon is started with.
public struct DaemonOptions: Hashable, Sendable {
    /// Absolute.
    public var directory: String
    /// Empty: `unix:DIR/nbd.sock`.
    public var nbd: [NBDAddress]
    /// What disks and sockets run on; where io_uring is refused, libaio serves.
    public var engine = DiskEngine.ioUring
    /// Threads that serve, each with some of the spaces; nil: one for each processor.
    public var shards: Int?
    /// How long a disk may keep an operation before the pool does without the disk, where it can.
    public var diskTimeoutSeconds = 30

    public init(directory: String, nbd: [NBDAddress]) {
        self.directory = directory
        self.nbd = nbd
    }

    /// `io_uring` or `libaio`.
    public mutating func chooseEngine(_ name: String) throws(ControlFailure) {
        guard let engine = DiskEngine(rawValue: name) else {
            throw ControlFailure(
                .invalid, "'\(NameRules.printable(name))' is not an engine",
                hint: "use \(DiskEngine.allCases.map(\.rawValue).joined(separator: " or "))")
        }
        self.engine = engine
    }

    /// A number from 1 to 16.
    public mutating func chooseShards(_ text: String) throws(ControlFailure) {
        guard let count = Int(text), (1...ShardGroup.limit).contains(count) else {
            throw ControlFailure(
                .invalid, "'\(NameRules.printable(text))' is not a number of shards",
                hint: "use 1 to \(ShardGroup.limit); without the option it is one a processor")
        }
        shards = count
    }

    /// A number of seconds from 1 to 3600.
    public mutating func chooseDiskTimeout(_ text: String) throws(ControlFailure) {
        guard let seconds = Int(text), (1...3600).contains(seconds) else {
            throw ControlFailure(
                .invalid, "'\(NameRules.printable(text))' is not a time for a disk to answer",
                hint: "use 1 to 3600 seconds; without the option it is 30")
        }
        diskTimeoutSeconds = seconds
    }
}

/// --config FILE: one `long-option = value` a line; `#` begins a comment; an option that may be
/// repeated stands on several lines.
public struct ConfigurationFile: Hashable, Sendable {
    public struct Line: Hashable, Sendable {
        public var number: Int
        public var option: String
        public var value: String
    }

    public var lines: [Line] = []

    /// - Parameter options: the names that are known; another is refused with its line.
    public init(_ text: String, options: [String], file: String) throws(ControlFailure) {
        let content = text.split(
            omittingEmptySubsequences: false, whereSeparator: \.isNewline)
        for (index, raw) in content.enumerated() {
            let line = raw.trimmingCharacters(in: .whitespaces)
            if line.isEmpty || line.hasPrefix("#") { continue }
            guard let equals = line.firstIndex(of: "=") else {
                throw ControlFailure(
                    .invalid, "\(file):\(index + 1): '\(NameRules.printable(line))' has no '='",
                    hint: "write long-option = value")
            }
            let option = line[..<equals].trimmingCharacters(in: .whitespaces)
            let value = line[line.index(after: equals)...].trimmingCharacters(in: .whitespaces)
            guard options.contains(option) else {
                throw ControlFailure(
                    .invalid,
                    "\(file):\(index + 1): there is no option '\(NameRules.printable(option))'",
                    hint: Nearest.match(option, among: options).map { "did you mean '\($0)'?" }
                        ?? "the options are: \(options.joined(separator: ", "))")
            }
            lines.append(Line(number: index + 1, option: option, value: value))
        }
    }

    public static func load(
        _ path: String, options: [String]
    ) throws(ControlFailure) -> ConfigurationFile {
        guard let content = try DurableFile.read(path, limit: 1 << 20) else {
            throw ControlFailure(
                .invalid, "there is no file \(path)", hint: "name an existing file with --config")
        }
        return try ConfigurationFile(
            String(decoding: content, as: UTF8.self), options: options, file: path)
    }

    public func values(_ option: String) -> [String] {
        lines.filter { $0.option == option }.map(\.value)
    }
}
