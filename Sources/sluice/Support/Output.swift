import ArgumentParser
import Core
import FoundationEssentials
import Yams

/// The forms in which a command can print.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable, Sendable {
    case table, json, yaml
}

extension OutputFormat {
    /// Prints a list: a table, or an array.
    func show<Item: Presentable>(list: [Item]) throws {
        switch self {
        case .table: Terminal.line(Table(columns: Item.columns, rows: list.map(\.row)).text)
        case .json, .yaml: try show(value: list)
        }
    }

    /// Prints one resource: its properties, or an object.
    func show(one: some Presentable) throws {
        switch self {
        case .table: Terminal.line(Table.properties(one.details))
        case .json, .yaml: try show(value: one)
        }
    }

    /// Prints what a command did: a sentence, or the object it did it to.
    func show(_ value: some Encodable, sentence: Sentence) throws {
        if self == .table { Terminal.line(sentence.text) } else { try show(value: value) }
    }

    /// The same with a sentence that is a single value, such as a token.
    @_disfavoredOverload
    func show(_ value: some Encodable, sentence: String) throws {
        try show(value, sentence: "\(sentence)")
    }

    /// Prints one more of a list that goes on: a row, a line of JSON, or a document of YAML.
    func show(next item: some Presentable) {
        switch self {
        case .table: Terminal.line(Table.row(item.row))
        case .json:
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            guard let bytes = try? encoder.encode(item) else { return }
            Terminal.line(String(decoding: bytes, as: UTF8.self))
        case .yaml:
            Terminal.line("---")
            try? show(value: item)
        }
    }

    private func show(value: some Encodable) throws {
        switch self {
        case .yaml:
            let encoder = YAMLEncoder()
            encoder.options.sortKeys = true
            encoder.options.allowUnicode = true
            var text = try encoder.encode(value)
            if ShownText.lines(text) != text {
                // Only a quoted scalar has escapes.
                encoder.options.allowUnicode = false
                text = try encoder.encode(value)
            }
            Terminal.line(text.trimmingSuffix { $0 == "\n" })
        case .json, .table:
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
            Terminal.line(JSONText.closed(String(decoding: try encoder.encode(value), as: UTF8.self)))
        }
    }
}

/// JSON that a person reads.
enum JSONText {
    /// The text with every list and object that holds nothing in one piece: texts in it have no line ends.
    static func closed(_ text: String) -> String {
        var lines: [Substring] = []
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let end = line.drop { $0 == " " }
            if let last = lines.last, last.isEmpty, lines.count > 1, end.hasPrefix("]") || end.hasPrefix("}")
            {
                lines.removeLast()
                lines[lines.count - 1] += end
            } else {
                lines.append(line)
            }
        }
        return lines.joined(separator: "\n")
    }
}

extension String {
    fileprivate func trimmingSuffix(while condition: (Character) -> Bool) -> String {
        var rest = self[...]
        while let last = rest.last, condition(last) { rest.removeLast() }
        return String(rest)
    }
}

/// What a command says: its own words, which may be several lines, and values in them, which stay one line each.
struct Sentence: ExpressibleByStringInterpolation {
    /// The whole.
    private(set) var text: String

    init(stringLiteral text: String) { self.text = text }

    init(stringInterpolation parts: Parts) { text = parts.text }

    /// Lines that this program has put together of words and numbers of its own.
    init(ownLines text: String) { self.text = text }

    static func + (left: Sentence, right: Sentence) -> Sentence {
        Sentence(ownLines: left.text + right.text)
    }

    /// What a literal is made of.
    struct Parts: StringInterpolationProtocol {
        fileprivate var text = ""

        init(literalCapacity: Int, interpolationCount: Int) {
            text.reserveCapacity(literalCapacity + 16 * interpolationCount)
        }

        mutating func appendLiteral(_ literal: String) { text += literal }

        mutating func appendInterpolation(_ value: some CustomStringConvertible) {
            text += ShownText.line(value.description)
        }

        mutating func appendInterpolation(_ sentence: Sentence) { text += sentence.text }
    }
}

/// Text in columns.
struct Table {
    var columns: [String]
    var rows: [[String]]

    /// The headings and the rows, each column as wide as its widest cell; an empty cell shows as `-`.
    var text: String {
        let cells = [columns] + rows.map { row in row.map { $0.isEmpty ? "-" : ShownText.line($0) } }
        let widths = columns.indices.map { index in cells.map { $0[index].count }.max() ?? 0 }
        return cells.map { row in Table.line(row, widths) }.joined(separator: "\n")
    }

    /// `Name:  value` lines, without those that have no value.
    static func properties(_ details: [(name: String, value: String)]) -> String {
        let shown = details.filter { !$0.value.isEmpty }
        let width = (shown.map(\.name.count).max() ?? 0) + 1
        return shown.map { line([$0.name + ":", ShownText.line($0.value)], [width, 0]) }.joined(
            separator: "\n")
    }

    /// A row without a table around it: cells in columns of a usual width.
    static func row(_ cells: [String]) -> String {
        line(cells.map { $0.isEmpty ? "-" : ShownText.line($0) }, cells.map { _ in 18 })
    }

    private static func line(_ cells: [String], _ widths: [Int]) -> String {
        zip(cells, widths).enumerated().map { index, cell in
            let padding = index == cells.count - 1 ? 0 : max(0, cell.1 - cell.0.count) + 2
            return cell.0 + String(repeating: " ", count: padding)
        }.joined()
    }
}
