import Glibc
import Testing

@testable import Reactor

/// Sockets that a service manager hands over.
@Suite struct InheritedSocketsTests {
    private static let names: Set<String> = ["control", "data"]

    private func inherit(
        _ environment: [String: String], first: Int32 = 3
    ) -> Result<InheritedSockets, InheritedSockets.Failure> {
        Result { () throws(InheritedSockets.Failure) in
            try InheritedSockets(environment: environment, process: 7, names: Self.names, first: first)
        }
    }

    @Test(arguments: [
        [:], ["LISTEN_FDS": "2"], ["LISTEN_PID": "7"], ["LISTEN_PID": "8", "LISTEN_FDS": "x"],
        ["LISTEN_PID": "07", "LISTEN_FDS": "1"], ["LISTEN_PID": "7", "LISTEN_FDS": "0"],
        ["LISTEN_PID": "7", "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""],
    ])
    func whatIsForNobodyOrAnotherIsLeftAlone(environment: [String: String]) throws {
        #expect(try inherit(environment).get().named.isEmpty)
    }

    @Test(arguments: [
        ("", "data"), ("-1", "data"), ("1x", "data"), ("65", "data"), ("99999999999", "data"), ("1", ""),
        ("1", "other"),
        ("1", "data:control"), ("2", "data"), ("1", "data:"),
    ])
    func whatIsSaidWronglyIsRefused(count: String, names: String) {
        let environment = ["LISTEN_PID": "7", "LISTEN_FDS": count, "LISTEN_FDNAMES": names]
        #expect(throws: InheritedSockets.Failure.self) { try inherit(environment).get() }
    }

    @Test func aSocketThatListensIsTakenAndMadeReadyForARing() throws {
        let socket = try Sockets.listen(try SocketAddress(text: "127.0.0.1:0"))
        _ = fcntl(socket.raw, F_SETFL, O_NONBLOCK)
        _ = fcntl(socket.raw, F_SETFD, 0)
        let environment = ["LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "data"]
        let found = try inherit(environment, first: socket.raw).get()
        #expect(found.named == ["data": [socket.raw]])
        #expect(fcntl(socket.raw, F_GETFL) & O_NONBLOCK == 0)
        #expect(fcntl(socket.raw, F_GETFD) & FD_CLOEXEC != 0)
    }

    @Test func whatIsNoListeningTCPSocketIsRefused() throws {
        let idle = try Sockets.stream(family: AF_INET)
        let (one, other) = try Sockets.pair()
        let pair = FileDescriptor(owning: one)
        let peer = FileDescriptor(owning: other)
        let environment = ["LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "control"]
        for fd in [idle.raw, pair.raw, peer.raw, Int32.max] {
            #expect(throws: InheritedSockets.Failure.self) { try inherit(environment, first: fd).get() }
        }
    }
}
