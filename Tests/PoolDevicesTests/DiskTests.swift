import Glibc
import PoolEngine
import Testing

@testable import PoolDevices

@Suite struct DiskTests {
    @Test(arguments: TemporaryDirectory.parents)
    func factsOfAFile(parent: String) throws {
        let directory = TemporaryDirectory(in: parent)
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: (1 << 30) + 512)
        let disk = try Disk.open(path: path, waitNs: 0)
        #expect(disk.kind == .regularFile)
        #expect(disk.sizeBytes == (1 << 30) + 512)
        #expect(disk.sectorBytes == 512)
        #expect(disk.supportsDiscard)
        #expect(try disk.file.status().get().st_blocks < 100)
        // io_uring would answer EAGAIN, another process would inherit the lock.
        #expect(fcntl(disk.descriptor, F_GETFL) & O_NONBLOCK == 0)
        #expect(fcntl(disk.descriptor, F_GETFD) & FD_CLOEXEC != 0)
    }

    @Test func whatIsNoDiskIsRefused() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let pipe = "\(directory.path)/pipe"
        #expect(unsafe mkfifo(pipe, 0o600) == 0)
        for path in [pipe, directory.path, "/dev/null"] {
            #expect(throws: DiskError.notADisk(path: path)) { try Disk.open(path: path, waitNs: 0) }
            #expect(throws: DiskError.notADisk(path: path)) { try DiskProbe(path: path) }
        }
        for path in ["\(directory.path)/missing", "", "/tmp\0/x"] {
            #expect(throws: DiskError.cannotOpen(path: path, errno: ENOENT)) {
                try Disk.open(path: path, waitNs: 0)
            }
        }
    }

    @Test func aSparseFileIsMadeOnce() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 4096)
        #expect(throws: DiskError.cannotCreate(path: path, errno: EEXIST)) {
            try Disk.createSparseFile(path: path, bytes: 8192)
        }
        #expect(try DiskProbe(path: path).sizeBytes == 4096)
        for bytes in [UInt64.max, 1 << 63, 1 << 62] {
            let large = "\(directory.path)/large"
            #expect(throws: DiskError.sizeTooLarge(path: large, bytes: bytes)) {
                try Disk.createSparseFile(path: large, bytes: bytes)
            }
            #expect(unsafe access(large, F_OK) != 0)
        }
    }

    @Test func oneProcessOpensItOnce() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        let link = "\(directory.path)/link"
        try Disk.createSparseFile(path: path, bytes: 1 << 20)
        #expect(unsafe symlink(path, link) == 0)
        let disk = try Disk.open(path: path, waitNs: 0)
        #expect(throws: DiskError.inUse(path: link)) {
            try Disk.open(path: link, waitNs: 50_000_000)
        }
        #expect(try DiskProbe(path: link).identity == disk.identity)
    }

    @Test func twoProcessesNeverHoldItTogether() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 1 << 20)
        do {
            let disk = try Disk.open(path: path, waitNs: 0)
            #expect(run("/usr/bin/flock", ["-n", path, "/bin/true"]) == 1)
            #expect(disk.sizeBytes == 1 << 20)
        }
        #expect(run("/usr/bin/flock", ["-n", path, "/bin/true"]) == 0)

        let child = try #require(spawn("/usr/bin/flock", [path, "/bin/sleep", "0.5"]))
        let start = monotonicNs()
        var sawItHeld = false
        while !sawItHeld, monotonicNs() - start < 5_000_000_000 {
            sawItHeld = try isHeld(path)
            usleep(1000)
        }
        #expect(sawItHeld)
        // Waits, and gets it as soon as the other lets go.
        let disk = try Disk.open(path: path, waitNs: 10_000_000_000)
        #expect(monotonicNs() - start > 400_000_000)
        #expect(disk.sizeBytes == 1 << 20)
        #expect(wait(for: child) == 0)
    }

    private func isHeld(_ path: String) throws -> Bool {
        let result = Result { () throws(DiskError) in try Disk.open(path: path, waitNs: 0) }
        if case .failure(.inUse) = result { return true }
        _ = try result.get()
        return false
    }

    @Test(arguments: DiskEngine.allCases)
    func theRingKeepsTheLockOfAnOpenFile(engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 1 << 20)
        let bench = try Bench(engine)
        let file: RingFile
        do {
            let disk = try Disk.open(path: path, waitNs: 0)
            file = bench.ring.register(disk.descriptor)
        }
        #expect(file.isRegistered)
        #expect(throws: DiskError.inUse(path: path)) { try Disk.open(path: path, waitNs: 0) }
        bench.ring.unregister(file)
        _ = try Disk.open(path: path, waitNs: 2_000_000_000)
    }

    @Test func theTableKnowsADiskByWhatItIs() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let table = DiskTable()
        var disks: [Disk] = []
        for name in ["a", "b"] {
            try Disk.createSparseFile(path: "\(directory.path)/\(name)", bytes: 1 << 20)
            disks.append(try Disk.open(path: "\(directory.path)/\(name)", waitNs: 0))
        }
        let first = try #require(table.add(disks[0]))
        #expect(table.add(disks[0]) == nil)
        #expect(table.index(of: disks[0].identity) == first)
        table.remove(first)
        #expect(table.disk(first) == nil)
        let second = try #require(table.add(disks[1]))
        #expect(second != first, "an index is not handed out again at once")
        #expect(table.disk(second) === disks[1])
    }

    @Test func aDiskIsOpenedAnewBesideItself() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let paths = ["a", "b"].map { "\(directory.path)/\($0)" }
        for path in paths { try Disk.createSparseFile(path: path, bytes: 1 << 20) }
        let table = DiskTable()
        let old: DeviceIndex
        let new: DeviceIndex
        do {
            let first = try Disk.open(path: paths[0], waitNs: 0)
            old = try #require(table.add(first))
            first.flushes.fail()
            let second = try Disk.open(path: paths[0], waitNs: 0, beside: first)
            #expect(second.flushes !== first.flushes && second.descriptor != first.descriptor)
            #expect(table.add(second) == nil)
            new = try #require(table.add(second, beside: old))
            #expect(throws: DiskError.cannotOpen(path: paths[1], errno: ESTALE)) {
                try Disk.open(path: paths[1], waitNs: 0, beside: second)
            }
        }
        table.remove(old)
        // The lock outlives the first, and goes with the second.
        #expect(throws: DiskError.inUse(path: paths[0])) {
            try Disk.open(path: paths[0], waitNs: 0)
        }
        table.remove(new)
        _ = try Disk.open(path: paths[0], waitNs: 0)
    }

    @Test func anIndexStaysUntilItsLastUserLetsGo() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let table = DiskTable(users: 2)
        try Disk.createSparseFile(path: "\(directory.path)/a", bytes: 1 << 20)
        let disk = try Disk.open(path: "\(directory.path)/a", waitNs: 0)
        let index = try #require(table.add(disk))
        table.remove(index)
        #expect(table.disk(index) === disk)
        #expect(table.add(disk) == nil)
        table.remove(index)
        #expect(table.disk(index) == nil)
        #expect(table.add(disk) != nil)
    }

    @Test func bytesAreReadAtAnyOffset() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 10_240)
        let disk = try Disk.open(path: path, waitNs: 0)
        #expect(try disk.readBytes(at: 10_000, count: 240) == [UInt8](repeating: 0, count: 240))
        #expect(try disk.readBytes(at: 10_240, count: 0).isEmpty)
        for (offset, count) in [(10_000, 241), (UInt64.max, 1), (10_241, 0)] as [(UInt64, Int)] {
            #expect(throws: DiskError.endOfDisk(path: path)) {
                try disk.readBytes(at: offset, count: count)
            }
        }
    }
}

