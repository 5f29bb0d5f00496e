import PoolControl
import PoolEngine
import PoolFormat

/// Spaces come and go.
extension PoolRegistry {
    func createSpace(
        in poolName: String, _ request: SpaceCreateRequest
    ) throws(ControlFailure) -> PoolControl.SpaceStatus {
        let path = try SpacePath(pool: poolName, space: request.name)
        let parameters = try Self.parameters(request)
        let (entry, _) = try openEntry(named: poolName)
        let uuid = entry.uuid
        try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            do throws(PoolError) {
                try await pool.createSpace(parameters)
            } catch {
                throw ControlFailure(pool: error)
            }
            try await Self.publish(parameters.name, of: pool, state)
        }
        return try spaceStatus(path)
    }

    /// What the engine makes of a request; what this version does not have is refused by name.
    private static func parameters(
        _ request: SpaceCreateRequest
    ) throws(ControlFailure) -> Pool.SpaceParameters {
        if request.ssdTierBytes != nil || request.ssdResiliency != nil {
            throw notInThisVersion("tiers are", "leave --ssd-tier and --ssd-resiliency out")
        }
        let resiliency: ResiliencyKind =
            switch request.resiliency {
            case .simple: .simple
            case .mirror2: .mirror2
            case .mirror3: .mirror3
            case .parity1: .parity1
            case .parity2: .parity2
            }
        let columns = request.columns ?? 0
        guard (0...Int(UInt16.max)).contains(columns) else {
            throw ControlFailure(
                .invalid, "there cannot be \(columns) columns", hint: "use a smaller number")
        }
        guard let interleave = UInt32(exactly: request.interleaveBytes ?? 256 << 10) else {
            throw ControlFailure(
                .refused,
                "an interleave of \(SizeText.exact(request.interleaveBytes ?? 0)) is too large",
                hint: "use a power of two from 16K to 1M")
        }
        var flags: SpaceFlags = request.checksums ? [] : .noChecksums
        switch request.provisioning {
        case .thin: break
        case .fixed: flags.insert(.fixed)
        }
        return Pool.SpaceParameters(
            name: request.name, sizeBytes: request.sizeBytes, resiliency: resiliency,
            columns: columns, interleaveBytes: interleave, flags: flags,
            whenFull: request.whenFull.whenFull, writeCacheBytes: request.writeCacheBytes)
    }

    private static func notInThisVersion(_ what: String, _ hint: String) -> ControlFailure {
        ControlFailure(.notInThisVersion, "\(what) not in this version", hint: hint)
    }

    func destroySpace(_ path: SpacePath) throws(ControlFailure) -> Outcome {
        let (entry, _) = try openEntry(named: path.pool)
        let uuid = entry.uuid
        try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            try Self.require(path, in: pool)
            try await Self.withdrawUnused(path, of: pool, state, to: "destroy it")
            do throws(PoolError) {
                try await pool.destroySpace(path.space)
            } catch {
                try await Self.publish(path.space, of: pool, state)
                throw ControlFailure(pool: error)
            }
        }
        return Outcome(done: "space \(path) is destroyed")
    }

    /// Makes a space larger or smaller. Clients that are attached see the size they were told.
    func resizeSpace(
        _ path: SpacePath, _ request: SpaceResizeRequest
    ) throws(ControlFailure) -> PoolControl.SpaceStatus {
        let uuid = try openEntry(named: path.pool).entry.uuid
        try shard.call { state throws(ControlFailure) in
            let pool = try Self.pool(uuid, state)
            try Self.require(path, in: pool)
            let size = pool.configuration.spaces.first { $0.name == path.space }?.sizeBytes ?? 0
            if request.shrink, request.sizeBytes < size {
                try await Self.withdrawUnused(path, of: pool, state, to: "shrink it")
            }
            var failure: ControlFailure?
            do throws(PoolError) {
                try await pool.resizeSpace(
                    path.space, sizeBytes: request.sizeBytes, allowShrink: request.shrink)
            } catch {
                failure = ControlFailure(pool: error)
            }
            // Whatever has become of it, it is offered as it is now.
            try await Self.publish(path.space, of: pool, state)
            if let failure { throw failure }
        }
        return try spaceStatus(path)
    }

    static func unknownSpace(_ path: SpacePath, _ names: [String]) -> ControlFailure {
        ControlFailure(
            .notFound, "there is no space \(path)",
            hint: Nearest.match(path.space, among: names)
                .map { "did you mean '\(path.pool)/\($0)'?" }
                ?? (names.isEmpty
                    ? "pool \(path.pool) has no spaces"
                    : "see poolctl space ls"))
    }
}
