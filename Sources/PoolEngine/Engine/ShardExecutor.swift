/// Runs asynchronous slow paths on the driver's own thread, first in, first out, inside `poll`.
///
/// Jobs are only ever enqueued from that thread: continuations are resumed by completions, which
/// the driver hands over there. That makes it deterministic and free of locks.
final class ShardExecutor: TaskExecutor, @unchecked Sendable {
    private var jobs: [UnownedJob] = []
    private var next = 0

    var hasJobs: Bool { next < jobs.count }

    func enqueue(_ job: consuming ExecutorJob) {
        jobs.append(UnownedJob(job))
    }

    func drain() {
        while next < jobs.count {
            let job = jobs[next]
            next += 1
            unsafe job.runSynchronously(on: asUnownedTaskExecutor())
        }
        jobs.removeAll(keepingCapacity: true)
        next = 0
    }
}

/// Something to wait for: every waiter goes on when it fires.
///
/// A stopped engine fires everything, so a waiter checks ``Engine/isStopped`` afterwards.
@safe
final class Signal: @unchecked Sendable {
    private unowned let engine: Engine
    private var waiters: [UnsafeContinuation<Void, Never>] = unsafe []

    init(_ engine: Engine) {
        self.engine = engine
        engine.register(self)
    }

    func wait() async {
        guard !engine.isStopped else { return }
        // Resumed exactly once: `fire` empties the list before it resumes.
        await unsafe withUnsafeContinuation { unsafe waiters.append($0) }
    }

    func fire() {
        guard unsafe !waiters.isEmpty else { return }
        let resumed = unsafe waiters
        unsafe waiters = []
        for unsafe waiter in unsafe resumed { unsafe waiter.resume() }
    }
}

/// One slow path at a time, in order of arrival: whoever lets go comes behind all who wait.
final class AsyncLock: @unchecked Sendable {
    private var arrived: UInt64 = 0
    private var served: UInt64 = 0
    private let released: Signal

    init(_ engine: Engine) { released = Signal(engine) }

    func acquire(_ engine: Engine) async {
        let turn = arrived
        arrived += 1
        while served != turn && !engine.isStopped { await released.wait() }
    }

    func release() {
        served += 1
        released.fire()
    }
}
