import Foundation
import Testing

/// Package.swift's edges: a target names what it imports, and nothing else.
@Suite struct ManifestTests {
    private struct Target {
        let name: String
        let isTest: Bool
        let isProgram: Bool
        let folder: String
        /// Modules that it names, those of other packages as well.
        let dependencies: Set<String>
    }

    /// Modules that come with the compiler.
    private static let system: Set<String> = [
        "Foundation", "FoundationEssentials", "Glibc", "Synchronization", "Testing", "Dispatch",
        "PackageDescription",
    ]

    @Test func aTargetNamesWhatItImportsAndNothingElse() throws {
        let targets = try Self.targets()
        #expect(targets.count > 30)
        let programs = Set(targets.filter(\.isProgram).map(\.name))
        for target in targets {
            let imported = Set(try TidyTests.sources(below: target.folder).flatMap(\.imports)).subtracting(
                Self.system)
            let missing = imported.subtracting(target.dependencies).subtracting([target.name])
            #expect(
                missing.isEmpty,
                "\(target.name) imports \(missing.sorted()), and does not say so in Package.swift")
            // A program is run, or imported by a test.
            let unused = target.dependencies.subtracting(imported).subtracting(programs)
            #expect(
                unused.isEmpty,
                "\(target.name) names \(unused.sorted()) in Package.swift, and imports none of it")
        }
    }

    @Test func whatTestsNeedIsInNoProduct() throws {
        for target in try Self.targets() where target.folder.hasPrefix("Sources/") {
            #expect(
                target.dependencies.isDisjoint(with: [
                    "TestSupport", "Simulation", "CHostile", "HostileDriver",
                ]))
        }
    }

    private static func targets() throws -> [Target] {
        let text = try String(contentsOf: TidyTests.root.appending(path: "Package.swift"), encoding: .utf8)
        var products = ["recordDependencies": "CIPSecMB"]
        for match in text.matches(of: /let (\w+) = Target\.Dependency\.product\(name: "(\w+)"/) {
            products[String(match.1)] = String(match.2)
        }
        return text.matches(
            of: /\.(target|executableTarget|testTarget)\(\s*name: "([\w-]+)"([^()]*(\([^()]*\)[^()]*)*)\)/
        ).map { match in
            let (kind, name, rest) = (match.1, String(match.2), match.3)
            let list = rest.firstMatch(of: /dependencies: \[([^\]]*)\]( \+ recordDependencies)?/)
            var named = (list?.1 ?? "").matches(of: /"([\w-]+)"|(\w+)/).compactMap { word in
                word.1.map(String.init) ?? word.2.flatMap { products[String($0)] }
            }
            if list?.2 != nil { named.append("CIPSecMB") }
            let folder = rest.firstMatch(of: /path: "([^"]+)"/).map { String($0.1) }
            return Target(
                name: name, isTest: kind == "testTarget", isProgram: kind == "executableTarget",
                folder: folder ?? (kind == "testTarget" ? "Tests/" : "Sources/") + name,
                dependencies: Set(named))
        }
    }
}
