import Foundation
import Testing

/// What docs/kinds.md promises whoever adds a kind of resource.
@Suite struct KindTests {
    /// Files that every kind is named in, by the document's first table.
    private static func named() throws -> [String] {
        let lines = try Document("docs/kinds.md").lines
        let first = try #require(lines.firstIndex { $0.text == "## The six files" })
        let last = try #require(lines.firstIndex { $0.text == "## What it adds" })
        return lines[first..<last].filter(\.isRow).compactMap { row in
            row.cells.first.map { $0.trimmingCharacters(in: ["`", " "]) }
        }.filter { $0.hasPrefix("Sources/") }
    }

    @Test func aNewKindIsNamedInSixFilesAtMost() throws {
        let files = try Self.named()
        #expect(!files.isEmpty && files.count <= 6)
        for file in files {
            let path = TidyTests.root.appending(path: file).path
            #expect(FileManager.default.fileExists(atPath: path), "\(file)")
        }
    }

    /// Whatever else would have to be changed for a kind goes by one: it has a case of volumes, or names kinds that are to
    /// come.
    @Test func noOtherFileGoesByTheKindOfAResource() throws {
        let named = Set(try Self.named())
        // It reads the two words of a volume, and leaves those of all other kinds to them.
        let free: Set = ["Sources/Wire/ResourceState.swift"]
        let kinds = [/case \.volume\b/, /\.fileset\b/, /\.endpoint\b/]
        var count = 0
        for source in try TidyTests.sources(below: "Sources") where !source.path.contains("/Volume") {
            let goesBy = source.lines.contains { line in
                kinds.contains { line.firstMatch(of: $0) != nil }
            }
            guard goesBy else { continue }
            count += 1
            #expect(
                named.contains(source.path) || free.contains(source.path),
                "\(source.path) goes by the kind of a resource: a new one would have to be named there")
        }
        #expect(count >= 4)
    }

    /// A pool, its ports and its hosts serve every kind: what drivers of volumes have is for what knows volumes.
    @Test func whatOnlyVolumesHaveIsInTheirRooms() throws {
        let rooms = ["/Volume", "+Volumes.swift", "Sources/Drivers/", "Pool/InstalledDriver.swift"]
        let words = ["VolumeDriver", "VolumeCall", "VolumeGeometry"]
        for source in try TidyTests.sources(below: "Sources")
        where !rooms.contains(where: source.path.contains) {
            let code = source.lines.filter { !$0.trimmingCharacters(in: .whitespaces).hasPrefix("//") }
            let isNamed = code.contains { line in words.contains { line.contains($0) } }
            #expect(!isNamed, "\(source.path) names what only volumes have")
        }
    }
}
