import CLiburing
import Glibc
import PoolEngine
import Testing

@testable import PoolDevices

/// Ten thousand operations of every kind in any order, beside a model of what they should do.
@Suite struct MixedOperationsTests {
    static let blockBytes = 4096
    static let blockCount = 512

    /// A disk, a stream of bytes to itself, and what both should hold.
    final class World {
        let bench: Bench
        let pair = Pair(sizeBytes: 64 << 10)
        let far: RingFile
        let near: RingFile
        var random: UInt64
        /// The value of each block; 0: zeros.
        var blocks = [UInt8](repeating: 0, count: blockCount)
        var busyBlocks: Set<Int> = []
        /// Under way: by token, what is to be looked at when it is done.
        var disk: [UInt32: (DeviceOperation.Kind, block: Int, value: UInt8, buffer: Int)] = [:]
        var nextToken: UInt32 = 1
        /// Names of operations that are not the disk's, and what each should end with.
        var expected: [UInt64: Int32] = [:]
        var nextName: UInt64 = 1
        var sentBytes = 0
        var receivedBytes = 0
        var sending: UInt64 = 0
        var receiving: UInt64 = 0
        var faults: [String] = []

        init(_ engine: DiskEngine, seed: UInt64) throws {
            var options = Ring.Options()
            options.entries = 64
            options.spinNs = 0
            bench = try Bench(engine, options: options, capacity: 16)
            random = seed
            near = bench.ring.register(pair.near)
            far = bench.ring.register(pair.far)
        }

        func below(_ bound: Int) -> Int {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int((random >> 33) % UInt64(bound))
        }

        func name(_ result: Int32) -> UInt64 {
            let name = RingUserData.make(.timer, nextName)
            nextName += 1
            expected[name] = result
            return name
        }
    }

