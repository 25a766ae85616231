import Foundation
import Testing

/// What is declared is used, and fits a screen.
@Suite struct DeclarationTests {
    /// Names that only the language or the kernel says, with who it is.
    private static let calledByOthers: [String: String] = [
        "checkIsolated": "the concurrency runtime", "isIsolatingCurrentContext": "the concurrency runtime",
        "appendLiteral": "string interpolation", "customMirror": "dump() and debuggers",
        "SluiceDriver": "@main",
        "reserved2": "a layout that two processes share", "reserved3": "a layout that two processes share",
    ]

    /// Functions that are longer than a screen, and as long as they may be until somebody shortens them.
    private static let longFunctions: [String: Int] = [
        "Sources/sluiced/Daemon.swift start": 100, "Tests/DriverHostTests/LyingHostTests.swift fuzz": 79,
    ]
    private static let functionLinesMax = 70

    private static let declaring: Set<String> = [
        "func", "struct", "class", "enum", "protocol", "actor", "typealias", "var", "let",
    ]

    @Test func whatIsDeclaredIsSaidSomewhereElse() throws {
        var uses: [String: Int] = [:]
        var declared: [(name: String, place: String)] = []
        // The exceptions above are no use of a name.
        for source in try TidyTests.sources(below: "Sources") + TidyTests.sources(below: "Tests")
        where source.target != "TidyTests" {
            for (number, line) in source.lines.enumerated() where !Self.isComment(line) {
                var before = ""
                for word in Self.words(of: line) {
                    uses[word, default: 0] += 1
                    if Self.declaring.contains(before), source.path.hasPrefix("Sources/") {
                        declared.append((word, "\(source.path):\(number + 1)"))
                    }
                    before = word
                }
            }
        }
        #expect(declared.count > 1000)
        for (name, place) in declared where uses[name] == 1 && Self.calledByOthers[name] == nil {
            Issue.record("\(place): nobody uses \(name)")
        }
        for name in Self.calledByOthers.keys {
            #expect(uses[name] == 1, "\(name) needs no exception any more")
        }
    }

    private static func words(of line: String) -> [String] {
        line.utf8.split { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), 0x80...:
                false
            default: true
            }
        }.map { String(Substring($0)) }
    }

    @Test func functionsFitAScreen() throws {
        var found: [String: Int] = [:]
        for source in try TidyTests.sources(below: "Sources") + TidyTests.sources(below: "Tests") {
            for (name, count) in Self.functions(of: source) where count > Self.functionLinesMax {
                found["\(source.path) \(name)"] = count
            }
        }
        for (function, count) in found {
            let most = Self.longFunctions[function] ?? Self.functionLinesMax
            #expect(count <= most, "\(function) has \(count) lines, and may have \(most): split it")
        }
        for (function, most) in Self.longFunctions {
            #expect(found[function] == most, "\(function) has \(found[function] ?? 0) lines: write that down")
        }
    }

    /// Functions and initialisers with how many lines they have, from the declaration to the brace that ends it: the format
    /// puts both at the same column.
    private static func functions(of source: TidyTests.Source) -> [(name: String, lines: Int)] {
        var open: [(name: String, indent: Int, first: Int)] = []
        var found: [(String, Int)] = []
        for (number, line) in source.lines.enumerated() where !isComment(line) {
            let indent = line.prefix { $0 == " " }.count
            if line.dropFirst(indent).first == "}", let last = open.last, last.indent == indent {
                found.append((last.name, number - last.first + 1))
                open.removeLast()
            } else if let name = declaredFunction(line) {
                // One without a body, in a protocol, ends where the next begins.
                open.removeAll { $0.indent >= indent }
                if !line.hasSuffix("}") { open.append((name, indent, number)) }
            }
        }
        return found
    }

    /// The name of the function that a line begins to declare.
    private static func declaredFunction(_ line: String) -> String? {
        guard line.utf8.contains(UInt8(ascii: "(")) || line.utf8.contains(UInt8(ascii: "<")) else {
            return nil
        }
        let words = line.split(separator: " ")
        for (index, word) in words.enumerated() {
            if word == "func", index + 1 < words.count {
                return String(words[index + 1].prefix { $0 != "(" && $0 != "<" })
            }
            if ["init(", "init?(", "init<"].contains(where: { word.hasPrefix($0) }) { return "init" }
            guard word.first == "@" || modifiers.contains(word) else { return nil }
        }
        return nil
    }

    private static let modifiers: Set<Substring> = [
        "public", "package", "internal", "fileprivate", "private", "static", "class", "final", "mutating",
        "nonmutating",
        "consuming", "borrowing", "convenience", "required", "override", "nonisolated", "isolated", "prefix",
    ]

    private static func isComment(_ line: String) -> Bool {
        line.drop { $0 == " " }.hasPrefix("//")
    }
}
