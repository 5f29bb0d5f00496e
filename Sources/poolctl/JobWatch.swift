import Foundation
import PoolControl

/// Follows a job of a daemon, and shows how far it is.
struct JobWatch {
    static let pollMicroseconds: UInt32 = 500_000

    var style: JobProgress.Style
    /// The pool's jobs as they are now.
    var look: (_ pool: String) throws -> JobList
    /// Lets some time go by.
    var wait: () -> Void
    var nowSeconds: () -> Double
    var write: (String) -> Void
    /// Called before the first wait, with what to say when somebody wants no more of this; what it
    /// returns is kept until the end.
    var onInterrupt: (_ farewell: String) -> Any?

    /// - Throws: ``ControlFailure`` where it ended badly, is blocked, or cannot be seen any more.
    func follow(_ answer: JobAnswer) throws -> JobAnswer {
        var follower = JobFollower(answer)
        var progress = JobProgress(style)
        let interrupt = onInterrupt(
            (style == .bar ? "\n" : "")
                + "the \(Reports.title(answer.job)) goes on; "
                + "see poolctl pool status \(answer.pool)\n")
        defer { withExtendedLifetime(interrupt) {} }
        while true {
            let step: JobFollower.Step
            do {
                step = follower.see(try look(answer.pool), seconds: nowSeconds())
            } catch let failure as ControlFailure {
                step = follower.miss(failure, seconds: nowSeconds())
            }
            switch step {
            case .goesOn(let job):
                if let text = progress.text(job, seconds: nowSeconds()) { write(text) }
                wait()
            case .ended(let job):
                if let text = progress.text(job, seconds: nowSeconds()) { write(text) }
                write(progress.end)
                var last = answer
                last.job = job
                return last
            case .givenUp(let failure):
                write(progress.end)
                throw failure
            }
        }
    }
}

extension JobWatch {
    /// Progress goes where the report goes; with --json, where nothing else may stand, it is shown
    /// only to somebody at a terminal, on the standard error.
    init(_ client: ControlClient, isJSON: Bool) {
        let output = isJSON ? FileHandle.standardError : FileHandle.standardOutput
        let isTerminal = isatty(output.fileDescriptor) == 1
        style = isTerminal ? .bar : isJSON ? .silent : .lines
        look = { try client.send(.jobList($0), expecting: JobList.self) }
        wait = { usleep(Self.pollMicroseconds) }
        nowSeconds = {
            let parts = (ContinuousClock.now - Self.started).components
            return Double(parts.seconds) + Double(parts.attoseconds) / 1e18
        }
        // Whoever read it may be gone: the job is followed all the same.
        write = { try? output.write(contentsOf: Data($0.utf8)) }
        onInterrupt = Self.detach
    }

    private static let started = ContinuousClock.now

    /// Ctrl-C ends this program and not the job, whatever the program waits for just then.
    private static func detach(_ farewell: String) -> Any? {
        signal(SIGINT, SIG_IGN)
        let interrupts = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
        interrupts.setEventHandler {
            try? FileHandle.standardError.write(contentsOf: Data(farewell.utf8))
            exit(0)
        }
        interrupts.resume()
        return interrupts
    }
}
