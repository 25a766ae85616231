import Core
import Testing

@testable import Services

/// Seconds, by both clocks.
extension Moment: ExpressibleByIntegerLiteral {
    /// So many seconds of either clock.
    public init(integerLiteral seconds: UInt64) { self.init(wall: seconds, life: seconds * 1_000_000_000) }
}

/// Lost channels in the registry, and who gets them.
@Suite struct SessionResumeTests {
    private final class Shard {}
    private let shard = Shard()
    private let secret = Array(repeating: UInt8(7), count: 32)
    private let key = Digest32(first: Identifier(high: 1, low: 1), second: .zero)
    private let kept = KeptSlots(entries: [], count: 4, resumption: .slots)
    private let id = Identifier(high: 0, low: 1)

    private func connection(_ number: UInt64) -> SessionRegistry.Connection {
        SessionRegistry.Connection(shard: ObjectIdentifier(shard), number: number)
    }

    private func session(_ id: Identifier, node: Bool = true) -> SessionRegistry.Session {
        SessionRegistry.Session(
            id: id, secret: SecretBytes(secret), thumbprint: key, clientName: "", peerAddress: "", since: 0,
            instance: .zero,
            node: node ? Identifier(high: 5, low: 5) : nil)
    }

    private func registry(node: Bool = true) -> SessionRegistry {
        var registry = SessionRegistry()
        _ = registry.create(session(id, node: node), by: connection(1))
        return registry
    }

    private func resume(
        _ registry: inout SessionRegistry, channel: UInt16 = 0, by number: UInt64, secret: [UInt8]? = nil
    ) -> ResumeDecision {
        registry.resume(
            id, secret: secret ?? self.secret, thumbprint: key, channel: channel, by: connection(number))
    }

    @Test func aLostChannelWaitsForItsClient() {
        var registry = registry()
        guard case .kept(isLastConnection: true) = registry.keep(id, channel: 0, kept, now: 9) else {
            Issue.record("it was not kept")
            return
        }
        #expect(registry.sessions[id]?.lostAt == 9 && registry.keptChannels == 1)
        guard case .granted(let slots) = resume(&registry, by: 2) else {
            Issue.record("it was not resumed")
            return
        }
        #expect(slots == kept)
        #expect(registry.sessions[id]?.lostAt == nil && registry.keptChannels == 0)
    }

    @Test func theLastOfSeveralThatWaitGetsIt() {
        var registry = registry()
        guard case .waits(let old, displaced: nil) = resume(&registry, by: 2) else {
            Issue.record("the old connection lives")
            return
        }
        #expect(old == connection(1))
        guard case .waits(_, let displaced?) = resume(&registry, by: 3) else {
            Issue.record("nobody was displaced")
            return
        }
        #expect(displaced == connection(2))
        guard case .handedOver(let successor, let slots) = registry.keep(id, channel: 0, kept, now: 9) else {
            Issue.record("it was not handed over")
            return
        }
        #expect(successor == connection(3) && slots == kept)
        #expect(registry.sessions[id]?.lostAt == nil)
    }

    @Test func whoHasNoRightToItIsRefused() {
        var registry = registry()
        _ = registry.keep(id, channel: 0, kept, now: 9)
        for (channel, secret, status) in [
            (0, [UInt8](repeating: 8, count: 32), Status.denied), (1, secret, .notFound),
        ] {
            guard
                case .refused(let refusal) = resume(
                    &registry, channel: UInt16(channel), by: 2, secret: secret)
            else {
                Issue.record("it was let in")
                continue
            }
            #expect(refusal.status == status)
        }
        #expect(registry.keptChannels == 1)
    }

    @Test func whoHasOpenedNothingIsNotKept() {
        var registry = registry(node: false)
        guard case .gone(let departure) = registry.keep(id, channel: 0, kept, now: 9) else {
            Issue.record("it was kept")
            return
        }
        #expect(departure.endsSession && registry.sessions.isEmpty)
    }

