import Capability
import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// What a capability allows, how it ends, and who may write.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct AuthorityTests {
    private func refusal(
        _ server: TestServer, _ key: PrivateKey, rights: Rights = [],
        _ change: (inout Claims) -> Void
    ) throws -> Status? {
        var claims = server.claims(for: key)
        change(&claims)
        let client = try server.client(key)
        let reply = try client.openReply(try server.mint(claims).bytes, rights: rights)
        if reply.status != .ok { #expect(!reply.payload.isEmpty, "a refusal says why") }
        return reply.status
    }

    @Test func tokensThatDoNotCountAreRefusedEachWithItsStatus() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let other = PrivateKey.generateP256()
            let now = server.clock.now()
            #expect(
                try refusal(server, key) {
                    $0.notBefore = now - 100; $0.expiry = now - 1
                } == .expired)
            #expect(try refusal(server, key) { $0.notBefore = now + 1000 } == .notYetValid)
            #expect(try refusal(server, key) { $0.audience = Identifier(high: 1, low: 1) } == .wrongAudience)
            #expect(try refusal(server, key) { $0.holder = other.publicKeyThumbprint } == .wrongHolder)
            #expect(try refusal(server, key) { $0.subject = Identifier(high: 1, low: 1) } == .staleEpoch)
            #expect(try refusal(server, key) { $0.nodeEpoch -= 1 } == .staleEpoch)
            #expect(try refusal(server, key) { $0.resourceEpoch -= 1 } == .staleEpoch)
            // The server has yet to hear of these.
            #expect(try refusal(server, key) { $0.nodeEpoch += 1 } == .busy)
            #expect(try refusal(server, key) { $0.resourceEpoch += 1 } == .busy)
            #expect(try refusal(server, key) { $0.resource = Identifier(high: 1, low: 1) } == .notFound)
            #expect(try refusal(server, key) { $0.kind = .fileset } == .denied)
            #expect(try refusal(server, key, rights: [.read, .write]) { $0.rights = .read } == .denied)
            #expect(try refusal(server, key) { _ in } == .ok)
        }
    }

    @Test func brokenReorderedAndWidenedBlocksAreRefused() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let keys = OpenSSLSignatures()
            let whole = try server.mint(server.claims(for: key))
            let client = try server.client(key)
            for place in stride(from: 0, to: whole.bytes.count, by: 7) {
                var bytes = whole.bytes
                bytes[place] ^= 0x20
                let status = try client.openReply(bytes).status
                #expect(status != .ok, "byte \(place)")
            }
            let stranger = OpenSSLSignatures().makeKey().signer
            let forged = try Capability.mint(
                server.claims(for: key), keyID: TestServer.keyID, signer: stranger, keys: keys)
            #expect(try client.openReply(forged.bytes).status == .badCapability)
            let narrowed = try whole.attenuated(by: Attenuation(rights: .read), keys: keys)
            #expect(try client.openReply(narrowed.bytes, rights: .write).status == .denied)
            #expect(try client.openReply(narrowed.bytes, rights: .read).status == .ok)
        }
    }

    @Test func rightsAndRangeAreEnforcedOnEveryRequest() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            var claims = server.claims(for: key, rights: .read)
            claims.range = ByteRange(offset: 4096, length: 8192)
            let handle = try client.open(try server.mint(claims).bytes)
            #expect(try client.read(handle, at: 4096, 8192).status == .ok)
            #expect(try client.read(handle, at: 0, 4096).status == .denied)
            #expect(try client.read(handle, at: 8192, 8192).status == .denied)
            #expect(try client.write(handle, at: 4096, pattern(4096)) == .denied)
            #expect(try client.request(.flush, handle: handle).status == .denied)
            #expect(try client.request(.discard, handle: handle, offset: 4096, count: 4096).status == .denied)
            let zeroes = try client.request(.writeZeroes, handle: handle, offset: 4096, count: 4096)
            #expect(zeroes.status == .denied)
            #expect(server.driver.executed == [.read])
        }
    }

    @Test func openAndStatDescribeTheHandle() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            var claims = server.claims(for: key, rights: [.read, .write])
            claims.limits = IOLimits(iops: 500, bytesPerSecond: 1 << 20)
            let reply = try client.openReply(try server.mint(claims).bytes, rights: .read)
            let state = try ResourceState(bytes: reply.payload)
            #expect(state.size == TestServer.volumeBytes)
            #expect(state.rights == .read)
            #expect(state.resource == server.volume)
            #expect(state.capability == claims.capability)
            #expect(state.limits == claims.limits)
            #expect(state.expiry == claims.expiry)
            let stat = try client.request(.stat, handle: UInt32(reply.header.value))
            #expect(stat.payload == reply.payload)
        }
    }

    @Test func revocationIsInForceWhenItAnswers() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let bytes = try server.mint(claims).bytes
            let first = try server.client(key)
            let second = try server.client(key, joining: first)
            let handles = (try first.open(bytes), try second.open(bytes))
            #expect(try first.write(handles.0, at: 0, pattern(512)) == .ok)
            _ = try await server.services.perform(
                .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
            #expect(try first.write(handles.0, at: 0, pattern(512)) == .revoked)
            #expect(try second.read(handles.1, at: 0, 512).status == .revoked)
            #expect(try first.request(.stat, handle: handles.0).status == .revoked)
            #expect(first.events == [.revoked(handle: handles.0, status: .revoked, reason: "test")])
            #expect(try second.openReply(bytes).status == .revoked)
            let renew = RenewRequest(capability: bytes)
            #expect(try first.request(.renew, handle: handles.0, payload: renew.bytes).status == .revoked)
            #expect(try first.request(.close, handle: handles.0).status == .ok)
        }
    }

    @Test func revocationWaitsForWhatTheDriverHas() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let client = try server.client(key)
            let handle = try client.open(try server.mint(claims).bytes)
            server.driver.hold([.write, .read])
            try client.send(.write, slot: 0, handle: handle, count: 512, payload: pattern(512))
            try client.send(.read, slot: 1, handle: handle, count: 512)
            await server.driver.waitUntilHeld(2)
            let services = server.services
            let revocation = Task {
                _ = try await services.perform(
                    .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
                return server.driver.executed.count
            }
            // The event is sent when the handle is marked: from then on nothing new may run.
            #expect(try client.readEvent() == .revoked(handle: handle, status: .revoked, reason: "test"))
            #expect(try client.write(handle, at: 512, pattern(512), slot: 2) == .revoked)
            #expect(server.driver.executed.isEmpty)
            server.driver.letGo()
            #expect(try await revocation.value == 2, "the answer came before the requests had ended")
            let replies = [try client.readReply(), try client.readReply()]
            #expect(replies.first { $0.header.slot == 0 }?.status == .ok)
            #expect(replies.first { $0.header.slot == 1 }?.status == .revoked)
            #expect(replies.allSatisfy { $0.payload.isEmpty })
        }
    }

    @Test func aRevokedWriteWhosePayloadIsStillArrivingNeverRuns() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let client = try server.client(key)
            let handle = try client.open(try server.mint(claims).bytes)
            let header = client.nextHeader(.write, handle: handle, count: 4096, length: 4096)
            try client.sendRaw(header.bytes + pattern(1000))
            _ = try await server.services.perform(
                .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
            try client.sendRaw(pattern(3096))
            #expect(try client.readReply().status == .revoked)
            #expect(server.driver.executed.isEmpty)
        }
    }

    @Test func removingANodeAndChangingEpochsEndHandles() async throws {
        try await withServer(accessMode: .shared) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let bytes = try server.mint(server.claims(for: key)).bytes
            var handle = try client.open(bytes)
            _ = try await server.services.perform(
                .setNode(id: server.node, name: "node-1", epoch: TestServer.nodeEpoch))
            #expect(try client.read(handle, at: 0, 512).status == .ok)
            _ = try await server.services.perform(
                .setNode(id: server.node, name: "node-1", epoch: TestServer.nodeEpoch + 1))
            #expect(try client.read(handle, at: 0, 512).status == .revoked)
            #expect(try client.openReply(bytes).status == .staleEpoch)
            _ = try await server.services.perform(
                .setNode(id: server.node, name: "node-1", epoch: TestServer.nodeEpoch))
            handle = try client.open(bytes)
            _ = try await server.services.perform(
                .updateVolume(server.descriptor(.shared, epoch: TestServer.volumeEpoch + 1)))
            #expect(try client.read(handle, at: 0, 512).status == .revoked)
            #expect(try client.openReply(bytes).status == .staleEpoch)
            _ = try await server.services.perform(.removeNode(server.node))
            #expect(try client.openReply(bytes).status == .staleEpoch)
        }
    }

    @Test func aDeletedVolumeIsGoneAlsoWhenItsNameIsUsedAgain() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let bytes = try server.mint(server.claims(for: key)).bytes
            let handle = try client.open(bytes)
            _ = try await server.services.perform(.deleteVolume(server.volume, pool: "default"))
            _ = try await server.services.perform(.deleteVolume(server.volume, pool: "default"))
            #expect(try client.read(handle, at: 0, 512).status == .revoked)
            let again = VolumeDescriptor(
                id: Identifier(high: 9, low: 9), name: "vol", pool: "default", size: 1 << 20,
                accessMode: .singleWriter, epoch: 0)
            _ = try await server.services.perform(.createVolume(again))
            #expect(try client.openReply(bytes).status == .notFound)
        }
    }

    @Test func oneSessionAtATimeWritesUnlessTheVolumeIsShared() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let writer = try server.client(keys.0)
            let bytes = (
                try server.mint(server.claims(for: keys.0)).bytes,
                try server.mint(server.claims(for: keys.1)).bytes
            )
            let handle = try writer.open(bytes.0)
            let sibling = try server.client(keys.0, joining: writer)
            _ = try sibling.open(bytes.0)
            let other = try server.client(keys.1)
            let refused = try other.openReply(bytes.1)
            #expect(refused.status == .writerConflict)
            #expect(refused.message.contains("node-1"))
            #expect(try other.openReply(bytes.1, rights: .read).status == .ok)
            #expect(try writer.request(.close, handle: handle).status == .ok)
            #expect(try other.openReply(bytes.1).status == .writerConflict, "the other channel still writes")
            sibling.disconnect()
            try await server.waitForSessions { $0.allSatisfy { $0.channels <= 1 } }
            #expect(try other.openReply(bytes.1).status == .ok)
            #expect(try writer.openReply(bytes.0).status == .writerConflict)
        }
    }

    @Test func aRevokedWriterMakesRoomForTheNext() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let claims = server.claims(for: keys.0)
            let writer = try server.client(keys.0)
            _ = try writer.open(try server.mint(claims).bytes)
            _ = try await server.services.perform(
                .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
            let other = try server.client(keys.1)
            #expect(try other.openReply(try server.mint(server.claims(for: keys.1)).bytes).status == .ok)
        }
    }

    @Test func nobodyWritesAMultiReaderVolume() async throws {
        try await withServer(accessMode: .multiReader) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let bytes = try server.mint(server.claims(for: key)).bytes
            #expect(try client.openReply(bytes, rights: .write).status == .readOnly)
            let handle = try client.open(bytes)
            #expect(try client.write(handle, at: 0, pattern(512)) == .denied)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func anExpiredHandleIsRefusedUntilItIsRenewed() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            server.clock.advance(4000)
            try await untilTrue { try client.read(handle, at: 0, 512).status == .expired }
            var narrow = server.claims(for: key)
            narrow.rights = .read
            let tooLittle = RenewRequest(capability: try server.mint(narrow).bytes)
            #expect(try client.request(.renew, handle: handle, payload: tooLittle.bytes).status == .denied)
            let good = RenewRequest(capability: try server.mint(server.claims(for: key)).bytes)
            let renewed = try client.request(.renew, handle: handle, payload: good.bytes)
            #expect(renewed.status == .ok)
            #expect(try ResourceState(bytes: renewed.payload).expiry == server.clock.now() + 3600)
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func anExpiredWriterMakesRoomForTheNext() async throws {
        try await withServer { server async throws in
            let keys = (PrivateKey.generateP256(), PrivateKey.generateP256())
            let writer = try server.client(keys.0)
            let handle = try writer.open(try server.mint(server.claims(for: keys.0)).bytes)
            server.clock.advance(4000)
            let other = try server.client(keys.1)
            let bytes = try server.mint(server.claims(for: keys.1)).bytes
            try await untilTrue { try other.openReply(bytes).status == .ok }
            let renewal = RenewRequest(capability: try server.mint(server.claims(for: keys.0)).bytes)
            let reply = try writer.request(.renew, handle: handle, payload: renewal.bytes)
            #expect(reply.status == .writerConflict)
        }
    }

    @Test func theHolderIsToldBeforeTheCapabilityEnds() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let claims = server.claims(for: key)
            let handle = try client.open(try server.mint(claims).bytes)
            server.clock.advance(3570)
            #expect(try client.readEvent() == .expiring(handle: handle, expiry: claims.expiry))
        }
    }

    @Test func growingAVolumeIsAnnouncedAndUsable() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let size = 2 * TestServer.volumeBytes
            _ = try await server.services.perform(.resizeVolume(server.volume, size))
            #expect(try client.readEvent() == .resized(handle: handle, size: size))
            #expect(try client.write(handle, at: size - 512, pattern(512)) == .ok)
            await #expect(throws: StatusError.self) {
                try await server.services.perform(.resizeVolume(server.volume, 4096))
            }
        }
    }

    @Test func aSessionIsDisconnectedAndItsWritesHaveEnded() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            _ = try client.open(try server.mint(server.claims(for: key)).bytes)
            let session = try #require(client.session).session
            _ = try await server.services.perform(.endSession(session, reason: "test"))
            #expect(client.isClosedByServer())
            let sessions = try await server.services.perform(.listSessions)
            #expect(sessions.isEmpty)
            await #expect(throws: StatusError.self) {
                try await server.services.perform(.endSession(session, reason: "test"))
            }
        }
    }

    @Test func requestsAboveTheLimitAreDelayedAndAllAnswered() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 32)
            var claims = server.claims(for: key)
            claims.limits = IOLimits(iops: 100)
            let handle = try client.open(try server.mint(claims).bytes)
            let clock = SystemClock()
            let begun = clock.now()
            var frames: [UInt8] = []
            for slot in 0..<UInt16(32) {
                frames += client.nextHeader(.read, slot: slot, handle: handle, count: 512).bytes
            }
            try client.sendRaw(frames)
            for _ in 0..<32 { #expect(try client.readReply().status == .ok) }
            // Ten are let through at once, the others come a hundred a second.
            #expect(clock.now() - begun > 150_000_000)
        }
    }

    @Test func closeAnswersAfterEarlierRequests() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            server.driver.hold([.read])
            try client.send(.read, slot: 1, handle: handle, count: 512)
            try client.send(.close, slot: 2, handle: handle)
            #expect(try client.read(handle, at: 0, 512, slot: 3).status == .badHandle)
            server.driver.letGo()
            #expect(try client.readReply().header.slot == 1)
            #expect(try client.readReply().header.slot == 2)
        }
    }

    @Test func handlesOfAChannelAreBounded() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let bytes = try server.mint(server.claims(for: key)).bytes
            for _ in 0..<Limits.handlesPerChannelMax { _ = try client.open(bytes) }
            #expect(try client.openReply(bytes).status == .tooManyHandles)
        }
    }
}
