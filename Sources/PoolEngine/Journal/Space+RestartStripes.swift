import PoolFormat

/// What a killed process has written to free grains of a parity, and not made durable.
///
/// Each stripe was written whole before its change was logged, and every time to another place: of
/// what the log says of a block the last is there, or, where a disk has lost its cache, may be solved.
/// What can be had is put together, the other blocks are zeros, and a stripe of which something was
/// lost is written anew and flushed: nothing durable names it, or all of it was flushed before.
extension Space {
    /// - Parameters:
    ///   - fresh: blocks that were UNWRITTEN, and the values that they had since; all valid blocks of
    ///     their grains.
    ///   - unwritten: the same blocks, as if nothing of them were there.
    /// - Returns: what each has.
    func findFreshStripes(
        _ fresh: [(block: UInt64, values: [UInt32])], _ unwritten: [UInt64: UInt32]
    ) async throws(PoolError) -> [UInt64: UInt32] {
        var found = unwritten
        let perGrain = UInt64(Units.blocksPerGrain)
        let grains = Dictionary(grouping: fresh) { $0.block / perGrain }
        for grain in grains.keys.sorted() {
            var values = Array(repeating: BlockValue.unwritten, count: Units.blocksPerGrain)
            for (block, all) in grains[grain] ?? [] {
                if let last = all.last { values[Int(block % perGrain)] = last }
            }
            for block in try await findFreshStripe(grain, values) {
                found[grain * perGrain + UInt64(block)] = values[block]
            }
        }
        guard await flush(unflushedDevices) else { throw failure }
        return found
    }

    /// - Returns: the blocks that are there.
    private func findFreshStripe(
        _ grain: UInt64, _ values: [UInt32]
    ) async throws(PoolError) -> [Int] {
        let entry = map[grain]
        let (data, parity) = await engine.scratch.takeStripe()
        defer { engine.scratch.giveStripe(data, parity) }
        guard let shape = groups[entry.group]?.shape else { return [] }
        var image = StripeImage(shape, data: data, parity: parity)
        let rows = Array(0..<image.rowCount)
        guard await read(&image, grain, entry, values, rows: rows) else { throw .stopped }
        var isWhole = image.blocks.allSatisfy(\.isThere)
        for row in rows { solve(&image, grain, values, row: row) }
        let wanted = values.indices.filter { values[$0] != BlockValue.unwritten }
        let right = wanted.filter { image.blocks[$0].isThere }
        for block in values.indices where !image.blocks[block].isThere {
            unsafe arena.bytes(image.offset(ofBlock: block), Units.blockBytes)
                .initializeMemory(as: UInt8.self, repeating: 0)
        }
        let before = parities(image)
        image.encode(0..<image.rowCount, in: arena)
        isWhole = isWhole && parities(image) == before
        if isWhole { return right }
        // Whoever is away lacks all of the region.
        _ = await sendStripe(image, to: entry, isFlushed: false)
        guard await departuresAreDurable() else { throw failure }
        return right
    }

    private func parities(_ image: StripeImage) -> [UInt8] {
        unsafe Array(
            arena.bytes(image.parity, image.shape.parityColumns * image.shape.unitBytes))
    }
}
