/// Text as wide as a terminal: 80 columns, whatever is in it.
enum Terminal {
    static let columns = 80

    /// How many columns a text takes: wide characters two, marks on others none.
    static func width(_ text: String) -> Int { text.reduce(0) { $0 + width($1) } }

    private static func width(_ character: Character) -> Int {
        guard let scalar = character.unicodeScalars.first else { return 0 }
        switch scalar.value {
        case 0x20..<0x7F: return 1
        // East Asian wide and full-width blocks (Unicode, UAX #11), emoji among them.
        case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F,
            0xFF00...0xFF60, 0xFFE0...0xFFE6, 0x1F300...0x1FAFF, 0x20000...0x3FFFD:
            return 2
        default: return scalar.properties.generalCategory == .nonspacingMark ? 0 : 1
        }
    }

    /// At most `limit` columns of a text: the middle gives way, for names and paths differ at their
    /// ends.
    static func shortened(_ text: String, to limit: Int) -> String {
        guard width(text) > limit else { return text }
        let mark = "..."
        guard limit > mark.count + 1 else { return String(mark.prefix(max(0, limit))) }
        let room = limit - mark.count
        let tail = part(Array(text.reversed()), room - room / 3)
        return String(part(Array(text), room / 3)) + mark + String(tail.reversed())
    }

    private static func part(_ characters: [Character], _ limit: Int) -> [Character] {
        var taken: [Character] = []
        var used = 0
        for character in characters {
            used += width(character)
            if used > limit { break }
            taken.append(character)
        }
        return taken
    }

    /// Words in lines, the first behind `first`, the others indented as far; a word that fits no
    /// line is shortened.
    static func wrapped(_ text: String, first: String) -> [String] {
        let indent = String(repeating: " ", count: width(first))
        let room = columns - indent.count
        var lines: [String] = []
        var line = ""
        for word in text.split(separator: " ").map({ shortened(String($0), to: room) }) {
            if line.isEmpty {
                line = word
            } else if width(line) + 1 + width(word) <= room {
                line += " " + word
            } else {
                lines.append(line)
                line = word
            }
        }
        if !line.isEmpty || lines.isEmpty { lines.append(line) }
        return lines.enumerated().map { ($0.offset == 0 ? first : indent) + $0.element }
    }
}

extension String {
    func padded(to width: Int) -> String {
        self + String(repeating: " ", count: max(0, width - Terminal.width(self)))
    }
}

/// Columns as wide as their widest cell, two spaces apart; where that is too wide, names and paths
/// are shortened.
struct TextTable {
    enum Column {
        case left(String)
        case right(String)
        /// On the left, and shortened where there is no room.
        case name(String)

        var title: String {
            switch self {
            case .left(let title), .right(let title), .name(let title): title
            }
        }
    }

    /// A name says nothing in less.
    private static let leastName = 8

    private let columns: [Column]
    private var rows: [[String]]

    init(_ columns: [Column]) {
        self.columns = columns
        rows = [columns.map(\.title)]
    }

    mutating func add(_ cells: [String]) {
        precondition(cells.count == columns.count)
        rows.append(cells)
    }

    private var widths: [Int] {
        var widths = columns.indices.map { column in
            rows.map { Terminal.width($0[column]) }.max() ?? 0
        }
        let names = columns.indices.filter {
            switch columns[$0] {
            case .name: true
            case .left, .right: false
            }
        }
        // The widest gives way first.
        while widths.reduce(0, +) + 2 * (widths.count - 1) > Terminal.columns {
            guard let widest = names.max(by: { widths[$0] < widths[$1] }),
                widths[widest] > Self.leastName
            else { break }
            widths[widest] -= 1
        }
        return widths
    }

    var text: String {
        let widths = widths
        return rows.map { row in
            var line = ""
            for (index, column) in columns.enumerated() {
                if index > 0 { line += "  " }
                switch column {
                case .left: line += row[index].padded(to: widths[index])
                case .name:
                    line += Terminal.shortened(row[index], to: widths[index])
                        .padded(to: widths[index])
                case .right:
                    let width = Terminal.width(row[index])
                    line += String(repeating: " ", count: max(0, widths[index] - width))
                    line += row[index]
                }
            }
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }
}
