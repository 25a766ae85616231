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

/// Sessions that want more than there is: others are served, and limits hold for all that they are meant for.
@Suite(.timeLimit(.minutes(2)), .serialized, .blocking)
struct OverloadTests {
    private static let second: UInt64 = 1_000_000_000

    /// Two keys, a session each; the volume may be written by both.
    private func open(
        _ server: TestServer, joining: TestClient? = nil, key: PrivateKey = .generateP256(),
        claims: Claims? = nil,
        slots: UInt16 = 128
    ) throws -> (client: TestClient, handle: UInt32) {
        let client = try server.client(key, joining: joining, slots: slots)
        return (client, try client.open(try server.mint(claims ?? server.claims(for: key)).bytes))
    }

    private func sendReads(_ client: TestClient, _ handle: UInt32, count: UInt16, bytes: UInt32 = 512) throws
    {
        var frames: [UInt8] = []
        for slot in 0..<count {
            frames += client.nextHeader(.read, slot: slot, handle: handle, count: bytes).bytes
        }
        try client.sendRaw(frames)
    }

    private func waitUntilInFlight(_ server: TestServer, _ count: Int) async throws {
        try await server.waitForSessions { $0.map(\.inFlight).reduce(0, +) >= count }
    }

    @Test func aNewcomerIsGivenToTheDriverWhileAFloodWaits() async throws {
        try await withServer(accessMode: .shared) { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            var flood: [(client: TestClient, handle: UInt32)] = [try open(server, key: key, claims: claims)]
            while flood.count < 8 {
                flood.append(try open(server, joining: flood[0].client, key: key, claims: claims))
            }
            server.driver.hold([.read])
            for (client, handle) in flood { try sendReads(client, handle, count: 125) }
            try await waitUntilInFlight(server, 1000)
            await server.driver.waitUntilHeld(Limits.sessionRequestsAlone)
            // It finds the driver full of another's requests, of which a thousand are unanswered.
            let gentle = try open(server)
            try gentle.client.send(.write, handle: gentle.handle, count: 512, payload: pattern(512))
            #expect(try gentle.client.readReply().status == .ok)
            try gentle.client.send(.read, slot: 1, handle: gentle.handle, count: 512)
            await server.driver.waitUntilHeld(Limits.sessionRequestsAlone + 1)
            server.driver.letGo()
            #expect(try gentle.client.readReply().status == .ok)
            for (client, _) in flood { for _ in 0..<125 { #expect(try client.readReply().status == .ok) } }
        }
    }

    @Test func inCompanyAFloodHasABoundedPartOfTheDriver() async throws {
        try await withServer(accessMode: .shared) { server async throws in
            let flood = try open(server)
            let gentle = try open(server)
            server.driver.hold([.read])
            // What is larger than the requests whose delay counts leaves the window whole.
            let size = UInt32(2 * Limits.loneBytesMax)
            try gentle.client.send(.read, handle: gentle.handle, count: size)
            await server.driver.waitUntilHeld(1)
            try sendReads(flood.client, flood.handle, count: 128)
            try await waitUntilInFlight(server, 129)
            let held = 1 + Limits.sharedRequests / 2
            await server.driver.waitUntilHeld(held)
            // What waits for the driver beyond that has had a wake-up to get there.
            #expect(await server.driver.waitUntilHeld(0) == held)
            server.driver.letGo()
            #expect(try gentle.client.readReply().status == .ok)
            for _ in 0..<128 { #expect(try flood.client.readReply().status == .ok) }
        }
    }

    @Test func aRequestThatWaitsIsWithdrawnWithItsCapability() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let claims = server.claims(for: key)
            let first = try open(server, key: key, claims: claims)
            let second = try open(server, joining: first.client, key: key, claims: claims)
            let third = try open(server, joining: first.client, key: key, claims: claims)
            server.driver.hold([.read])
            for (client, handle) in [first, second, third] { try sendReads(client, handle, count: 128) }
            try await waitUntilInFlight(server, 384)
            await server.driver.waitUntilHeld(Limits.sessionRequestsAlone)
            let services = server.services
            let revoked = Task {
                _ = try await services.perform(
                    .revokeCapability(claims.capability, expiry: claims.expiry, reason: "test"))
            }
            // What the driver does not have is answered at once.
            #expect(try third.client.readReply().status == .revoked)
            server.driver.letGo()
            try await revoked.value
            #expect(server.driver.executed.count == Limits.sessionRequestsAlone)
        }
    }

    // MARK: Limits

    /// Nanoseconds until all reads of these channels are answered.
    private func time(_ channels: [(client: TestClient, handle: UInt32)], reads: UInt16) throws -> UInt64 {
        let clock = SystemClock()
        let begun = clock.now()
        for (client, handle) in channels { try sendReads(client, handle, count: reads) }
        for (client, _) in channels {
            for _ in 0..<reads { #expect(try client.readReply().status == .ok) }
        }
        return clock.now() - begun
    }

    @Test func theLimitOfACapabilityHoldsForAllItsChannels() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            var claims = server.claims(for: key)
            claims.limits = IOLimits(iops: 100)
            var channels = [try open(server, key: key, claims: claims)]
            while channels.count < 4 {
                channels.append(try open(server, joining: channels[0].client, key: key, claims: claims))
            }
            // 60 reads, of which about ten are the burst; four channels with a limit each would take 50 ms.
            #expect(try time(channels, reads: 15) > Self.second * 4 / 10)
            let statistics = try await server.services.perform(.statistics)
            #expect(statistics.delayed >= 40)
        }
    }

