import Core
import Glibc
import HTTPTypes
import Reactor
import SluiceClient
import TLS
import TestSupport
import Testing

@testable import ControlPlane

/// Clients that are slow, silent or not what they should be: each is dropped, and others are served.
@Suite(.serialized, .blocking) struct ControlServerAbuseTests {
    private static var impatient: ControlServerLimits {
        var limits = ControlServerLimits()
        limits.handshakeSeconds = 1
        limits.idleSeconds = 1
        limits.anonymousIdleSeconds = 1
        limits.sendSeconds = 1
        limits.lingerSeconds = 1
        limits.http.requestSeconds = 1
        limits.http.stallSeconds = 1
        return limits
    }

    @Test func aClientThatSaysNothingIsDropped() async throws {
        let test = try ServerUnderTest(limits: Self.impatient, echo)
        let silent = try RawSocket(test.address)
        #expect(silent.readToEnd() != nil)
        #expect(try test.client().request(.get, "/").status == 200)
        await test.server.stop()
    }

    @Test func halfAHandshakeIsDropped() async throws {
        let test = try ServerUnderTest(limits: Self.impatient, echo)
        let half = try RawSocket(test.address)
        half.send([0x16, 3, 1, 1, 0, 1, 0, 0])
        #expect(half.readToEnd() != nil)
        await test.server.stop()
    }

    @Test func garbageIsDroppedAtOnce() async throws {
        let test = try ServerUnderTest(echo)
        let noise = try RawSocket(test.address)
        noise.send((0..<500).map { UInt8(truncatingIfNeeded: $0 &* 7) })
        #expect(noise.readToEnd() != nil)
        await test.server.stop()
    }

    @Test func plainTextIsToldToUseHTTPS() async throws {
        let test = try ServerUnderTest(echo)
        let plain = try RawSocket(test.address)
        plain.send(Array("GET / HTTP/1.1\r\nhost: a\r\n\r\n".utf8))
        let answer = String(decoding: try #require(plain.readToEnd()), as: UTF8.self)
        #expect(answer.hasPrefix("HTTP/1.1 400 "), "the connection ended with errno \(errno)")
        #expect(answer.contains("https://"))
        await test.server.stop()
    }

    @Test func anIdleConnectionIsClosedAndTheClientConnectsAgain() async throws {
        let test = try ServerUnderTest(limits: Self.impatient, echo)
        let client = try test.client()
        #expect(try client.request(.get, "/").status == 200)
        // The server's deadline is one second; this socket, older than it, tells when such deadlines are
        // over.
        let silent = try RawSocket(test.address)
        #expect(silent.readToEnd() != nil)
        let second = try RawSocket(test.address)
        #expect(second.readToEnd() != nil)
        #expect(try client.request(.post, "/", body: [1]).status == 200)
        await test.server.stop()
    }

    @Test func connectionsBeyondTheMaximumReplaceThoseThatDoNothing() async throws {
        var limits = ControlServerLimits()
        limits.connections = 20
        let test = try ServerUnderTest(limits: limits, echo)
        var silent: [RawSocket] = []
        for _ in 0..<60 { silent.append(try RawSocket(test.address)) }
        #expect(try test.client().request(.get, "/").status == 200)
        await test.server.stop(graceSeconds: 0)
    }

    @Test func twoThousandConnectionsAtOnceAreHeldAndTheServerServesOthers() async throws {
        let test = try ServerUnderTest(echo)
        // Both ends are in this process.
        let count = min(2000, descriptorsAllowed() / 2 - 100)
        var silent: [RawSocket] = []
        for _ in 0..<count { silent.append(try RawSocket(test.address)) }
        #expect(try test.client().request(.get, "/").status == 200)
        await test.server.stop(graceSeconds: 0)
    }

    @Test func tooManyRequestsAtOnceAreToldToComeBack() async throws {
        let started = Signal()
        let goOn = Signal()
        var limits = ControlServerLimits()
        limits.requestsInFlight = 1
        let test = try ServerUnderTest(limits: limits) { request in
            if request.path == "/slow" {
                await started.raise()
                await goOn.wait()
            }
            return ControlResponse(status: .ok)
        }
        async let slow = offPool { try test.client().request(.get, "/slow") }
        await started.wait()
        let refused = try await offPool { Result { try test.client().request(.get, "/") } }
        guard case .failure(let error as ClientError) = refused else {
            Issue.record("it was answered")
            return
        }
        #expect(error.status == 503)
        #expect(error.code == "BUSY")
        await goOn.raise()
        #expect(try await slow.status == 200)
        await test.server.stop()
    }
}
