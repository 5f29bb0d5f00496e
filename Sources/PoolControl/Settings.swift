/// A setting as `pool get` shows it.
public struct Setting: Hashable, Sendable, Codable {
    public var key: String
    public var value: String
    /// What holds while nobody has chosen.
    public var `default`: String
    /// In words, for people.
    public var meaning: String

    public init(key: String, value: String, default: String, meaning: String) {
        self.key = key
        self.value = value
        self.default = `default`
        self.meaning = meaning
    }
}

public struct SettingList: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var pool: String
    public var settings: [Setting]
    public init(pool: String, settings: [Setting]) {
        self.pool = pool
        self.settings = settings
    }
}

/// What `pool set` takes. `default` as a value goes back to the default.
public enum PoolKey: String, Hashable, Sendable, CaseIterable {
    case thresholds, compaction
    case repairDelay = "repair_delay"
    case repairPriority = "repair_priority"
}

/// What `disk set` takes. An empty tag takes the tag away.
public enum DiskKey: String, Hashable, Sendable, CaseIterable {
    case media, enclosure, node, rack
}

/// What `space set` takes.
public enum SpaceKey: String, Hashable, Sendable, CaseIterable {
    case whenFull = "when_full"
    case writeCache = "write-cache"
    case name
}

/// Reading `KEY=VALUE`, and saying what is wrong with one.
public enum SettingText {
    public static let byDefault = "default"

    /// Splits at the first `=`.
    public static func change(_ text: String) throws(ControlFailure) -> SettingChange {
        guard let equals = text.firstIndex(of: "="), equals != text.startIndex else {
            throw ControlFailure(
                .invalid, "'\(NameRules.printable(text))' is not of the form KEY=VALUE",
                hint: "write a key, '=' and a value, without spaces")
        }
        return SettingChange(
            key: String(text[..<equals]), value: String(text[text.index(after: equals)...]))
    }

    /// The changes with their keys known, in order.
    ///
    /// - Throws: for no change at all, a key that is not known or is there twice.
    public static func known<Key: RawRepresentable & CaseIterable & Hashable>(
        _ changes: [SettingChange], as type: Key.Type
    ) throws(ControlFailure) -> [(key: Key, value: String)] where Key.RawValue == String {
        let names = Key.allCases.map(\.rawValue)
        guard !changes.isEmpty else {
            throw ControlFailure(
                .invalid, "nothing to set", hint: "the keys are: \(names.joined(separator: ", "))")
        }
        var known: [(key: Key, value: String)] = []
        for change in changes {
            guard let key = Key(rawValue: change.key) else {
                throw ControlFailure(
                    .invalid, "there is no key '\(NameRules.printable(change.key))'",
                    hint: (Nearest.match(change.key, among: names)
                        .map { "did you mean '\($0)'? " } ?? "")
                        + "the keys are: \(names.joined(separator: ", "))")
            }
            guard !known.contains(where: { $0.key == key }) else {
                throw ControlFailure(
                    .invalid, "\(key.rawValue) is there twice", hint: "give each key once")
            }
            known.append((key, change.value))
        }
        return known
    }

    /// A value that is one of a few words.
    public static func word<Word: RawRepresentable & CaseIterable>(
        _ value: String, of key: String, as type: Word.Type
    ) throws(ControlFailure) -> Word where Word.RawValue == String {
        guard let word = Word(rawValue: value) else {
            throw bad(
                key, value, "use \(Word.allCases.map(\.rawValue).joined(separator: " or "))")
        }
        return word
    }

    /// A fault domain's tag: a name, or nothing.
    public static func tag(_ value: String, of key: String) throws(ControlFailure) -> String {
        guard value.isEmpty || NameRules.isValid(value) else {
            throw bad(
                key, value,
                "use 1 to 64 letters, digits, '.', '_' or '-'; '\(key)=' takes the tag away")
        }
        return value
    }

    /// Whole percentages, separated by commas; nil where one is none.
    public static func percentages(_ value: String) -> [UInt8]? {
        let parts = value.split(separator: ",", omittingEmptySubsequences: false)
        let numbers = parts.compactMap { part -> UInt8? in
            part.allSatisfy { $0.isASCII && $0.isNumber } ? UInt8(part) : nil
        }
        return numbers.count == parts.count ? numbers : nil
    }

    public static func bad(_ key: String, _ value: String, _ hint: String) -> ControlFailure {
        ControlFailure(
            .invalid, "'\(NameRules.printable(value))' is not a value of \(key)", hint: hint)
    }
}
