import Glibc
import NIOCore
import PoolControl

/// Who may use the control socket: root, the daemon's user, and the group of the socket.
///
/// The socket's mode says the same; this holds as well where somebody loosened the mode.
struct PeerPolicy: Sendable {
    let socketPath: String

    /// Supplementary groups that are looked at; a peer with more counts by its first group alone.
    private typealias Groups = InlineArray<1024, gid_t>

    /// `struct ucred` of unix(7), which glibc's module does not show.
    private struct Credentials: Sendable {
        var pid: pid_t
        var uid: uid_t
        var gid: gid_t
    }

    /// What the peer is told; nil: it may. Called on the channel's event loop.
    func refusal(of channel: any Channel) -> EventLoopFuture<ControlFailure?> {
        guard let options = channel as? any SocketOptionProvider else {
            return channel.eventLoop.makeSucceededFuture(Self.refused("a peer of no identity"))
        }
        let path = socketPath
        let credentials: EventLoopFuture<Credentials> = options.unsafeGetSocketOption(
            level: .socket, name: NIOBSDSocket.Option(rawValue: SO_PEERCRED))
        // 59 is SO_PEERGROUPS, not shown either: the groups as recorded at the connect.
        let groups: EventLoopFuture<Groups> = options.unsafeGetSocketOption(
            level: .socket, name: NIOBSDSocket.Option(rawValue: 59))
        let listed = groups.map { groups in groups.indices.map { groups[$0] } }
            .flatMapErrorThrowing { _ in [] }
        return credentials.and(listed)
            .map { peer, groups in Self.judge(peer, groups, path) }
            .flatMapErrorThrowing { _ in Self.refused("a peer of no identity") }
    }

    private static func judge(
        _ peer: Credentials, _ groups: [gid_t], _ socketPath: String
    ) -> ControlFailure? {
        if peer.uid == 0 || peer.uid == geteuid() { return nil }
        var status = stat()
        guard unsafe lstat(socketPath, &status) == 0 else { return refused("user \(peer.uid)") }
        if peer.gid == status.st_gid { return nil }
        // The list's unused rest reads as zero, which must not pass for root's group.
        return status.st_gid != 0 && groups.contains(status.st_gid)
            ? nil : refused("user \(peer.uid)")
    }

    private static func refused(_ who: String) -> ControlFailure {
        ControlFailure(
            .refused, "\(who) may not control this poold",
            hint: "run as root, as the daemon's user, or as a member of the socket's group")
    }
}