    @Test func closingTheLastConnectionEndsTheSessionWithWhatItHadLost() throws {
        var registry = registry()
        let second = try registry.join(id, secret: secret, thumbprint: key, by: connection(2)).get()
        _ = registry.keep(id, channel: 0, kept, now: 9)
        let departure = registry.leave(id, channel: second, isClosed: true, now: 10)
        #expect(departure.endsSession && registry.sessions.isEmpty && registry.keptChannels == 0)
    }

    @Test func anEndedSessionIsNobodysAndRefusesWhoWaits() {
        var registry = registry()
        _ = resume(&registry, by: 2)
        let departure = registry.end(id, why: "test")
        #expect(departure == Departure(endsSession: false, displaced: [connection(2)]))
        guard case .gone(let last) = registry.keep(id, channel: 0, kept, now: 9) else {
            Issue.record("it was kept")
            return
        }
        #expect(last.endsSession && registry.sessions.isEmpty)
        var lost = self.registry()
        _ = lost.keep(id, channel: 0, kept, now: 9)
        let ended = lost.end(id, why: "test")
        #expect(ended?.endsSession == true && lost.sessions.isEmpty && lost.keptChannels == 0)
    }

    @Test func whatIsKeptIsBounded() {
        var registry = SessionRegistry(capacity: 8, keptChannelsMax: 1)
        let other = Identifier(high: 0, low: 2)
        _ = registry.create(session(id), by: connection(1))
        _ = registry.create(session(other), by: connection(2))
        _ = registry.keep(id, channel: 0, kept, now: 9)
        #expect(registry.keepsItsMost && registry.leastMissed { _ in true } == id)
        guard case .gone(let departure) = registry.keep(other, channel: 0, kept, now: 10) else {
            Issue.record("one too many was kept")
            return
        }
        #expect(departure.endsSession)
    }

    @Test func aSessionOfARestartedServerHasAnyChannelOnce() throws {
        var registry = SessionRegistry()
        let isRestored = registry.restore(session(id), lostAt: 3)
        #expect(registry[id]?.lost == .beforeStart(3))
        let isRestoredTwice = registry.restore(session(id), lostAt: 3)
        #expect(isRestored && !isRestoredTwice)
        guard case .granted(let slots) = resume(&registry, channel: 5, by: 2) else {
            Issue.record("it was not resumed")
            return
        }
        #expect(slots == .ofRestartedServer)
        let further = try registry.join(id, secret: secret, thumbprint: key, by: connection(3)).get()
        #expect(Int(further) == Limits.channelsPerSessionMax - 1, "a low number may still be in use")
        guard case .refused = resume(&registry, channel: UInt16(Limits.channelsPerSessionMax), by: 4) else {
            Issue.record("there is no such channel")
            return
        }
    }

    /// What such a channel had executed is not known any more: taken for one of before the restart it would do it twice.
    @Test func aChannelThatWasForgottenIsNotTakenForOneOfBeforeTheRestart() throws {
        var registry = SessionRegistry()
        let isRestored = registry.restore(session(id), lostAt: 3)
        #expect(isRestored)
        let joined = try registry.join(id, secret: secret, thumbprint: key, by: connection(3)).get()
        _ = resume(&registry, channel: 5, by: 2)
        registry.leaveNothing(of: id, channel: 5)
        for channel in [5, joined] {
            if channel == joined { registry.leaveNothing(of: id, channel: joined) }
            guard case .gone = registry.keep(id, channel: channel, .ofRestartedServer, now: 4) else {
                Issue.record("channel \(channel) was kept")
                return
            }
            _ = try registry.join(id, secret: secret, thumbprint: key, by: connection(9)).get()
            guard case .refused = resume(&registry, channel: channel, by: 4) else {
                Issue.record("channel \(channel) is there again")
                return
            }
        }
    }
}
