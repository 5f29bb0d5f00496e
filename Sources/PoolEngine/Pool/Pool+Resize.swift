import PoolFormat

/// A space's size changes while it is in use: the order is with what the space does,
/// `Space/Space+Resize.swift`.
extension Pool {
    /// - Parameters:
    ///   - sizeBytes: a multiple of 1 MiB.
    ///   - allowShrink: a smaller size is meant. Nobody may be attached then, and nothing may be
    ///     mapped past the new end.
    /// - Throws: ``PoolError/shrinkNotAsked(name:)``, ``PoolError/shrinkRefused(name:mappedBytes:)``
    ///   and what is wrong with the size; ``PoolError/noSpace`` for a fixed space that cannot have
    ///   the room. The size is the old one then.
    public func resizeSpace(
        _ name: String, sizeBytes: UInt64, allowShrink: Bool
    ) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard let index = configuration.spaces.firstIndex(where: { $0.name == name }) else {
                throw .nameUnknown(name)
            }
            let record = configuration.spaces[index]
            try check(sizeBytes: sizeBytes)
            if sizeBytes == record.sizeBytes { return }
            guard allowShrink || sizeBytes > record.sizeBytes else {
                throw .shrinkNotAsked(name: name)
            }
            guard let space = space(named: name) else {
                let reason = unavailable[record.lineage] ?? "it is not open"
                throw .spaceUnavailable(name: name, reason: reason)
            }
            if let reason = try await on(space, { $0.readOnlyReason }) {
                throw .spaceUnavailable(name: name, reason: reason)
            }
            if sizeBytes > record.sizeBytes {
                try await grow(space, record, to: sizeBytes)
            } else {
                try await shrink(space, record, to: sizeBytes)
            }
        }
    }

    func check(sizeBytes: UInt64) throws(PoolError) {
        let grain = UInt64(Units.grainBytes)
        guard sizeBytes <= Units.maximumSpaceBytes else {
            throw .sizeTooLarge(bytes: sizeBytes, limit: Units.maximumSpaceBytes)
        }
        guard sizeBytes > 0, sizeBytes % grain == 0 else {
            throw .sizeNotWhole(bytes: sizeBytes, next: (sizeBytes / grain + 1) * grain)
        }
    }

    private func grow(
        _ space: Space, _ record: SpaceRecord, to sizeBytes: UInt64
    ) async throws(PoolError) {
        if record.flags.contains(.fixed) {
            let more =
                Self.fullPieces(sizeBytes: sizeBytes)
                - Self.fullPieces(sizeBytes: record.sizeBytes)
            for copy in record.root {
                guard disk(copy.disk)?.unreservedPieceRoom ?? 0 >= more else {
                    throw .noMetadataSpace
                }
            }
        }
        try await on(space) { space async throws(PoolError) in
            try await space.prepareToGrow(to: sizeBytes)
        }
        try await change(record.lineage, sizeBytes: sizeBytes)
        try await on(space) { $0.grow(to: sizeBytes) }
    }

    private func shrink(
        _ space: Space, _ record: SpaceRecord, to sizeBytes: UInt64
    ) async throws(PoolError) {
        try await on(space) { space async throws(PoolError) in
            try await space.prepareToShrink(to: sizeBytes, name: record.name)
        }
        do throws(PoolError) {
            try await change(record.lineage, sizeBytes: sizeBytes)
        } catch {
            try await on(space) { $0.grow(to: record.sizeBytes) }
            throw error
        }
        try await on(space) { $0.shrink(to: sizeBytes) }
    }

    private func change(_ lineage: Lineage, sizeBytes: UInt64) async throws(PoolError) {
        try await changeConfiguration { next in
            for index in next.spaces.indices where next.spaces[index].lineage == lineage {
                next.spaces[index].sizeBytes = sizeBytes
            }
        }
        updateReserves()
    }
}
