import CLinuxAIO
import CLiburing
import Glibc

/// The loop's wait: epoll for everything, for a time.
extension LinuxAIO {
    struct Timer {
        var deadlineNs: UInt64
        var userData: UInt64
    }

    func submitAndWait(timeoutNs: UInt64?) {
        submit()
        reapTransfers()
        if !completions.isEmpty || !unfinished.isEmpty || timeoutNs == 0 {
            return look(waitNs: 0)
        }
        let startNs = monotonicNs()
        if spin.shouldSpin() {
            let limitNs = min(spin.limitNs, timeoutNs ?? .max)
            repeat {
                look(waitNs: 0)
            } while completions.isEmpty && monotonicNs() - startNs < limitNs
            spin.spinEnded(found: !completions.isEmpty)
            if !completions.isEmpty { return }
        }
        let sleptNs = monotonicNs()
        sleep(until: timeoutNs.map { startNs.addingReportingOverflow($0) }.flatMap {
            $0.overflow ? nil : $0.partialValue
        })
        spin.slept(monotonicNs() - sleptNs)
    }

    /// Until something has completed. Events that complete nothing are slept through.
    private func sleep(until deadlineNs: UInt64?) {
        while completions.isEmpty && unfinished.isEmpty {
            let nowNs = monotonicNs()
            if let deadlineNs, nowNs >= deadlineNs { return }
            var wakeNs = deadlineNs ?? .max
            for timer in timers { wakeNs = min(wakeNs, timer.deadlineNs) }
            if transfersAreStuck { wakeNs = min(wakeNs, nowNs + Self.retryNs) }
            look(waitNs: wakeNs == .max ? nil : wakeNs - min(nowNs, wakeNs))
        }
    }

    /// When a kernel that had no memory for a transfer is asked again.
    private static var retryNs: UInt64 { 1_000_000 }

    /// Takes what has happened, or, where nothing has, waits so long for it.
    private func look(waitNs: UInt64?) {
        let count = wait(waitNs)
        for index in 0..<count {
            let change = unsafe scratch.changes[index]
            let mark = unsafe change.data.u64
            if mark == Self.bellMark {
                reapBlockingCalls()
            } else {
                changed(Int32(mark), events: unsafe change.events)
            }
        }
        reapTransfers()
        if transfersHead < transfers.count { submitTransfers() }
        if !timers.isEmpty { fireTimers() }
    }

    private func wait(_ waitNs: UInt64?) -> Int {
        var result: Int
        if let waitNs {
            var time = poold_timespec(
                seconds: Int64(waitNs / 1_000_000_000), nanoseconds: Int64(waitNs % 1_000_000_000))
            result = unsafe poold_epoll_wait(
                epoll.descriptor, scratch.changes, Int32(Self.batchCapacity), &time)
        } else {
            result = unsafe poold_epoll_wait(
                epoll.descriptor, scratch.changes, Int32(Self.batchCapacity), nil)
        }
        if result == -Int(ENOSYS) {
            // Linux before 5.11: milliseconds, rounded up so that no deadline is met too early.
            let milliseconds = waitNs.map { Int32(clamping: ($0 + 999_999) / 1_000_000) } ?? -1
            result = unsafe Int(
                epoll_wait(
                    epoll.descriptor, scratch.changes, Int32(Self.batchCapacity), milliseconds))
            if result < 0 { result = -Int(errno) }
        }
        precondition(result >= 0 || result == -Int(EINTR), "epoll_wait failed: \(result)")
        return max(0, result)
    }

    // MARK: - timers

    static func timeoutNs(_ entry: io_uring_sqe) -> UInt64 {
        let time = unsafe UnsafePointer<__kernel_timespec>(bitPattern: UInt(entry.addr))!.pointee
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    func startTimer(_ entry: io_uring_sqe) {
        let (deadlineNs, overflow) = monotonicNs().addingReportingOverflow(entry.addr)
        timers.append(
            Timer(deadlineNs: overflow ? .max : deadlineNs, userData: entry.user_data))
    }

    private func fireTimers() {
        let nowNs = monotonicNs()
        for timer in timers where timer.deadlineNs <= nowNs {
            complete(timer.userData, -ETIME)
        }
        timers.removeAll { $0.deadlineNs <= nowNs }
    }
}
