import Foundation
import Testing

/// The part of the style that a program can hold: layers, banned calls, SAFETY lines, file sizes.
@Suite struct TidyTests {
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// The layers of ARCHITECTURE.md: a target imports only from layers with a smaller number.
    static let layers: [String: Int] = [
        "CURing": 0, "COpenSSL": 0, "CNGHTTP2": 0, "CFUSE": 0, "CSandbox": 0, "CIPSecMB": 0,
        "Core": 1,
        "Wire": 2, "Capability": 2,
        "Reactor": 3, "TLS": 3, "HTTP2": 3,
        "Catalog": 4, "DriverKit": 4, "SluiceClient": 4, "Logs": 4,
        "Drivers": 5, "DriverHost": 5,
        "Services": 6,
        "ControlPlane": 7, "DataPlane": 7, "Attach": 7,
        "sluiced": 8, "sluice-driver": 8, "sluice": 8,
    ]

    /// Which target alone imports a C library's module.
    static let importers = [
        "CURing": "Reactor", "COpenSSL": "TLS", "CNGHTTP2": "HTTP2", "CFUSE": "Attach",
        "CSandbox": "DriverHost", "CIPSecMB": "TLS",
    ]

    /// Imports that a target must not have, beyond what the layers say.
    static let refusedImports: [String: Set<String>] = [
        "Core": ["Foundation", "FoundationEssentials", "Glibc"],
        "Wire": ["Foundation", "FoundationEssentials", "Glibc"],
        "Capability": ["Foundation", "FoundationEssentials", "Glibc"],
        "Reactor": ["Foundation", "FoundationEssentials"],
        "TLS": ["Foundation", "FoundationEssentials"],
        "HTTP2": ["Foundation", "FoundationEssentials"],
        "DriverKit": ["Foundation", "FoundationEssentials", "Services"],
        "Logs": ["Foundation", "FoundationEssentials"],
        "Drivers": ["Foundation", "FoundationEssentials", "Catalog", "SluiceClient"],
        "DriverHost": ["Foundation", "FoundationEssentials", "Catalog", "SluiceClient"],
        "Services": [
            "Foundation", "FoundationEssentials", "HTTP2", "TLS", "Catalog", "SluiceClient", "Drivers",
            "DriverHost",
        ],
        "DataPlane": ["Foundation", "FoundationEssentials", "HTTP2", "Catalog", "SluiceClient", "Drivers"],
        "ControlPlane": ["Drivers", "SluiceClient"],
        "SluiceClient": ["Catalog", "DriverKit"],
        "Attach": ["Catalog", "DriverKit", "Drivers", "Services"],
        "sluice": ["Catalog", "DriverKit", "Drivers", "Services", "ControlPlane", "DataPlane"],
    ]

    /// Headers that say with `_GNU_SOURCE` something else than in Swift's Glibc module. That a build from nothing fails
    /// by them does not show in a folder that was built in before.
    static let refusedHeaders = ["sys/resource.h"]

    /// What no source says, and why.
    static let bannedCalls: [(pattern: String, why: String)] = [
        ("try!", "an error that cannot happen is a precondition with a reason"),
        ("fatalError(", "a defect is a precondition with a reason; bad input is an error"),
        ("-Ounchecked", "it removes what preconditions compute"),
        ("TODO", "an open end belongs in an issue"),
        ("FIXME", "an open end belongs in an issue"),
        ("Thread.sleep", "waiting is a timer of a reactor"),
    ]

    /// Words that a target does not say, and why.
    static let refusedWords: [String: (words: [String], why: String)] = [
        "Services": (
            ["RequestHeader", "ReplyHeader", "FrameLimits", "headerBytes"],
            "a front end makes requests of its protocol, and its protocol of answers"
        )
    ]

    struct Source {
        let target: String
        let path: String
        let lines: [String]
        var imports: [String] {
            lines.compactMap { line in
                let words = line.split(separator: " ").map(String.init)
                guard let position = words.firstIndex(of: "import"), position < 3, position + 1 < words.count,
                    words[..<position].allSatisfy({ $0.hasPrefix("@") || $0 == "public" || $0 == "internal" })
                else { return nil }
                return words[position + 1]
            }
        }
    }

    static func sources(below folder: String) throws -> [Source] {
        let top = root.appending(path: folder)
        let paths = try FileManager.default.subpathsOfDirectory(atPath: top.path).filter {
            $0.hasSuffix(".swift")
        }
        return try paths.sorted().map { path in
            let text = try String(contentsOf: top.appending(path: path), encoding: .utf8)
            return Source(
                target: String(path.split(separator: "/")[0]), path: "\(folder)/\(path)",
                lines: text.components(separatedBy: "\n"))
        }
    }

