import Capability
import Core
import Services
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import DataPlane
@testable import Reactor

/// Signatures, counted by the wake-up of the reactor that has them checked.
private final class CountedSignatures: SignatureVerifier {
    private struct State {
        var remote: ReactorRemote?
        var turns: [UInt64: Int] = [:]
    }

    private let signatures = OpenSSLSignatures()
    private let state = Mutex(State())

    /// The most that one wake-up has had checked.
    var most: Int { state.withLock { $0.turns.values.max() ?? 0 } }

    func follow(_ remote: ReactorRemote) { state.withLock { $0.remote = remote } }

    func isValid(signature: [UInt8], message: [UInt8], publicKey: [UInt8]) -> Bool {
        state.withLock { state in
            if let turn = state.remote?.pulse.turns { state.turns[turn, default: 0] += 1 }
        }
        return signatures.isValid(signature: signature, message: message, publicKey: publicKey)
    }

    func publicKey(seed: [UInt8]) -> [UInt8]? { signatures.publicKey(seed: seed) }
}

/// A wake-up of a reactor checks a few signatures, whoever asks for them and however.
@Suite(.timeLimit(.minutes(1)), .blocking)
struct SignatureTurnTests {
    /// A server, a client that has opened something, what to open more with, and how many signatures that takes.
    private struct Scene {
        let server: TestServer
        let client: TestClient
        let handle: UInt32
        let capability: [UInt8]
        let signatures: CountedSignatures
        let each: Int

        func opens(slots: Range<UInt16>) -> [UInt8] {
            let body = OpenRequest(kind: .volume, rights: [], takesOver: false, capability: capability).bytes
            return slots.flatMap { client.nextHeader(.open, slot: $0, length: body.count).bytes + body }
        }

        func expectFew() {
            #expect(signatures.most <= Int(Limits.turnSignatures) * each, "\(signatures.most) in one wake-up")
        }
    }

    private func withScene(_ body: (Scene) async throws -> Void) async throws {
        let signatures = CountedSignatures()
        try await withServer(configure: { $0.signatures = signatures }) { server async throws in
            let key = PrivateKey.generateP256()
            let capability = try server.mint(server.claims(for: key, rights: .read)).bytes
            let client = try server.client(key, slots: 128, features: .resume)
            signatures.follow(try #require(server.server.reactors.first).remote)
            let handle = try client.open(capability)
            try await body(
                Scene(
                    server: server, client: client, handle: handle, capability: capability,
                    signatures: signatures, each: signatures.most))
        }
    }

    @Test func whoHasOpenedSomethingAndAlternatesHasFewChecked() async throws {
        try await withScene { scene in
            let client = scene.client
            var records: [UInt8] = []
            for round: UInt16 in 0..<2 {
                let first = round * 32
                records += try client.encrypt(
                    client.nextHeader(.read, slot: first, handle: scene.handle, count: 512).bytes)
                records += try client.encrypt(scene.opens(slots: first + 1..<first + 31))
            }
            #expect(client.sendCiphertext(records))
            for _ in 0..<62 { #expect(try client.readReply().status == .ok) }
            scene.expectFew()
        }
    }

    @Test func whatWaitedBehindARequestForRoomHasFewChecked() async throws {
        try await withScene { scene in
            let client = scene.client
            let bytes = 1 << 20
            let reads = UInt16(Limits.channelBudgetBytes / bytes)
            scene.server.driver.hold([.read])
            var frames: [UInt8] = []
            for slot in 0...reads {
                frames +=
                    client.nextHeader(.read, slot: slot, handle: scene.handle, count: UInt32(bytes)).bytes
            }
            try client.sendRaw(frames + scene.opens(slots: 32..<52))
            await scene.server.driver.waitUntilHeld(Int(reads))
            scene.server.driver.letGo()
            for _ in 0..<Int(reads) + 21 { #expect(try client.readReply().status == .ok) }
            scene.expectFew()
        }
    }

    @Test func whoSaysThatItClosesIsHeardToTheEnd() async throws {
        try await withScene { scene in
            try scene.client.sendRaw(scene.opens(slots: 0..<30))
            try scene.client.closeInOrder()
            try await scene.server.waitForSessions { $0.isEmpty }
        }
    }

    /// Those that wait are not passed by whoever comes later.
    @Test func manyThatAskAreAllAnswered() async throws {
        try await withScene { scene in
            let key = PrivateKey.generateP256()
            let clients = try (0..<8).map { _ in try scene.server.client(key, slots: 32) }
            for client in clients {
                // Of another's capability: refused once it was looked at.
                let body = OpenRequest(
                    kind: .volume, rights: [], takesOver: false, capability: scene.capability
                ).bytes
                try client.sendRaw(
                    (0..<UInt16(16)).flatMap {
                        client.nextHeader(.open, slot: $0, length: body.count).bytes + body
                    })
            }
            try scene.client.sendRaw(scene.opens(slots: 0..<8))
            for _ in 0..<8 { #expect(try scene.client.readReply().status == .ok) }
            for client in clients {
                for _ in 0..<16 { #expect(try client.readReply().status != .ok) }
            }
            scene.expectFew()
        }
    }
}
