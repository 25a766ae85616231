import Core
import Reactor
import SluiceClient
import TestSupport
import Testing
import Wire

@testable import Attach

/// What waits for the supervisor of an attachment, of a server that says ever more.
@Suite struct AttachNoticeTests {
    private func post(_ notice: AttachNotice, to inbox: Mailbox<AttachNotice>) {
        inbox.post(notice) { notice.supersedes($0) }
    }

    @Test func ofAFloodOnlyTheLastOfEachKindWaits() {
        let inbox = Mailbox<AttachNotice>()
        for index in 0..<10_000 {
            let size = UInt64(index) * 4096
            post(.event(.resized(handle: 7, size: size)), to: inbox)
            post(.event(.expiring(handle: 7, expiry: size)), to: inbox)
            post(.event(.driverRecovering(handle: 7, isRecovering: index % 2 == 0)), to: inbox)
            post(.event(.draining(seconds: size, target: "")), to: inbox)
            post(.interrupted(reason: "\(index)", waiting: index), to: inbox)
            post(.resumed(nanoseconds: size, repeated: index), to: inbox)
            post(.needsCapability, to: inbox)
            post(.ignored("\(index)"), to: inbox)
            post(
                .requestFailed(
                    .read, index % 2 == 0 ? .ioError : .noSpace, "\(index)",
                    total: FailureTotal(all: size)),
                to: inbox)
        }
        #expect(inbox.count == 9)
        var sizes: [UInt64] = []
        var failures: Set<String> = []
        while inbox.count > 0 {
            switch inbox.take() {
            case .event(.resized(_, let size)): sizes.append(size)
            case .requestFailed(_, let status, let text, _): failures.insert("\(status) \(text)")
            case .interrupted: Issue.record("the connection was resumed after that")
            default: break
            }
        }
        #expect(sizes == [9999 * 4096])
        #expect(failures == ["ioError 9998", "noSpace 9999"])
    }

    @Test func whatMustNotBeMissedIsNotSuperseded() {
        let inbox = Mailbox<AttachNotice>()
        post(.event(.revoked(handle: 7, status: .fenced, reason: "")), to: inbox)
        inbox.post(.signal(15))
        inbox.post(.closed(.closed))
        post(.event(.resized(handle: 7, size: 1)), to: inbox)
        inbox.post(.signal(15))
        #expect(inbox.count == 5)
        guard case .event(.revoked) = inbox.take(), case .signal(15) = inbox.take() else {
            Issue.record("the order is another")
            return
        }
    }

    @Test func aTimeThatDoesNotFitIsTheEndOfTime() {
        #expect(AttachSession.deadline(seconds: 1 << 35) == .max)
        #expect(AttachSession.deadline(seconds: (1 << 63) / 3) == .max)
        #expect(AttachSession.deadline(seconds: 60) < .max)
    }
}
