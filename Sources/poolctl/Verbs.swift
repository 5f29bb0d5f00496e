import ArgumentParser
import PoolControl

/// A command line that cannot be carried out as it stands: status 64.
struct UsageFailure: Error {
    var failure: ControlFailure
    init(_ what: String, hint: String) {
        failure = ControlFailure(.invalid, what, hint: hint)
    }
}

/// Looks at the verb before anything else: with a verb that does not exist every option is unknown,
/// and it is the verb that has to be named.
enum Verbs {
    /// What the parser itself takes in place of a verb.
    private static let reserved: Set<String> = [
        "help", "--help", "-h", "--version", "--generate-completion-script",
        "--experimental-dump-help",
    ]

    static func check(_ arguments: [String]) throws(UsageFailure) {
        var commands = Poolctl.configuration.subcommands
        var path = "poolctl"
        var rest = arguments[...]
        while !commands.isEmpty {
            let names = commands.compactMap { $0.configuration.commandName }
            guard let word = rest.popFirst() else {
                throw UsageFailure(
                    "\(path) needs a verb", hint: "\(list(names)); see '\(path) --help'")
            }
            let isReserved = reserved.contains { word == $0 || word.hasPrefix("\($0)=") }
            if isReserved { return }
            if word.hasPrefix("-") {
                throw UsageFailure(
                    "'\(NameRules.printable(word))' stands where a verb should",
                    hint: "write \(path) VERB first, options behind it; \(list(names))")
            }
            guard let next = commands.first(where: { $0.configuration.commandName == word }) else {
                throw UsageFailure(
                    "there is no verb '\(path.dropFirst("poolctl".count + 1))"
                        + "\(path == "poolctl" ? "" : " ")\(NameRules.printable(word))'",
                    hint: Nearest.match(word, among: names).map { "did you mean '\(path) \($0)'?" }
                        ?? list(names))
            }
            path += " \(word)"
            commands = next.configuration.subcommands
        }
    }

    private static func list(_ names: [String]) -> String {
        "the verbs are: \(names.joined(separator: ", "))"
    }
}
