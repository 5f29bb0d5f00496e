import PoolControl
import Testing

@testable import poolctl

/// `--wait` against what a daemon may answer.
@Suite struct JobFollowTests {
    private static func job(
        _ id: UInt64, _ state: JobState, _ progress: Double = 0, kind: JobKind = .repair,
        subject: String = "tank", lost: UInt64 = 0
    ) -> JobStatus {
        JobStatus(
            id: id, kind: kind, subject: subject, state: state,
            reason: state == .running || state == .done && lost == 0 ? "" : "r\(id)",
            action: state == .failed || state == .blocked || lost > 0 ? "a\(id)" : "",
            progress: progress, lostBlocks: lost)
    }

    private static func list(_ jobs: [JobStatus], uptime: UInt64 = 100) -> JobList {
        JobList(pool: "tank", jobs: jobs, uptimeSeconds: uptime)
    }

    private static let accepted = JobAnswer(
        pool: "tank", job: job(3, .waiting), uptimeSeconds: 100)

    private static let lost = ControlFailure(.unavailable, "no poold at /d", hint: "start one")

    private typealias Followed = (
        result: Result<JobAnswer, ControlFailure>, written: String, looks: Int, farewell: String
    )

    /// What is seen, a second apart, and how it ended.
    private static func follow(
        _ seen: [Result<JobList, ControlFailure>], style: JobProgress.Style = .lines
    ) -> Followed {
        var (looks, written, farewell) = (0, "", "")
        let watch = JobWatch(
            style: style,
            look: { _ in
                defer { looks += 1 }
                return try seen[min(looks, seen.count - 1)].get()
            },
            wait: { if looks > 1000 { fatalError("it waits for ever") } },
            nowSeconds: { Double(looks) }, write: { written += $0 },
            onInterrupt: {
                farewell += $0
                return nil
            })
        let result: Result<JobAnswer, ControlFailure>
        do {
            result = .success(try watch.follow(accepted))
        } catch {
            result = .failure(error as? ControlFailure ?? lost)
        }
        return (result, written, looks, farewell)
    }

    private static func failure(_ seen: [Result<JobList, ControlFailure>]) -> ControlFailure? {
        switch follow(seen).result {
        case .success: nil
        case .failure(let failure): failure
        }
    }

