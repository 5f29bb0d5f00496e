import PoolFormat

/// A stripe is looked at as a whole: its blocks against their values, its parities against its blocks.
///
/// What is wrong is written anew in place, blocks with bytes that match their value, parities with
/// what the blocks make: so a crash in between leaves each wrong or right, and no more of them wrong
/// than before.
extension Space {
    /// - Returns: nil: the engine has stopped, or the space cannot be written.
    func scrubStripe(
        _ grain: UInt64, _ entry: GrainMap.Entry, _ values: [UInt32]
    ) async -> ScrubFindings? {
        let (data, parity) = await engine.scratch.takeStripe()
        defer { engine.scratch.giveStripe(data, parity) }
        guard !engine.isStopped, let shape = groups[entry.group]?.shape else { return nil }
        var image = StripeImage(shape, data: data, parity: parity)
        // A grain that was mapped and never written is no stripe; nor has a row without a valid block
        // anything to lose.
        let rows = (0..<image.rowCount).filter { row in
            image.columns(ofRow: row).contains {
                values[image.block($0, row)] != BlockValue.unwritten
            }
        }
        guard await read(&image, grain, entry, values, rows: rows) else { return nil }
        let found = image
        var findings = ScrubFindings()
        var rewritten: [(column: Int, row: Int)] = []
        for row in rows {
            solve(&image, grain, values, row: row)
            for column in image.columns(ofRow: row) {
                let block = image.block(column, row)
                guard !found.blocks[block].isThere, found.asked.contains(column),
                    isCurrentColumn(entry, column)
                else { continue }
                if found.blocks[block] == .wrong { noteWrong(entry, column) }
                guard image.blocks[block].isThere else {
                    if values[block] != BlockValue.unwritten { findings.lostBlocks += 1 }
                    continue
                }
                rewritten.append((column, row))
            }
        }
        findings.repairedBlocks += UInt64(rewritten.count)
        let wrong = wrongParities(&image, found, entry, rows: rows)
        guard await rewrite(rewritten + wrong, of: image, entry) else { return nil }
        findings.repairedBlocks += UInt64(wrong.count)
        counters.repairedBlocks += findings.repairedBlocks
        counters.lostBlocks += findings.lostBlocks
        return findings
    }

    /// Rows of parities that are not what their blocks make, where all of these are there. The image
    /// has them as they should be.
    private func wrongParities(
        _ image: inout StripeImage, _ found: StripeImage, _ entry: GrainMap.Entry, rows: [Int]
    ) -> [(column: Int, row: Int)] {
        if Mutant.isActive(.scrubKeepsParity) { return [] }
        var wrong: [(column: Int, row: Int)] = []
        for row in rows {
            let isWhole = image.columns(ofRow: row).allSatisfy {
                image.blocks[image.block($0, row)].isThere
            }
            guard isWhole else { continue }
            let before = image.parities.indices.map { parityBlock(image, $0, row) }
            image.encode(row..<row + 1, in: arena)
            for index in image.parities.indices {
                let column = image.shape.columns + index
                guard found.asked.contains(column), isCurrentColumn(entry, column) else {
                    continue
                }
                let isSame =
                    found.parities[index][row].isThere
                    && parityBlock(image, index, row) == before[index]
                if isSame { continue }
                if found.parities[index][row].isThere { noteWrong(entry, column) }
                wrong.append((column, row))
            }
        }
        return wrong
    }

    private func parityBlock(_ image: StripeImage, _ index: Int, _ row: Int) -> [UInt8] {
        unsafe Array(arena.bytes(image.offset(ofParity: index, row: row), Units.blockBytes))
    }

    private func isCurrentColumn(_ entry: GrainMap.Entry, _ column: Int) -> Bool {
        departed.isCurrent(groups.base(entry, column: column))
    }

    private func noteWrong(_ entry: GrainMap.Entry, _ column: Int) {
        noteChecksumError(groups.base(entry, column: column).device)
    }

    private func rewrite(
        _ blocks: [(column: Int, row: Int)], of image: StripeImage, _ entry: GrainMap.Entry
    ) async -> Bool {
        if blocks.isEmpty || Mutant.isActive(.repairNothing) { return true }
        let io = IOBatch(engine)
        for (column, row) in blocks {
            let base = groups.base(entry, column: column)
            io.write(
                base.device, at: base.offsetBytes + UInt64(row * Units.blockBytes),
                bytes: Units.blockBytes, from: image.offset(ofColumn: column, row: row))
        }
        if await writeUnflushed(io) { return true }
        await failDevices(io.devices(with: .ioError), during: "repair")
        return await departuresAreDurable()
    }
}
