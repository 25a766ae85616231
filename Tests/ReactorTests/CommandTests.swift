import Glibc
import TestSupport
import Testing

@testable import Reactor

@Suite("Commands to drivers", .blocking)
struct CommandTests {
    /// What a command to a descriptor completes with, between other operations of the same ring.
    private static func result(_ path: String) throws -> [Int32] {
        var options = Reactor.Options.small
        options.takesCommands = true
        let file = FileDescriptor(owning: unsafe open(path, O_RDWR | O_CLOEXEC))
        let fd = file.raw
        var results: [Int32] = []
        try withReactor(options) { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            probe.onCompletion = { _, result, _ in
                results.append(result)
                if results.count == 3 { finish() }
            }
            reactor.noOperation(target: target, token: 0)
            unsafe reactor.command(fd: fd, 1, words: (1, 2, 3), target: target, token: 1)
            reactor.noOperation(target: target, token: 2)
        }
        return results
    }

    @Test("the driver's answer is the command's result, beside other operations")
    func answer() throws {
        // The driver of /dev/null takes any.
        #expect(try Self.result("/dev/null") == [0, 0, 0])
    }

    @Test("a driver that takes no commands refuses them, and the rest goes on")
    func refusal() throws {
        #expect(try Self.result("/dev/full").sorted() == [-EOPNOTSUPP, 0, 0])
    }
}
