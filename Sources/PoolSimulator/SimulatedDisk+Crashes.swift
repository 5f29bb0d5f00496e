import PoolEngine

extension SimulatedDisk {
    /// Power is gone: what is not durable survives as far as `policy` says.
    public mutating func cutPower(_ policy: CutPolicy, random: inout SeededRandom) {
        for change in pending { land(change, policy, inFlight: false, &random) }
        for (change, _) in landingInFlight(&random) {
            land(change, policy, inFlight: true, &random)
        }
        pending.removeAll()
        inFlight.removeAll()
        current = durable
    }

    /// The process is gone, the machine is not: the cache stays, what was in flight may land.
    public mutating func killProcess(random: inout SeededRandom) {
        cacheInFlight(&random)
        inFlight.removeAll()
    }

    /// What is in flight reaches the cache, or does not.
    mutating func cacheInFlight(_ random: inout SeededRandom) {
        for (change, landed) in landingInFlight(&random) where landed {
            cache(change.range, change.content)
        }
    }

    /// What is in flight, in any order, with a coin each.
    private func landingInFlight(_ random: inout SeededRandom) -> [(CachedChange, Bool)] {
        var changes: [(CachedChange, Bool)] = []
        for flying in inFlight where !isRefused(flying) {
            let operation = flying.operation
            let content: CachedChange.Content
            switch operation.kind {
            case .read, .flush:
                continue
            case .discard:
                guard supportsDiscard else { continue }
                content = .discarded
            case .write:
                guard let payload = flying.payload else { continue }
                content = .bytes(payload, from: 0)
            }
            let change = CachedChange(completion: 0, range: operation.range, content: content)
            changes.append((change, random.chance(50)))
        }
        changes.shuffle(using: &random)
        return changes
    }

    /// One cached change becomes durable as far as `policy` says.
    mutating func land(
        _ change: CachedChange, _ policy: CutPolicy, inFlight: Bool, _ random: inout SeededRandom
    ) {
        // Nothing can be missing that need not have been there.
        if case .missing = change.content { return }
        switch policy {
        case .dropAll:
            return
        case .keepAll:
            Self.apply(change, to: &durable)
        case .keepCompleted:
            if !inFlight { Self.apply(change, to: &durable) }
        case .operations(let percent):
            if random.chance(percent) { Self.apply(change, to: &durable) }
        case .sectors(let percent):
            guard !change.isDiscard else {
                if random.chance(percent) { Self.apply(change, to: &durable) }
                return
            }
            for sector in sectors(of: change) where random.chance(percent) {
                Self.apply(sector, to: &durable)
            }
        }
    }

    func sectors(of change: CachedChange) -> [CachedChange] {
        let unit = UInt64(sectorBytes)
        return stride(from: change.range.lowerBound, to: change.range.upperBound, by: sectorBytes)
            .compactMap { change.clipped(to: $0..<$0 + unit) }
    }
}

extension CachedChange {
    fileprivate var isDiscard: Bool {
        switch content {
        case .discarded: true
        case .bytes, .stray, .missing: false
        }
    }
}

/// What a power cut leaves of the writes that were not durable.
public enum CutPolicy: Hashable, Sendable {
    case dropAll
    case keepAll
    /// Everything completed, nothing in flight.
    case keepCompleted
    /// Each write whole or not at all, kept `percent` times in a hundred.
    case operations(percent: Int)
    /// Each sector of each write by itself.
    case sectors(percent: Int)
}
