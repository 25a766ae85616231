import Core
import DriverKit
import Reactor
import Services
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane

/// Channels that outlive their connections.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct ResumeTests {
    private func token(_ server: TestServer, _ key: PrivateKey) throws -> [UInt8] {
        try server.mint(server.claims(for: key)).bytes
    }

    @Test func aLostChannelGoesOnWithItsSlots() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            #expect(old.session?.features == .resume)
            #expect(old.session?.lingerSeconds == Limits.lingerSeconds)
            let handle = try old.open(try token(server, key))
            #expect(try old.write(handle, at: 0, pattern(512)) == .ok)
            old.disconnect()
            let new = try server.connect(key)
            let reply = try new.resume(old)
            #expect(reply.resumption == .slots)
            #expect(reply.session == old.session?.session && reply.channel == 0)
            #expect(reply.secret == [UInt8](repeating: 0, count: 32))
            let again = try new.open(try token(server, key))
            #expect(try new.read(again, at: 0, 512).payload == pattern(512))
        }
    }

    @Test func aWriteThatWasExecutedIsAnsweredFromTheCache() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.hold([.write])
            try old.send(.write, slot: 3, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            old.disconnect()
            let new = try server.connect(key)
            // The old connection is gone, or not yet: either way HELLO waits for its write.
            let hello = new.resumption(of: try #require(old.session), secret: old.secret)
            try new.sendHello(hello)
            #expect(!new.hasInput(withinMilliseconds: 100))
            server.driver.letGo()
            _ = try new.takeOver(old, try new.readReply())
            try new.send(
                sequence: 1, .write, slot: 3, handle: 0x999, payload: pattern(512), count: 512)
            let reply = try new.readReply()
            #expect(reply.status == .ok && reply.header.value == 512 && reply.header.sequence == 1)
            #expect(server.driver.executed == [.write])
            let again = try new.open(try token(server, key))
            #expect(try new.write(again, at: 512, pattern(512), slot: 3) == .ok)
            #expect(server.driver.executed == [.write, .write])
        }
    }

    @Test func aLivingConnectionGivesWayAfterItsRequests() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.hold([.write])
            try old.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            let new = try server.connect(key)
            try new.sendHello(new.resumption(of: try #require(old.session), secret: old.secret))
            #expect(old.isClosedByServer(), "the old connection is closed at once")
            #expect(!new.hasInput(withinMilliseconds: 100), "its write is not over")
            server.driver.letGo()
            #expect(try new.takeOver(old, try new.readReply()).resumption == .slots)
            #expect(server.driver.executed == [.write])
        }
    }

    @Test func aChannelIsResumedOnWhateverReactor() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            // Each new connection goes to the emptier reactor: the next one is not where this one is.
            var client = try server.client(key, features: .resume)
            let handle = try client.open(try token(server, key))
            #expect(try client.write(handle, at: 0, pattern(512)) == .ok)
            for round in UInt64(0)..<8 {
                let next = try server.resumed(client, key)
                try next.send(
                    sequence: next.lastSequence(), .write, payload: pattern(512), count: 512)
                #expect(try next.readReply().status == .ok)
                let again = try next.open(try token(server, key))
                #expect(try next.write(again, at: 512 * round, pattern(512)) == .ok)
                client = next
            }
            #expect(server.driver.executed.count == 9, "no repeat was executed")
        }
    }

    @Test func theLaterOfTwoThatResumeGetsTheChannel() async throws {
        var options = DataServerOptions()
        options.reactors = 2
        options.helloNanoseconds = 3_000_000_000
        try await withServer(options: options) { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.hold([.write])
            try old.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            old.disconnect()
            let session = try #require(old.session)
            let first = try server.connect(key)
            try first.sendHello(first.resumption(of: session, secret: old.secret))
            #expect(!first.hasInput(withinMilliseconds: 3500), "the timer to HELLO rests while it waits")
            let second = try server.connect(key)
            try second.sendHello(second.resumption(of: session, secret: old.secret))
            #expect(try first.readReply().status == .busy)
            #expect(first.isClosedByServer())
            server.driver.letGo()
            _ = try second.takeOver(old, try second.readReply())
            #expect(try second.request(.ping, slot: 5).status == .ok)
        }
    }

    @Test func whoGoesAwayWhileItWaitsLosesNothing() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.hold([.write])
            try old.send(.write, handle: handle, count: 512, payload: pattern(512))
            await server.driver.waitUntilHeld(1)
            old.disconnect()
            let impatient = try server.connect(key)
            try impatient.sendHello(
                impatient.resumption(of: try #require(old.session), secret: old.secret))
            #expect(!impatient.hasInput(withinMilliseconds: 100))
            impatient.disconnect()
            server.driver.letGo()
            let new = try server.resumed(old, key)
            try new.send(sequence: old.lastSequence(), .write, payload: pattern(512), count: 512)
            #expect(try new.readReply().status == .ok)
            #expect(server.driver.executed == [.write])
        }
    }

    @Test func halfAWriteIsDroppedAndMustComeAgain() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            let header = old.nextHeader(.write, slot: 1, handle: handle, count: 4096, length: 4096)
            try old.sendRaw(header.bytes + pattern(100))
            try await server.waitForSessions { $0.first?.inFlight == 1 }
            let new = try server.resumed(old, key)
            let again = try new.open(try token(server, key))
            try new.send(sequence: 2, .ping, slot: 1)
            #expect(try new.readReply().status == .badSequence)
            try new.send(
                sequence: 1, .write, slot: 1, handle: again, payload: pattern(4096), count: 4096)
            #expect(try new.readReply().status == .ok)
            #expect(server.driver.executed == [.write])
        }
    }

    @Test func whatNoDriverHasBegunIsDropped() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.stall(true)
            try old.send(.write, slot: 2, handle: handle, count: 512, payload: pattern(512))
            try await server.waitForSessions { $0.first?.inFlight == 1 }
            // The driver never takes it, and nobody has to wait for that.
            let new = try server.resumed(old, key)
            server.driver.stall(false)
            let again = try new.open(try token(server, key))
            #expect(server.driver.executed.isEmpty)
            try new.send(sequence: 1, .write, slot: 2, handle: again, payload: pattern(512), count: 512)
            #expect(try new.readReply().status == .ok)
        }
    }

    @Test func errorsAreRememberedToo() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            let handle = try old.open(try token(server, key))
            server.driver.state.withLock { $0.failure = .noSpace }
            #expect(try old.write(handle, at: 0, pattern(512)) == .noSpace)
            server.driver.state.withLock { $0.failure = nil }
            let new = try server.resumed(old, key)
            try new.send(sequence: old.lastSequence(), .ping)
            let reply = try new.readReply()
            #expect(reply.status == .noSpace && reply.header.opcode == Opcode.write.rawValue)
            #expect(server.driver.executed == [.write])
        }
    }

    @Test func secretKeyAndChannelAreChecked() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let old = try server.client(key, features: .resume)
            _ = try old.open(try token(server, key))
            let session = try #require(old.session)
            var wrong = old.secret
            wrong[0] ^= 1
            let guess = try server.connect(key)
            #expect(try guess.helloReply(guess.resumption(of: session, secret: wrong)).status == .denied)
            let thief = try server.connect(PrivateKey.generateP256())
            #expect(try thief.helloReply(thief.resumption(of: session, secret: old.secret)).status == .denied)
            let stray = try server.connect(key)
            var hello = stray.resumption(of: session, secret: old.secret)
            hello.resumes = 7
            #expect(try stray.helloReply(hello).status == .notFound)
            #expect(try old.request(.ping, slot: 1).status == .ok, "none of them has harmed the connection")
        }
    }

    @Test func aClosedChannelIsGoneAndSoIsOneWithoutResume() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let closed = try server.client(key, features: .resume)
            _ = try closed.open(try token(server, key))
            try closed.closeInOrder()
            try await server.waitForSessions { $0.isEmpty }
            let late = try server.connect(key)
            #expect(try late.resumeReply(closed).status == .notFound)
            let plain = try server.client(key)
            _ = try plain.open(try token(server, key))
            plain.disconnect()
            try await server.waitForSessions { $0.isEmpty }
        }
    }

    @Test func aSessionThatHasOpenedNothingIsNotKept() async throws {
        try await withServer { server async throws in
            let key = PrivateKey.generateP256()
            let client = try server.client(key, features: .resume)
            client.disconnect()
            try await server.waitForSessions { $0.isEmpty }
        }
    }
}
