import Core

/// The kinds of resource that the control API has. Whoever adds one adds a folder beside this file, a record in
/// `Catalog` and a line here.
enum Kinds {
    /// In the order in which they are brought up when the server starts.
    static let all: [any Resource.Type] = [
        Nodes.self, Pools.self, Volumes.self, Markers.self, Admins.self, Grants.self,
    ]

    /// Those that lie in pools.
    static let inPools: [any InPool.Type] = [Volumes.self]

    /// Those whose number `/metrics` tells.
    static let counted: [any Resource.Type] = [Pools.self, Volumes.self, Nodes.self, Grants.self]

    /// Those that can be granted.
    static let grantable: [any Grantable.Type] = [Volumes.self]

    /// The one that capabilities name so.
    static func grantable(_ kind: ResourceKind) -> (any Grantable.Type)? {
        grantable.first { $0.kind == kind }
    }

    /// How a resource that can be granted is written.
    static var reference: String { grantable.map { "\($0.kind.name)/NAME" }.joined(separator: " or ") }
}

extension ResourceKind {
    /// `a volume`
    var withArticle: String { (self == .endpoint ? "an " : "a ") + name }
}
