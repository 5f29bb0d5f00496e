import PoolFormat
import Testing

@testable import PoolEngine

/// Disks that go, come back, and what clients find meanwhile.
extension PoolWorld {
    /// A pool with spaces of 4 GiB.
    ///
    /// - Parameters:
    ///   - range: of the disks that are its; nil: all of them.
    ///   - columns: of each space; 0: as many as the disks allow.
    ///   - cacheBytes: of the write-back cache of each.
    func makePool(
        _ spaces: [(name: String, resiliency: ResiliencyKind)], on range: Range<Int>? = nil,
        columns: Int = 0, cacheBytes: UInt64 = 0
    ) throws -> Pool {
        let pool = try #require(create(range ?? disks.indices)).get()
        for space in spaces {
            let parameters = Pool.SpaceParameters(
                name: space.name, sizeBytes: 4 << 30, resiliency: space.resiliency,
                columns: columns, writeCacheBytes: cacheBytes)
            try #require(
                run { _ throws(PoolError) in _ = try await pool.createSpace(parameters) }
            ).get()
        }
        return pool
    }

    /// A disk is pulled out, and the pool has noticed.
    func lose(_ index: Int, _ pool: Pool) throws {
        disks[index].unplug()
        guard let device = pool.disk(DiskNumber(UInt16(index + 1)))?.device else { return }
        try #require(
            run { _ throws(PoolError) in await pool.deviceFailed(device, during: "a test") }
        ).get()
    }

    /// The disk is opened once more and offered to the pool.
    func bringBack(_ index: Int, _ pool: Pool, opening: Int = 1) -> PoolError? {
        disks[index].plugIn()
        return offer(member(index, opening: opening), as: index, pool)
    }

    /// - Parameter index: of the disk that the member is said to be.
    func offer(_ member: Pool.Member, as index: Int, _ pool: Pool) -> PoolError? {
        let number = DiskNumber(UInt16(index + 1))
        return run { _ throws(PoolError) in try await pool.onlineDisk(number, member) }?.error
    }

    /// Turns the crank until no disk lacks anything; false: that does not come.
    func untilCaughtUp(_ pool: Pool) -> Bool {
        untilTrue {
            pool.configuration.departures.isEmpty && pool.spaces.allSatisfy(\.departed.disks.isEmpty)
        }
    }

    func untilTrue(_ isTrue: () -> Bool) -> Bool {
        for _ in 0..<20_000 {
            if isTrue() { return true }
            guard step() else { return isTrue() }
        }
        return false
    }
}

/// What a space should hold: a byte for each block that was written.
struct ExpectedBlocks {
    private(set) var values: [UInt64: UInt8] = [:]
    private var next: UInt8 = 1

    /// Writes a few blocks and flushes; each write has to succeed.
    mutating func write(
        _ world: PoolWorld, _ space: Space, _ blocks: some Sequence<UInt64>, flushed: Bool = true,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for block in blocks {
            next = next == 250 ? 1 : next + 1
            let status = world.perform(.write, space, block * 4096, 4096, data: next)
            #expect(status == .ok, "block \(block)", sourceLocation: sourceLocation)
            values[block] = next
        }
        guard flushed else { return }
        #expect(world.perform(.flush, space, 0) == .ok, sourceLocation: sourceLocation)
    }

    /// Trims whole blocks and flushes: they read as zeros.
    mutating func trim(
        _ world: PoolWorld, _ space: Space, _ blocks: Range<UInt64>,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let status = world.perform(
            .trim, space, blocks.lowerBound * 4096, UInt32(blocks.count) * 4096)
        #expect(status == .ok, sourceLocation: sourceLocation)
        #expect(world.perform(.flush, space, 0) == .ok, sourceLocation: sourceLocation)
        for block in blocks where values[block] != nil { values[block] = 0 }
    }

    func check(
        _ world: PoolWorld, _ space: Space?, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        guard let space else {
            Issue.record("the space is not open", sourceLocation: sourceLocation)
            return
        }
        for (block, value) in values.sorted(by: { $0.key < $1.key }) {
            let bytes = world.bytes(space, block * 4096, 4096)
            #expect(
                bytes == Array(repeating: value, count: 4096), "block \(block)",
                sourceLocation: sourceLocation)
        }
    }
}
