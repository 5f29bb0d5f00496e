import CLiburing
import Glibc

extension IOUring {
    /// Queues an entry. A full queue is submitted first; where the kernel takes nothing (it is out
    /// of memory) the entry waits in line.
    func push(_ entry: io_uring_sqe) {
        guard spilled.isEmpty else {
            spilled.append(entry)
            return
        }
        if let slot = unsafe io_uring_get_sqe(ring) {
            unsafe slot.pointee = entry
            return
        }
        submit()
        if let slot = unsafe io_uring_get_sqe(ring) {
            unsafe slot.pointee = entry
        } else {
            spilled.append(entry)
        }
    }

    /// Moves entries that waited in line into the queue, as far as there is room.
    func refill() {
        guard !spilled.isEmpty else { return }
        var taken = 0
        while taken < spilled.count, let slot = unsafe io_uring_get_sqe(ring) {
            unsafe slot.pointee = spilled[taken]
            taken += 1
        }
        spilled.removeFirst(taken)
    }

    // MARK: - the kernel's turn

    /// One system call, two where it spun in vain.
    func submitAndWait(timeoutNs: UInt64?) {
        refill()
        let isReady = unsafe io_uring_cq_ready(ring) > 0
        if isReady || timeoutNs == 0 || !spilled.isEmpty {
            check(unsafe io_uring_submit_and_get_events(ring))
            return
        }
        if spin.shouldSpin() {
            check(unsafe io_uring_submit_and_get_events(ring))
            let found = spinForCompletion(limitNs: min(spin.limitNs, timeoutNs ?? .max))
            spin.spinEnded(found: found)
            if found { return }
        }
        let start = monotonicNs()
        sleep(timeoutNs: timeoutNs)
        spin.slept(monotonicNs() &- start)
    }

    func submit() {
        refill()
        check(unsafe io_uring_submit(ring))
    }

    /// Whether the kernel has everything that was queued.
    var isQueueEmpty: Bool { unsafe spilled.isEmpty && io_uring_sq_ready(ring) == 0 }

    func forEachCompletion(_ body: (UInt64, Int32, UInt32) -> Void) -> Int {
        let count = unsafe io_uring_cq_ready(ring)
        guard count > 0 else { return 0 }
        let mask = unsafe ring.pointee.cq.ring_mask
        let entries = unsafe ring.pointee.cq.cqes!
        var head = unsafe ring.pointee.cq.khead.pointee
        for _ in 0..<count {
            let entry = unsafe entries[Int(head & mask)]
            head &+= 1
            // The kernel may reuse the entry from here on: it has been copied.
            unsafe io_uring_cq_advance(ring, 1)
            body(entry.user_data, entry.res, entry.flags)
        }
        return Int(count)
    }

    private func sleep(timeoutNs: UInt64?) {
        var first: UnsafeMutablePointer<io_uring_cqe>?
        guard let timeoutNs else {
            check(unsafe io_uring_submit_and_wait(ring, 1))
            return
        }
        var time = __kernel_timespec(nanoseconds: timeoutNs)
        check(unsafe io_uring_submit_and_wait_timeout(ring, &first, 1, &time, nil))
    }

    private func spinForCompletion(limitNs: UInt64) -> Bool {
        let start = monotonicNs()
        repeat {
            if unsafe io_uring_cq_ready(ring) > 0 { return true }
            if hasPendingWork {
                check(unsafe io_uring_get_events(ring))
            }
        } while monotonicNs() &- start < limitNs
        return unsafe io_uring_cq_ready(ring) > 0
    }

    /// Whether the kernel has completions that only a call delivers. Where it does not show them
    /// they arrive by themselves. Read in a loop with a call in it, so it is read each time.
    private var hasPendingWork: Bool {
        unsafe showsPendingWork && ring.pointee.sq.kflags.pointee & Self.taskRunPending != 0
    }

    private static var taskRunPending: UInt32 { 1 << 2 }

    /// An interrupted or timed-out wait is an ordinary turn of the loop, and so is a kernel short
    /// of memory or of completion entries: what is queued stays queued. Anything else means that
    /// this ring is used wrongly or has lost completions, after which nothing about the memory in
    /// flight is known.
    private func check(_ result: Int32) {
        switch -result {
        case EINTR, ETIME, EAGAIN, EBUSY, ENOMEM: return
        default: precondition(result >= 0, "io_uring_enter failed: \(errnoText(-result))")
        }
    }
}

extension __kernel_timespec {
    init(nanoseconds: UInt64) {
        self.init()
        tv_sec = .init(nanoseconds / 1_000_000_000)
        tv_nsec = .init(nanoseconds % 1_000_000_000)
    }
}
