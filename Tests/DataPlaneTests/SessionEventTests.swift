import Core
import Services
import TLS
import TestSupport
import Testing

@testable import DataPlane

@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct SessionEventTests {
    @Test func aSessionThatBeginsAndEndsIsToldOf() async throws {
        try await withServer { server async throws in
            let events = server.services.configuration.events
            let reader = try #require(events.subscribe(after: 0))
            let key = PrivateKey.generateP256()
            var client: TestClient? = try server.client(key)
            _ = try client?.open(try server.mint(server.claims(for: key)).bytes)
            let session = try #require(client?.session).session
            let began = try #require(await reader.next()?.events)
            #expect(began.map(\.kind) == [.sessionStarted])
            #expect(began[0].subject == "session/\(session)")
            #expect(began[0].message.contains("from 127.0.0.1:"))
            client = nil
            let ended = try #require(await reader.next()?.events)
            #expect(ended.map(\.kind) == [.sessionEnded])
            #expect(ended[0].subject == "session/\(session)")
            #expect(ended[0].message == "of node node-1")
        }
    }
}
