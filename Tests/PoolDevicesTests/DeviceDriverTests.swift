import Glibc
import PoolEngine
import Testing

@testable import PoolDevices

@Suite struct DeviceDriverTests {
    static let sizeBytes: UInt64 = 64 << 20

    func makeDisk(_ directory: TemporaryDirectory, _ bytes: UInt64 = sizeBytes) throws -> Disk {
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: bytes)
        return try Disk.open(path: path, waitNs: 0)
    }

    /// Every combination of what a kernel may refuse.
    static func options(_ bits: Int) -> Ring.Options {
        var options = Ring.Options()
        options.allowsDeferredTaskRun = bits & 1 == 0
        options.allowsRegisteredBuffers = bits & 2 == 0
        options.allowsRegisteredFiles = bits & 4 == 0
        options.spinNs = bits & 1 == 0 ? 25_000 : 0
        return options
    }

    /// A disk's file system and, where there is one, memory; on each engine, with each refusal.
    static let everyWay = TemporaryDirectory.parents.flatMap { parent in
        DiskEngine.allCases.flatMap { engine in
            // libaio has no registered buffers that could be refused.
            (0..<8).filter { engine == .ioUring || $0 & 2 == 0 }.map { (parent, engine, $0) }
        }
    }

    @Test(arguments: everyWay)
    func whatWasWrittenIsRead(parent: String, engine: DiskEngine, bits: Int) throws {
        let directory = TemporaryDirectory(in: parent)
        let disk = try makeDisk(directory)
        let bench = try Bench(engine, options: Self.options(bits))
        #expect(bench.ring.engine == engine)
        #expect(bench.ring.hasRegisteredBuffers == (engine == .ioUring && bits & 2 == 0))
        let description = bench.driver.attach(disk, as: DeviceIndex(3))
        #expect(description.sizeBytes == Self.sizeBytes)
        #expect(description.sectorBytes == 512)

        let device = DeviceIndex(3)
        let length: UInt64 = 1 << 20
        let from = try #require(bench.arena.take(bytes: 1 << 20))
        let to = try #require(bench.arena.take(bytes: 1 << 20))
        bench.fill(from, 1 << 20, 7)
        let last = Self.sizeBytes - length
        #expect(bench.run(operation(.write, device, at: last, length, buffer: from)) == .ok)
        #expect(bench.run(operation(.flush, device)) == .ok)
        #expect(bench.run(operation(.read, device, at: last, length, buffer: to)) == .ok)
        #expect(bench.holds(to, 1 << 20, 7))
        // One sector in the middle, and nothing beside it.
        bench.fill(from, 512, 99)
        #expect(bench.run(operation(.write, device, at: last + 512, 512, buffer: from)) == .ok)
        #expect(bench.run(operation(.read, device, at: last, 4096, buffer: to)) == .ok)
        let bytes = unsafe bench.arena.bytes(to, 4096)
        #expect(unsafe bytes[511] == 7 && bytes[512] == 99 && bytes[1023] == 99 && bytes[1024] == 9)
        // Through the path, past the driver.
        #expect(try disk.readBytes(at: last + 512, count: 2) == [99, 99])
    }

    @Test(arguments: DiskEngine.allCases)
    func manyOperationsShareFewSlotsAndASmallQueue(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let disk = try makeDisk(directory)
        var options = Ring.Options()
        options.entries = 4
        options.completionEntries = 8
        let bench = try Bench(engine, options: options, capacity: 16)
        _ = bench.driver.attach(disk, as: DeviceIndex(0))
        let buffer = try #require(bench.arena.take(bytes: 4096))
        bench.fill(buffer, 4096, 1)
        let count: UInt32 = 500
        bench.driver.submit(
            (0..<count).map {
                operation(.write, token: $0, at: UInt64($0) * 8192, 4096, buffer: buffer)
            }, nowNs: bench.nowNs)
        #expect(bench.driver.inFlightCount == 500)
        let statuses = bench.finish()
        #expect(statuses.count == 500)
        #expect(statuses.values.allSatisfy { $0 == .ok })
        for block in [0, 250, 499] {
            #expect(try disk.readBytes(at: UInt64(block) * 8192, count: 1) == [1])
            #expect(try disk.readBytes(at: UInt64(block) * 8192 + 4096, count: 1) == [0])
        }
    }

    @Test(arguments: TemporaryDirectory.parents, DiskEngine.allCases)
    func discardGivesSpaceBack(parent: String, engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: parent)
        let disk = try makeDisk(directory)
        let bench = try Bench(engine)
        _ = bench.driver.attach(disk, as: DeviceIndex(0))
        let buffer = try #require(bench.arena.take(bytes: 1 << 20))
        bench.fill(buffer, 1 << 20, 5)
        #expect(bench.run(operation(.write, at: 1 << 20, 1 << 20, buffer: buffer)) == .ok)
        #expect(bench.run(operation(.flush)) == .ok)
        let before = try allocatedBytes(disk)
        #expect(before >= 1 << 20)
        #expect(bench.run(operation(.discard, at: 1 << 20, 1 << 20)) == .ok)
        #expect(try allocatedBytes(disk) <= before - (1 << 20))
        #expect(disk.currentSizeBytes() == Self.sizeBytes)
    }

    private func allocatedBytes(_ disk: Disk) throws -> Int {
        Int(try disk.file.status().get().st_blocks) * 512
    }

    @Test(arguments: DiskEngine.allCases)
    func whatIsNotLegalIsRefusedBeforeTheKernelSeesIt(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let disk = try makeDisk(directory)
        let bench = try Bench(engine)
        _ = bench.driver.attach(disk, as: DeviceIndex(0))
        let size = Self.sizeBytes
        let refused = [
            operation(.read, at: 1, 512), operation(.read, at: 0, 511),
            operation(.write, at: 256, 512), operation(.write, at: 0, 64 << 20),
            operation(.discard, at: 100, 4096), operation(.read, at: 0, 0),
            operation(.write, at: size, 512), operation(.write, at: size - 512, 1024),
            operation(.write, at: .max - 511, 512), operation(.read, at: 512, .max - 511),
            operation(.discard, at: .max - 511, 1024),
            operation(.write, DeviceIndex(1), at: 0, 512), operation(.flush, DeviceIndex(1)),
            operation(.flush, DeviceIndex(.max)),
        ]
        for operation in refused {
            #expect(bench.run(operation) == .ioError, "\(operation)")
        }
        #expect(bench.run(operation(.write, at: size - 512, 512)) == .ok)
        #expect(disk.currentSizeBytes() == size)
    }

    @Test(arguments: DiskEngine.allCases)
    func aFileThatWasCutShortNeverGrowsAgain(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let disk = try makeDisk(directory)
        let bench = try Bench(engine)
        _ = bench.driver.attach(disk, as: DeviceIndex(0))
        #expect(bench.run(operation(.write, at: 32 << 20, 4096)) == .ok)
        #expect(unsafe truncate(disk.path, 16 << 20) == 0)
        // The read meets the end, which makes the next write look.
        #expect(bench.run(operation(.read, at: 32 << 20, 4096)) == .ioError)
        #expect(bench.run(operation(.write, at: 32 << 20, 4096)) == .ioError)
        #expect(bench.run(operation(.write, at: 0, 4096)) == .ioError)
        #expect(bench.run(operation(.flush)) == .ioError)
        #expect(bench.run(operation(.read, at: 0, 4096)) == .ok)
        #expect(disk.currentSizeBytes() == 16 << 20)
        #expect(bench.logged.all.contains { $0.contains("smaller than when it was opened") })
        #expect(bench.driver.errors(of: DeviceIndex(0)).reads == 1)
    }

    @Test(arguments: DiskEngine.allCases)
    func aReadAcrossANewEndFails(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let disk = try makeDisk(directory)
        let bench = try Bench(engine)
        _ = bench.driver.attach(disk, as: DeviceIndex(0))
        #expect(unsafe truncate(disk.path, (16 << 20) + 8192) == 0)
        #expect(bench.run(operation(.read, at: 16 << 20, 64 << 10)) == .ioError)
    }

    @Test(arguments: DiskEngine.allCases)
    func writesAndFlushesNoticeByThemselves(engine: DiskEngine) throws {
        for kind in [DeviceOperation.Kind.write, .flush, .discard] {
            let directory = TemporaryDirectory(in: "/tmp")
            let disk = try makeDisk(directory)
            let bench = try Bench(engine)
            _ = bench.driver.attach(disk, as: DeviceIndex(0))
            #expect(bench.run(operation(.write, at: 0, 4096)) == .ok)
            #expect(unsafe truncate(disk.path, 16 << 20) == 0)
            // A write trusts the last look for a tenth of a second; a flush never does.
            bench.nowNs += kind == .flush ? 0 : 100_000_000
            let length: UInt64 = kind == .flush ? 0 : 4096
            #expect(bench.run(operation(kind, at: 32 << 20, length)) == .ioError, "\(kind)")
            #expect(disk.currentSizeBytes() == 16 << 20)
        }
    }

    @Test(arguments: DiskEngine.allCases)
    func aDetachedDeviceFinishesFirstAndIsLetGo(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path: String
        let bench = try Bench(engine)
        do {
            let disk = try makeDisk(directory)
            path = disk.path
            _ = bench.driver.attach(disk, as: DeviceIndex(0))
        }
        bench.driver.submit(
            [operation(.write, token: 1, at: 0, 4096), operation(.flush, token: 2)], nowNs: 0)
        bench.driver.detach(DeviceIndex(0))
        bench.driver.submit([operation(.read, token: 3, at: 0, 4096)], nowNs: 0)
        #expect(bench.driver.detached.isEmpty && bench.driver.isAttached(DeviceIndex(0)))
        #expect(throws: DiskError.inUse(path: path)) { try Disk.open(path: path, waitNs: 0) }
        #expect(bench.finish() == [1: .ok, 2: .ok, 3: .ioError])
        #expect(bench.driver.detached == [DeviceIndex(0)])
        #expect(!bench.driver.isAttached(DeviceIndex(0)))
        let again = try Disk.open(path: path, waitNs: 2_000_000_000)
        _ = bench.driver.attach(again, as: DeviceIndex(0))
        #expect(bench.run(operation(.read, at: 0, 4096)) == .ok)
    }
}

