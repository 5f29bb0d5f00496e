import Foundation
import Logging
import NIOPosix
import PoolControl
import PoolDevices
import PoolNBD
import Synchronization

/// One poold: its directory, its shards, its pools, and its two faces.
///
/// The start goes from the inside out, the stop from the outside in:
///
///     lock DIR -> shards -> pools open or explained -> NBD listens -> control listens -> ready
///     stopping -> control closed -> clients finish (10 s) -> pools flushed and closed
///              -> shards
///              -> unlock DIR
public final class Daemon: Sendable {
    /// How long clients and control requests may take to finish at a stop.
    public static let stopSeconds = 10

    private let shards: ShardGroup
    private let registry: PoolRegistry
    private let control: ControlServer
    private let changes: NIOThreadPool
    private let isLooking = Mutex(false)
    private let logger: Logger

    /// - Throws: ``ControlFailure`` that says why this daemon cannot run.
    public init(_ options: DaemonOptions, logger: Logger) throws(ControlFailure) {
        self.logger = logger
        Self.raiseFileLimit(logger)
        // A client that goes away is an error of its socket, not the end of the daemon.
        _ = signal(SIGPIPE, SIG_IGN)
        let directory = try DaemonDirectory(path: options.directory)
        let witness = WitnessStore(directory: directory)
        let nbd = options.nbd.isEmpty ? [.unix(path: directory.nbdSocket)] : options.nbd
        shards = try ShardGroup(
            count: options.shards ?? ShardGroup.defaultCount, engine: options.engine,
            diskTimeoutSeconds: options.diskTimeoutSeconds, witness: witness,
            restartMemory: RestartFolder(path: directory.restartFolder, logger: logger),
            logger: logger)
        let info = DaemonInfo(
            program: "poold \(ControlProtocol.programVersion)", pid: Int(getpid()),
            dir: directory.path, engine: shards.home.diskEngine.rawValue, shards: shards.all.count,
            nbd: nbd.map(\.description), uptimeSeconds: 0)
        registry = PoolRegistry(
            directory: directory, witness: witness, shards: shards, info: info, logger: logger)
        changes = NIOThreadPool(numberOfThreads: 1)
        changes.start()
        do throws(ControlFailure) {
            try registry.openKnownPools()
            for address in nbd { try Self.listen(address, shards.home, logger) }
            control = try ControlServer(
                path: directory.controlSocket, service: registry, changes: changes,
                logger: logger)
        } catch {
            registry.closeAll()
            shards.stop()
            directory.unlock()
            try? changes.syncShutdownGracefully()
            throw error
        }
    }

    /// Looks for the disks of detached pools, after the changes that are under way. Called every
    /// few seconds by whoever has the clock.
    public func lookAgain() {
        let isFirst = isLooking.withLock { isLooking in
            defer { isLooking = true }
            return !isLooking
        }
        guard isFirst else { return }
        changes.submit { [self] work in
            switch work {
            case .active: registry.lookAgain()
            case .cancelled: break
            }
            isLooking.withLock { $0 = false }
        }
    }

    /// Tells the service manager that everything listens and every pool is open or explained.
    public func announce() {
        let count = registry.all.count
        logger.info("ready: \(count) \(count == 1 ? "pool" : "pools"), \(registry.info.dir)")
        ServiceManager.ready(status: "\(count) pools")
    }

    /// Finishes what is in flight, for at most ``stopSeconds``, then makes everything durable.
    public func stop() {
        ServiceManager.stopping()
        logger.info("stopping")
        let deadline = ContinuousClock.now + .seconds(Self.stopSeconds)
        control.stop(within: Self.stopSeconds)
        try? changes.syncShutdownGracefully()
        waitForClients(until: deadline)
        registry.closeAll()
        shards.stop()
        registry.directory.unlock()
        logger.info("stopped")
    }

    private func waitForClients(until deadline: ContinuousClock.Instant) {
        do throws(ControlFailure) {
            // The home first: whoever it has sent to another shard is there before that ends.
            try shards.runNow { $0.server.shutdown() }
            while try shards.runNow({ $0.server.isIdle }).contains(false) {
                if ContinuousClock.now >= deadline {
                    logger.warning("clients did not finish, closing their connections")
                    try shards.runNow { $0.server.abort() }
                    return
                }
                usleep(5_000)
            }
        } catch {
            logger.error("\(error.what)")
        }
    }

    private static func listen(
        _ address: NBDAddress, _ shard: Shard, _ logger: Logger
    ) throws(ControlFailure) {
        if !address.isLocal {
            logger.warning("\(address): NBD has no authentication: whoever reaches it can write")
        }
        let error = try shard.runNow { state -> ListenError? in
            do throws(ListenError) {
                switch address {
                case .unix(let path): try state.server.listen(unixPath: path)
                case .tcp(let host, let port): try state.server.listen(host: host, port: port)
                }
                return nil
            } catch {
                return error
            }
        }
        if let error {
            throw ControlFailure(
                .failed, error.description, hint: "use another --nbd address, or free this one")
        }
        logger.info("NBD on \(address)")
    }

    /// Each disk and each client is a descriptor, and the usual soft limit is 1024.
    private static func raiseFileLimit(_ logger: Logger) {
        var limit = rlimit()
        let kind = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard unsafe getrlimit(kind, &limit) == 0, limit.rlim_cur < limit.rlim_max else { return }
        limit.rlim_cur = limit.rlim_max
        if unsafe setrlimit(kind, &limit) != 0 {
            logger.notice("the limit of open files stays: \(DurableFile.errorText(errno))")
        }
    }
}
