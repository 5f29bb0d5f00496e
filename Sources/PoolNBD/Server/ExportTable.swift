import PoolEngine

/// The spaces that clients of a shard can attach to, by name. Confined to the shard's thread.
public final class ExportTable {
    private var byName: [[UInt8]: Export] = [:]
    /// Connections that could still be made.
    var freeConnections = NBDLimits.connections

    public init() {}

    /// In order, so that two listings agree.
    public var names: [String] { byName.values.map(\.name).sorted() }

    /// Offers a space as `name` ("POOL/SPACE"), or changes what is said of it: connections made
    /// before keep what they were told.
    ///
    /// - Parameter shard: where the space is served. A server of another shard only shakes hands
    ///   with its clients; that shard's own table has the space too, and counts the connections.
    public func publish(
        name: String, space: SpaceHandle, sizeBytes: UInt64, isReadOnly: Bool, shard: Int = 0
    ) {
        precondition(!name.isEmpty && name.utf8.count <= NBDLimits.nameBytes)
        let export = Export(
            name: name, space: space, sizeBytes: sizeBytes, isReadOnly: isReadOnly, shard: shard)
        if let old = byName[Array(name.utf8)], old.space == space { export.usage = old.usage }
        byName[Array(name.utf8)] = export
    }

    /// Takes the name away: no new client can attach. To close a space that nobody uses, withdraw
    /// it first and then look at the count that this returns.
    ///
    /// - Returns: connections still attached, or nil where there was no such name.
    @discardableResult
    public func withdraw(name: String) -> Int? {
        byName.removeValue(forKey: Array(name.utf8))?.usage.connections
    }

    /// Clients attached to the space of that name; 0 for an unknown one.
    public func connections(name: String) -> Int {
        byName[Array(name.utf8)]?.usage.connections ?? 0
    }

    func find(_ name: Span<UInt8>) -> Export? {
        byName[name.array(name.indices)]
    }

    /// Whether the export may have one more connection. It may hold as many as are left free, so
    /// that clients stuck on one space never take the last room of the others.
    func admits(_ export: Export) -> Bool {
        freeConnections > 0 && export.usage.connections < freeConnections
    }

    func attach(_ usage: ExportUsage) {
        usage.connections += 1
        freeConnections -= 1
    }

    func detach(_ usage: ExportUsage) {
        usage.connections -= 1
        freeConnections += 1
    }
}

/// One space as a connection sees it: fixed while the connection lasts.
public final class Export: @unchecked Sendable {
    public let name: String
    public let space: SpaceHandle
    public let sizeBytes: UInt64
    public let isReadOnly: Bool
    /// Where the space is served.
    public let shard: Int
    /// Shared by every version of the same space's export.
    final var usage = ExportUsage()

    init(name: String, space: SpaceHandle, sizeBytes: UInt64, isReadOnly: Bool, shard: Int) {
        self.name = name
        self.space = space
        self.sizeBytes = sizeBytes
        self.isReadOnly = isReadOnly
        self.shard = shard
    }

    public var transmissionFlags: TransmissionFlags {
        isReadOnly ? TransmissionFlags.space.union(.readOnly) : .space
    }
}

/// What the clients of one space hold of the shared resources.
final class ExportUsage {
    var connections = 0
    var holdings = Holdings()
}

/// Pieces and arena buffers (by size class) that somebody holds.
struct Holdings {
    var pieces = 0
    private var buffers: (Int, Int, Int, Int) = (0, 0, 0, 0)

    static func bufferClass(bytes: Int) -> UInt8 {
        UInt8(BufferArena.classBytes.firstIndex { $0 >= bytes } ?? 3)
    }

    subscript(_ bufferClass: UInt8) -> Int {
        get {
            switch bufferClass {
            case 0: buffers.0
            case 1: buffers.1
            case 2: buffers.2
            default: buffers.3
            }
        }
        set {
            switch bufferClass {
            case 0: buffers.0 = newValue
            case 1: buffers.1 = newValue
            case 2: buffers.2 = newValue
            default: buffers.3 = newValue
            }
        }
    }
}
