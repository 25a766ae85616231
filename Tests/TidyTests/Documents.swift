import Foundation

/// A Markdown file of the repository, line by line.
struct Document {
    /// A line, and what it belongs to.
    struct Line {
        let number: Int
        let text: String
        /// Whether it is within a block of code, its fences included.
        let isCode: Bool

        /// Whether it is a row of a table.
        var isRow: Bool { text.hasPrefix("|") && !isCode }

        /// What stands between single backticks, in order.
        var quoted: [String] {
            if isCode { return [] }
            let parts = text.components(separatedBy: "`")
            return stride(from: 1, to: parts.count - 1, by: 2).map { parts[$0] }
        }

        /// The cells of a row, without the outer borders.
        var cells: [String] {
            text.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
        }
    }

    /// Below the repository's root.
    let path: String
    let lines: [Line]

    init(_ path: String) throws {
        self.path = path
        let text = try String(contentsOf: TidyTests.root.appending(path: path), encoding: .utf8)
        var isCode = false
        var lines: [Line] = []
        for (index, line) in text.components(separatedBy: "\n").enumerated() {
            let isFence = line.hasPrefix("```")
            lines.append(Line(number: index + 1, text: line, isCode: isCode || isFence))
            if isFence { isCode.toggle() }
        }
        self.lines = lines
    }

    /// Every one that people write; what benchmarks write is not among them.
    static func all() throws -> [Document] {
        var paths = try FileManager.default.contentsOfDirectory(atPath: TidyTests.root.path)
        for folder in ["docs", "API", "Clients/python", "Sources/Drivers/Fault"] {
            paths += try FileManager.default.contentsOfDirectory(
                atPath: TidyTests.root.appending(path: folder).path
            ).map { "\(folder)/\($0)" }
        }
        return try paths.filter { $0.hasSuffix(".md") }.sorted().map { try Document($0) }
    }
}