@Suite struct OperationOutcomeTests {
    @Test(arguments: [
        (4096, 4096, 0, OperationOutcome.done),
        (512, 4096, 0, .moreAfter(bytes: 512)),
        (1000, 4096, 0, .failed(errno: EIO)),
        (0, 4096, 0, .endOfFile),
        (8192, 4096, 0, .failed(errno: EIO)),
        (-EIO, 4096, 0, .failed(errno: EIO)),
        (-EAGAIN, 4096, 0, .retry),
        (-EINTR, 4096, 7, .retry),
        (-EINTR, 4096, 8, .failed(errno: EINTR)),
        (-ECANCELED, 4096, 0, .failed(errno: ECANCELED)),
    ] as [(Int32, Int, UInt8, OperationOutcome)])
    func ofTransfers(result: Int32, remaining: Int, attempts: UInt8, expected: OperationOutcome) {
        #expect(
            OperationOutcome.ofTransfer(
                result: result, remainingBytes: remaining, sectorBytes: 512, attempts: attempts)
                == expected)
    }

    @Test func aFlushIsNeverAskedAgain() {
        #expect(OperationOutcome.ofFlush(result: 0) == .done)
        for code in [EIO, EINTR, EAGAIN, ENOSPC] {
            #expect(OperationOutcome.ofFlush(result: -code) == .failed(errno: code))
        }
    }

    @Test func discardRefusals() {
        for code in [EOPNOTSUPP, EINVAL, ENOTTY] {
            #expect(DiscardMethod.refusal(code, attempts: 0) == .method)
        }
        #expect(DiscardMethod.refusal(ENOSPC, attempts: 0) == .once)
        #expect(DiscardMethod.refusal(EIO, attempts: 0) == .failure)
        #expect(DiscardMethod.refusal(EINTR, attempts: 0) == .retry)
        #expect(DiscardMethod.refusal(EINTR, attempts: 8) == .failure)
        #expect(DiscardMethod.blockCommand.next == .punchHole)
        #expect(DiscardMethod.punchHole.next == .none)
    }
}
