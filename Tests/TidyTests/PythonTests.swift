import Foundation
import Testing

/// System tests wait for what they wait for, not for a while.
@Suite struct PythonTests {
    /// Where time may pass: the helpers of the system tests, a program that is to hang, and a client's pause before it tries
    /// again.
    private static let sleepers = [
        "Tests/system/conftest.py": 2, "Tests/system/hosts/liar.py": 3,
        "Clients/python/sluice_client/session.py": 1,
    ]

    @Test func nothingSleepsButTheHelpers() throws {
        var found: [String: Int] = [:]
        for folder in ["Tests/system", "Clients/python"] {
            let top = TidyTests.root.appending(path: folder)
            for path in try FileManager.default.subpathsOfDirectory(atPath: top.path)
            where path.hasSuffix(".py") {
                let text = try String(contentsOf: top.appending(path: path), encoding: .utf8)
                let count = text.matches(of: /\btime\.sleep\(|\bfrom time import .*\bsleep/).count
                if count > 0 { found["\(folder)/\(path)"] = count }
            }
        }
        for (path, count) in found {
            #expect(
                count <= Self.sleepers[path] ?? 0,
                "\(path): await_condition waits for what happens; let_pass() is for time that is itself what is tested"
            )
        }
        #expect(Set(Self.sleepers.keys) == Set(found.keys))
    }
}
