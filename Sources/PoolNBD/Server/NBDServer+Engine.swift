import PoolEngine

extension NBDServer {
    /// Hands the collected requests to the engine, as many as it takes.
    ///
    /// - Returns: whether there were any, so that the engine has something to do.
    @discardableResult
    public func submitRequests(to engine: Engine) -> Bool {
        guard !requests.isEmpty else { return false }
        var taken = 0
        while taken < requests.count, engine.canAcceptRequest {
            engine.submit(requests[taken])
            taken += 1
        }
        if taken == requests.count {
            requests.removeAll(keepingCapacity: true)
        } else {
            requests.removeFirst(taken)
        }
        return taken > 0
    }
}
