import CLiburing
import Glibc
import PoolEngine
import Testing

@testable import PoolDevices

@Suite struct RingTests {
    @Test(arguments: DiskEngine.allCases)
    func aFullQueueIsSubmittedAndNothingIsLost(engine: DiskEngine) throws {
        var options = Ring.Options()
        options.entries = 2
        options.completionEntries = 4
        let ring = try Ring(engine, options: options)
        for index in 0..<1000 { ring.nop(userData: UInt64(index)) }
        #expect(ring.collect(1000).count == 1000)
    }

    @Test func entriesThatHadToWaitInLineKeepTheirOrder() throws {
        let ring = try Ring(.ioUring)
        guard case .ioUring(let queue) = ring.backend else {
            Issue.record("no io_uring here")
            return
        }
        let nobody = RingFile(descriptor: -1)
        // As after a kernel that took nothing.
        queue.spilled = (0..<2000).map { ring.makeEntry(.nop, nobody, $0) }
        ring.nop(userData: 2000)
        var order: [UInt64] = []
        for _ in 0..<100 where order.count < 2001 {
            ring.submitAndWait(timeoutNs: 100_000_000)
            ring.forEachCompletion { userData, _, _ in order.append(userData) }
        }
        #expect(order == Array(0...2000))
    }

    @Test(arguments: [true, false])
    func withoutDeferredTaskRunItWorksAsWell(deferred: Bool) throws {
        let logged = LogLines()
        var options = Ring.Options()
        options.allowsDeferredTaskRun = deferred
        let ring = try Ring(.ioUring, options: options) { logged.append($0) }
        guard case .ioUring(let queue) = ring.backend else {
            Issue.record("no io_uring here")
            return
        }
        #expect(queue.defersTaskRun == deferred)
        ring.nop(userData: 1)
        #expect(ring.collect(1) == [1: 0])
        #expect(logged.all.isEmpty)
    }

    @Test(arguments: DiskEngine.allCases)
    func aFullTableGivesPlainDescriptors(engine: DiskEngine) throws {
        var options = Ring.Options()
        options.fileTableSize = 1
        let ring = try Ring(engine, options: options)
        let mailbox = try #require(ShardMailbox())
        let first = ring.register(mailbox.descriptor)
        let second = ring.register(mailbox.descriptor)
        #expect(first.isRegistered && !second.isRegistered)
        ring.poll(second, events: Int16(POLLOUT), userData: 1)
        #expect(ring.collect(1) == [1: Int32(POLLOUT)])
        ring.unregister(first)
        #expect(ring.register(mailbox.descriptor).isRegistered)
    }

