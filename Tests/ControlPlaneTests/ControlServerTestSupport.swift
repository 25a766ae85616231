import Core
import Foundation
import Glibc
import HTTPTypes
import Reactor
import SluiceClient
import TLS
import TestSupport

@testable import ControlPlane

/// A control server with an authority of its own, for one test.
final class ServerUnderTest: Sendable {
    let authority: CertificateAuthority
    let server: ControlServer
    let folder: String

    init(
        limits: ControlServerLimits = ControlServerLimits(),
        _ respond: @escaping ClosureHandler.Respond
    ) throws {
        authority = try CertificateAuthority.create(commonName: "test authority", validDays: 2)
        let key = PrivateKey.generateP256()
        let certificate = try authority.issueServer(
            key: key, names: ["localhost"], addresses: ["127.0.0.1"], days: 1)
        let tls = try TLSContext.server(
            chainPEM: certificate.pem + authority.certificate.pem, key: key,
            clients: .optional(caPEM: authority.certificate.pem), alpn: ["h2", "http/1.1"])
        server = ControlServer(
            tls: tls, listen: [try SocketAddress(text: "127.0.0.1:0")], limits: limits,
            handler: ClosureHandler(respond: respond))
        folder = NSTemporaryDirectory() + "sluice-control-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try Data(authority.certificate.pem).write(to: URL(fileURLWithPath: folder + "/ca.pem"))
        try server.start()
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    var address: SocketAddress { server.boundAddresses[0] }
    var url: String { "https://\(address)" }

    /// Credentials of a client with a role.
    func identity(role: String, name: String) throws -> TLSContext.Identity {
        let key = PrivateKey.generateP256()
        let certificate = try authority.issueClient(
            key: key, commonName: name, role: role, uris: [], validSeconds: 3600)
        return TLSContext.Identity(chainPEM: certificate.pem, key: key)
    }

    func client(role: String? = "admin") throws -> ControlClient {
        let identity = try role.map { try self.identity(role: $0, name: "someone") }
        var timeouts = ControlTimeouts()
        timeouts.answerSeconds = 20
        return try ControlClient(
            server: ServerAddress(text: url), identity: identity,
            trust: .authority(caPEM: authority.certificate.pem), timeouts: timeouts)
    }

    /// Runs a command-line client to its end; nil where it is not installed.
    func run(_ tool: String, _ arguments: [String]) throws -> (status: Int32, output: String)? {
        let path = "/usr/bin/" + tool
        guard FileManager.default.isExecutableFile(atPath: path) else { return nil }
        let command = try Command([path] + arguments)
        try command.input.close()
        let output = command.output.readDataToEndOfFile()
        return (command.wait(), String(decoding: output, as: UTF8.self))
    }
}

struct ClosureHandler: ControlHandler {
    typealias Respond = nonisolated(nonsending) @Sendable (ControlRequest) async -> ControlResponse

    let respond: Respond

    nonisolated(nonsending) func respond(to request: ControlRequest) async -> ControlResponse {
        await respond(request)
    }
}

/// Answers with what it was asked.
@Sendable nonisolated(nonsending) func echo(_ request: ControlRequest) async -> ControlResponse {
    let role = request.peer.role?.rawValue ?? "none"
    let text =
        "\(request.method.rawValue) \(request.segments.joined(separator: "|")) \(role)"
        + " \(request.body.count)\n"
    return ControlResponse(status: .ok, headers: [.contentType: "text/plain"], body: Array(text.utf8))
}

/// Runs what blocks on a thread of its own, so that the few threads of the pool stay free.
func offPool<Value: Sendable>(_ body: @Sendable @escaping () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result(catching: body)) }
    }
}

/// Something that a test waits for.
actor Signal {
    private var isRaised = false
    private var waiters: [CheckedContinuation<Void, Never>] = []

    func raise() {
        isRaised = true
        for waiter in waiters { waiter.resume() }
        waiters = []
    }

    func wait() async {
        if isRaised { return }
        await withCheckedContinuation { waiters.append($0) }
    }
}

/// How many descriptors this process may have, after asking for as many as it can get.
func descriptorsAllowed() -> Int {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
    limit.rlim_cur = min(limit.rlim_max, 65_536)
    _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    return Int(limit.rlim_cur)
}

/// A socket that says what a test tells it to, below TLS.
final class RawSocket {
    private let fd: Int32

    init(_ address: SocketAddress) throws {
        fd = try Sockets.connect(address).take()
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { _ = Glibc.close(fd) }

    func send(_ bytes: [UInt8]) {
        _ = unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
    }

    /// Everything that comes until the peer hangs up; nil when it does not within twenty seconds.
    func readToEnd() -> [UInt8]? {
        var all: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe chunk.withUnsafeMutableBytes {
                unsafe Glibc.recv(fd, $0.baseAddress, $0.count, 0)
            }
            if count > 0 { all += chunk[..<count] }
            if count == 0 { return all }
            if count < 0, errno == EINTR { continue }
            if count < 0 { return errno == EAGAIN ? nil : all }
        }
    }
}
