import Core
import Testing

@testable import Services

@Suite struct SessionRegistryTests {
    private let secret = Array(repeating: UInt8(7), count: 32)
    private let key = Digest32(first: Identifier(high: 1, low: 1), second: .zero)
    private let otherKey = Digest32(first: Identifier(high: 2, low: 2), second: .zero)

    private func session(_ number: UInt64) -> SessionRegistry.Session {
        SessionRegistry.Session(
            id: Identifier(high: 0, low: number), secret: SecretBytes(secret), thumbprint: key,
            clientName: "", peerAddress: "", since: 0, instance: .zero)
    }

    private final class Shard {}
    private let shard = Shard()

    private func connection(_ number: UInt64) -> SessionRegistry.Connection {
        SessionRegistry.Connection(shard: ObjectIdentifier(shard), number: number)
    }

    @Test func joiningTakesSecretAndKey() throws {
        var registry = SessionRegistry()
        let id = session(1).id
        let outcome1 = registry.create(session(1), by: connection(1))
        #expect(outcome1 == .ok)
        let outcome2 = try registry.join(id, secret: secret, thumbprint: key, by: connection(9)).get()
        #expect(outcome2 == 1)
        var wrong = secret
        wrong[31] ^= 1
        let refused1 = registry.join(id, secret: wrong, thumbprint: key, by: connection(9))
        #expect(throws: StatusError.self) { try refused1.get() }
        let refused2 = registry.join(id, secret: [], thumbprint: key, by: connection(9))
        #expect(throws: StatusError.self) { try refused2.get() }
        let refused3 = registry.join(id, secret: secret, thumbprint: otherKey, by: connection(9))
        #expect(throws: StatusError.self) { try refused3.get() }
        let unknown = registry.join(
            Identifier(high: 9, low: 9), secret: secret, thumbprint: key, by: connection(9))
        #expect(throws: StatusError.self) { try unknown.get() }
    }

    @Test func aSessionEndsWithItsLastChannelAndReusesNumbers() throws {
        var registry = SessionRegistry()
        let id = session(1).id
        _ = registry.create(session(1), by: connection(1))
        let outcome3 = try registry.join(id, secret: secret, thumbprint: key, by: connection(9)).get()
        #expect(outcome3 == 1)
        let outcome4 = registry.leave(id, channel: 0, isClosed: true, now: 1).endsSession
        #expect(!outcome4)
        let outcome5 = try registry.join(id, secret: secret, thumbprint: key, by: connection(9)).get()
        #expect(outcome5 == 0)
        let outcome6 = registry.leave(id, channel: 5, isClosed: true, now: 1).endsSession
        #expect(!outcome6, "a channel that is not there ends nothing")
        let outcome7 = registry.leave(id, channel: 1, isClosed: true, now: 1).endsSession
        #expect(!outcome7)
        let outcome8 = registry.leave(id, channel: 0, isClosed: true, now: 1).endsSession
        #expect(outcome8)
        #expect(registry.sessions.isEmpty)
    }

    @Test func channelsAndSessionsAreBounded() throws {
        var registry = SessionRegistry(capacity: 1)
        let outcome9 = registry.create(session(1), by: connection(1))
        #expect(outcome9 == .ok)
        let outcome10 = registry.create(session(2), by: connection(2))
        #expect(outcome10 == .busy)
        for _ in 1..<Limits.channelsPerSessionMax {
            _ = try registry.join(session(1).id, secret: secret, thumbprint: key, by: connection(9)).get()
        }
        guard
            case .failure(let refusal) = registry.join(
                session(1).id, secret: secret, thumbprint: key, by: connection(9))
        else {
            Issue.record("one channel too many was let in")
            return
        }
        #expect(refusal.status == .tooManyChannels)
    }

    @Test func nobodyJoinsASessionThatIsEnding() {
        var registry = SessionRegistry()
        _ = registry.create(session(1), by: connection(1))
        let outcome11 = registry.end(session(1).id, why: "test")
        #expect(outcome11?.endsSession == false)
        let outcome12 = registry.end(session(2).id, why: "test")
        #expect(outcome12 == nil)
        let result = registry.join(session(1).id, secret: secret, thumbprint: key, by: connection(9))
        #expect(throws: StatusError.self) { try result.get() }
    }
}
