import Catalog
import Core

/// A kind of resource that nodes are granted rights on.
protocol Grantable: Resource where Value: NamedRecord {
    /// As capabilities name it.
    static var kind: ResourceKind { get }
    /// What may be granted on one.
    static var rights: Rights { get }
    /// One as grants and capabilities see it.
    static func target(_ value: Value) -> GrantTarget
}

/// A resource as grants and capabilities see it.
struct GrantTarget: Sendable {
    /// What it is.
    let resource: ResourceReference
    /// Capabilities of another epoch do not count.
    let epoch: UInt64
    /// Bytes; nil for what has no size.
    let size: UInt64?
    /// Whether it is being removed.
    let isGoing: Bool
    /// Why nobody can use it now; nil where they can.
    let obstacle: Problem?
}

extension Grantable {
    /// The one of this name, and what requires in a transaction that it is still so.
    static func find(
        _ name: String, in store: RecordStore
    ) -> (target: GrantTarget, require: (inout RecordChanges) -> Void)? {
        guard let stored = store.get(Value.self, name) else { return nil }
        return (target(stored.record), { $0.require(stored) })
    }
}

extension ControlPlane {
    /// What a grant or capability is on, if it is there.
    func target(_ kind: ResourceKind, _ name: String) -> GrantTarget? {
        Kinds.grantable(kind)?.find(name, in: store)?.target
    }

    /// What a capability is wanted for, if it can be used, and what requires that it stays so.
    func usableTarget(
        _ kind: ResourceKind, _ name: String
    ) throws(Problem) -> (target: GrantTarget, require: (inout RecordChanges) -> Void) {
        guard let found = Kinds.grantable(kind)?.find(name, in: store) else {
            throw Problem.notFound(kind.name, name)
        }
        if let obstacle = found.target.obstacle { throw obstacle }
        return found
    }
}
