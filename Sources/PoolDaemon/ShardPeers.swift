import PoolControl
import PoolDevices
import PoolEngine
import Synchronization

/// How the shards of a daemon reach each other: a mailbox for each, and what its thread owns.
final class ShardPeers: Sendable {
    let mailboxes: [ShardMailbox]
    /// By shard; complete before the first of them is given work.
    private let states: Mutex<[ShardState?]>

    init(count: Int) throws(ControlFailure) {
        var mailboxes: [ShardMailbox] = []
        for _ in 0..<count {
            guard let mailbox = ShardMailbox() else {
                throw DurableFile.systemFailure("cannot make an eventfd")
            }
            mailboxes.append(mailbox)
        }
        self.mailboxes = mailboxes
        states = Mutex(Array(repeating: nil, count: count))
    }

    var count: Int { mailboxes.count }

    func add(_ state: ShardState) {
        states.withLock { $0[state.engine.shard] = state }
    }

    /// Every thread has ended. They and this hold each other; without this the rings, and with them
    /// the disks' locks, would outlive the daemon in a process that goes on.
    func forgetStates() {
        states.withLock { states in
            for shard in states.indices { states[shard] = nil }
        }
    }

    /// What a shard's thread owns: for that thread only.
    func state(_ shard: Int) -> ShardState {
        guard let state = states.withLock({ $0[shard] }) else {
            preconditionFailure("a shard was given work before it was there")
        }
        return state
    }

    /// Has a shard run this between two turns. False: it has ended, and never will.
    @discardableResult
    func send(_ shard: Int, _ work: @escaping @Sendable (ShardState) -> Void) -> Bool {
        mailboxes[shard].post { [self] in work(state(shard)) }
    }
}

extension ShardState {
    /// Runs `body` on another shard, from a slow path of this one, and goes on here. On this very
    /// shard it is a plain call.
    func on<T: Sendable>(
        _ shard: Int, _ body: @escaping @Sendable (ShardState) -> T
    ) async throws(ControlFailure) -> T {
        let peers = self.peers
        do throws(PoolError) {
            return try await engine.on(shard) { _ in body(peers.state(shard)) }
        } catch {
            throw ControlFailure(pool: error)
        }
    }

    /// Runs `body` on every shard, one after the other.
    ///
    /// - Returns: what it said, by shard.
    @discardableResult
    func onEvery<T: Sendable>(
        _ body: @escaping @Sendable (ShardState) -> T
    ) async throws(ControlFailure) -> [T] {
        var answers: [T] = []
        for shard in 0..<peers.count { answers.append(try await on(shard, body)) }
        return answers
    }
}
