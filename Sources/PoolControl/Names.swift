/// The rules for names of pools and spaces, and what to say of one that breaks them.
public enum NameRules {
    public static let maximumBytes = 64

    /// Whether `name` is 1 to 64 bytes of ASCII letters, digits, `.`, `_` and `-` that begins with
    /// neither `-` (it would read as an option) nor `.` (it would read as a path).
    public static func isValid(_ name: String) -> Bool {
        let bytes = name.utf8
        guard let first = bytes.first, bytes.count <= maximumBytes else { return false }
        guard first != UInt8(ascii: "-"), first != UInt8(ascii: ".") else { return false }
        return bytes.allSatisfy(isAllowed)
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "-"):
            true
        default:
            false
        }
    }

    /// Refuses a name that breaks the rules; `noun` is "pool" or "space".
    public static func check(_ name: String, _ noun: String) throws(ControlFailure) {
        guard !isValid(name) else { return }
        throw ControlFailure(
            .invalid, "'\(printable(name))' is not a \(noun) name",
            hint: "use 1 to 64 letters, digits, '.', '_' or '-', not beginning with '.' or '-'")
    }

    /// `text` cut to what fits in a message, control characters replaced: it came from outside.
    public static func printable(_ text: String) -> String { printable(text, 80) }

    /// The same for a whole line of text.
    public static func printableLine(_ text: String) -> String { printable(text, 1000) }

    /// The same for a path, whole as far as the system allows paths.
    public static func printablePath(_ text: String) -> String { printable(text, 4096) }

    private static func printable(_ text: String, _ limit: Int) -> String {
        let cut = text.unicodeScalars.prefix(limit)
        var result = String.UnicodeScalarView()
        for scalar in cut {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned,
                .privateUse:
                result.append("?")
            default:
                result.append(scalar)
            }
        }
        return String(result) + (cut.count < text.unicodeScalars.count ? "..." : "")
    }
}

/// `POOL/SPACE`, both names valid.
public struct SpacePath: Hashable, Sendable, CustomStringConvertible {
    public let pool: String
    public let space: String

    public init(pool: String, space: String) throws(ControlFailure) {
        try NameRules.check(pool, "pool")
        try NameRules.check(space, "space")
        self.pool = pool
        self.space = space
    }

    public init(_ text: String) throws(ControlFailure) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2 else {
            throw ControlFailure(
                .invalid, "'\(NameRules.printable(text))' is not of the form POOL/SPACE",
                hint: "name the pool and the space, such as tank/vm1")
        }
        try self.init(pool: String(parts[0]), space: String(parts[1]))
    }

    public var description: String { "\(pool)/\(space)" }
}

/// Finds what a misspelt name was meant to be.
public enum Nearest {
    /// The candidate with the fewest edits from `name`, if that is at most a third of its length
    /// (at least one); the first in order among equals. Costs length x length for each candidate,
    /// so only names within the 64-byte rule are compared.
    public static func match(_ name: String, among candidates: [String]) -> String? {
        let wanted = Array(name.lowercased().utf8)
        guard wanted.count <= 2 * NameRules.maximumBytes + 1 else { return nil }
        let bound = max(1, wanted.count / 3)
        var best: (name: String, edits: Int)?
        for candidate in candidates {
            let edits = distance(wanted, Array(candidate.lowercased().utf8))
            if edits <= bound, edits < best?.edits ?? Int.max { best = (candidate, edits) }
        }
        return best?.name
    }

    /// Edits (insert, delete, replace, swap of neighbours) between two texts: the restricted
    /// Damerau-Levenshtein distance.
    static func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
        var beforePrevious = [Int](repeating: 0, count: b.count + 1)
        var previous = Array(0...b.count)
        for i in a.indices {
            var current = [i + 1]
            for j in b.indices {
                var edits = min(previous[j + 1] + 1, current[j] + 1)
                edits = min(edits, previous[j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
                    edits = min(edits, beforePrevious[j - 1] + 1)
                }
                current.append(edits)
            }
            beforePrevious = previous
            previous = current
        }
        return previous[b.count]
    }
}