    @Test func aNarrowedCapabilityIsHeldToBothLimits() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            var claims = server.claims(for: key)
            claims.limits = IOLimits(iops: 200)
            let capability = try server.mint(claims)
            let narrowed = try capability.attenuated(
                by: Attenuation(limits: IOLimits(iops: 50)), keys: OpenSSLSignatures())
            let client = try server.client(key, slots: 128)
            let narrow = try client.open(narrowed.bytes)
            #expect(try time([(client, narrow)], reads: 20) > Self.second * 2 / 10)
            let sibling = try capability.attenuated(
                by: Attenuation(limits: IOLimits(iops: 199)), keys: OpenSSLSignatures())
            let other = try client.open(sibling.bytes)
            // 60 reads at 200 a second with all that descends from the capability; the burst may be 20.
            let begun = SystemClock().now()
            for handle in [narrow, other] {
                for _ in 0..<(handle == narrow ? 5 : 60) {
                    #expect(try client.read(handle, at: 0, 512).status == .ok)
                }
            }
            #expect(SystemClock().now() - begun > Self.second * 2 / 10)
        }
    }

    @Test func theLimitOfAVolumeHoldsForAllSessionsAndChangesAtOnce() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options, accessMode: .shared) { server async throws in
            var volume = server.descriptor(.shared)
            volume.limits = RateLimits(iops: 100, burstMilliseconds: 0)
            let before = try open(server)
            _ = try await server.services.perform(.updateVolume(volume))
            let after = try open(server)
            #expect(try time([before, after], reads: 15) > Self.second * 25 / 100)

            // A limit that would take a minute is lifted while requests wait for it.
            volume.limits = RateLimits(iops: 1, burstMilliseconds: 0)
            _ = try await server.services.perform(.updateVolume(volume))
            let begun = SystemClock().now()
            try sendReads(before.client, before.handle, count: 60)
            try await waitUntilInFlight(server, 50)
            volume.limits = .none
            _ = try await server.services.perform(.updateVolume(volume))
            for _ in 0..<60 { #expect(try before.client.readReply().status == .ok) }
            #expect(SystemClock().now() - begun < 20 * Self.second)
            #expect(try time([before, after], reads: 128) < 10 * Self.second)
        }
    }

    @Test func handlesThatWaitForOneLimitTakeTurns() async throws {
        try await withServer(accessMode: .shared) { server async throws in
            var volume = server.descriptor(.shared)
            volume.limits = RateLimits(iops: 200, burstMilliseconds: 0)
            _ = try await server.services.perform(.updateVolume(volume))
            let first = try open(server)
            let second = try open(server)
            try sendReads(first.client, first.handle, count: 60)
            try await waitUntilInFlight(server, 50)
            try sendReads(second.client, second.handle, count: 10)
            for _ in 0..<10 { #expect(try second.client.readReply().status == .ok) }
            // While ten of the second had their turn, so had about ten of the first.
            let statistics = try await server.services.perform(.statistics)
            #expect(statistics.reads < 50)
            for _ in 0..<60 { #expect(try first.client.readReply().status == .ok) }
        }
    }

    @Test func bytesOfAVolumeAreLimited() async throws {
        try await withServer(accessMode: .shared) { server async throws in
            var volume = server.descriptor(.shared)
            volume.limits = RateLimits(bytesPerSecond: 1 << 20, burstMilliseconds: 0)
            _ = try await server.services.perform(.updateVolume(volume))
            let (client, handle) = try open(server)
            let begun = SystemClock().now()
            try sendReads(client, handle, count: 5, bytes: 128 << 10)
            for _ in 0..<5 { #expect(try client.readReply().status == .ok) }
            // Four times 128 KiB are paid for when the fifth may go.
            #expect(SystemClock().now() - begun >= Self.second / 2)
        }
    }

    @Test func whoWaitsForALimitIsCutOffAtOnce() async throws {
        try await withServer { server async throws in
            var volume = server.descriptor()
            volume.limits = RateLimits(iops: 1, burstMilliseconds: 0)
            _ = try await server.services.perform(.updateVolume(volume))
            let (client, handle) = try open(server)
            try sendReads(client, handle, count: 20)
            #expect(try client.readReply().status == .ok)
            try await waitUntilInFlight(server, 19)
            volume.epoch += 1
            _ = try await server.services.perform(.fenceVolume(volume, reason: "test"))
            for _ in 0..<19 { #expect(try client.readReply().status == .fenced) }
            #expect(server.driver.executed.count == 1)
        }
    }
}
