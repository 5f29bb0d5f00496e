import Logging
import NIOPosix
import PoolControl
import PoolDevices
import PoolEngine

/// The shards of a daemon, and what is one for all of them.
///
/// Pools, NBD's listeners and its handshakes are at home on the first; spaces, with the clients
/// attached to them, are spread over all.
final class ShardGroup: Sendable {
    static let limit = 16

    let all: [Shard]
    /// Each disk is opened once: every shard's ring has that same file.
    let disks: DiskTable
    /// Where the witness's file is written: a flush must not stop a shard.
    private let witnessPool: NIOThreadPool
    private let peers: ShardPeers

    var home: Shard { all[0] }

    /// One for each processor this process may run on.
    static var defaultCount: Int { min(ShardThread.processorCount, limit) }

    /// - Parameter engine: where the kernel refuses it to the first, the others take what that has.
    init(
        count: Int, engine: DiskEngine, diskTimeoutSeconds: Int, witness: WitnessStore,
        restartMemory: RestartFolder, logger: Logger
    ) throws(ControlFailure) {
        precondition((1...Self.limit).contains(count))
        let peers = try ShardPeers(count: count)
        self.peers = peers
        disks = DiskTable(users: count)
        witnessPool = NIOThreadPool(numberOfThreads: 1)
        witnessPool.start()
        var shards: [Shard] = []
        do throws(ControlFailure) {
            for number in 0..<count {
                shards.append(
                    try Shard(
                        number, peers: peers, engine: shards.first?.diskEngine ?? engine,
                        diskTimeoutSeconds: diskTimeoutSeconds, disks: disks, witness: witness,
                        witnessPool: witnessPool, restartMemory: restartMemory,
                        logger: logger))
            }
        } catch {
            for shard in shards { shard.stop() }
            try? witnessPool.syncShutdownGracefully()
            peers.forgetStates()
            throw error
        }
        all = shards
    }

    /// Runs `body` at once on every shard's thread, one after the other, the home first.
    ///
    /// - Returns: what it said, by shard.
    @discardableResult
    func runNow<T: Sendable>(
        _ body: @escaping @Sendable (ShardState) -> T
    ) throws(ControlFailure) -> [T] {
        var answers: [T] = []
        for shard in all { answers.append(try shard.runNow(body)) }
        return answers
    }

    /// Ends the threads. Whatever should be finished or flushed has been by now.
    func stop() {
        for shard in all { shard.stop() }
        try? witnessPool.syncShutdownGracefully()
        peers.forgetStates()
    }
}
