import CLiburing
import Glibc
import PoolEngine

/// Every socket and disk of one shard, behind one queue to the kernel: an io_uring, or what does
/// the same with Linux AIO and epoll (``DiskEngine``).
///
/// Confined to the thread that made it (the kernel enforces it where it grants SINGLE_ISSUER).
/// Operations are queued by plain calls and reach the kernel together at
/// ``submitAndWait(timeoutNs:)``. Memory handed to an operation stays valid and untouched until its
/// completion. Nothing here allocates per operation.
///
///     loop:  ring.submitAndWait(timeoutNs: ...)
///            ring.forEachCompletion { userData, result, flags in ... }   // queues new operations
///
/// Operations are described as io_uring's queue entries whatever carries them out, so that there is
/// one vocabulary, and one place where the two part.
///
/// Safe from outside: its unsafe storage is that of timeouts, which only these files touch.
@safe public final class Ring {
    public struct Options: Sendable {
        public var engine = DiskEngine.ioUring
        /// Queue entries; more operations than that go to the kernel in several calls.
        public var entries: UInt32 = 1024
        public var completionEntries: UInt32 = 8192
        public var fileTableSize: UInt32 = 1024
        /// How long a wait may spin before it sleeps; about what a wake-up from another core costs.
        public var spinNs: UInt64 = 25_000
        /// Tests refuse what an older kernel or a container would, to see the fallbacks work.
        public var allowsIOUring = true
        public var allowsDeferredTaskRun = true
        public var allowsRegisteredBuffers = true
        public var allowsRegisteredFiles = true
        /// AIO operations that `fs.aio-max-nr` still has room for.
        public var asyncRoom: UInt32 = .max
        public init() {}
    }

    enum Backend {
        case ioUring(IOUring)
        case libaio(LinuxAIO)
    }

    public let arena: BufferArena
    public let options: Options
    /// What it runs on: what was asked for, or what that fell back to.
    public let engine: DiskEngine
    let backend: Backend
    /// The one in `backend`, where it is one: its calls through here count no references.
    private let ioUring: Unmanaged<IOUring>?
    /// Whether the arena is the kernel's fixed buffer 0.
    public private(set) var hasRegisteredBuffers: Bool
    /// Timeouts are read when submitted: storage for more than can be queued.
    let timeouts: UnsafeMutablePointer<__kernel_timespec>
    let timeoutCapacity: Int
    var nextTimeout = 0
    /// The kernel's own limit of workers for disks; 0: not asked yet.
    private var usualWorkers = 0

    /// - Throws: ``RingError`` when neither engine is there; anything less falls back one step,
    ///   with one line to `log`.
    public init(
        arena: BufferArena, options: Options = Options(),
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(RingError) {
        self.arena = arena
        self.options = options
        backend = try Self.makeBackend(arena, options, log)
        switch backend {
        case .ioUring(let ring):
            (engine, hasRegisteredBuffers) = (.ioUring, ring.hasRegisteredArena)
            unsafe ioUring = .passUnretained(ring)
        case .libaio:
            (engine, hasRegisteredBuffers) = (.libaio, false)
            unsafe ioUring = nil
        }
        timeoutCapacity = Int(options.entries) * 2
        unsafe timeouts = .allocate(capacity: timeoutCapacity)
        unsafe timeouts.initialize(repeating: __kernel_timespec(), count: timeoutCapacity)
    }

    deinit { unsafe timeouts.deallocate() }

    private static func makeBackend(
        _ arena: BufferArena, _ options: Options, _ log: @escaping @Sendable (String) -> Void
    ) throws(RingError) -> Backend {
        switch options.engine {
        case .libaio: return .libaio(try LinuxAIO(options: options, log: log))
        case .ioUring: break
        }
        do {
            return .ioUring(try IOUring(arena: arena, options: options, log: log))
        } catch {
            log("\(error); using libaio")
            return .libaio(try LinuxAIO(options: options, log: log))
        }
    }

    // MARK: - files

    /// Puts a file into the ring's table, where there is room: its operations then cost less, and
    /// the table keeps the open file (and a lock on it) alive until ``unregister(_:)``.
    public func register(_ descriptor: Int32) -> RingFile {
        switch backend {
        case .ioUring(let ring): ring.register(descriptor)
        case .libaio(let queue): queue.register(descriptor)
        }
    }

    /// Takes a file out of the table; operations under way go on. The descriptor stays open.
    public func unregister(_ file: RingFile) {
        guard file.isRegistered else { return }
        switch backend {
        case .ioUring(let ring): ring.unregister(file)
        case .libaio(let queue): queue.unregister(file)
        }
    }

    // MARK: - the loop

    @inline(__always)
    func push(_ entry: io_uring_sqe) {
        if let ioUring = unsafe ioUring {
            return unsafe ioUring._withUnsafeGuaranteedRef { $0.push(entry) }
        }
        switch backend {
        case .ioUring(let ring): ring.push(entry)
        case .libaio(let queue): queue.push(entry)
        }
    }

    /// Hands everything queued to the kernel and waits until at least one completion is there, or
    /// the time is over.
    ///
    /// - Parameter timeoutNs: nil waits for ever, 0 not at all.
    public func submitAndWait(timeoutNs: UInt64?) {
        switch backend {
        case .ioUring(let ring): ring.submitAndWait(timeoutNs: timeoutNs)
        case .libaio(let queue): queue.submitAndWait(timeoutNs: timeoutNs)
        }
    }

    /// Hands everything queued to the kernel without waiting.
    public func submit() {
        switch backend {
        case .ioUring(let ring): ring.submit()
        case .libaio(let queue): queue.submit()
        }
    }

    // MARK: - a device that does not answer

    /// Hands everything queued to the kernel. False: it does not take it all.
    func submitAll() -> Bool {
        submit()
        return switch backend {
        case .ioUring(let ring): ring.isQueueEmpty
        case .libaio(let queue): queue.isQueueEmpty
        }
    }

    /// The arena has new memory in places: from now on operations use that.
    func noteNewMemory() {
        switch backend {
        case .ioUring(let ring):
            ring.registerArenaAnew()
            hasRegisteredBuffers = ring.hasRegisteredArena
        case .libaio: break
        }
    }

    /// So many of the kernel's workers may be stuck at a device: as many more may work.
    func noteStuckWorkers(_ count: Int) {
        switch backend {
        case .ioUring(let ring):
            if usualWorkers == 0 { usualWorkers = ring.diskWorkerLimit() }
            if usualWorkers > 0 { ring.allowDiskWorkers(usualWorkers + count) }
        case .libaio: break
        }
    }

    /// Calls `body` once for each completion that is there now; completions that arrive meanwhile
    /// wait for the next call. `body` may queue operations, it must not wait or iterate.
    ///
    /// - Parameter body: user data, result (a count or a negative errno) and `IORING_CQE_F_*`.
    @discardableResult
    public func forEachCompletion(_ body: (UInt64, Int32, UInt32) -> Void) -> Int {
        switch backend {
        case .ioUring(let ring): ring.forEachCompletion(body)
        case .libaio(let queue): queue.forEachCompletion(body)
        }
    }
}
