import Foundation
import Testing

/// SPECIFICATION.md names for each number what holds it; here each of those is looked for.
@Suite struct SpecificationTests {
    /// What rows of the tables name in their last column.
    private func holders() throws -> [(line: Int, name: String)] {
        try Document("SPECIFICATION.md").lines.filter { $0.isRow && $0.cells.count == 3 }.flatMap { line in
            let cell = line.cells[2].components(separatedBy: "`")
            return stride(from: 1, to: cell.count - 1, by: 2).map { (line.number, cell[$0]) }
        }
    }

    private func text(_ path: String) -> String? {
        try? String(contentsOf: TidyTests.root.appending(path: path), encoding: .utf8)
    }

    @Test func everyPromiseNamesWhatHoldsIt() throws {
        var isTable = false
        for line in try Document("SPECIFICATION.md").lines {
            if line.text.hasPrefix("## ") { isTable = !line.text.contains("no test holds") }
            guard line.isRow else { continue }
            #expect(isTable, "line \(line.number): a promise that no test holds is no row")
            guard line.cells.count == 3, line.cells[0] != "promise", !line.cells[0].hasPrefix("--") else {
                #expect(line.cells.count == 3, "line \(line.number): promise, number, what holds it")
                continue
            }
            #expect(line.cells[2].contains("`"), "line \(line.number): nothing holds it")
        }
    }

    @Test func whatHoldsAPromiseExists() throws {
        let sources = try TidyTests.sources(below: "Tests")
        let holders = try holders()
        #expect(holders.count > 60)
        for (line, name) in holders {
            let place = "SPECIFICATION.md:\(line): \(name)"
            let parts = name.components(separatedBy: "::")
            if parts.count == 2 {
                let file = text("Tests/system/\(parts[0])") ?? ""
                #expect(file.contains("def \(parts[1])("), "\(place) is no test")
            } else if name.hasPrefix("Tests/") || name.hasPrefix("Clients/") {
                #expect(text(name) != nil, "\(place) is not there")
            } else {
                let (file, function) = (
                    name.split(separator: "/").first ?? "", name.split(separator: "/").last ?? ""
                )
                let isThere = sources.contains { source in
                    (source.path.hasSuffix("/\(file).swift")
                        || source.path.hasSuffix("/\(file)+Unsafe.swift"))
                        && source.lines.contains { $0.contains("func \(function)(") }
                }
                #expect(isThere, "\(place) is no test")
            }
        }
    }
}
