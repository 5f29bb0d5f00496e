import CLiburing
import Glibc
import Synchronization

/// How other threads hand work to a shard's thread.
///
/// Any thread posts; the shard runs the work, in order, when its ``Wakeup`` completes. The lock is
/// held for an append or a swap only. An eventfd wakes the ring, once for any number of posts.
public final class ShardMailbox: Sendable {
    private struct State {
        var work: [@Sendable () -> Void] = []
        var isClosed = false
    }

    private let state = Mutex(State())
    private let event: OpenFile
    var descriptor: Int32 { event.descriptor }

    /// nil: the process has no descriptor left.
    public init?() {
        let descriptor = eventfd(0, O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        event = OpenFile(descriptor: descriptor)
    }

    /// Has the shard run this. False: it is closed, and never will.
    @discardableResult
    public func post(_ work: @escaping @Sendable () -> Void) -> Bool {
        let (isAccepted, isFirst) = state.withLock { state -> (Bool, Bool) in
            guard !state.isClosed else { return (false, false) }
            state.work.append(work)
            return (true, state.work.count == 1)
        }
        // Only the first post after a drain has to wake: the drain takes all there is.
        if isFirst { wake() }
        return isAccepted
    }

    /// Takes no more posts; what was posted before is still run by the next drain.
    public func close() {
        state.withLock { $0.isClosed = true }
        wake()
    }

    /// Runs what was posted, on the calling (the shard's) thread.
    public func drain() {
        let work = state.withLock { state in
            defer { state.work = [] }
            return state.work
        }
        for item in work { item() }
    }

    private func wake() {
        var one: UInt64 = 1
        while unsafe write(descriptor, &one, 8) < 0 && errno == EINTR {}
    }
}

/// The shard's end of a mailbox: a read of its eventfd that is always under way on the ring.
///
/// Confined to the shard's thread. Safe from outside: the kernel's eight bytes are its own.
@safe public final class Wakeup {
    public let mailbox: ShardMailbox
    private let ring: Ring
    private let file: RingFile
    private let userData: UInt64
    /// Where the kernel puts the eventfd's count. Never freed: the read is under way until the ring
    /// itself is gone, and there is one for each shard of a process.
    private let count: UnsafeMutablePointer<UInt64>

    public init(ring: Ring, mailbox: ShardMailbox) {
        self.ring = ring
        self.mailbox = mailbox
        file = ring.register(mailbox.descriptor)
        userData = RingUserData.make(.wakeup, 0)
        unsafe count = .allocate(capacity: 1)
        unsafe count.initialize(to: 0)
        arm()
    }

    /// For each completion whose kind is `.wakeup`: reads on, then runs what was posted.
    public func handle(result: Int32) {
        guard result != -ECANCELED else { return }
        // Before the drain: a post that comes after it finds the read under way.
        arm()
        mailbox.drain()
    }

    private func arm() {
        unsafe ring.read(file, into: count, count: 8, userData: userData)
    }
}
