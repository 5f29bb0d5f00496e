import Glibc
import PoolEngine

/// A client that has shaken hands, on its way to the shard of its space: the socket, what was
/// agreed on, and what it has sent ahead. Nothing of it is left on the shard it leaves.
///
/// Whoever takes it out of ``NBDServer/departures`` hands it to ``NBDServer/adopt(_:)`` of the
/// server it goes to, or closes it.
public struct Departure: Sendable {
    /// The shard it goes to.
    public let shard: Int
    public let exportName: String
    let socket: Int32
    let space: SpaceHandle
    /// What the client was told, whatever has become of the space since.
    let sizeBytes: UInt64
    let isReadOnly: Bool
    let terms: SessionTerms
    /// Received, and not looked at; at most ``NBDLimits/handshakeStagingBytes``.
    let unread: [UInt8]

    init(socket: Int32, export: Export, terms: SessionTerms, unread: [UInt8]) {
        shard = export.shard
        exportName = export.name
        self.socket = socket
        space = export.space
        sizeBytes = export.sizeBytes
        isReadOnly = export.isReadOnly
        self.terms = terms
        self.unread = unread
    }

    /// Ends the connection: there is nobody to go to.
    public func close() { _ = Glibc.close(socket) }
}