    @Test func whereIOUringIsRefusedLibaioServes() throws {
        let logged = LogLines()
        var options = Ring.Options()
        options.allowsIOUring = false
        let ring = try Ring(.ioUring, options: options) { logged.append($0) }
        #expect(ring.engine == .libaio)
        #expect(
            logged.all == ["io_uring is not available: Operation not permitted; using libaio"])
        ring.nop(userData: 1)
        #expect(ring.collect(1) == [1: 0])
    }

    @Test func littleRoomForAsynchronousOperationsIsSaidOnce() throws {
        let logged = LogLines()
        var options = Ring.Options()
        options.asyncRoom = 100
        let ring = try Ring(.libaio, options: options) { logged.append($0) }
        #expect(
            logged.all == [
                "libaio: fs.aio-max-nr has no room for 4096 operations, using 64 "
                    + "(sysctl fs.aio-max-nr raises it)"
            ])
        ring.nop(userData: 1)
        #expect(ring.collect(1) == [1: 0])
        options.asyncRoom = 0
        #expect(throws: RingError.asyncContextRefused(errno: EAGAIN)) {
            try Ring(.libaio, options: options)
        }
    }

    @Test(arguments: DiskEngine.allCases)
    func timeoutsFireAndAreCancelled(engine: DiskEngine) throws {
        let ring = try Ring(engine)
        ring.timeout(afterNs: 1_000_000, userData: 1)
        ring.timeout(afterNs: 60_000_000_000, userData: 2)
        ring.cancel(2, userData: 3)
        let results = ring.collect(3)
        #expect(results == [1: -ETIME, 2: -ECANCELED, 3: 1])
    }

    @Test(arguments: DiskEngine.allCases)
    func aWaitEndsWithItsTime(engine: DiskEngine) throws {
        let ring = try Ring(engine)
        let start = monotonicNs()
        ring.submitAndWait(timeoutNs: 20_000_000)
        let waited = monotonicNs() - start
        #expect(waited >= 15_000_000 && waited < 2_000_000_000)
        ring.submitAndWait(timeoutNs: 0)
        #expect(ring.forEachCompletion { _, _, _ in } == 0)
    }

    @Test(arguments: DiskEngine.allCases)
    func socketsCarryBytes(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let ring = try Ring(engine)
        let listener = try #require(listen(at: "\(directory.path)/socket"))
        ring.accept(ring.register(listener), userData: 10)
        let client = try #require(connect(to: "\(directory.path)/socket"))
        let accepted = try #require(ring.collect(1)[10])
        try #require(accepted >= 0)
        let (near, far) = (ring.register(client), ring.register(accepted))

        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 8)
        defer { unsafe memory.deallocate() }
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0x5A, count: 2048)
        unsafe (memory + 2048).initializeMemory(as: UInt8.self, repeating: 0, count: 2048)
        // Two vectors out, one buffer in.
        let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 2)
        let message = UnsafeMutablePointer<msghdr>.allocate(capacity: 1)
        defer {
            unsafe vectors.deallocate()
            unsafe message.deallocate()
        }
        unsafe vectors[0] = iovec(iov_base: memory, iov_len: 24)
        unsafe vectors[1] = iovec(iov_base: memory + 1024, iov_len: 1000)
        unsafe message.initialize(to: msghdr())
        unsafe message.pointee.msg_iov = vectors
        unsafe message.pointee.msg_iovlen = 2
        unsafe ring.sendMessage(near, message, userData: 1)
        unsafe ring.receive(far, into: memory + 2048, count: 1024, waitAll: true, userData: 2)
        #expect(ring.collect(2) == [1: 1024, 2: 1024])
        #expect(unsafe (memory + 2048).load(as: UInt8.self) == 0x5A)
        #expect(unsafe (memory + 2048 + 1023).load(as: UInt8.self) == 0x5A)

        // A receive that waits ends with the stream, and a closed descriptor is really closed.
        unsafe ring.receive(far, into: memory, count: 16, userData: 3)
        ring.shutdown(near, userData: 4)
        #expect(ring.collect(2) == [3: 0, 4: 0])
        ring.close(far, userData: 5)
        ring.close(near, userData: 6)
        #expect(ring.collect(2) == [5: 0, 6: 0])
        ring.cancel(10, userData: 11)
        #expect(ring.collect(2) == [10: -ECANCELED, 11: 1])
        ring.close(RingFile(descriptor: listener), userData: 12)
        #expect(ring.collect(1) == [12: 0])
    }
}

