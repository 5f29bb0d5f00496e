import CLiburing
import Glibc
import Synchronization

/// A thread of the operating system that runs one body: a shard.
///
/// It takes no signals: those stay with the thread that handles them.
public final class ShardThread: Sendable {
    private let handle: pthread_t
    private let joined = Mutex(false)

    private final class Start {
        let name: String
        let processor: Int?
        let body: @Sendable () -> Void
        init(name: String, processor: Int?, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.processor = processor
            self.body = body
        }
    }

    /// - Parameters:
    ///   - name: at most 15 bytes of it are shown.
    ///   - processor: the only processor it may run on; where that is refused it runs anywhere.
    /// - Throws: the errno of a thread that could not be made.
    public init(
        name: String, processor: Int? = nil, body: @escaping @Sendable () -> Void
    ) throws(ShardThreadError) {
        let start = Start(name: name, processor: processor, body: body)
        // The new thread inherits the mask; ours is put back.
        var all = sigset_t()
        var before = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
        defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }

        var thread = pthread_t()
        let retained = unsafe Unmanaged.passRetained(start)
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                // The reference that was retained for this thread.
                let start = unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                ShardThread.prepare(start.name, start.processor)
                start.body()
                return nil
            }, retained.toOpaque())
        guard result == 0 else {
            unsafe retained.release()
            throw ShardThreadError(errno: result)
        }
        handle = thread
    }

    /// Waits until the body has returned. Once is enough; more do nothing.
    public func join() {
        let isFirst = joined.withLock { joined in
            defer { joined = true }
            return !joined
        }
        if isFirst { pthread_join(handle, nil) }
    }

    deinit {
        if !joined.withLock({ $0 }) { pthread_detach(handle) }
    }

    /// Processors that the calling thread may run on; at least 1.
    public static var processorCount: Int {
        var mask = [UInt64](repeating: 0, count: 128)
        let bytes = unsafe poold_get_affinity(&mask, UInt(mask.count * 8))
        guard bytes > 0 else { return 1 }
        return max(1, mask.reduce(0) { $0 + $1.nonzeroBitCount })
    }

    private static func prepare(_ name: String, _ processor: Int?) {
        // A name is a help for people; without one everything works.
        if case .success(let comm) = OpenFile.open("/proc/thread-self/comm", flags: O_WRONLY) {
            let bytes = Array(name.utf8.prefix(15))
            _ = unsafe write(comm.descriptor, bytes, bytes.count)
        }
        guard let processor, (0..<1024).contains(processor) else { return }
        // One bit for each processor, in words of the machine's own order.
        var mask = [UInt64](repeating: 0, count: 16)
        mask[processor / 64] = 1 << UInt64(processor % 64)
        _ = unsafe poold_set_affinity(mask, UInt(mask.count * 8))
    }
}

public struct ShardThreadError: Error, Sendable, Hashable, CustomStringConvertible {
    public var errno: Int32
    public var description: String { "cannot start a thread: \(errnoText(errno))" }
}
