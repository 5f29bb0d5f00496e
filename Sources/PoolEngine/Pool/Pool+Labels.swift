import PoolFormat

/// Labels: how a disk says that it belongs to a pool.
///
/// 1. A label is written only once the tables it promises are durable; the configuration that names
///    the disk is durable before it (creation) or decided right after it (a disk that is added).
/// 2. Two copies, head and tail, say the same; one that is damaged is rewritten from the other.
/// 3. Before a disk is laid out for a pool its old labels are overwritten, flushed: a crash in the
///    middle leaves a disk of no pool, never a label over another pool's tables.
///
/// The tail's place follows from the size in the label; without a head it is looked for where the
/// device's size of today puts it.
extension Pool {
    /// What a device says of itself.
    public enum DeviceContents: Sendable {
        case label(Label)
        /// A label that this program cannot use, and why.
        case damagedLabel(String)
        case noLabel
    }

    /// Looks for a pool label on a device.
    ///
    /// - Throws: ``PoolError/unreadable(disk:what:)`` when neither place can be read.
    public static func inspect(
        _ engine: Engine, _ device: DeviceDescription
    ) async throws(PoolError) -> DeviceContents {
        let found = try await readLabel(engine, device)
        if let label = found.label { return .label(label) }
        guard found.isReadable else {
            throw .unreadable(disk: "the device", what: "label")
        }
        return found.damage.map { .damagedLabel($0.description) } ?? .noLabel
    }

    struct FoundLabel {
        var label: Label?
        /// One of the copies is not what the other says.
        var needsRepair = false
        var damage: FormatError?
        var isReadable = false
    }

    static func readLabel(
        _ engine: Engine, _ device: DeviceDescription
    ) async throws(PoolError) -> FoundLabel {
        var found = FoundLabel()
        guard device.sizeBytes >= Units.minimumDiskBytes else {
            found.isReadable = true
            return found
        }
        let head = try await readLabelCopy(engine, device, at: 0, &found)
        let block = UInt64(Units.blockBytes)
        var tailOffset = (device.sizeBytes / block - 1) * block
        if let head, head.diskBytes <= device.sizeBytes {
            tailOffset = (head.diskBytes / block - 1) * block
        }
        let tail = try await readLabelCopy(engine, device, at: tailOffset, &found)
        found.needsRepair = head != tail
        switch (head, tail) {
        case (let head?, let tail?):
            found.label = tail.sequence > head.sequence ? tail : head
        case (let label?, nil), (nil, let label?): found.label = label
        case (nil, nil): break
        }
        return found
    }

    private static func readLabelCopy(
        _ engine: Engine, _ device: DeviceDescription, at offsetBytes: UInt64,
        _ found: inout FoundLabel
    ) async throws(PoolError) -> Label? {
        let buffer = await engine.scratch.take(bytes: Label.bytes)
        defer { engine.scratch.give(buffer) }
        let io = IOBatch(engine)
        io.read(device.index, at: offsetBytes, bytes: Label.bytes, into: buffer)
        guard await io.run() else {
            if engine.isStopped { throw .stopped }
            return nil
        }
        found.isReadable = true
        do throws(FormatError) {
            return try unsafe Label.decode(
                UnsafeRawBufferPointer(engine.arena.bytes(buffer, Label.bytes)))
        } catch {
            // Zeros, or somebody else's bytes: no label at all.
            if case .blank = error { return nil }
            if case .wrongMagic = error { return nil }
            found.damage = error
            return nil
        }
    }

    /// Writes both copies of each disk's label, one after the other, each flushed.
    func writeLabels(_ disks: [Disk], during what: String) async throws(PoolError) -> Bool {
        for isTail in [false, true] {
            let writes = disks.map { disk in
                PageWrite(
                    disk: disk,
                    offsetBytes: isTail ? disk.layout.labelTailOffset : DiskLayout.labelHeadOffset
                ) { [label = disk.label] image in
                    do throws(FormatError) {
                        try unsafe label.encode(into: image.buffer)
                    } catch {
                        preconditionFailure("a label of this pool: \(error.description)")
                    }
                }
            }
            guard try await writeDurably(writes, during: what) else { return false }
        }
        return true
    }

    /// Overwrites both copies of each disk's label with zeros, flushed.
    func wipeLabels(_ disks: [Disk], during what: String) async throws(PoolError) -> Bool {
        let block = UInt64(Units.blockBytes)
        var writes: [PageWrite] = []
        for disk in disks {
            let last = (disk.description.sizeBytes / block - 1) * block
            for offset in Set([DiskLayout.labelHeadOffset, disk.layout.labelTailOffset, last])
                .sorted()
            {
                writes.append(PageWrite(disk: disk, offsetBytes: offset) { _ in })
            }
        }
        return try await writeDurably(writes, during: what)
    }
}
