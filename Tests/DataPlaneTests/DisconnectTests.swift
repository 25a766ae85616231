import Core
import Services
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// A store whose disk takes as long as a test wants.
private final class SlowStore: SessionStore {
    private struct State {
        var isHeld = false
        var waiting: [@Sendable (Bool) -> Void] = []
        var saved: [Identifier: SavedSession] = [:]
    }

    private let state = Mutex(State())

    var waiting: Int { state.withLock { $0.waiting.count } }
    var saved: Int { state.withLock { $0.saved.count } }

    func hold() { state.withLock { $0.isHeld = true } }

    func letGo(_ isSaved: Bool) {
        let waiting = state.withLock { state in
            defer { state.waiting = [] }
            state.isHeld = false
            return state.waiting
        }
        for body in waiting { body(isSaved) }
    }

    func save(_ id: Identifier, _ session: SavedSession?) { state.withLock { $0.saved[id] = session } }

    func save(volume: Identifier, _ writer: VolumeWriter?) {}

    func afterSaving(_ body: @escaping @Sendable (Bool) -> Void) {
        let isHeld = state.withLock { state in
            if state.isHeld { state.waiting.append(body) }
            return state.isHeld
        }
        if !isHeld { body(true) }
    }
}

/// Sessions that an administrator disconnects. The simulator of sessions found that they came back with the server.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct DisconnectTests {
    @Test("whoever disconnects a session is answered when no start of the server can bring it back")
    func waitsForTheStore() async throws {
        for isSaved in [true, false] {
            let store = SlowStore()
            try await withServer(configure: { $0.sessionStore = store }) { server async throws in
                let key = PrivateKey.generateP256()
                let client = try server.client(key, features: .resume)
                _ = try client.open(try server.mint(server.claims(for: key)).bytes)
                let session = try #require(client.session?.session)
                #expect(store.saved == 1)
                store.hold()
                let isAnswered = Mutex(false)
                async let answer: Bool = {
                    defer { isAnswered.withLock { $0 = true } }
                    do throws(StatusError) {
                        _ = try await server.services.perform(.endSession(session, reason: "test"))
                        return true
                    } catch {
                        #expect(error.status == .internalError)
                        return false
                    }
                }()
                client.disconnect()
                try await untilTrue { store.waiting == 1 }
                #expect(store.saved == 0)
                #expect(!isAnswered.withLock { $0 })
                store.letGo(isSaved)
                #expect(await answer == isSaved)
            }
        }
    }
}
