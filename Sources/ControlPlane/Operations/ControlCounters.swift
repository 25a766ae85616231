import Synchronization

/// What the control plane counts for `/metrics`.
final class ControlCounters: Sendable {
    struct Key: Hashable, Comparable {
        let method: String
        let template: String
        let status: Int

        static func < (left: Key, right: Key) -> Bool {
            (left.template, left.method, left.status) < (right.template, right.method, right.status)
        }
    }

    struct Counts {
        var requests: [Key: UInt64] = [:]
        var commits: UInt64 = 0
        var failedCommits: UInt64 = 0
        var capabilitiesIssued: UInt64 = 0
        var capabilitiesRevoked: UInt64 = 0
        var nodesEnrolled: UInt64 = 0
        var tokensRefused: UInt64 = 0
        var certificatesRenewed: UInt64 = 0
        var certificateRenewalsFailed: UInt64 = 0
    }

    private static let methods: Set<String> = ["GET", "POST", "PATCH", "DELETE"]
    private let counts = Mutex(Counts())

    /// Counts an answer. Methods that no route has share one name, so the number of series is bounded.
    func count(method: String, template: String, status: Int) {
        let method = ControlCounters.methods.contains(method) ? method : "OTHER"
        counts.withLock {
            $0.requests[Key(method: method, template: template, status: status), default: 0] += 1
        }
    }

    func countCommit(succeeded: Bool) {
        counts.withLock { counts in
            if succeeded { counts.commits += 1 } else { counts.failedCommits += 1 }
        }
    }

    func update(_ body: (inout Counts) -> Void) {
        counts.withLock { body(&$0) }
    }

    var all: Counts { counts.withLock { $0 } }
}
