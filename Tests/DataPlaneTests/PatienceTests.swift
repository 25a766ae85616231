import Capability
import Core
import Glibc
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Peers that are silent, slow, deaf or many: each costs a bounded amount, and others are served.
@Suite(.timeLimit(.minutes(2)), .serialized, .blocking)
struct PatienceTests {
    private static let second: UInt64 = 1_000_000_000

    /// Deadlines of a second, so that a test need not wait for ten.
    private var impatient: DataServerOptions {
        var options = DataServerOptions()
        options.helloNanoseconds = Self.second
        options.frameNanoseconds = Self.second
        options.sendNanoseconds = Self.second
        options.lingerNanoseconds = Self.second / 2
        return options
    }

    private func serves(_ server: TestServer) throws {
        let key = PrivateKey.generateP256()
        let client = try server.client(key)
        let handle = try client.open(try server.mint(server.claims(for: key, rights: .read)).bytes)
        #expect(try client.read(handle, at: 0, 512).status == .ok)
    }

    @Test func whoSaysNothingIsDropped() async throws {
        try await withServer(options: impatient) { server async throws in
            let silent = try RawSocket(server.address)
            let secured = try TestClient(
                address: server.address, context: server.clientContext(PrivateKey.generateP256()))
            #expect(silent.isClosedByPeer())
            #expect(secured.isClosedByServer())
            try serves(server)
        }
    }

    @Test func whoSendsAByteAtATimeIsDropped() async throws {
        try await withServer(options: impatient) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let header = client.nextHeader(.write, handle: handle, count: 1 << 20, length: 1 << 20)
            try client.sendRaw(header.bytes)
            let clock = SystemClock()
            let begun = clock.now()
            // Progress does not help: what counts is the whole frame.
            while true {
                do { try client.sendRaw([1]) } catch { break }
                if clock.now() - begun > 10 * Self.second { break }
                if client.hasInput(withinMilliseconds: 100) { break }
            }
            #expect(clock.now() - begun < 5 * Self.second)
            #expect(client.isClosedByServer())
            #expect(server.driver.executed.isEmpty)
            try serves(server)
        }
    }

    @Test func aSessionMayBeIdle() async throws {
        try await withServer(options: impatient) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            #expect(!client.hasInput(withinMilliseconds: 2500))
            #expect(try client.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func anIdleLimitThatWasAnnouncedIsEnforced() async throws {
        try await withServer(configure: { $0.idleSeconds = 1 }) { server async throws in
            let client = try server.client(PrivateKey.generateP256())
            #expect(client.session?.idleSeconds == 1)
            #expect(client.isClosedByServer())
        }
    }

    @Test func whoDoesNotReadIsNotReadFromAndThenDropped() async throws {
        try await withServer(options: impatient, configure: { $0.arenaBytes = 16 << 20 }) {
            server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 128)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let slots = try #require(client.session).slots
            var frames: [UInt8] = []
            for slot in 0..<slots {
                frames += client.nextHeader(.read, slot: slot, handle: handle, count: 1 << 20).bytes
            }
            try client.sendRaw(frames)
            // Somebody else is served all the while, from the same arena.
            try serves(server)
            let sessions = try await server.services.perform(.listSessions)
            let held = sessions.map(\.inFlight).reduce(0, +)
            #expect(held <= 3, "at most the channel's budget is in flight")
            try await server.waitForSessions { $0.isEmpty }
            try serves(server)
        }
    }

    @Test func whoReadsLateGetsEverything() async throws {
        try await withServer(configure: { $0.arenaBytes = 4 << 20 }) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 64)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            let bytes = pattern(1 << 20)
            #expect(try client.write(handle, at: 0, bytes) == .ok)
            var frames: [UInt8] = []
            for slot in 0..<UInt16(64) {
                frames += client.nextHeader(.read, slot: slot, handle: handle, count: 1 << 20).bytes
            }
            try client.sendRaw(frames)
            for _ in 0..<64 { #expect(try client.readReply().payload == bytes) }
        }
    }

    @Test func writesBeyondTheArenaWaitAndAreAllDone() async throws {
        try await withServer(configure: { $0.arenaBytes = 1 << 20 }) { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, slots: 32)
            let handle = try client.open(try server.mint(server.claims(for: key)).bytes)
            server.driver.hold([.write])
            var frames: [UInt8] = []
            for slot in 0..<UInt16(24) {
                let header = client.nextHeader(
                    .write, slot: slot, handle: handle, offset: UInt64(slot) << 18, count: 1 << 18,
                    length: 1 << 18)
                frames += header.bytes + pattern(1 << 18, seed: UInt8(slot))
            }
            let sent = frames
            // Sending blocks while the server does not read.
            let sender = Thread { try client.sendRaw(sent) }
            // A node leaves as much as it has.
            await server.driver.waitUntilHeld(2)
            server.driver.letGo()
            try sender.join()
            for _ in 0..<24 { #expect(try client.readReply().status == .ok) }
            let contents = server.driver.contents(of: server.volume)
            for slot in 0..<24 {
                let place = slot << 18
                #expect(Array(contents[place..<place + (1 << 18)]) == pattern(1 << 18, seed: UInt8(slot)))
            }
        }
    }

    @Test func whoComesAboveTheMostTakesThePlaceOfWhoHasOpenedNothing() async throws {
        var options = DataServerOptions()
        options.connectionsMax = 8
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            let user = try server.client(key)
            let handle = try user.open(try server.mint(server.claims(for: key)).bytes)
            // Anybody can have these: a session takes no capability.
            let idle = try (0..<7).map { _ in try server.client(PrivateKey.generateP256()) }
            try serves(server)
            try await untilTrue { idle.contains { $0.hasInput(withinMilliseconds: 0) } }
            #expect(try user.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func whoComesAboveTheMostTakesThePlaceOfTheNodeThatHasTheMost() async throws {
        var options = DataServerOptions()
        options.connectionsMax = 8
        try await withServer(options: options) { server async throws in
            let greedy = PrivateKey.generateP256()
            let theirs = try server.mint(server.claims(for: greedy, rights: .read)).bytes
            let other = PrivateKey.generateP256()
            let node = Identifier.random(using: SystemRandom())
            _ = try await server.services.perform(.setNode(id: node, name: "node-2", epoch: 1))
            let modest = try server.client(other)
            let handle = try modest.open(
                try server.mint(server.claims(for: other, rights: .read, of: node)).bytes)
            let many = try (0..<7).map { _ in try server.client(greedy) }
            for client in many { _ = try client.open(theirs, rights: .read) }
            let late = try server.client(other)
            #expect(try late.request(.ping).status == .ok)
            try await untilTrue { many.contains { $0.hasInput(withinMilliseconds: 0) } }
            #expect(try modest.read(handle, at: 0, 512).status == .ok)
        }
    }

    @Test func twoThousandConnectionsThatSayNothingAreNoneOfAnothersBusiness() async throws {
        var options = DataServerOptions()
        options.connectionsMax = 1500
        try await withServer(options: options) { server async throws in
            try raiseDescriptorLimit()
            let key = PrivateKey.generateP256()
            let holder = try server.client(key)
            var sockets: [RawSocket] = []
            for _ in 0..<2000 { sockets.append(try RawSocket(server.address)) }
            let handle = try holder.open(try server.mint(server.claims(for: key, rights: .read)).bytes)
            #expect(try holder.read(handle, at: 0, 512).status == .ok)
            sockets.removeAll()
            try await untilTrue { (try? serves(server)) != nil }
        }
    }
}