@Suite(.serialized, .enabled(if: LoopDevice.isAvailable)) struct LoopDeviceTests {
    @Test(arguments: [512, 4096], DiskEngine.allCases)
    func aBlockDevice(sectorBytes: Int, engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let file = "\(directory.path)/backing"
        try Disk.createSparseFile(path: file, bytes: 64 << 20)
        let loop = try #require(LoopDevice(file: file, sectorBytes: sectorBytes))
        let disk = try Disk.open(path: loop.path)
        #expect(disk.kind == .blockDevice)
        #expect(disk.sectorBytes == UInt32(sectorBytes))
        #expect(disk.sizeBytes == 64 << 20)
        #expect(disk.isRotational != nil)
        #expect(throws: DiskError.inUse(path: loop.path)) {
            try Disk.open(path: loop.path, waitNs: 0)
        }

        let bench = try Bench(engine)
        let description = bench.driver.attach(disk, as: DeviceIndex(0))
        #expect(description.supportsDiscard)
        let buffer = try #require(bench.arena.take(bytes: 1 << 20))
        bench.fill(buffer, 1 << 20, 3)
        #expect(bench.run(operation(.write, at: 8 << 20, 1 << 20, buffer: buffer)) == .ok)
        #expect(bench.run(operation(.flush)) == .ok)
        #expect(try disk.readBytes(at: (8 << 20) + 512, count: 1) == [4])
        let half = UInt64(sectorBytes / 2)
        let sector = UInt64(sectorBytes)
        #expect(bench.run(operation(.write, at: half, sector, buffer: buffer)) == .ioError)
        #expect(bench.run(operation(.write, at: 0, half, buffer: buffer)) == .ioError)
        #expect(bench.run(operation(.read, at: 0, sector, buffer: buffer)) == .ok)
        #expect(bench.run(operation(.read, at: 64 << 20, 4096, buffer: buffer)) == .ioError)
        #expect(bench.driver.errors(of: DeviceIndex(0)) == DeviceErrors())

        // The device loses its medium: an error, counted and logged.
        #expect(unsafe truncate(file, 1 << 20) == 0)
        #expect(bench.run(operation(.read, at: 32 << 20, 4096, buffer: buffer)) == .ioError)
        #expect(bench.driver.errors(of: DeviceIndex(0)).reads == 1)
        #expect(bench.logged.all.contains { $0.hasPrefix("\(loop.path): read of 4096 bytes") })
    }

    /// Each way to discard works, or is refused and never tried again; none is a device's failure.
    @Test(arguments: [DiscardMethod.blockCommand, .punchHole], DiskEngine.allCases)
    func discardOnABlockDevice(method: DiscardMethod, engine: DiskEngine) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let file = "\(directory.path)/backing"
        try Disk.createSparseFile(path: file, bytes: 64 << 20)
        let loop = try #require(LoopDevice(file: file, sectorBytes: 512))
        let disk = try Disk.open(path: loop.path)
        let bench = try Bench(engine)
        #expect(bench.driver.attach(disk, as: DeviceIndex(0)).supportsDiscard)
        #expect(unsafe bench.driver.devices[0].discardMethod == .blockCommand)
        unsafe bench.driver.devices[0].discardMethod = method
        let buffer = try #require(bench.arena.take(bytes: 1 << 20))
        bench.fill(buffer, 1 << 20, 3)
        #expect(bench.run(operation(.write, at: 8 << 20, 1 << 20, buffer: buffer)) == .ok)
        #expect(bench.run(operation(.flush)) == .ok)
        let before = try allocatedBytes(file)
        // Several at once: each follows where another was refused.
        for token in 0..<4 as Range<UInt32> {
            let offset = (8 << 20) + UInt64(token) << 18
            bench.driver.submit(
                operation(.discard, token: token, at: offset, 1 << 18), nowNs: bench.nowNs)
        }
        let statuses = Set(bench.finish().values)
        #expect(statuses == [.ok] || statuses == [.unsupported])
        if statuses == [.ok] {
            #expect(try allocatedBytes(file) < before)
        } else {
            #expect(unsafe bench.driver.devices[0].discardMethod == .none)
            #expect(bench.logged.all.filter { $0.contains("discard refused") }.count == 1)
        }
        #expect(bench.driver.errors(of: DeviceIndex(0)) == DeviceErrors())
        #expect(bench.run(operation(.read, at: 0, 4096, buffer: buffer)) == .ok)
    }

    private func allocatedBytes(_ path: String) throws -> Int {
        try OpenFile.open(path, flags: O_RDONLY).get().status().get().st_blocks * 512
    }

    @Test(.enabled(if: hasProgram("mkfs.ext4")))
    func aMountedDeviceIsRefused() throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let file = "\(directory.path)/backing"
        let mounted = "\(directory.path)/mounted"
        try Disk.createSparseFile(path: file, bytes: 64 << 20)
        #expect(run("/bin/sh", ["-c", "mkfs.ext4 -q '\(file)'"]) == 0)
        let loop = try #require(LoopDevice(file: file, sectorBytes: 512))
        #expect(try DiskProbe(path: loop.path).foreignSignature == "an ext4 file system")
        #expect(unsafe mkdir(mounted, 0o700) == 0)
        // A container may refuse this to root.
        guard run("/bin/sh", ["-c", "mount \(loop.path) '\(mounted)' 2>/dev/null"]) == 0 else {
            return
        }
        defer { _ = run("/bin/sh", ["-c", "umount '\(mounted)'"]) }
        #expect(throws: DiskError.inUse(path: loop.path)) {
            try Disk.open(path: loop.path, waitNs: 100_000_000)
        }
    }
}
