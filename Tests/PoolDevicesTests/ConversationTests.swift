import CLiburing
import Glibc
import PoolEngine
import Testing

@testable import PoolDevices

/// Both ends of a connection, and memory for what goes over it.
///
/// Safe from outside: its memory is as large as it says, and lives as long as it does.
@safe final class Pair {
    /// The ring's end, and the other one, which never waits.
    let near: Int32
    let far: Int32
    let memory: UnsafeMutableRawPointer
    let sizeBytes: Int
    let vectors: UnsafeMutablePointer<iovec>
    let message: UnsafeMutablePointer<msghdr>

    init(sizeBytes: Int = 1 << 20) {
        var ends: [Int32] = [0, 0]
        precondition(unsafe socketpair(AF_UNIX, streamSocket, 0, &ends) == 0)
        (near, far) = (ends[0], ends[1])
        _ = fcntl(far, F_SETFL, fcntl(far, F_GETFL) | O_NONBLOCK)
        var bytes: Int32 = 16 << 10
        for end in ends {
            unsafe setsockopt(end, SOL_SOCKET, SO_SNDBUF, &bytes, 4)
        }
        self.sizeBytes = sizeBytes
        unsafe memory = .allocate(byteCount: sizeBytes, alignment: 16)
        for index in 0..<sizeBytes {
            unsafe memory.storeBytes(of: Self.byte(index), toByteOffset: index, as: UInt8.self)
        }
        unsafe vectors = .allocate(capacity: 8)
        unsafe vectors.initialize(repeating: unsafe iovec(), count: 8)
        unsafe message = .allocate(capacity: 1)
        unsafe message.initialize(to: msghdr())
    }

    deinit {
        _ = close(near)
        _ = close(far)
        unsafe memory.deallocate()
        unsafe vectors.deallocate()
        unsafe message.deallocate()
    }

    /// A stream in which no piece looks like its neighbour.
    static func byte(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 31 &+ index >> 8) }

    /// Spreads the first `counts` bytes of the memory over as many vectors.
    func spread(_ counts: [Int]) {
        var start = 0
        for (index, count) in counts.enumerated() {
            unsafe vectors[index] = unsafe iovec(iov_base: memory + start, iov_len: count)
            start += count
        }
        unsafe message.pointee.msg_iov = vectors
        unsafe message.pointee.msg_iovlen = counts.count
    }

    func clear() {
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: sizeBytes)
    }

    /// Whether the memory holds the stream's first bytes.
    func holds(_ count: Int) -> Bool {
        (0..<count).allSatisfy {
            unsafe memory.load(fromByteOffset: $0, as: UInt8.self) == Self.byte($0)
        }
    }

    /// What the far end can take at once, at most `count` bytes.
    func take(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let taken = unsafe recv(far, &bytes, count, 0)
        return Array(bytes.prefix(max(0, taken)))
    }

    /// Gives bytes to the far end; as many as fit.
    func give(_ bytes: ArraySlice<UInt8>) -> Int {
        let given = unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(far, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
        return max(0, given)
    }
}

@Suite struct ConversationTests {
    /// One turn of the loop that waits for nothing much.
    func turn(_ ring: Ring, _ results: inout [UInt64: Int32]) {
        ring.submitAndWait(timeoutNs: 1_000_000)
        ring.forEachCompletion { userData, result, _ in
            #expect(results[userData] == nil, "completed twice")
            results[userData] = result
        }
    }

    @Test(arguments: DiskEngine.allCases, [false, true])
    func allOfAMessageGoesOutHoweverSlowlyItIsTaken(engine: DiskEngine, asMessage: Bool) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        let total = 700_001
        if asMessage {
            pair.spread([1, 200_000, 0, 500_000])
            unsafe ring.sendMessage(file, pair.message, userData: 1)
        } else {
            unsafe ring.send(file, pair.memory, count: total, userData: 1)
        }
        var results: [UInt64: Int32] = [:]
        var taken: [UInt8] = []
        let start = monotonicNs()
        while taken.count < total, monotonicNs() - start < 20_000_000_000 {
            turn(ring, &results)
            taken += pair.take(1 + taken.count % 7919)
        }
        turn(ring, &results)
        #expect(results == [1: Int32(total)])
        // Not compared in the expectation: it would spell out how two such arrays differ.
        let isTheStream = taken == (0..<total).map(Pair.byte)
        #expect(isTheStream)
        // The caller's vectors are as they were.
        if asMessage { #expect(unsafe pair.vectors[1].iov_len == 200_000) }
    }

