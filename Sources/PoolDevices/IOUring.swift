import CLiburing
import Glibc
import PoolEngine

/// One io_uring: what ``Ring`` is made of where the kernel allows it.
///
/// Safe from outside: its unsafe storage is the ring itself, which only these files touch.
@safe final class IOUring {
    private let options: Ring.Options
    private let log: @Sendable (String) -> Void
    /// Registered buffers and operations under way point into it.
    private let arena: BufferArena
    /// The library's own structure: it must not move.
    let ring: UnsafeMutablePointer<io_uring>
    /// Whether the arena is the kernel's fixed buffer 0.
    private(set) var hasRegisteredArena = false
    /// Whether completions only appear when this thread asks the kernel for them.
    let defersTaskRun: Bool
    /// Whether the kernel shows in shared memory that it has completions to deliver.
    let showsPendingWork: Bool

    private var freeSlots: [Int32] = []
    /// Entries that found the queue full even after a submission; they go first next time.
    var spilled: [io_uring_sqe] = []
    var spin: AdaptiveSpin

    /// - Throws: ``RingError/setupRefused(errno:)`` when there is no io_uring at all; anything less
    ///   falls back one step, with one line to `log`.
    init(
        arena: BufferArena, options: Ring.Options, log: @escaping @Sendable (String) -> Void
    ) throws(RingError) {
        self.arena = arena
        self.options = options
        self.log = log
        spin = AdaptiveSpin(limitNs: options.spinNs)
        let flags: UInt32
        unsafe (ring, flags) = unsafe try Self.setUp(options, log)
        defersTaskRun = flags & Self.deferredTaskRun != 0
        showsPendingWork = flags & Self.taskRunFlag != 0
        spilled.reserveCapacity(Int(options.entries))
        registerRingDescriptor()
        registerArena()
        registerFileTable()
    }

    deinit {
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deallocate()
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

    /// - Returns: the ring, and the flags it was granted.
    private static func setUp(
        _ options: Ring.Options, _ log: (String) -> Void
    ) throws(RingError) -> (UnsafeMutablePointer<io_uring>, flags: UInt32) {
        guard options.allowsIOUring else { throw .setupRefused(errno: EPERM) }
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        unsafe ring.initialize(to: unsafe io_uring())
        var refusal = ENOSYS
        var stepsDown: [String] = []
        for (step, rung) in ladder.enumerated() {
            if step == 0 && !options.allowsDeferredTaskRun { continue }
            var parameters = io_uring_params()
            parameters.flags = rung.flags | completionQueueSize | clamp
            parameters.cq_entries = options.completionEntries
            refusal = -(unsafe io_uring_queue_init_params(options.entries, ring, &parameters))
            if refusal == 0 {
                for line in stepsDown { log(line) }
                return unsafe (ring, rung.flags)
            }
            // Switched off: no other flags would help.
            if refusal == EPERM || refusal == ENOSYS { break }
            if step + 1 < ladder.count {
                stepsDown.append(
                    "io_uring: \(rung.name) refused (\(errnoText(refusal))), using "
                        + ladder[step + 1].name)
            }
        }
        unsafe ring.deallocate()
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
        hasRegisteredArena = result == 0
        if result < 0 {
            log(
                "io_uring: registered buffers refused (\(errnoText(-result)); the locked memory "
                    + "limit has to allow \(arena.sizeBytes) bytes), using plain ones")
        }
    }

    /// Registers the arena's memory as it is now. Operations under way keep what they have.
    func registerArenaAnew() {
        guard hasRegisteredArena else { return }
        var region = unsafe iovec(iov_base: arena.baseAddress, iov_len: arena.sizeBytes)
        // Without a wait for those operations, which is what a new registration would begin with.
        let result = unsafe io_uring_register_buffers_update_tag(ring, 0, &region, nil, 1)
        guard result != 1 else { return }
        hasRegisteredArena = false
        log("io_uring: registering buffers anew refused (\(errnoText(-result))), using plain ones")
    }

    /// Lets the kernel keep this many workers for disks busy: those that wait for a device that does
    /// not answer are of no use to another.
    func allowDiskWorkers(_ count: Int) {
        // The second, for sockets, stays as it is.
        var limits: [UInt32] = [UInt32(clamping: count), 0]
        _ = unsafe io_uring_register_iowq_max_workers(ring, &limits)
    }

    /// The kernel's limit for such workers; 0 where it does not tell.
    func diskWorkerLimit() -> Int {
        var limits: [UInt32] = [0, 0]
        guard unsafe io_uring_register_iowq_max_workers(ring, &limits) == 0 else { return 0 }
        return Int(limits[0])
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

    func register(_ descriptor: Int32) -> RingFile {
        guard let slot = freeSlots.popLast() else { return RingFile(descriptor: descriptor) }
        var value = descriptor
        guard unsafe io_uring_register_files_update(ring, UInt32(slot), &value, 1) == 1 else {
            freeSlots.append(slot)
            return RingFile(descriptor: descriptor)
        }
        return RingFile(descriptor: descriptor, slot: slot)
    }

    func unregister(_ file: RingFile) {
        var nothing: Int32 = -1
        let result = unsafe io_uring_register_files_update(ring, UInt32(file.slot), &nothing, 1)
        precondition(result == 1, "a slot of the file table could not be emptied: \(result)")
        freeSlots.append(file.slot)
    }
}
