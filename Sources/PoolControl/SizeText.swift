/// Sizes as people type and read them: K, M, G and T are powers of two, a plain number is bytes.
public enum SizeText {
    /// Why a text is not a size.
    public enum ParseError: Error, Hashable, Sendable, CustomStringConvertible {
        case empty
        case notANumber(String)
        case unknownUnit(String)
        case tooLarge(String)

        public var description: String {
            switch self {
            case .empty: "a size cannot be empty"
            case .notANumber(let text): "'\(text)' is not a size"
            case .unknownUnit(let unit): "'\(unit)' is not a unit of size"
            case .tooLarge(let text): "'\(text)' is larger than any size here"
            }
        }

        public var hint: String {
            "write a whole number and K, M, G or T (powers of two), such as 512M or 2T"
        }
    }

    /// Units in the order of their powers of 1024; index 0 is K.
    private static let units: [Character] = ["K", "M", "G", "T"]

    /// The bytes that `text` stands for: digits, then nothing, a unit, or a unit with `iB`.
    ///
    /// - Throws: ``ParseError``, also where the result would exceed 2^63 - 1.
    public static func parse(_ text: String) throws(ParseError) -> UInt64 {
        guard !text.isEmpty else { throw .empty }
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard !digits.isEmpty else { throw .notANumber(text) }
        guard let count = UInt64(digits) else { throw .tooLarge(text) }
        var unit = text[digits.endIndex...]
        guard !unit.isEmpty else { return try bounded(count, 1, text) }
        if unit.count == 3, unit.hasSuffix("iB") { unit = unit.prefix(1) }
        guard unit.count == 1, let letter = unit.uppercased().first,
            let power = units.firstIndex(of: letter)
        else {
            // "1.5G" is a number someone meant, "10 apples" is a unit nobody has.
            throw unit.first == "." ? .notANumber(text) : .unknownUnit(String(unit))
        }
        return try bounded(count, UInt64(1) << UInt64(10 * (power + 1)), text)
    }

    private static func bounded(
        _ count: UInt64, _ unitBytes: UInt64, _ text: String
    ) throws(ParseError) -> UInt64 {
        let (bytes, overflow) = count.multipliedReportingOverflow(by: unitBytes)
        guard !overflow, bytes <= UInt64(Int64.max) else { throw .tooLarge(text) }
        return bytes
    }

    /// At most 9 characters: `0 B`, `512 B`, `8 GiB`, `7.9 GiB`, `1023 MiB`. Rounded down, so that
    /// what looks like enough room is enough room.
    public static func format(_ bytes: UInt64) -> String {
        var power = 0
        var unitBytes: UInt64 = 1
        while power < units.count, bytes / unitBytes >= 1024 {
            unitBytes <<= 10
            power += 1
        }
        guard power > 0 else { return "\(bytes) B" }
        let whole = bytes / unitBytes
        let tenths = bytes % unitBytes * 10 / unitBytes
        let number = whole >= 100 || tenths == 0 ? "\(whole)" : "\(whole).\(tenths)"
        return "\(number) \(units[power - 1])iB"
    }

    /// The shortest text that ``parse(_:)`` reads back as exactly these bytes: `2049M`, `512`.
    public static func exact(_ bytes: UInt64) -> String {
        for power in units.indices.reversed() {
            let unitBytes = UInt64(1) << UInt64(10 * (power + 1))
            if bytes > 0, bytes % unitBytes == 0 { return "\(bytes / unitBytes)\(units[power])" }
        }
        return "\(bytes)"
    }
}

/// Lengths of time as people say them.
public enum DurationText {
    private static let units: [(name: String, seconds: UInt64)] = [
        ("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("year", 31_557_600),
    ]

    /// In the largest unit of which there are two: `59 seconds`, `90 minutes`, `2 days`.
    public static func format(_ seconds: UInt64) -> String {
        let unit = units.last { seconds >= 2 * $0.seconds } ?? units[0]
        let count = seconds / unit.seconds
        return "\(count) \(unit.name)\(count == 1 ? "" : "s")"
    }

    /// Units as they are typed, in ascending order.
    private static let typed: [(letter: Character, seconds: UInt32)] = [
        ("s", 1), ("m", 60), ("h", 3600),
    ]

    /// The seconds that `text` stands for: digits, then nothing, `s`, `m` or `h`; nil where it is
    /// none, or more than fits.
    public static func parse(_ text: String) -> UInt32? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let count = UInt32(digits) else { return nil }
        let unit = text[digits.endIndex...]
        guard !unit.isEmpty else { return count }
        guard let found = typed.first(where: { String($0.letter) == unit }) else { return nil }
        let (seconds, overflow) = count.multipliedReportingOverflow(by: found.seconds)
        return overflow ? nil : seconds
    }

    /// The shortest text that ``parse(_:)`` reads back as exactly these seconds: `90s`, `5m`.
    public static func exact(_ seconds: UInt32) -> String {
        let unit = typed.last { seconds > 0 && seconds % $0.seconds == 0 } ?? typed[0]
        return "\(seconds / unit.seconds)\(unit.letter)"
    }
}
