/// The folder or device of a pool, as an operator writes it.
enum PoolPath {
    /// What a pool calls its own folder in the operator's.
    static let own = "sluice-pool"

    /// The same path without what means nothing: doubled and last slashes, and `.`.
    static func plain(_ path: String) -> String {
        let parts = path.split(separator: "/").filter { $0 != "." }
        return (path.hasPrefix("/") ? "/" : "") + parts.joined(separator: "/")
    }

    /// Whether they are the same, or one is the pool's own folder in the other.
    static func areSame(_ first: String, _ second: String) -> Bool {
        first == second || first == "\(second)/\(own)" || second == "\(first)/\(own)"
    }
}
