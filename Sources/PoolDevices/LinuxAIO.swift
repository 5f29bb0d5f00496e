import CLinuxAIO
import CLiburing
import Glibc

/// What ``Ring`` is made of where there is no io_uring: Linux AIO for the disks, epoll for
/// everything that waits, helper threads for calls that block.
///
/// It carries out io_uring's queue entries with io_uring's results, so nothing above it knows the
/// difference. An entry's way:
///
///     push ─► queued ─submit─► transfers ─io_submit─► kernel ─io_getevents─► completions
///                       │        (reads, writes, flushes)
///                       ├────► a file's line of readers or writers ─attempt─► completions
///                       │        (sockets, eventfds: tried at once, again when epoll says so)
///                       ├────► helper threads ────────────────────────────► completions
///                       │        (discards)
///                       └────────────────────────────────────────────────► completions
///                                (what neither waits nor blocks)
///
/// 1. Nothing is carried out before ``submit()``, and then in the order in which it was queued.
/// 2. A file in use is held by a descriptor of our own (``Hold``): its number is not given to
///    another file before the last operation on it is over, whatever the caller closes.
/// 3. epoll tells of changes (EPOLLET). So an operation waits only after an attempt that said
///    EAGAIN, and a file's state is forgotten at every event.
///
/// io_uring is the better engine, not only for its speed: io_submit can block its shard. It does
/// the work itself on tmpfs and without O_DIRECT, and otherwise may wait for a file's new blocks or
/// for room in a device's queue.
///
/// Safe from outside: the memory of entries is their caller's, the rest is arrays and these files'.
@safe final class LinuxAIO {
    struct Completion {
        var userData: UInt64
        var result: Int32
        var flags: UInt32
    }

    struct Queued {
        var entry: io_uring_sqe
        /// In `files`; negative: the entry's descriptor is used as it is, or, of what has to be
        /// held, the errno that refused it.
        var file: Int32
    }

    let options: Ring.Options
    let log: @Sendable (String) -> Void
    /// The kernel's AIO context: an address of a page it shares.
    let context: aio_context_t
    let epoll: OpenFile
    /// Rung by each AIO completion and each helper. Never read: each ring is a change to epoll.
    let bell: OpenFile

    var queued: [Queued] = []
    var completions: [Completion] = []
    /// The other of two buffers: what is being handed out.
    private var handedOut: [Completion] = []

    /// Transfers the kernel has not taken yet, from `transfersHead` on; and their files.
    var transfers: [iocb] = []
    var transferFiles: [Int32] = []
    var transfersHead = 0
    var transfersUnderWay = 0
    /// Since when the kernel takes none though it has none.
    var transfersAreStuck = false
    var hasLoggedBlockingFlush = false

    var files: [Hold] = []
    var freeFiles: [Int32] = []
    var registeredCount: UInt32 = 0
    var waiting: [Waiting] = []
    var freeWaiting: [Int32] = []
    /// Files whose attempts were cut short though there was more.
    var unfinished: [Int32] = []
    var timers: [Timer] = []

    let scratch: Scratch
    let helpers: HelperThreads
    var spin: AdaptiveSpin

    init(options: Ring.Options, log: @escaping @Sendable (String) -> Void) throws(RingError) {
        self.options = options
        self.log = log
        spin = AdaptiveSpin(limitNs: options.spinNs)
        scratch = Scratch()
        epoll = try Self.descriptor(epoll_create1(Int32(EPOLL_CLOEXEC)))
        bell = try Self.descriptor(eventfd(0, O_CLOEXEC | O_NONBLOCK))
        helpers = HelperThreads(bell: bell, log: log)
        let result = Self.control(
            epoll, EPOLL_CTL_ADD, bell.descriptor, Self.inputEvents, mark: Self.bellMark)
        guard result == 0 else { throw .eventsRefused(errno: -result) }
        context = try Self.makeContext(options, log)
        queued.reserveCapacity(Int(options.entries))
        transfers.reserveCapacity(Int(options.entries))
        transferFiles.reserveCapacity(Int(options.entries))
        completions.reserveCapacity(Int(options.entries))
        handedOut.reserveCapacity(Int(options.entries))
    }

    deinit {
        // Both wait for what is under way: its memory and its descriptors are used until then.
        helpers.stop()
        let result = poold_io_destroy(context)
        precondition(result == 0, "io_destroy failed: \(result)")
        for file in files where file.ownsDescriptor { _ = Glibc.close(file.descriptor) }
    }

