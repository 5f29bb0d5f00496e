import PoolFormat

/// What a pool's owner may change while it is in use.
///
/// Each is one change of the configuration: all of it takes effect, on every disk, or none of it.
/// What spaces and disks hold in memory follows once the change is in effect, never before.
extension Pool {
    /// Changes settings of the pool; the closure sees those in effect.
    ///
    /// - Throws: ``PoolError/configurationRefused(_:)`` for values out of their bounds.
    public func changeSettings(
        _ edit: @Sendable (inout PoolSettings) -> Void
    ) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            try await changeConfiguration { edit(&$0.settings) }
            // The delay before a repair is one of them.
            wantSupervision()
            let compacts = configuration.settings.compaction
            for space in spaces {
                engine.post(to: space.shard) { _ in space.adopt(compacts: compacts) }
            }
        }
    }

    /// What to change of a disk; nil leaves it as it is. An empty tag takes the tag away.
    public struct DiskChange: Hashable, Sendable {
        public var mediaClass: MediaClass?
        public var enclosure: String?
        public var node: String?
        public var rack: String?

        public init(
            mediaClass: MediaClass? = nil, enclosure: String? = nil, node: String? = nil,
            rack: String? = nil
        ) {
            self.mediaClass = mediaClass
            self.enclosure = enclosure
            self.node = node
            self.rack = rack
        }
    }

    /// Changes what is known of a disk. Slab groups granted from then on go by it; those that are
    /// there stay where they are.
    public func changeDisk(_ number: DiskNumber, _ change: DiskChange) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard configuration.disks.contains(where: { $0.number == number }) else {
                throw .diskUnknown(number)
            }
            try await changeConfiguration { next in
                // A retired one may have left meanwhile.
                guard let index = next.disks.firstIndex(where: { $0.number == number }) else {
                    return
                }
                if let media = change.mediaClass { next.disks[index].mediaClass = media }
                if let enclosure = change.enclosure { next.disks[index].enclosure = enclosure }
                if let node = change.node { next.disks[index].node = node }
                if let rack = change.rack { next.disks[index].rack = rack }
            }
        }
    }

    /// What to change of a space; nil leaves it as it is.
    public struct SpaceChange: Hashable, Sendable {
        public var name: String?
        public var whenFull: WhenFull?
        public var writeCacheBytes: UInt64?

        public init(
            name: String? = nil, whenFull: WhenFull? = nil, writeCacheBytes: UInt64? = nil
        ) {
            self.name = name
            self.whenFull = whenFull
            self.writeCacheBytes = writeCacheBytes
        }
    }

    /// Changes a space. Its lineage, and so all it holds, stays.
    public func changeSpace(_ name: String, _ change: SpaceChange) async throws(PoolError) {
        try await holding(administrationLock) { () async throws(PoolError) in
            try requireOpen()
            guard let index = configuration.spaces.firstIndex(where: { $0.name == name }) else {
                throw .nameUnknown(name)
            }
            if let wanted = change.name, wanted != name {
                guard Self.isValid(name: wanted) else { throw .badSpaceName(wanted) }
                guard !configuration.spaces.contains(where: { $0.name == wanted }) else {
                    throw .nameTaken(wanted)
                }
            }
            let before = configuration.spaces[index]
            if let bytes = change.writeCacheBytes {
                try check(writeCacheBytes: bytes, before.resiliency, before.flags)
            }
            try await changeConfiguration { next in
                if let bytes = change.writeCacheBytes { next.spaces[index].writeCacheBytes = bytes }
                if let wanted = change.name { next.spaces[index].name = wanted }
                if let whenFull = change.whenFull { next.spaces[index].whenFull = whenFull }
            }
            let record = configuration.spaces[index]
            if let space = spaces.first(where: { $0.lineage == record.lineage }) {
                engine.post(to: space.shard) { _ in
                    space.adopt(whenFull: record.whenFull)
                    space.setCache(sizeBytes: record.writeCacheBytes)
                }
            }
        }
    }
}

extension Space {
    func adopt(compacts: Bool) {
        self.compacts = compacts
        compactionWanted.fire()
    }

    /// Writes that are parked are tried again: no longer waiting, they fail.
    func adopt(whenFull: WhenFull) {
        self.whenFull = whenFull
        retryParked()
    }
}
