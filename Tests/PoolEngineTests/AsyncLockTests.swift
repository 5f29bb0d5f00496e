import PoolFormat
import Testing

@testable import PoolEngine

struct AsyncLockTests {
    private final class Order: @unchecked Sendable {
        var names: [String] = []
    }

    /// Whoever lets go and wants it again at once comes behind all who wait.
    @Test func itIsGivenInOrderOfArrival() {
        let world = PoolWorld([2048])
        let engine = world.engine
        let (lock, gate, order) = (AsyncLock(engine), Signal(engine), Order())
        engine.spawn {
            await lock.acquire(engine)
            await gate.wait()
            for name in ["first", "last"] {
                order.names.append(name)
                lock.release()
                await lock.acquire(engine)
            }
            lock.release()
        }
        engine.spawn {
            await lock.acquire(engine)
            order.names.append("second")
            lock.release()
        }
        engine.spawn { gate.fire() }
        _ = world.untilTrue { order.names.count == 3 }
        #expect(order.names == ["first", "second", "last"])
    }
}
