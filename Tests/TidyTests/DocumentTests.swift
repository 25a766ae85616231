import Foundation
import Testing

/// What documents say of the source, as far as a program can hold it: places, names, layers; and that they can be read.
@Suite struct DocumentTests {
    static let columnsMax = 110
    static let overviewColumnsMax = 100
    static let overviewLinesMax = 130

    @Test func proseIsNarrowEnoughToBeRead() throws {
        for document in try Document.all() {
            for line in document.lines where !line.isCode && !line.isRow {
                // One word, such as an address, may be longer than a line.
                let words = line.text.split(separator: " ").filter { $0.count > 2 }
                let isLink = words.count <= 1 || line.text.contains("](")
                #expect(
                    line.text.count <= Self.columnsMax || isLink,
                    "\(document.path):\(line.number): \(line.text.count) columns")
            }
        }
    }

    @Test func theOverviewIsOneScreen() throws {
        let overview = try Document("ARCHITECTURE.md")
        #expect(overview.lines.count <= Self.overviewLinesMax)
        for line in overview.lines {
            #expect(line.text.count <= Self.overviewColumnsMax, "ARCHITECTURE.md:\(line.number)")
        }
    }

    @Test func everyLinkLeadsSomewhere() throws {
        for document in try Document.all() {
            let folder = TidyTests.root.appending(path: document.path).deletingLastPathComponent()
            for line in document.lines where !line.isCode {
                for part in line.text.components(separatedBy: "](").dropFirst() {
                    let target = part.prefix { $0 != ")" && $0 != "#" }
                    guard !target.isEmpty, !target.contains("://") else { continue }
                    #expect(
                        FileManager.default.fileExists(atPath: folder.appending(path: String(target)).path),
                        "\(document.path):\(line.number): \(target)")
                }
            }
        }
    }

    @Test func everyPlaceThatIsNamedExists() throws {
        let folders = ["Sources/", "Tests/", "API/", "Deploy/", "Clients/", "docs/"]
        for document in try Document.all() {
            for line in document.lines {
                for quoted in line.quoted {
                    guard let place = quoted.split(separator: " ").first.map(String.init),
                        folders.contains(where: place.hasPrefix), !place.contains("*")
                    else { continue }
                    let path = place.components(separatedBy: "::")[0]
                    #expect(
                        FileManager.default.fileExists(atPath: TidyTests.root.appending(path: path).path),
                        "\(document.path):\(line.number): \(path)")
                }
            }
        }
    }

    @Test func everyTargetOfMakeThatIsNamedExists() throws {
        let makefile = try String(contentsOf: TidyTests.root.appending(path: "Makefile"), encoding: .utf8)
        let targets = Set(
            makefile.components(separatedBy: "\n").compactMap { $0.split(separator: ":").first })
        for document in try Document.all() {
            for line in document.lines {
                for quoted in line.quoted where quoted.hasPrefix("make ") {
                    let isThere = targets.contains(quoted.dropFirst(5))
                    #expect(isThere, "\(document.path):\(line.number): \(quoted)")
                }
            }
        }
    }

    /// Names of types, such as `FairQueue` or `IOServices.doubt`, and of files of a type, such as `Directory+Claims`.
    @Test func everyTypeThatIsNamedIsInTheSources() throws {
        let known = try Self.words()
        // What Python documents name is Python's.
        for document in try Document.all() where !document.path.hasPrefix("Clients/") {
            for line in document.lines {
                for name in line.quoted where Self.isTypeName(name) {
                    for part in name.split(whereSeparator: { $0 == "." || $0 == "+" }) {
                        let isKnown = known.contains(String(part))
                        #expect(isKnown, "\(document.path):\(line.number): nothing is called \(part)")
                    }
                }
            }
        }
    }

    /// Whether it is of letters, begins with a capital and has further ones after small letters, as types have.
    private static func isTypeName(_ name: String) -> Bool {
        guard let first = name.unicodeScalars.first, ("A"..."Z").contains(first) else { return false }
        let letters = CharacterSet.alphanumerics.union(CharacterSet(charactersIn: ".+"))
        guard name.unicodeScalars.allSatisfy(letters.contains), !name.hasSuffix(".md") else { return false }
        let base = name.prefix { $0 != "." && $0 != "+" }
        let pairs = zip(base.unicodeScalars, base.unicodeScalars.dropFirst())
        return pairs.contains { ("a"..."z").contains($0) && ("A"..."Z").contains($1) }
    }

    /// Every word of the sources and the tests, and the parts of their files' paths.
    private static func words() throws -> Set<String> {
        var words: Set<String> = []
        for source in try TidyTests.sources(below: "Sources") + TidyTests.sources(below: "Tests") {
            words.formUnion(source.path.split(whereSeparator: { "/.+".contains($0) }).map(String.init))
            for line in source.lines { words.formUnion(TidyTests.words(of: line)) }
        }
        return words
    }

    @Test func theTableOfLayersIsThatOfTheOverview() throws {
        var layers: [String: Int] = [:]
        for line in try Document("ARCHITECTURE.md").lines where line.isRow {
            guard line.cells.count == 3, let layer = Int(line.cells[0]) else { continue }
            for name in line.cells[1].split(whereSeparator: { $0 == "`" || $0 == " " }) {
                layers[String(name)] = layer
            }
        }
        #expect(layers == TidyTests.layers)
    }

    /// What the guide for authors of drivers shows is a part of the driver that the conformance suite runs.
    @Test func theGuideShowsTheDriverThatIsTested() throws {
        let driver = try Document("Tests/DriversTests/SmallestDriver.swift").lines.map {
            $0.text.trimmingCharacters(in: .whitespaces)
        }
        let text = driver.joined(separator: "\n")
        var shown: [[String]] = []
        var isSwift = false
        for line in try Document("docs/drivers.md").lines where line.isCode {
            if line.text.hasPrefix("```") {
                isSwift = line.text == "```swift"
                if isSwift { shown.append([]) }
            } else if isSwift {
                shown[shown.count - 1].append(line.text.trimmingCharacters(in: .whitespaces))
            }
        }
        #expect(!shown.isEmpty)
        for block in shown { #expect(text.contains(block.joined(separator: "\n"))) }
    }
}
