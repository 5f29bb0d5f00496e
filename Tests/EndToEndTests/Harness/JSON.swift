/// A parsed JSON document: these tests check the bytes other programs rely on, so they do not share
/// poolctl's own message types.
enum JSON: Decodable, Equatable {
    case object([String: JSON])
    case list([JSON])
    case text(String)
    case integer(Int64)
    case number(Double)
    case truth(Bool)
    case null

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let truth = try? container.decode(Bool.self) {
            self = .truth(truth)
        } else if let integer = try? container.decode(Int64.self) {
            self = .integer(integer)
        } else if let number = try? container.decode(Double.self) {
            self = .number(number)
        } else if let text = try? container.decode(String.self) {
            self = .text(text)
        } else if let list = try? container.decode([JSON].self) {
            self = .list(list)
        } else {
            self = .object(try container.decode([String: JSON].self))
        }
    }

    subscript(key: String) -> JSON? {
        guard case .object(let members) = self else { return nil }
        return members[key]
    }

    var keys: Set<String> {
        guard case .object(let members) = self else { return [] }
        return Set(members.keys)
    }

    var elements: [JSON] {
        guard case .list(let elements) = self else { return [] }
        return elements
    }

    var asText: String? {
        guard case .text(let text) = self else { return nil }
        return text
    }

    var asInteger: Int64? {
        guard case .integer(let integer) = self else { return nil }
        return integer
    }

    var isNumber: Bool {
        switch self {
        case .integer, .number: true
        case .object, .list, .text, .truth, .null: false
        }
    }
}
