import Core
import DriverKit
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Claims whose capability has ended: they stand until somebody else asks for the volume, and not a moment longer.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct CourtesyTests {
    private let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())

    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    private func generation(_ reply: TestClient.Reply) throws -> UInt64 {
        try ResourceState(bytes: reply.payload).writerGeneration
    }

    private func resumes(_ server: TestServer, _ old: TestClient) throws -> Status? {
        let client = try server.connect(keys.0)
        defer { client.disconnect() }
        return try client.resumeReply(old).status
    }

    @Test("a lost writer goes on after its capability has ended, when nobody has asked for its volume")
    func outlastsItsCapability() async throws {
        try await withServer(configure: { $0.lingerSeconds = 1 }) { server async throws in
            let old = try server.client(keys.0, features: .resume)
            let first = try old.openReply(try token(server, keys.0))
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            // Three days, and a look at the sessions that are lost.
            server.clock.advance(3 * 86_400)
            let reader = try server.client(keys.1)
            #expect(try reader.openReply(try token(server, keys.1), rights: .read).status == .ok)
            let passing = try server.client(keys.1, features: .resume)
            passing.disconnect()
            try await server.waitForSessions { $0.count == 2 }
            let back = try server.resumed(old, keys.0)
            let again = try back.openReply(try token(server, keys.0))
            #expect(try generation(again) == generation(first))
            #expect(try back.write(UInt32(again.header.value), at: 0, pattern(512), slot: 2) == .ok)
        }
    }

    @Test("whoever asks for the volume gets it at once, and nothing of the other can come after that")
    func givesWay() async throws {
        try await withServer { server async throws in
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0))
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            let rival = try server.client(keys.1)
            #expect(try rival.openReply(try token(server, keys.1)).status == .writerConflict)
            server.clock.advance(3600)
            #expect(try rival.openReply(try token(server, keys.1)).status == .ok)
            #expect(try resumes(server, old) == .notFound)
        }
    }

    @Test("a writer whose capability ends while it is connected keeps its channel when it is lost after that")
    func expiresAndIsLost() async throws {
        try await withServer { server async throws in
            let old = try server.client(keys.0, features: .resume)
            let first = try old.openReply(try token(server, keys.0))
            let handle = UInt32(first.header.value)
            server.clock.advance(4000)
            try await untilTrue { try old.readEvent()?.kind == .expiring }
            try await untilTrue { try old.read(handle, at: 0, 512).status == .expired }
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            let back = try server.resumed(old, keys.0)
            #expect(try generation(back.openReply(try token(server, keys.0))) == generation(first))
        }
    }

    @Test("a handle whose capability has ended takes its claim up again, and lets go of it by CLOSE")
    func renewsWhatHasLapsed() async throws {
        try await withServer { server async throws in
            let writer = try server.client(keys.0, features: .resume)
            let handle = try writer.open(try token(server, keys.0))
            let rival = try server.client(keys.1)
            for _ in 0..<3 {
                server.clock.advance(4000)
                try await untilTrue { try writer.readEvent()?.kind == .expiring }
                let renewal = RenewRequest(capability: try token(server, keys.0))
                #expect(try writer.request(.renew, handle: handle, payload: renewal.bytes).status == .ok)
                #expect(try rival.openReply(try token(server, keys.1)).status == .writerConflict)
                #expect(try writer.write(handle, at: 0, pattern(512)) == .ok)
            }
            #expect(try writer.request(.close, handle: handle).status == .ok)
            #expect(try rival.openReply(try token(server, keys.1)).status == .ok)
        }
    }

    @Test("of several handles the claim goes with the last whose capability ends")
    func severalHandles() async throws {
        try await withServer { server async throws in
            let writer = try server.client(keys.0, features: .resume)
            let handles = [
                try writer.open(try token(server, keys.0)), try writer.open(try token(server, keys.0)),
            ]
            let rival = try server.client(keys.1)
            server.clock.advance(1800)
            let renewal = RenewRequest(capability: try token(server, keys.0))
            #expect(try writer.request(.renew, handle: handles[1], payload: renewal.bytes).status == .ok)
            server.clock.advance(2000)
            try await untilTrue { try writer.read(handles[0], at: 0, 512).status == .expired }
            #expect(try rival.openReply(try token(server, keys.1)).status == .writerConflict)
            #expect(try writer.request(.close, handle: handles[0]).status == .ok)
            #expect(try rival.openReply(try token(server, keys.1)).status == .writerConflict)
            server.clock.advance(2000)
            try await untilTrue { try rival.openReply(try token(server, keys.1)).status == .ok }
        }
    }

    @Test("a volume's mode can be changed though a writer of before was lost and its capability has ended")
    func modeChanges() async throws {
        try await withServer { server async throws in
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0))
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            await #expect(throws: StatusError.self) {
                try await server.services.perform(.updateVolume(server.descriptor(.multiReader)))
            }
            server.clock.advance(4000)
            _ = try await server.services.perform(.updateVolume(server.descriptor(.multiReader)))
            #expect(try resumes(server, old) == .notFound)
        }
    }

    @Test("a claim that nobody asks for ends at last")
    func ends() async throws {
        try await withServer { server async throws in
            let old = try server.client(keys.0, features: .resume)
            _ = try old.open(try token(server, keys.0))
            old.disconnect()
            try await server.waitForSessions { $0.first?.lost != nil }
            server.clock.advance(3600 + Limits.courtesySeconds - 10)
            #expect(try resumes(server, old) == .ok)
            try await server.waitForSessions { $0.first?.lost != nil }
            server.clock.advance(Limits.courtesySeconds)
            try await server.waitForSessions { $0.isEmpty }
        }
    }
}