    @Test(arguments: DiskEngine.allCases, [1, 2])
    func agreeWithAModel(engine: DiskEngine, seed: UInt64) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: UInt64(Self.blockCount * Self.blockBytes))
        let world = try World(engine, seed: seed)
        let disk = try Disk.open(path: path, waitNs: 0)
        _ = world.bench.driver.attach(disk, as: DeviceIndex(0))
        var begun = 0
        let start = monotonicNs()
        while begun < 10_000 || !isQuiet(world) {
            guard monotonicNs() - start < 120_000_000_000, world.faults.isEmpty else { break }
            for _ in 0..<world.below(12) where begun < 10_000 {
                if begin(world) { begun += 1 }
            }
            world.bench.ring.submitAndWait(timeoutNs: isQuiet(world) ? 0 : 1_000_000_000)
            world.bench.ring.forEachCompletion { name, result, _ in
                if RingUserData.kind(name) == .disk {
                    world.bench.driver.handle(
                        userData: name, result: result, nowNs: world.bench.nowNs)
                } else {
                    completed(world, name, result)
                }
            }
            for completion in world.bench.driver.completions { completed(world, completion) }
            world.bench.driver.completions.removeAll()
        }
        #expect(world.faults == [])
        #expect(begun == 10_000 && isQuiet(world))
        #expect(world.receivedBytes > 100_000 && world.receivedBytes <= world.sentBytes)
        // What is on the disk, past the ring.
        for (block, value) in world.blocks.enumerated() {
            let bytes = try disk.readBytes(
                at: UInt64(block * Self.blockBytes), count: Self.blockBytes)
            #expect(bytes == (0..<Self.blockBytes).map { Self.byte(value, $0) }, "block \(block)")
        }
    }

    static func byte(_ value: UInt8, _ index: Int) -> UInt8 {
        value == 0 ? 0 : value &+ UInt8(truncatingIfNeeded: index / 512)
    }

    func isQuiet(_ world: World) -> Bool {
        world.disk.isEmpty && world.expected.isEmpty && world.sending == 0 && world.receiving == 0
    }

    // MARK: - beginning

    /// Begins something at random; false where there is no room for it now.
    func begin(_ world: World) -> Bool {
        let ring = world.bench.ring
        switch world.below(10) {
        case 0...5: return beginOnDisk(world)
        case 6: return send(world)
        case 7: return receive(world)
        case 8:
            ring.nop(userData: world.name(0))
            return true
        default:
            // One fires, the other is cancelled.
            ring.timeout(afterNs: UInt64(world.below(100_000)), userData: world.name(-ETIME))
            let cancelled = world.name(-ECANCELED)
            ring.timeout(afterNs: 600_000_000_000, userData: cancelled)
            ring.cancel(cancelled, userData: world.name(1))
            return true
        }
    }

    private func beginOnDisk(_ world: World) -> Bool {
        let block = world.below(Self.blockCount)
        guard world.disk.count < 32, !world.busyBlocks.contains(block),
            let buffer = world.bench.arena.take(bytes: Self.blockBytes)
        else { return false }
        let kind: DeviceOperation.Kind
        switch world.below(16) {
        case 0: kind = .flush
        case 1: kind = .discard
        case 2...8: kind = .write
        default: kind = .read
        }
        let value = UInt8(1 + world.below(200))
        switch kind {
        case .write: world.bench.fill(buffer, Self.blockBytes, value)
        case .read, .flush, .discard: break
        }
        let token = world.nextToken
        world.nextToken += 1
        world.busyBlocks.insert(block)
        world.disk[token] = (kind, block, value, buffer)
        let offset = UInt64(block * Self.blockBytes)
        let length = UInt64(kind == .flush ? 0 : Self.blockBytes)
        world.bench.driver.submit(
            operation(kind, token: token, at: offset, length, buffer: buffer),
            nowNs: world.bench.nowNs)
        return true
    }

    /// The far end says the next bytes of the stream.
    private func send(_ world: World) -> Bool {
        // No more under way than the near end will ask for in the end.
        guard world.sending == 0, world.sentBytes - world.receivedBytes < 8192 else { return false }
        let count = 1 + world.below(2000)
        for index in 0..<count {
            unsafe world.pair.memory.storeBytes(
                of: Pair.byte(world.sentBytes + index), toByteOffset: index, as: UInt8.self)
        }
        world.sending = world.name(Int32(count))
        unsafe world.bench.ring.send(
            world.far, world.pair.memory, count: count, userData: world.sending)
        return true
    }

    /// The near end takes bytes that were sent: all it asks for, or what is there.
    private func receive(_ world: World) -> Bool {
        let there = world.sentBytes - world.receivedBytes
        guard world.receiving == 0, there > 0 else { return false }
        let count = 1 + world.below(min(there, 3000))
        world.receiving = world.name(Int32(count))
        unsafe world.bench.ring.receive(
            world.near, into: world.pair.memory + 32768, count: count, waitAll: true,
            userData: world.receiving)
        return true
    }

    // MARK: - ending

    func completed(_ world: World, _ name: UInt64, _ result: Int32) {
        guard let expected = world.expected.removeValue(forKey: name) else {
            world.faults.append("a completion of nothing: \(name), \(result)")
            return
        }
        if result != expected { world.faults.append("\(name): \(result), not \(expected)") }
        if name == world.sending {
            world.sending = 0
            world.sentBytes += Int(max(0, result))
        }
        if name == world.receiving {
            world.receiving = 0
            for index in 0..<Int(max(0, result)) {
                let byte = unsafe world.pair.memory.load(
                    fromByteOffset: 32768 + index, as: UInt8.self)
                if byte != Pair.byte(world.receivedBytes + index) {
                    world.faults.append("byte \(world.receivedBytes + index) of the stream")
                    break
                }
            }
            world.receivedBytes += Int(max(0, result))
        }
    }

    func completed(_ world: World, _ completion: DeviceCompletion) {
        guard let (kind, block, value, buffer) = world.disk.removeValue(forKey: completion.token)
        else {
            world.faults.append("a completion of no operation: \(completion)")
            return
        }
        if completion.status != .ok { world.faults.append("\(kind): \(completion.status)") }
        switch kind {
        case .write: world.blocks[block] = value
        case .discard: world.blocks[block] = 0
        case .flush: break
        case .read:
            let bytes = unsafe world.bench.arena.bytes(buffer, Self.blockBytes)
            let expected = world.blocks[block]
            for index in 0..<Self.blockBytes
            where unsafe bytes[index] != Self.byte(expected, index) {
                world.faults.append("block \(block), byte \(index), should be \(expected)")
                break
            }
        }
        world.busyBlocks.remove(block)
        world.bench.arena.give(buffer)
    }
}

