import ArgumentParser
import PoolControl

/// What every verb takes that starts a job.
struct WaitOption: ParsableArguments {
    @Flag(help: "Wait for its end, and show how far it is; Ctrl-C leaves it to itself.")
    var wait = false
}

struct PoolScrub: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scrub", abstract: "Read everything, and mend what is wrong.",
        discussion: "Given again while it is under way it changes the rate.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var waiting: WaitOption
    @Flag(help: "Let the one under way rest.") var pause = false
    @Flag(help: "Let it go on.") var resume = false

    @Option(
        help: ArgumentHelp(
            "Bytes in a second, at most; default: as fast as the disks.", valueName: "size"),
        transform: Size.init(parsing:))
    var rate: Size?

    @OptionGroup var common: CommonOptions

    mutating func validate() throws {
        guard [waiting.wait, pause, resume].count(where: { $0 }) <= 1 else {
            throw ValidationError("--wait, --pause and --resume exclude each other")
        }
        if pause, rate != nil { throw ValidationError("--rate goes with --resume, not --pause") }
        if rate?.bytes == 0 { throw ValidationError("--rate is a size from 1 on, such as 50M") }
    }

    func run() throws {
        try NameRules.check(pool, "pool")
        let action: ScrubRequest.Action = pause ? .pause : resume ? .resume : .start
        let request = ScrubRequest(action, bytesPerSecond: rate?.bytes)
        try common.finish(
            common.client.send(.poolScrub(pool), request, expecting: JobAnswer.self),
            wait: waiting.wait)
    }
}

struct PoolRebalance: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rebalance", abstract: "Spread what is there over all disks.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var waiting: WaitOption
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        try common.finish(
            common.client.send(.poolRebalance(pool), expecting: JobAnswer.self),
            wait: waiting.wait)
    }
}

struct PoolRepair: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repair",
        abstract: "Rebuild now what lacks copies, without waiting for the repair delay.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var waiting: WaitOption
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        try common.finish(
            common.client.send(.poolRepair(pool), expecting: JobAnswer.self), wait: waiting.wait)
    }
}

extension CommonOptions {
    /// Shows a job that was accepted, or follows it to its end.
    func finish(_ answer: JobAnswer, wait: Bool) throws {
        guard wait else { return try show(answer, as: Reports.accepted) }
        try show(JobWatch(client, isJSON: json).follow(answer), as: Reports.ended)
    }
}
