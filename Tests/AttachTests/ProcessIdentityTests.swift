import Glibc
import Testing

@testable import Attach

@Suite struct ProcessIdentityTests {
    @Test("the start time is found behind a name that holds spaces and brackets")
    func startTicks() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"
        #expect(ProcessIdentity.startTicks(stat: "12 (a b) c) ) \(tail)") == 4711)
    }

    @Test(
        "a zombie, a cut line and nonsense are no process", arguments: ["", "12", "12 (a)", "12 (a) S 1 2"])
    func nonsense(text: String) {
        #expect(ProcessIdentity.startTicks(stat: text) == nil)
        #expect(
            ProcessIdentity.startTicks(stat: "1 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711")
                == nil)
    }

    @Test("this process is alive; one with another start time or of another boot is not")
    func identity() throws {
        let current = try #require(ProcessIdentity.current)
        #expect(current.isAlive)
        var other = current
        other.startTicks += 1
        #expect(!other.isAlive)
        #expect(!other.signal(SIGTERM))
        #expect(other.waitUntilEnded(milliseconds: 0))
        other = current
        other.boot = "another"
        #expect(!other.isAlive)
    }

    @Test("a child is signalled, waited for, and then gone")
    func child() throws {
        let pid = try Subprocess.start(["sleep", "600"], output: -1, errors: -1)
        let identity = try #require(ProcessIdentity(pid: pid))
        #expect(!identity.waitUntilEnded(milliseconds: 0))
        #expect(identity.signal(SIGTERM))
        #expect(identity.waitUntilEnded(milliseconds: 10_000))
        #expect(!identity.isAlive)
        #expect(try Subprocess.wait(pid) == 128 + SIGTERM)
    }
}