    @Test func aJobIsFollowedUntilItIsDone() throws {
        let states: [(JobState, Double)] = [
            (.waiting, 0), (.running, 0), (.running, 0.04), (.running, 0.5), (.paused, 0.5),
            (.running, 0.5), (.running, 0.95), (.done, 1),
        ]
        let (result, written, looks, farewell) = Self.follow(
            states.map { .success(Self.list([Self.job(3, $0.0, $0.1)])) })
        #expect(try result.get().job == Self.job(3, .done, 1))
        #expect(looks == states.count)
        #expect(
            written == """
                repair of tank: waiting, r3
                repair of tank: 0 %
                repair of tank: 50 %
                repair of tank: paused, r3
                repair of tank: 50 %
                repair of tank: 95 %
                repair of tank: 100 %

                """)
        #expect(farewell == "the repair of tank goes on; see poolctl pool status tank\n")
    }

    @Test func itsSuccessorsAreFollowedToo() throws {
        let other = Self.job(4, .running, subject: "disk9")
        let (result, _, looks, _) = Self.follow([
            .success(Self.list([Self.job(3, .running), other])),
            .success(Self.list([Self.job(3, .done), other, Self.job(5, .waiting)])),
            .success(Self.list([Self.job(5, .running), other])),
            // One that began and ended between two looks, and another behind it.
            .success(
                Self.list([Self.job(5, .done), Self.job(6, .done), Self.job(7, .running), other])),
            .success(Self.list([Self.job(7, .done), other])),
        ])
        #expect(try result.get().job.id == 7)
        #expect(looks == 5)
    }

    @Test func whatSomebodyElseBeganIsNotFollowed() throws {
        let scrub = Self.job(4, .running, kind: .scrub)
        let (result, written, looks, _) = Self.follow([
            .success(Self.list([Self.job(3, .running), scrub])),
            .success(Self.list([Self.job(3, .done), Self.job(4, .failed, kind: .scrub)])),
        ])
        #expect(try result.get().job.id == 3)
        #expect(looks == 2 && !written.contains("scrub"))
    }

    @Test func whatFailsIsAFailure() {
        #expect(
            Self.failure([
                .success(Self.list([Self.job(3, .running)])),
                .success(Self.list([Self.job(3, .failed)])),
            ]) == ControlFailure(.failed, "the repair of tank failed: r3", hint: "a3"))
        // So does a successor's failure, seen or not.
        #expect(
            Self.failure([.success(Self.list([Self.job(3, .done), Self.job(4, .failed)]))])?.what
                == "the repair of tank failed: r4")
    }

    @Test func blocksThatAreLostAreAFailureAtTheEnd() {
        let lossy = Self.job(3, .done, lost: 2)
        let seen: [Result<JobList, ControlFailure>] = [
            .success(Self.list([lossy, Self.job(4, .running)])),
            .success(Self.list([Self.job(4, .running)])),
            .success(Self.list([Self.job(4, .done)])),
        ]
        #expect(Self.follow(seen).looks == 3)
        #expect(
            Self.failure(seen)
                == ControlFailure(.failed, "the repair of tank left errors: r3", hint: "a3"))
    }

    @Test func whatIsBlockedForAMomentGoesOn() throws {
        let blocked = Result<JobList, ControlFailure>.success(Self.list([Self.job(3, .blocked)]))
        let running = Result<JobList, ControlFailure>.success(Self.list([Self.job(3, .running)]))
        let done = Result<JobList, ControlFailure>.success(Self.list([Self.job(3, .done)]))
        let brief = [blocked, blocked, running, blocked, blocked, blocked, blocked, done]
        #expect(try Self.follow(brief).result.get().job.state == .done)
        let (_, _, looks, _) = Self.follow([blocked])
        #expect(looks == Int(JobFollower.blockedSeconds) + 1)
        #expect(
            Self.failure([blocked])
                == ControlFailure(.failed, "the repair of tank is blocked: r3", hint: "a3"))
    }

    @Test func aDaemonThatDoesNotAnswerIsGivenSomeTime() throws {
        let running = Result<JobList, ControlFailure>.success(Self.list([Self.job(3, .running)]))
        let done = Result<JobList, ControlFailure>.success(Self.list([Self.job(3, .done)]))
        let silence = [Result<JobList, ControlFailure>](repeating: .failure(Self.lost), count: 14)
        #expect(try Self.follow([running] + silence + [running] + silence + [done]).result.get()
            .job.state == .done)
        let failure = Self.failure([running, .failure(Self.lost)])
        #expect(
            failure?.what == "no poold at /d, and so the repair of tank is out of sight")
        #expect(failure?.hint == "start one; then see poolctl pool status tank")
        let gone = ControlFailure(.notFound, "there is no pool tank", hint: "h")
        #expect(Self.failure([running, .failure(gone)]) == gone)
        #expect(Self.follow([running, .failure(gone)]).looks == 2)
    }

    @Test func aDaemonThatWasRestartedCountsAnew() throws {
        let running = Result<JobList, ControlFailure>.success(Self.list([Self.job(3, .running)]))
        let again = Result<JobList, ControlFailure>.success(
            Self.list([Self.job(1, .running), Self.job(3, .done, kind: .scrub)], uptime: 2))
        let done = Result<JobList, ControlFailure>.success(
            Self.list([Self.job(1, .done)], uptime: 9))
        #expect(
            try Self.follow([running, .failure(Self.lost), again, done]).result.get().job.id == 1)
        // What has this number now is something else.
        let other = Result<JobList, ControlFailure>.success(
            Self.list([Self.job(3, .done, kind: .scrub)], uptime: 2))
        #expect(
            Self.failure([running, other])?.what
                == "the repair of tank is no longer listed: poold was restarted")
        #expect(
            Self.failure([running, .success(Self.list([Self.job(90, .done)]))])?.what
                == "the repair of tank is no longer listed")
    }

    @Test func aTerminalHasOneLineThatIsDrawnOver() {
        var half = Self.job(3, .running, 0.5)
        (half.bytesPerSecond, half.etaSeconds) = (120 << 20, 125)
        let (_, written, _, farewell) = Self.follow(
            [.success(Self.list([half])), .success(Self.list([Self.job(3, .done, 1)]))],
            style: .bar)
        #expect(
            written == "\rrepair of tank [##########          ] 50 %, 120 MiB/s, "
                + "2 minutes left\u{1B}[K"
                + "\rrepair of tank [####################] 100 %\u{1B}[K\n")
        #expect(farewell.hasPrefix("\n"))
        let silent = Self.follow([.success(Self.list([Self.job(3, .done)]))], style: .silent)
        #expect(silent.written == "")
    }

    @Test func aLineNowAndThenSaysThatItGoesOn() {
        var progress = JobProgress(.lines)
        let told = stride(from: 0, through: 300, by: 1).filter { second in
            progress.text(
                Self.job(3, .running, Double(second) / 10_000), seconds: Double(second)) != nil
        }
        #expect(told == [0, 60, 120, 180, 240, 300])
    }
}
