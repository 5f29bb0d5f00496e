import Testing

@testable import PoolEngine

extension PoolWorld {
    /// Runs `change` on a freshly prepared world again and again, cut after 0, 1, 2... operations,
    /// until it runs to its end. `check` sees the world after the cut, and whether it ended.
    ///
    /// - Parameter stride: more than 1 leaves out cuts in between.
    static func atEveryCut<State: Sendable>(
        _ sizesMiB: [Int], shards: Int = 1, every stride: Int = 1,
        prepare: (PoolWorld) throws -> State,
        change: @escaping @Sendable (State, Engine) async throws(PoolError) -> Void,
        check: (PoolWorld, State, _ cut: Int, _ ended: Bool) throws -> Void
    ) throws {
        for policy in CutPolicy.allCases {
            var cut = 0
            while true {
                let world = PoolWorld(sizesMiB, seed: UInt64(cut) &* 77 &+ 5, shards: shards)
                let state = try prepare(world)
                world.operationsLeft = cut
                let result = world.run { engine throws(PoolError) in
                    try await change(state, engine)
                }
                if let error = result?.error { throw error }
                world.powerCut(policy)
                try check(world, state, cut, result != nil)
                if result != nil { break }
                cut += stride
            }
            #expect(cut >= 4, "the change does nothing durable")
        }
    }
}
