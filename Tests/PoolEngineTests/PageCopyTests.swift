import PoolFormat
import Testing

@testable import PoolEngine

/// A page of metadata that is newer on one copy than on another.
@Suite struct PageCopyTests {
    /// The first checksum page's slots on a disk, as they are.
    private func checksumPage(_ disk: MemoryDisk, _ lineage: Lineage) -> [UInt64: [UInt8]] {
        var found: [UInt64: [UInt8]] = [:]
        for block in disk.writtenBlocks {
            guard let bytes = disk.read(block, 4096) else { continue }
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
            defer { unsafe memory.deallocate() }
            unsafe memory.copyBytes(from: bytes)
            let header = try? MetadataPage.validate(
                unsafe PageImage(memory), kind: .checksum, lineage: lineage, index: 0)
            if header != nil { found[block] = bytes }
        }
        return found
    }

    /// A checkpoint came to one disk and not to the other when a crash came; later the one that has
    /// it cannot be read.
    @Test(arguments: [0, 1])
    func aCheckpointCutShortIsBroughtToEveryCopy(behind: Int) throws {
        let world = PoolWorld([2048, 2048])
        var pool = try #require(world.create(0..<2)).get()
        let parameters = Pool.SpaceParameters(
            name: "s", sizeBytes: 1 << 30, resiliency: .mirror2)
        let created = pool
        _ = try #require(
            world.run { _ throws(PoolError) in try await created.createSpace(parameters) }
        ).get()
        var space = try #require(pool.space(named: "s"))
        let lineage = space.lineage

        func write(_ data: UInt8, at offset: UInt64 = 0) {
            #expect(world.perform(.write, space, offset, 4096, data: data) == .ok)
            #expect(world.perform(.flush, space, 0) == .ok)
        }
        func reopen() throws {
            let closing = pool
            try #require(world.run { _ throws(PoolError) in try await closing.close() }).get()
            world.restart()
            pool = try #require(world.open()).get()
            space = try #require(pool.space(named: "s"))
        }
        func place(_ pages: [UInt64: [UInt8]]) {
            for (block, bytes) in pages { #expect(world.disks[behind].write(block, bytes)) }
            #expect(world.disks[behind].flush())
        }

        write(1)
        try reopen()
        let before = checksumPage(world.disks[behind], lineage)
        #expect(!before.isEmpty)
        write(2)
        let closing = pool
        try #require(world.run { _ throws(PoolError) in try await closing.close() }).get()
        let after = checksumPage(world.disks[behind], lineage)
        #expect(after != before)
        place(before)
        world.restart()
        pool = try #require(world.open()).get()
        space = try #require(pool.space(named: "s"))
        // The journal speaks of something else by now.
        for round in 1...3 {
            write(UInt8(round), at: 64 << 20)
            try reopen()
        }
        for block in checksumPage(world.disks[1 - behind], lineage).keys {
            world.disks[1 - behind].unreadable.insert(block)
        }
        try reopen()
        #expect(world.bytes(space, 0, 4096) == [UInt8](repeating: 2, count: 4096))
    }
}
