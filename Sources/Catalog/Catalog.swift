/// A point in the history of a catalog: every committed transaction has the next one. 0 means "not there".
public typealias Revision = UInt64

/// One key with its value, and the revision that wrote it.
public struct Entry: Sendable, Hashable {
    /// The key, such as `volumes/demo`.
    public let key: String
    /// The value.
    public let value: [UInt8]
    /// The revision of the transaction that put this value.
    public let revision: Revision

    /// An entry.
    public init(key: String, value: [UInt8], revision: Revision) {
        self.key = key
        self.value = value
        self.revision = revision
    }
}

/// Where every durable fact of the control plane lives: ordered keys, and transactions that compare and swap.
///
/// Any thread; no call blocks the calling thread. A transaction that was answered survives a power failure.
public protocol Catalog: Sendable {
    /// Whether only what makes room should be written, as far as can be seen now.
    func isShortOfSpace() async -> Bool

    /// The entry of a key; nil when there is none.
    func get(_ key: String) async throws(CatalogError) -> Entry?

    /// Entries whose key starts with `prefix` and is greater than `after`, in order of keys (by UTF-8 bytes), at
    /// most `limit` of them.
    func list(prefix: String, after: String?, limit: Int) async throws(CatalogError) -> [Entry]

    /// Applies all of a transaction or nothing.
    ///
    /// - Returns: the revision that its puts now have.
    /// - Throws: `conflict` with the first key whose condition does not hold.
    func commit(_ transaction: Transaction) async throws(CatalogError) -> Revision
}

extension Catalog {
    /// No.
    public func isShortOfSpace() async -> Bool { false }
}

/// Changes that are made together if all conditions hold.
public struct Transaction: Sendable {
    /// What must be true of a key.
    public struct Condition: Sendable, Hashable {
        /// The key.
        public let key: String
        /// The revision that the key must have; 0 when it must not exist.
        public let revision: Revision
    }

    /// All must hold.
    public private(set) var conditions: [Condition] = []
    /// Written when they hold.
    public private(set) var puts: [(key: String, value: [UInt8])] = []
    /// Removed when they hold, before the puts; a key that is not there is no error.
    public private(set) var deletes: [String] = []

    /// A transaction that does nothing yet.
    public init() {}

    /// Requires that `key` is at `revision`; 0 requires that it does not exist.
    public mutating func require(_ key: String, at revision: Revision) {
        conditions.append(Condition(key: key, revision: revision))
    }

    /// Writes a value.
    public mutating func put(_ key: String, _ value: [UInt8]) {
        puts.append((key, value))
    }

    /// Removes a key.
    public mutating func delete(_ key: String) {
        deletes.append(key)
    }
}
