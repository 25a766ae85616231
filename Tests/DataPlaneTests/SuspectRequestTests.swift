import Core
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// A request at which servers before this one stood.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct SuspectRequestTests {
    @Test func itIsAnsweredAsFailedWheneverItComesAndToldOfOnce() async throws {
        let key = PrivateKey.generateP256()
        let volume = Identifier(high: 1, low: 2)
        let request = RequestIdentity(
            holder: key.publicKeyThumbprint, volume: volume, opcode: Opcode.read.rawValue, offset: 4096,
            count: 512)
        let record = WatchdogRecord(
            at: 1_799_999_999, reactor: "data-0", milliseconds: 5000, request: request)
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(
            options: options, volume: volume, configure: { $0.suspects = Suspects([record, record]) }
        ) { server async throws in
            let token = try server.mint(server.claims(for: key, rights: .read)).bytes
            // Two on each reactor.
            let clients = try (0..<4).map { _ in try server.client(key) }
            for client in clients {
                let handle = try client.open(token, rights: .read)
                for _ in 0..<2 { #expect(try client.read(handle, at: 4096, 512).status == .internalError) }
                #expect(try client.read(handle, at: 8192, 512).status == .ok)
            }
            let told = server.services.configuration.events.events(after: 0, limit: 100).events
                .filter { $0.kind == .requestRefused }
            #expect(told.count == 1 && told.first?.subject == "volume/vol")
        }
    }
}
