import CLiburing
import Glibc
import PoolEngine

/// One io_uring: every socket and disk of one shard.
///
/// Confined to the thread that made it (the kernel enforces it where it grants SINGLE_ISSUER).
/// Operations are queued by plain calls and reach the kernel together, in one system call, at
/// ``submitAndWait(timeoutNs:)``. Memory handed to an operation stays valid and untouched until its
/// completion. Nothing here allocates per operation.
///
///     loop:  ring.submitAndWait(timeoutNs: ...)
///            ring.forEachCompletion { userData, result, flags in ... }   // queues new operations
///
/// Safe from outside: its unsafe storage is the ring itself, which only these files touch.
@safe public final class Ring {
    public struct Options: Sendable {
        /// Queue entries; more operations than that go to the kernel in several calls.
        public var entries: UInt32 = 1024
        public var completionEntries: UInt32 = 8192
        public var fileTableSize: UInt32 = 1024
        /// How long a wait may spin before it sleeps; about what a wake-up from another core costs.
        public var spinNs: UInt64 = 25_000
        /// Tests refuse what an older kernel would, to see the fallbacks work.
        public var allowsDeferredTaskRun = true
        public var allowsRegisteredBuffers = true
        public var allowsRegisteredFiles = true
        public init() {}
    }

    public let arena: BufferArena
    public let options: Options
    let log: @Sendable (String) -> Void
    /// The library's own structure: it must not move.
    let ring: UnsafeMutablePointer<io_uring>
    /// Whether the arena is the kernel's fixed buffer 0.
    public private(set) var hasRegisteredBuffers = false
    /// Whether completions only appear when this thread asks the kernel for them.
    public private(set) var defersTaskRun = false
    /// Whether the kernel shows in shared memory that it has completions to deliver.
    private(set) var showsPendingWork = false

    private var freeSlots: [Int32] = []
    /// Entries that found the queue full even after a submission; they go first next time.
    var spilled: [io_uring_sqe] = []
    /// Timeouts are read by the kernel when submitted: storage for more than can be queued.
    let timeouts: UnsafeMutablePointer<__kernel_timespec>
    let timeoutCapacity: Int
    var nextTimeout = 0
    var spin: AdaptiveSpin

    /// - Throws: ``RingError/setupRefused(errno:)`` when there is no io_uring at all; anything less
    ///   falls back one step, with one line to `log`.
    public init(
        arena: BufferArena, options: Options = Options(),
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(RingError) {
        self.arena = arena
        self.options = options
        self.log = log
        spin = AdaptiveSpin(limitNs: options.spinNs)
        timeoutCapacity = Int(options.entries) * 2
        unsafe timeouts = .allocate(capacity: timeoutCapacity)
        unsafe timeouts.initialize(repeating: __kernel_timespec(), count: timeoutCapacity)
        unsafe ring = .allocate(capacity: 1)
        unsafe ring.initialize(to: unsafe io_uring())
        spilled.reserveCapacity(Int(options.entries))
        do {
            try setUp()
        } catch {
            unsafe timeouts.deallocate()
            unsafe ring.deallocate()
            throw error
        }
        registerRingDescriptor()
        registerArena()
        registerFileTable()
    }

    deinit {
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deallocate()
        unsafe timeouts.deallocate()
    }

    // MARK: - setting up, one step down at a time

    private static let submitAll: UInt32 = 1 << 7
    private static let cooperativeTaskRun: UInt32 = 1 << 8
    private static let taskRunFlag: UInt32 = 1 << 9
    private static let singleIssuer: UInt32 = 1 << 12
    private static let deferredTaskRun: UInt32 = 1 << 13
    private static let completionQueueSize: UInt32 = 1 << 3
    private static let clamp: UInt32 = 1 << 4

    /// From what serves best to what every kernel has: 6.1, 6.0, 5.19, 5.18, 5.5.
    private static let ladder: [(flags: UInt32, name: String)] = [
        (singleIssuer | deferredTaskRun | taskRunFlag | submitAll, "deferred task run"),
        (singleIssuer | cooperativeTaskRun | taskRunFlag | submitAll, "single issuer"),
        (cooperativeTaskRun | taskRunFlag | submitAll, "cooperative task run"),
        (submitAll, "submit all"),
        (0, "plain"),
    ]

    private func setUp() throws(RingError) {
        var refusal: Int32 = ENOSYS
        for (step, rung) in Self.ladder.enumerated() {
            if step == 0 && !options.allowsDeferredTaskRun { continue }
            var parameters = io_uring_params()
            parameters.flags = rung.flags | Self.completionQueueSize | Self.clamp
            parameters.cq_entries = options.completionEntries
            let result = unsafe io_uring_queue_init_params(options.entries, ring, &parameters)
            if result == 0 {
                defersTaskRun = rung.flags & Self.deferredTaskRun != 0
                showsPendingWork = rung.flags & Self.taskRunFlag != 0
                return
            }
            refusal = -result
            if step + 1 < Self.ladder.count {
                log(
                    "io_uring: \(rung.name) refused (\(errnoText(refusal))), using "
                        + Self.ladder[step + 1].name)
            }
        }
        throw .setupRefused(errno: refusal)
    }

    private func registerRingDescriptor() {
        let result = unsafe io_uring_register_ring_fd(ring)
        if result < 0 {
            log("io_uring: registered ring refused (\(errnoText(-result))), using its descriptor")
        }
    }

    private func registerArena() {
        guard options.allowsRegisteredBuffers else { return }
        var region = unsafe iovec(iov_base: arena.baseAddress, iov_len: arena.sizeBytes)
        let result = unsafe io_uring_register_buffers(ring, &region, 1)
        hasRegisteredBuffers = result == 0
        if result < 0 {
            log(
                "io_uring: registered buffers refused (\(errnoText(-result)); the locked memory "
                    + "limit has to allow \(arena.sizeBytes) bytes), using plain ones")
        }
    }

    private func registerFileTable() {
        guard options.allowsRegisteredFiles else { return }
        let result = unsafe io_uring_register_files_sparse(ring, options.fileTableSize)
        if result < 0 {
            log("io_uring: file table refused (\(errnoText(-result))), using descriptors")
        } else {
            freeSlots = (0..<Int32(options.fileTableSize)).reversed()
        }
    }

    // MARK: - files

    /// Puts a file into the ring's table, where there is room: its operations then cost less, and
    /// the table keeps the open file (and a lock on it) alive until ``unregister(_:)``.
    public func register(_ descriptor: Int32) -> RingFile {
        guard let slot = freeSlots.popLast() else { return RingFile(descriptor: descriptor) }
        var value = descriptor
        guard unsafe io_uring_register_files_update(ring, UInt32(slot), &value, 1) == 1 else {
            freeSlots.append(slot)
            return RingFile(descriptor: descriptor)
        }
        return RingFile(descriptor: descriptor, slot: slot)
    }

    /// Takes a file out of the table; operations under way go on. The descriptor stays open.
    public func unregister(_ file: RingFile) {
        guard file.isRegistered else { return }
        var nothing: Int32 = -1
        let result = unsafe io_uring_register_files_update(ring, UInt32(file.slot), &nothing, 1)
        precondition(result == 1, "a slot of the file table could not be emptied: \(result)")
        freeSlots.append(file.slot)
    }
}