@Suite struct LinuxAIOTests {
    /// What one operation is refused for is its own; the others of the batch are carried out.
    @Test(arguments: DiskEngine.allCases)
    func aRefusedOperationHoldsUpNoOther(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 1 << 20)
        let disk = try Disk.open(path: path, waitNs: 0)
        let bench = try Bench(engine)
        let file = bench.ring.register(disk.descriptor)
        let nobody = RingFile(descriptor: 1 << 20)
        for index in 0..<30 as Range<UInt64> {
            bench.ring.writeFixed(
                index % 3 == 1 ? nobody : file, offsetBytes: index * 4096, arenaOffset: 0,
                lengthBytes: 4096, userData: index)
        }
        bench.ring.fsync(nobody, userData: 30)
        bench.ring.fsync(file, userData: 31)
        let results = bench.ring.collect(32)
        for index in 0..<30 as Range<UInt64> {
            #expect(results[index] == (index % 3 == 1 ? -EBADF : 4096))
        }
        #expect(results[30] == -EBADF && results[31] == 0)
    }

    /// Some file systems refuse O_DIRECT. What is slow then is said; it works.
    @Test(arguments: DiskEngine.allCases)
    func theCachedWayWorksAndIsNamed(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 1 << 20)
        let file = try OpenFile.open(path, flags: O_RDWR).get()
        let disk = Disk(
            path: path, kind: .regularFile, file: file, status: try file.status().get(),
            sizeBytes: 1 << 20, sectorBytes: 512, isDirect: false)
        let bench = try Bench(engine)
        _ = bench.driver.attach(disk, as: DeviceIndex(0))
        let line = "\(path): without O_DIRECT libaio's reads and writes block their shard"
        #expect(bench.logged.all == (engine == .libaio ? [line] : []))
        bench.fill(0, 4096, 9)
        #expect(bench.run(operation(.write, at: 8192, 4096)) == .ok)
        #expect(bench.run(operation(.flush)) == .ok)
        #expect(bench.run(operation(.discard, at: 0, 4096)) == .ok)
        bench.fill(0, 4096, 1)
        #expect(bench.run(operation(.read, at: 8192, 4096)) == .ok)
        #expect(bench.holds(0, 4096, 9))
    }

    /// The kernel refuses to flush an eventfd as an old one refuses to flush anything: it is asked
    /// another way, whose answer counts.
    @Test func aFlushThatIsRefusedGoesToAHelper() throws {
        let logged = LogLines()
        let ring = try Ring(.libaio) { logged.append($0) }
        let mailbox = try #require(ShardMailbox())
        let file = ring.register(mailbox.descriptor)
        ring.fsync(file, userData: 1)
        ring.fsync(file, userData: 2)
        #expect(ring.collect(2) == [1: -EINVAL, 2: -EINVAL])
        #expect(
            logged.all == ["libaio: flushes refused (Invalid argument), using helper threads"])
    }

    @Test func callsOnOneFileAreMadeOneAfterTheOther() throws {
        let bell = OpenFile(descriptor: eventfd(0, O_CLOEXEC))
        let helpers = HelperThreads(bell: bell) { _ in }
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 1 << 20)
        let disk = try Disk.open(path: path, waitNs: 0)
        // Growing the file by one block each: the size tells that each was made.
        let count = 500
        for index in 0..<count {
            let call = BlockingCall.allocate(
                mode: 0, offsetBytes: (1 << 20) + UInt64(index) * 4096, lengthBytes: 4096)
            #expect(
                helpers.post(
                    HelperThreads.Job(
                        call: call, descriptor: disk.descriptor, file: 0,
                        userData: UInt64(index))))
        }
        var order: [UInt64] = []
        var results: Set<Int32> = []
        let start = monotonicNs()
        while order.count < count, monotonicNs() - start < 20_000_000_000 {
            for (job, result) in helpers.takeResults() {
                order.append(job.userData)
                results.insert(result)
            }
            usleep(100)
        }
        #expect(order == Array(0..<UInt64(count)))
        #expect(results == [0])
        #expect(disk.currentSizeBytes() == (1 << 20) + UInt64(count) * 4096)
        helpers.stop()
    }
}