    @Test(arguments: DiskEngine.allCases, [false, true])
    func aReceiveOfAllTakesWhatComesInPieces(engine: DiskEngine, asMessage: Bool) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        let total = 300_003
        let stream = (0..<total).map(Pair.byte)
        pair.clear()
        if asMessage {
            pair.spread([3, 100_000, 0, 200_000])
            unsafe ring.receiveMessage(file, pair.message, waitAll: true, userData: 1)
        } else {
            unsafe ring.receive(file, into: pair.memory, count: total, waitAll: true, userData: 1)
        }
        var results: [UInt64: Int32] = [:]
        var given = 0
        let start = monotonicNs()
        while results.isEmpty, monotonicNs() - start < 20_000_000_000 {
            given += pair.give(stream[given..<min(total, given + 1 + given % 5003)])
            turn(ring, &results)
        }
        #expect(results == [1: Int32(total)])
        #expect(pair.holds(total))
    }

    @Test(arguments: DiskEngine.allCases)
    func aReceiveOfSomeTakesWhatIsThere(engine: DiskEngine) throws {
        let pair = Pair(sizeBytes: 4096)
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        let stream = (0..<300).map(Pair.byte)
        #expect(pair.give(stream[0..<100]) == 100)
        pair.clear()
        unsafe ring.receive(file, into: pair.memory, count: 4096, userData: 1)
        #expect(ring.collect(1) == [1: 100])
        unsafe ring.receive(file, into: pair.memory + 100, count: 50, userData: 2)
        #expect(ring.settle().isEmpty)
        #expect(pair.give(stream[100..<200]) == 100)
        #expect(ring.collect(1) == [2: 50])
        unsafe ring.receive(file, into: pair.memory + 150, count: 4000, userData: 3)
        #expect(ring.collect(1) == [3: 50])
        #expect(pair.holds(200))
        // The end of the stream comes behind its last bytes, then again and again.
        #expect(pair.give(stream[200..<210]) == 10)
        #expect(Glibc.shutdown(pair.far, Int32(SHUT_WR)) == 0)
        unsafe ring.receive(
            file, into: pair.memory + 200, count: 50, waitAll: true, userData: 4)
        #expect(ring.collect(1) == [4: 10])
        unsafe ring.receive(file, into: pair.memory, count: 50, waitAll: true, userData: 5)
        unsafe ring.receive(file, into: pair.memory, count: 50, userData: 6)
        #expect(ring.collect(2) == [5: 0, 6: 0])
    }

    @Test(arguments: DiskEngine.allCases)
    func aSendToNobodyIsAnErrorAndNoSignal(engine: DiskEngine) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        #expect(Glibc.shutdown(pair.far, Int32(SHUT_RDWR)) == 0)
        unsafe ring.send(file, pair.memory, count: 10, userData: 1)
        #expect(ring.collect(1) == [1: -EPIPE])
        let nobody = RingFile(descriptor: 1 << 20)
        unsafe ring.send(nobody, pair.memory, count: 10, userData: 2)
        let refusal = try #require(ring.collect(1)[2])
        #expect(refusal == -EBADF)
    }

    @Test(arguments: DiskEngine.allCases)
    func pollsTellWhatIsReady(engine: DiskEngine) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        // Full: neither readable nor writable. A receive that waits as well disturbs no poll.
        unsafe ring.send(file, pair.memory, count: 1 << 20, waitAll: false, userData: 1)
        let sent = try #require(ring.collect(1)[1])
        #expect(sent > 0)
        unsafe ring.receive(file, into: pair.memory, count: 8, userData: 2)
        ring.poll(file, events: Int16(POLLOUT), userData: 3)
        ring.poll(file, events: Int16(POLLIN | POLLOUT), userData: 4)
        ring.poll(file, events: Int16(POLLIN), userData: 5)
        #expect(ring.settle().isEmpty)
        #expect(pair.give([1][...]) == 1)
        let readable = ring.collect(1).merging(ring.settle()) { first, _ in first }
        #expect(readable[2] == 1)
        // A poll may find the byte taken already by the receive; then it waits for the next one.
        #expect(pair.give([2][...]) == 1)
        let more = readable.merging(ring.collect(3 - readable.count)) { first, _ in first }
        #expect(more[4] == Int32(POLLIN) && more[5] == Int32(POLLIN) && more[3] == nil)
        while case let count = pair.take(1 << 20).count, count > 0 {}
        let writable = ring.collect(1)
        #expect(writable.keys.first == 3 && (writable[3] ?? 0) & Int32(POLLOUT) != 0)
    }

    // MARK: - ends

    @Test(arguments: DiskEngine.allCases)
    func whatWaitsIsCancelledAndTheFileGoesOn(engine: DiskEngine) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        unsafe ring.receive(file, into: pair.memory, count: 8, userData: 1)
        unsafe ring.receive(file, into: pair.memory, count: 8, userData: 2)
        unsafe ring.receive(file, into: pair.memory, count: 8, userData: 3)
        ring.poll(file, events: Int16(POLLIN), userData: 4)
        #expect(ring.settle().isEmpty)
        // The one in the middle, then the one at the end.
        ring.cancel(2, userData: 10)
        ring.cancel(4, userData: 11)
        #expect(
            ring.collect(4) == [2: -ECANCELED, 10: 1, 4: -ECANCELED, 11: 1])
        ring.cancel(99, userData: 12)
        #expect(ring.collect(1) == [12: 0])
        // Which of several receives goes first is not said; each goes once.
        #expect(pair.give([1, 2, 3][...]) == 3)
        let first = ring.collect(1)
        #expect(pair.give([4, 5][...]) == 2)
        let second = ring.collect(1)
        #expect(Array(first.values) == [3] && Array(second.values) == [2])
        #expect(Set(first.keys).union(second.keys) == [1, 3])
    }

    @Test(arguments: DiskEngine.allCases, [false, true])
    func aSendThatIsEndedTellsWhatWentOut(engine: DiskEngine, byShutdown: Bool) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        unsafe ring.send(file, pair.memory, count: 1 << 20, userData: 1)
        var results: [UInt64: Int32] = [:]
        for _ in 0..<20 { turn(ring, &results) }
        #expect(results.isEmpty)
        if byShutdown {
            ring.shutdown(file, userData: 2)
        } else {
            ring.cancel(1, userData: 2)
        }
        let start = monotonicNs()
        while results.count < 2, monotonicNs() - start < 10_000_000_000 { turn(ring, &results) }
        let sent = Int(try #require(results[1]))
        #expect(results[2] == (byShutdown ? 0 : 1))
        var taken = 0
        while case let count = pair.take(4096).count, count > 0 { taken += count }
        #expect(sent > 0 && sent == taken)
    }

    @Test(arguments: DiskEngine.allCases)
    func aShutdownWakesWhatReceives(engine: DiskEngine) throws {
        let pair = Pair()
        let ring = try Ring(engine)
        let file = ring.register(pair.near)
        unsafe ring.receive(file, into: pair.memory, count: 8, userData: 1)
        #expect(ring.settle().isEmpty)
        // As a connection does it, past the ring.
        #expect(Glibc.shutdown(pair.near, Int32(SHUT_RDWR)) == 0)
        #expect(ring.collect(1) == [1: 0])
    }

    /// A descriptor's number is used again at once; an operation means the file it was queued for.
    @Test(arguments: DiskEngine.allCases, [false, true])
    func anOperationKeepsItsFile(engine: DiskEngine, isRegistered: Bool) throws {
        let ring = try Ring(engine)
        var ends: [Int32] = [0, 0]
        #expect(unsafe socketpair(AF_UNIX, streamSocket, 0, &ends) == 0)
        let memory = Pair(sizeBytes: 64)
        let file = isRegistered ? ring.register(ends[0]) : RingFile(descriptor: ends[0])
        unsafe ring.receive(file, into: memory.memory, count: 64, userData: 1)
        ring.submit()
        ring.unregister(file)
        _ = close(ends[0])
        // Whatever has the number now says something else.
        let other = Pair(sizeBytes: 64)
        #expect(unsafe send(other.far, "wrong", 5, 0) == 5)
        #expect(unsafe send(ends[1], "right!", 6, 0) == 6)
        #expect(ring.collect(1) == [1: 6])
        #expect(unsafe memory.memory.load(as: UInt8.self) == UInt8(ascii: "r"))
        // It was the last that held the file: the far end sees the end.
        var byte: UInt8 = 0
        #expect(unsafe recv(ends[1], &byte, 1, 0) == 0)
        _ = close(ends[1])
    }

    @Test(arguments: DiskEngine.allCases)
    func everyConnectionOfACrowdIsAccepted(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let ring = try Ring(engine)
        let listener = try #require(listen(at: "\(directory.path)/socket", backlog: 256))
        let count = 200
        let clients = (0..<count).compactMap { _ in connect(to: "\(directory.path)/socket") }
        #expect(clients.count == count)
        ring.accept(RingFile(descriptor: listener), userData: 1)
        var accepted: [Int32] = []
        let start = monotonicNs()
        while accepted.count < count, monotonicNs() - start < 10_000_000_000 {
            ring.submitAndWait(timeoutNs: 100_000_000)
            ring.forEachCompletion { _, result, flags in
                accepted.append(result)
                #expect(flags & Ring.moreCompletions != 0)
            }
        }
        #expect(accepted.count == count && accepted.allSatisfy { $0 >= 0 })
        #expect(accepted.allSatisfy { fcntl($0, F_GETFD) & FD_CLOEXEC != 0 })
        ring.cancel(1, userData: 2)
        _ = close(listener)
        #expect(ring.collect(2) == [1: -ECANCELED, 2: 1])
        // Nobody holds it any more, but for a program that another test is just starting.
        let closed = monotonicNs()
        var late = connect(to: "\(directory.path)/socket")
        while let socket = late, monotonicNs() - closed < 10_000_000_000 {
            _ = close(socket)
            usleep(1000)
            late = connect(to: "\(directory.path)/socket")
        }
        #expect(late == nil)
        for socket in clients + accepted { _ = close(socket) }
    }
}