    @Test func everyTargetHasALayerAndImportsOnlyFromThoseBefore() throws {
        let sources = try Self.sources(below: "Sources")
        #expect(Set(sources.map(\.target)).isSubset(of: Set(Self.layers.keys)))
        for source in sources {
            let own = try #require(Self.layers[source.target])
            for name in source.imports {
                if let other = Self.layers[name] {
                    #expect(other < own, "\(source.path) imports \(name) of layer \(other) into layer \(own)")
                }
                if let only = Self.importers[name] {
                    #expect(source.target == only, "\(source.path): only \(only) imports \(name)")
                }
                #expect(
                    Self.refusedImports[source.target]?.contains(name) != true,
                    "\(source.path) must not import \(name)")
            }
        }
    }

    @Test func everyLayeredTargetIsInThePackage() throws {
        let manifest = try String(contentsOf: Self.root.appending(path: "Package.swift"), encoding: .utf8)
        for (name, layer) in Self.layers where layer > 0 {
            #expect(manifest.contains("name: \"\(name)\""), "\(name) is in no target of Package.swift")
        }
    }

    @Test(arguments: importers.keys.sorted()) func noShimIncludesWhatGlibcHasOtherwise(module: String) throws
    {
        let shim = Self.root.appending(path: "Sources/\(module)/shim.h")
        let text = try String(contentsOf: shim, encoding: .utf8)
        guard text.contains("_GNU_SOURCE") else { return }
        for header in Self.refusedHeaders { #expect(!text.contains("#include <\(header)>"), "\(header)") }
    }

    @Test func nothingBannedIsSaid() throws {
        for source in try Self.sources(below: "Sources") {
            for (number, line) in source.lines.enumerated() {
                for (pattern, why) in Self.bannedCalls
                where line.contains(pattern) {
                    Issue.record("\(source.path):\(number + 1): \(pattern): \(why)")
                }
            }
        }
    }

    @Test func noTargetSaysWhatIsAnothers() throws {
        for source in try Self.sources(below: "Sources") {
            guard let (words, why) = Self.refusedWords[source.target] else { continue }
            for (number, line) in source.lines.enumerated() {
                for word in words where line.contains(word) {
                    Issue.record("\(source.path):\(number + 1): \(word): \(why)")
                }
            }
        }
    }

    @Test func everyEscapeFromTheCheckerGivesItsReason() throws {
        let escapes = ["@unchecked Sendable", "nonisolated(unsafe)"]
        for source in try Self.sources(below: "Sources") {
            for (number, line) in source.lines.enumerated() where escapes.contains(where: line.contains) {
                if line.trimmingCharacters(in: .whitespaces).hasPrefix("//") { continue }
                let around = source.lines[max(0, number - 6)...min(number + 3, source.lines.count - 1)]
                #expect(
                    around.contains { $0.contains("SAFETY:") },
                    "\(source.path):\(number + 1): no SAFETY line within six lines above or three below")
            }
        }
    }

    @Test func filesStayReadable() throws {
        for source in try Self.sources(below: "Sources") + Self.sources(below: "Tests") {
            #expect(source.lines.count <= 800, "\(source.path) has \(source.lines.count) lines: split it")
        }
    }

    @Test func noTestSleepsToSynchronise() throws {
        let pattern = try Regex(#"(Task\.|[^a-zA-Z])u?sleep\("#)
        for source in try Self.sources(below: "Tests") where source.target != "TidyTests" {
            for (number, line) in source.lines.enumerated()
            where line.contains(pattern) && !line.contains("the interval that is measured") {
                Issue.record("\(source.path):\(number + 1): a test sleeps")
            }
        }
    }

    /// What comments may quote though it is in no code of ours.
    static let foreignNames: Set<String> = ["EventSource"]

    @Test func everyNameThatACommentQuotesIsInTheCode() throws {
        let sources = try Self.sources(below: "Sources")
        var known = Self.foreignNames
        for source in try sources + Self.sources(below: "Tests") {
            known.formUnion(source.path.split(whereSeparator: { "/.+".contains($0) }).map(String.init))
            for line in source.lines where !line.contains("//") { known.formUnion(Self.words(of: line)) }
        }
        for source in sources {
            for (number, line) in source.lines.enumerated() {
                guard let start = line.range(of: "//") else { continue }
                known.formUnion(Self.words(of: String(line[..<start.lowerBound])))
                let parts = line[start.lowerBound...].components(separatedBy: "`")
                for quoted in stride(from: 1, to: parts.count - 1, by: 2).map({ parts[$0] }) {
                    for name in Self.names(in: quoted) {
                        let isKnown = known.contains(name)
                        #expect(isKnown, "\(source.path):\(number + 1): nothing is called \(name)")
                    }
                }
            }
        }
    }

    /// The parts of a quoted name of code, such as `FairQueue.append(_:flow:bytes:)`: those that are written as such names
    /// are, with a capital within. None of what else is quoted.
    private static func names(in quoted: String) -> [String] {
        let name = quoted.prefix { $0 != "(" }
        let isName = name.unicodeScalars.allSatisfy { scalar in
            switch scalar {
            case "a"..."z", "A"..."Z", "0"..."9", ".", "_": true
            default: false
            }
        }
        guard isName, quoted.count == name.count || quoted.hasSuffix(":)") || quoted.hasSuffix("()") else {
            return []
        }
        return name.split(separator: ".").map(String.init).filter { part in
            let scalars = part.unicodeScalars
            guard let first = scalars.first, !("0"..."9").contains(first) else { return false }
            return zip(scalars, scalars.dropFirst()).contains {
                ("a"..."z").contains($0) && ("A"..."Z").contains($1)
            }
        }
    }

    /// The words of a line of code.
    static func words(of line: String) -> [String] {
        line.utf8.split(whereSeparator: { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                false
            default: true
            }
        }).map { String(Substring($0)) }
    }
}
