import PoolFormat

/// Fence tables: the epoch in force of each lineage, on every disk.
///
/// 1. All disks that serve hold the same entries; a lineage's epoch only grows.
/// 2. An epoch is durable on every disk before its space writes anything under it.
/// 3. The slot that is not current is written; a disk whose slots are both damaged takes the
///    entries of the others.
///
/// A crash in between leaves the higher epoch on some disks: the next activation starts from the
/// highest that any disk shows, so no epoch is ever used twice.
extension Pool {
    /// A new epoch for each of the lineages, durable on every disk that serves; lineages that the
    /// configuration does not have go.
    ///
    /// - Returns: the epochs, in the order asked for.
    func activate(_ lineages: [Lineage]) async throws(PoolError) -> [UInt64] {
        var epochs: [UInt64] = []
        let known = Set(configuration.spaces.map(\.lineage))
        fences.removeAll { !known.contains($0.lineage) }
        for lineage in lineages {
            if let index = fences.firstIndex(where: { $0.lineage == lineage }) {
                guard fences[index].epoch < Self.numberLimit else { throw .numbersExhausted }
                fences[index].epoch += 1
                epochs.append(fences[index].epoch)
            } else {
                fences.append(
                    FenceEntry(lineage: lineage, epoch: 1, owner: PoolUUID(high: 0, low: 0)))
                epochs.append(1)
            }
        }
        _ = try await writeFences(servingDisks)
        await recordFailures()
        if hasLostQuorum { throw .noQuorum(pool: name) }
        return epochs
    }

    /// - Returns: whether every disk took its table; those that did not are marked as failed.
    func writeFences(_ disks: [Disk]) async throws(PoolError) -> Bool {
        let buffer = await engine.scratch.take(bytes: Units.grainBytes)
        defer { engine.scratch.give(buffer) }
        let what = "while an epoch was recorded"
        let sequence = (self.disks.map(\.fenceSequence).max() ?? 0) + 1
        let together = Units.grainBytes / FenceTable.slotBytes
        for first in stride(from: 0, to: disks.count, by: together) {
            let chunk = disks[first..<min(first + together, disks.count)].filter(\.serves)
            let io = IOBatch(engine)
            for (position, disk) in chunk.enumerated() {
                let place = buffer + position * FenceTable.slotBytes
                let table = FenceTable(
                    poolUUID: uuid, disk: disk.number, sequence: sequence, entries: fences)
                do throws(FormatError) {
                    try unsafe table.encode(
                        into: engine.arena.bytes(place, FenceTable.slotBytes))
                } catch {
                    throw .configurationRefused(error)
                }
                io.write(
                    disk.device, at: DiskLayout.fenceTableOffset(slot: 1 - disk.fenceSlot),
                    bytes: FenceTable.slotBytes, from: place)
            }
            guard await !io.run() else { continue }
            if engine.isStopped { throw .stopped }
            for (disk, status) in zip(chunk, io.statuses) where status != .ok {
                markFailed(disk, during: what)
            }
        }
        _ = try await flush(disks, during: what)
        for disk in disks where disk.serves {
            disk.fenceSlot = 1 - disk.fenceSlot
            disk.fenceSequence = sequence
        }
        return disks.allSatisfy(\.serves)
    }

    /// Reads the fence tables of all disks; of each lineage the highest epoch counts.
    func loadFences() async throws(PoolError) {
        let buffer = await engine.scratch.take(bytes: 2 * FenceTable.slotBytes)
        defer { engine.scratch.give(buffer) }
        var epochs: [Lineage: UInt64] = [:]
        var damage: PoolError?
        var isAnyReadable = false
        for disk in disks {
            do throws(FormatError) {
                let table = try await loadFences(disk, buffer)
                isAnyReadable = true
                for entry in table.entries {
                    guard entry.epoch < Self.numberLimit else {
                        throw .outOfRange(.fenceTable, field: "epoch", value: entry.epoch)
                    }
                    epochs[entry.lineage] = max(epochs[entry.lineage] ?? 0, entry.epoch)
                }
            } catch {
                if engine.isStopped { throw .stopped }
                damage = .damaged(disk: disk.name, what: error.description)
            }
        }
        if let damage, !isAnyReadable { throw damage }
        fences = epochs.sorted { $0.key < $1.key }.map {
            FenceEntry(lineage: $0.key, epoch: $0.value, owner: PoolUUID(high: 0, low: 0))
        }
    }

    private func loadFences(_ disk: Disk, _ buffer: Int) async throws(FormatError) -> FenceTable {
        let blocks = FenceTable.slotBytes / Units.blockBytes
        let readable: [Bool]
        do throws(PoolError) {
            readable = try await readBlocks(
                disk.device, at: DiskLayout.fenceTableOffset(slot: 0),
                bytes: 2 * FenceTable.slotBytes, into: buffer)
        } catch {
            throw .blank(.fenceTable)
        }
        var tables: [FenceTable?] = [nil, nil]
        let choice = try SlotChoice.choose(
            readable: (
                readable[..<blocks].allSatisfy { $0 }, readable[blocks...].allSatisfy { $0 }
            ), structure: .fenceTable
        ) { slot throws(FormatError) in
            let place = buffer + slot * FenceTable.slotBytes
            let table = try unsafe FenceTable.decode(
                UnsafeRawBufferPointer(engine.arena.bytes(place, FenceTable.slotBytes)))
            guard table.poolUUID == uuid, table.disk == disk.number else {
                throw .wrongOwner(.fenceTable)
            }
            tables[slot] = table
            return table.sequence
        }
        disk.fenceSlot = choice.slot
        disk.fenceSequence = choice.sequence
        guard let table = tables[choice.slot] else { throw .blank(.fenceTable) }
        return table
    }
}
