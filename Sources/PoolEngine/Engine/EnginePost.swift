/// A message from one shard's engine to another's: the only way state crosses between shards.
///
/// The driver takes posts from ``Engine/posts`` and hands each to ``Engine/receive(_:)`` of the
/// engine it names, on that engine's thread; in any order, but every one. When the process ends,
/// what is left over may be dropped with the engines.
public struct EnginePost: Sendable {
    /// The engine it is for.
    public let shard: Int
    fileprivate let work: @Sendable (Engine) -> Void
}

extension Engine {
    /// Takes a post that names this engine; what it starts runs in the next ``poll(nowNs:)``.
    public func receive(_ post: EnginePost) {
        precondition(post.shard == shard, "a post for another shard")
        post.work(self)
    }

    var otherShards: [Int] { (0..<shardCount).filter { $0 != shard } }

    /// Runs `body` on another shard, some time; at once if it is this one. Not if that has stopped.
    func post(to shard: Int, _ body: @escaping @Sendable (Engine) -> Void) {
        if shard == self.shard { return body(self) }
        guard !isStopped else { return }
        posts.append(EnginePost(shard: shard) { if !$0.isStopped { body($0) } })
    }

    /// Runs `body` as a slow path of another shard and goes on here when it has ended. On this very
    /// shard it is a plain call.
    ///
    /// - Throws: what `body` throws; ``PoolError/stopped`` when either engine stops: `body` may
    ///   have run then, or not.
    public func on<T: Sendable>(
        _ shard: Int, _ body: @escaping @Sendable (Engine) async throws(PoolError) -> T
    ) async throws(PoolError) -> T {
        if shard == self.shard { return try await body(self) }
        if isStopped { throw .stopped }
        let crossing = Crossing<T>(self)
        let home = self.shard
        posts.append(
            EnginePost(shard: shard) { other in
                let answer: @Sendable (Result<T, PoolError>) -> Void = { result in
                    other.posts.append(EnginePost(shard: home) { _ in crossing.end(result) })
                }
                if other.isStopped { return answer(.failure(.stopped)) }
                other.spawn {
                    let result: Result<T, PoolError>
                    do throws(PoolError) {
                        result = .success(try await body(other))
                    } catch {
                        result = .failure(error)
                    }
                    answer(result)
                }
            })
        return try await crossing.wait(self)
    }
}

/// A slow path that waits for one on another shard. Touched only on the thread of who waits.
private final class Crossing<T: Sendable>: @unchecked Sendable {
    private var result: Result<T, PoolError>?
    private let ended: Signal

    init(_ engine: Engine) { ended = Signal(engine) }

    func end(_ result: Result<T, PoolError>) {
        self.result = result
        ended.fire()
    }

    func wait(_ engine: Engine) async throws(PoolError) -> T {
        while result == nil, !engine.isStopped { await ended.wait() }
        guard let result else { throw .stopped }
        return try result.get()
    }
}
