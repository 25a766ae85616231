import Synchronization
import TestSupport
import Testing

@testable import Reactor

/// A reactor whose thread really stands: in a circle, or in the kernel.
@Suite(.timeLimit(.minutes(10)), .serialized, .blocking) struct ReactorWatchdogTests {
    private final class Heard: Sendable {
        let findings = Mutex<[ReactorWatchdog.Finding]>([])
        let came = ThreadSemaphore()
        let release = Atomic<Bool>(false)
        let gate = ThreadSemaphore()

        func take() -> ReactorWatchdog.Finding? {
            guard came.wait(milliseconds: 20_000) else { return nil }
            return findings.withLock { $0.isEmpty ? nil : $0.removeFirst() }
        }
    }

    private func watch(_ heard: Heard) throws -> ReactorWatchdog {
        var options = ReactorWatchdog.Options()
        options.intervalMilliseconds = 20
        options.noticeNanoseconds = 100_000_000
        options.endNanoseconds = nil
        return try ReactorWatchdog(options: options) { finding in
            heard.findings.withLock { $0.append(finding) }
            heard.came.signal()
        } lastWords: { _ in
        }
    }

    @Test(arguments: [true, false])
    func aThreadThatStandsIsNoticedWithItsPlaceAndWhatItIsAtAndSoIsItsGoingOn(_ isBlocked: Bool) throws {
        let heard = Heard()
        let watchdog = try watch(heard)
        defer { watchdog.stop() }
        let thread = try Reactor.start { _ in }
        watchdog.watch("test", thread.remote)
        thread.remote.postWithReactor { reactor in
            reactor.marker.note(kind: 9, 1, 2, 3)
            if isBlocked { heard.gate.wait() } else { Self.turnInACircle(heard) }
        }
        guard case .stands(let stall)? = heard.take() else {
            Issue.record("nobody noticed")
            return
        }
        #expect(stall.name == "test" && stall.remote === thread.remote)
        #expect(stall.isBlocked == isBlocked)
        #expect(stall.nanoseconds >= 100_000_000)
        #expect(stall.activity == ReactorPulse.Activity(kind: 9, words: (1, 2, 3)))
        let stack = stall.stack
        #expect(
            stack.count == stall.frames.count && stack.contains { $0.contains("ReactorWatchdogTests") },
            "\(stack)")
        #expect(stack.contains { $0.contains("Reactor.run") }, "\(stack)")
        #expect(watchdog.reports.map(\.stalls) == [1] && watchdog.reports[0].isStanding)

        heard.release.store(true, ordering: .relaxed)
        heard.gate.signal()
        guard case .goesOn(let name, let nanoseconds)? = heard.take() else {
            Issue.record("nobody noticed that it goes on")
            return
        }
        #expect(name == "test" && nanoseconds >= stall.nanoseconds)
        #expect(!watchdog.reports[0].isStanding)
        thread.remote.stop()
        thread.join()
    }

    @inline(never)
    private static func turnInACircle(_ heard: Heard) {
        while !heard.release.load(ordering: .relaxed) {}
    }

    @Test func aTimerThatIsDueAgainAtOnceLetsOthersHaveTheirTurn() throws {
        let heard = Heard()
        let thread = try Reactor.start { reactor in
            Again(reactor, heard).begin()
        }
        // Two posts, one after the other: each needs a turn of its own.
        for _ in 0..<2 {
            thread.remote.post { heard.came.signal() }
            #expect(heard.came.wait(milliseconds: 20_000))
        }
        heard.release.store(true, ordering: .relaxed)
        thread.remote.stop()
        thread.join()
    }

    /// Sets its timer anew for a moment that has passed, whenever it fires.
    private final class Again: CompletionTarget {
        private let reactor: Reactor
        private let heard: Heard
        private var target: TargetID?

        init(_ reactor: Reactor, _ heard: Heard) {
            self.reactor = reactor
            self.heard = heard
        }

        func begin() {
            target = reactor.register(self)
            completed(token: 0, result: 0, flags: .none)
        }

        func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
            guard let target, !heard.release.load(ordering: .relaxed) else { return }
            _ = reactor.setTimer(after: 0, target: target, token: 0)
        }
    }
}
