import Catalog
import Core
import Services
import Synchronization

@testable import ControlPlane

/// Which commits of a catalog fail.
final class CommitRule: Sendable {
    private let state = Mutex<(count: Int, isRefused: @Sendable (Int) -> Bool)>((0, { _ in false }))

    /// Of the commits from now on, counted from 1.
    func refuse(_ isRefused: @escaping @Sendable (Int) -> Bool) {
        state.withLock { $0 = (0, isRefused) }
    }

    /// As a server that is killed after so many commits.
    func endAfter(_ count: Int) { refuse { $0 > count } }

    /// Whether the next one is refused.
    func next() -> Bool {
        state.withLock { state in
            state.count += 1
            return state.isRefused(state.count)
        }
    }
}

/// A catalog that refuses commits by a rule.
struct RefusingCatalog: Catalog {
    let catalog: any Catalog
    let rule: CommitRule

    func isShortOfSpace() async -> Bool { await catalog.isShortOfSpace() }

    func get(_ key: String) async throws(CatalogError) -> Entry? { try await catalog.get(key) }

    func list(prefix: String, after: String?, limit: Int) async throws(CatalogError) -> [Entry] {
        try await catalog.list(prefix: prefix, after: after, limit: limit)
    }

    func commit(_ transaction: Transaction) async throws(CatalogError) -> Revision {
        if rule.next() { throw .failed("the disk does not answer") }
        return try await catalog.commit(transaction)
    }
}

/// Services that refuse actions by a rule, and remember what was asked of them, all by their names.
final class RefusingServices: ServicePort {
    private let services: any ServicePort
    private let rule = Mutex<@Sendable (String) -> StatusError?>({ _ in nil })
    private let seen = Mutex<[String]>([])

    init(_ services: any ServicePort) { self.services = services }

    /// How often an action was asked for.
    func count(of name: String) -> Int { seen.withLock { $0.count { $0.hasPrefix(name + "(") } } }

    /// From now on, refuses the actions of this name.
    func refuse(_ name: String, _ error: StatusError) {
        rule.withLock { $0 = { $0.hasPrefix(name + "(") ? error : nil } }
    }

    /// Refuses none.
    func allow() { rule.withLock { $0 = { _ in nil } } }

    func perform<Answer: Sendable>(_ action: ServiceAction<Answer>) async throws(StatusError) -> Answer {
        seen.withLock { $0.append(action.name) }
        if let refusal = rule.withLock({ $0 })(action.name) { throw refusal }
        return try await services.perform(action)
    }
}

extension ControlRig {
    /// A start of the server whose services a test looks at, and has refuse.
    static func spied(_ machine: Machine) async throws -> (ControlRig, RefusingServices) {
        var spy: RefusingServices?
        let rig = try await ControlRig(machine) {
            let services = RefusingServices($0.services)
            spy = services
            $0.services = services
        }
        guard let spy else { preconditionFailure("the rig was configured") }
        return (rig, spy)
    }
}
