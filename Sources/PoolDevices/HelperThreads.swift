import CLinuxAIO
import CLiburing
import Glibc
import Synchronization

/// A system call that has no asynchronous form.
enum BlockingCall: Sendable {
    case allocate(mode: Int32, offsetBytes: UInt64, lengthBytes: UInt64)
    /// BLKDISCARD.
    case discard(offsetBytes: UInt64, lengthBytes: UInt64)
    case flush(dataOnly: Bool)

    /// - Returns: 0, or a negative errno.
    func run(_ descriptor: Int32) -> Int32 {
        let result: Int32
        switch self {
        case .allocate(let mode, let offsetBytes, let lengthBytes):
            guard let offset = Int64(exactly: offsetBytes), let length = Int64(exactly: lengthBytes)
            else { return -EFBIG }
            return Int32(clamping: poold_fallocate(descriptor, mode, offset, length))
        case .discard(let offsetBytes, let lengthBytes):
            // <linux/fs.h>, whose macro is not imported.
            let blockDiscard: UInt = 0x1277
            var range = [offsetBytes, lengthBytes]
            result = unsafe ioctl(descriptor, blockDiscard, &range)
        case .flush(let dataOnly):
            result = dataOnly ? fdatasync(descriptor) : fsync(descriptor)
        }
        return result == 0 ? 0 : -errno
    }
}

/// A few threads that make blocking calls for a shard, started when the first one comes.
///
/// One call at a time for each file: a device that hangs takes one thread, not all of them.
final class HelperThreads: Sendable {
    struct Job: Sendable {
        var call: BlockingCall
        var descriptor: Int32
        /// The shard's own, for when it is done.
        var file: Int32
        var userData: UInt64
    }

    private struct State {
        var jobs: [Job] = []
        var results: [(Job, Int32)] = []
        var busyDescriptors: [Int32] = []
        var threads: [ShardThread] = []
        var idleCount = 0
        var isStopping = false
        var hasLoggedNoThread = false
    }

    static let mostThreads = 4

    private let state = Mutex(State())
    /// Counts wake-ups that no thread has taken; nil: the process had no descriptor left.
    private let wakeups: OpenFile?
    private let bell: OpenFile
    private let log: @Sendable (String) -> Void

    /// - Parameter bell: an eventfd, rung for each result.
    init(bell: OpenFile, log: @escaping @Sendable (String) -> Void) {
        self.bell = bell
        self.log = log
        let descriptor = eventfd(0, O_CLOEXEC | Self.countsWakeups)
        wakeups = descriptor >= 0 ? OpenFile(descriptor: descriptor) : nil
    }

    /// EFD_SEMAPHORE: each read takes one.
    private static var countsWakeups: Int32 { 1 }

    /// Has a thread make the call. False: there is none, and none can be started.
    func post(_ job: Job) -> Bool {
        guard let wakeups else { return false }
        let isAccepted = state.withLock { state in
            if state.idleCount <= state.jobs.count && state.threads.count < Self.mostThreads {
                startThread(&state)
            }
            guard !state.threads.isEmpty else { return false }
            state.jobs.append(job)
            return true
        }
        if isAccepted { Self.ring(wakeups, 1) }
        return isAccepted
    }

    /// What is done, in the order in which it was.
    func takeResults() -> [(Job, Int32)] {
        state.withLock { state in
            guard !state.results.isEmpty else { return [] }
            defer { state.results = [] }
            return state.results
        }
    }

    /// Drops what has not begun and waits for what has.
    func stop() {
        let threads = state.withLock { state in
            state.isStopping = true
            state.jobs = []
            return state.threads
        }
        if let wakeups { Self.ring(wakeups, UInt64(threads.count)) }
        for thread in threads { thread.join() }
    }

    private func startThread(_ state: inout State) {
        do throws(ShardThreadError) {
            state.threads.append(try ShardThread(name: "disk-helper") { [self] in work() })
            state.idleCount += 1
        } catch {
            if state.threads.isEmpty && !state.hasLoggedNoThread {
                log("libaio: \(error), discards block their shard")
                state.hasLoggedNoThread = true
            }
        }
    }

    // MARK: - on a helper's thread

    private func work() {
        guard let wakeups else { return }
        while true {
            var taken: UInt64 = 0
            while unsafe read(wakeups.descriptor, &taken, 8) < 0 && errno == EINTR {}
            // Whoever finishes with a file looks for the next job on it, so none is forgotten.
            while let job = nextJob() { finish(job, job.call.run(job.descriptor)) }
            if state.withLock({ $0.isStopping }) { return }
        }
    }

    private func nextJob() -> Job? {
        state.withLock { state in
            guard
                let index = state.jobs.firstIndex(where: {
                    !state.busyDescriptors.contains($0.descriptor)
                })
            else { return nil }
            let job = state.jobs.remove(at: index)
            state.busyDescriptors.append(job.descriptor)
            state.idleCount -= 1
            return job
        }
    }

    private func finish(_ job: Job, _ result: Int32) {
        state.withLock { state in
            state.busyDescriptors.removeAll { $0 == job.descriptor }
            state.idleCount += 1
            state.results.append((job, result))
        }
        Self.ring(bell, 1)
    }

    private static func ring(_ event: OpenFile, _ count: UInt64) {
        var count = count
        while unsafe write(event.descriptor, &count, 8) < 0 && errno == EINTR {}
    }
}