@Suite struct ShardThreadTests {
    @Test(arguments: DiskEngine.allCases)
    func postedWorkRunsOnTheShardInOrder(engine: DiskEngine) throws {
        let mailbox = try #require(ShardMailbox())
        let seen = Shared<[Int]>([])
        let threads = Shared<Set<UInt>>([])
        let isRunning = Shared(true)
        let name = Shared("")
        let thread = try ShardThread(name: "shard-0-of-many-more", processor: 0) {
            guard let ring = try? Ring(engine) else { return }
            let wakeup = Wakeup(ring: ring, mailbox: mailbox)
            name.withLock { $0 = comm() }
            // Only a wake-up runs posted work; the deadline makes a lost one a failure, not a hang.
            let deadlineNs = monotonicNs() + 10_000_000_000
            while isRunning.withLock({ $0 }), monotonicNs() < deadlineNs {
                ring.submitAndWait(timeoutNs: 1_000_000_000)
                ring.forEachCompletion { userData, result, _ in
                    if RingUserData.kind(userData) == .wakeup { wakeup.handle(result: result) }
                }
            }
        }
        for number in 0..<1000 {
            // Some find the shard asleep, most find it at work.
            if number % 100 == 0 { usleep(2000) }
            mailbox.post {
                seen.withLock { $0.append(number) }
                threads.withLock { _ = $0.insert(UInt(pthread_self())) }
            }
        }
        mailbox.post { isRunning.withLock { $0 = false } }
        thread.join()
        #expect(seen.withLock { $0 } == Array(0..<1000))
        let runners = threads.withLock { $0 }
        #expect(runners.count == 1)
        #expect(!runners.contains(UInt(pthread_self())))
        #expect(name.withLock { $0 } == "shard-0-of-many")
        mailbox.close()
        #expect(!mailbox.post {})
    }

    @Test(arguments: DiskEngine.allCases)
    func anIdleShardCostsNothing(engine: DiskEngine) throws {
        let mailbox = try #require(ShardMailbox())
        let turns = Shared(0)
        let processorNs = Shared(UInt64(0))
        let isRunning = Shared(true)
        let thread = try ShardThread(name: "idle") {
            guard let ring = try? Ring(engine) else { return }
            let wakeup = Wakeup(ring: ring, mailbox: mailbox)
            while isRunning.withLock({ $0 }) {
                // A busy timer: a hundred turns a second.
                ring.submitAndWait(timeoutNs: 10_000_000)
                ring.forEachCompletion { userData, result, _ in
                    if RingUserData.kind(userData) == .wakeup { wakeup.handle(result: result) }
                }
                turns.withLock { $0 += 1 }
            }
            var time = timespec()
            unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
            let used = UInt64(time.tv_nsec) + UInt64(time.tv_sec) * 1_000_000_000
            processorNs.withLock { $0 = used }
        }
        usleep(500_000)
        mailbox.post { isRunning.withLock { $0 = false } }
        thread.join()
        #expect(turns.withLock { $0 } > 5)
        // 1 % of half a second, and what making the ring itself took.
        #expect(processorNs.withLock { $0 } < 15_000_000)
    }
}

private func comm() -> String {
    guard case .success(let file) = OpenFile.open("/proc/thread-self/comm", flags: O_RDONLY) else {
        return ""
    }
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = unsafe read(file.descriptor, &bytes, 64)
    return String(decoding: bytes[..<max(0, count - 1)], as: UTF8.self)
}

@Suite struct AdaptiveSpinTests {
    @Test func spinsOnlyWhereItPays() {
        var spin = AdaptiveSpin(limitNs: 20_000)
        var decisions = [spin.shouldSpin()]
        spin.slept(10_000_000)
        decisions.append(spin.shouldSpin())
        spin.slept(15_000)
        decisions.append(spin.shouldSpin())
        spin.spinEnded(found: true)
        decisions.append(spin.shouldSpin())
        // Nothing known yet; idle; a sleep that a spin would have saved; a spin that paid.
        #expect(decisions == [false, false, true, true])
    }

    @Test func spinningInVainEnds() {
        var spin = AdaptiveSpin(limitNs: 20_000)
        var spins = 0
        for _ in 0..<10_000 {
            spin.slept(15_000)
            if spin.shouldSpin() {
                spins += 1
                spin.spinEnded(found: false)
            }
        }
        #expect(spins < 30 && spins > 5)
    }

    @Test func itCanBeSwitchedOff() {
        var spin = AdaptiveSpin(limitNs: 0)
        spin.slept(0)
        let decision = spin.shouldSpin()
        #expect(!decision)
    }
}