    /// What epoll's word for the bell is; every other is an index into `files`.
    static let bellMark = UInt64.max

    private static func descriptor(_ result: Int32) throws(RingError) -> OpenFile {
        guard result >= 0 else { throw .eventsRefused(errno: errno) }
        return OpenFile(descriptor: result)
    }

    /// What `fs.aio-max-nr` leaves may be less than wanted: half as much is tried until it fits.
    private static func makeContext(
        _ options: Ring.Options, _ log: (String) -> Void
    ) throws(RingError) -> aio_context_t {
        let wanted = min(max(options.completionEntries, fewestTransfers), mostTransfers)
        var count = wanted
        while true {
            var context: aio_context_t = 0
            let result =
                count > options.asyncRoom ? -Int(EAGAIN) : unsafe poold_io_setup(count, &context)
            if result == 0 {
                if count < wanted {
                    log(
                        "libaio: fs.aio-max-nr has no room for \(wanted) operations, using "
                            + "\(count) (sysctl fs.aio-max-nr raises it)")
                }
                return context
            }
            guard result == -Int(EAGAIN), count / 2 >= fewestTransfers else {
                throw .asyncContextRefused(errno: Int32(clamping: -result))
            }
            count /= 2
        }
    }

    private static var fewestTransfers: UInt32 { 16 }
    /// As many as a shard's driver has under way; of a machine's 65536 where nobody raised them.
    private static var mostTransfers: UInt32 { 4096 }

    // MARK: - queueing

    func push(_ entry: io_uring_sqe) {
        var entry = entry
        let file: Int32
        switch LinuxAIO.opcode(entry) {
        case .accept, .receive, .receiveMessage, .send, .sendMessage, .pollAdd:
            file = hold(entry)
        case .read:
            file = entry.usesTable || entry.off == .max ? hold(entry) : -1
        case .readFixed, .writeFixed, .write, .fsync, .fallocate, .command, .shutdown:
            file = entry.usesTable ? hold(entry) : -1
        case .timeout:
            // Read now: the caller's storage is only good until the submission.
            entry.addr = Self.timeoutNs(entry)
            file = -1
        case .nop, .cancel, .close:
            file = -1
        }
        queued.append(Queued(entry: entry, file: file))
    }

    static func opcode(_ entry: io_uring_sqe) -> Ring.Opcode {
        guard let opcode = Ring.Opcode(rawValue: entry.opcode) else {
            preconditionFailure("an entry that no Ring makes")
        }
        return opcode
    }

    /// Carries out what is queued, as far as that goes without waiting.
    func submit() {
        resumeUnfinished()
        // Nothing that is carried out queues anything.
        for index in 0..<queued.count { start(queued[index]) }
        queued.removeAll(keepingCapacity: true)
        submitTransfers()
    }

    private func start(_ item: Queued) {
        let entry = item.entry
        switch LinuxAIO.opcode(entry) {
        case .read where entry.off == .max: startWaiting(item)
        case .accept, .receive, .receiveMessage, .send, .sendMessage, .pollAdd: startWaiting(item)
        case .read, .readFixed, .write, .writeFixed, .fsync: queueTransfer(item)
        case .fallocate, .command: startBlockingCall(item)
        case .timeout: startTimer(entry)
        case .cancel: complete(entry.user_data, cancelWaiting(entry.addr))
        case .nop: complete(entry.user_data, 0)
        case .shutdown:
            let how = Int32(bitPattern: entry.len)
            let result = Glibc.shutdown(descriptor(of: item), how)
            complete(entry.user_data, result == 0 ? 0 : -errno)
            release(item.file)
        case .close:
            complete(entry.user_data, Glibc.close(entry.fd) == 0 ? 0 : -errno)
        }
    }

    func complete(_ userData: UInt64, _ result: Int32, flags: UInt32 = 0) {
        completions.append(Completion(userData: userData, result: result, flags: flags))
    }

    func forEachCompletion(_ body: (UInt64, Int32, UInt32) -> Void) -> Int {
        guard !completions.isEmpty else { return 0 }
        swap(&completions, &handedOut)
        let count = handedOut.count
        for index in 0..<count {
            let completion = handedOut[index]
            body(completion.userData, completion.result, completion.flags)
        }
        handedOut.removeAll(keepingCapacity: true)
        return count
    }
}

extension io_uring_sqe {
    /// Whether `fd` is a place in the file table.
    var usesTable: Bool { flags & 1 != 0 }
}
