import Core
import Foundation
import Synchronization

/// A record as it stands in the catalog.
public struct Stored<Value: Record>: Sendable {
    /// The record.
    public let record: Value
    /// The revision that wrote it.
    public let revision: Revision
}

/// Changes to typed records that are made together or not at all.
public struct RecordChanges: Sendable {
    fileprivate enum Change: Sendable {
        case put(prefix: String, key: String, any Record)
        case delete(prefix: String, key: String)
    }

    fileprivate var transaction = Transaction()
    fileprivate var changes: [Change] = []

    /// No changes yet.
    public init() {}

    /// Writes a record that must not exist yet.
    public mutating func insert(_ record: some Record) throws(CatalogError) {
        try put(record, over: 0)
    }

    /// Writes a record over the one that has revision `previous`.
    public mutating func put<Value: Record>(_ record: Value, over previous: Revision) throws(CatalogError) {
        let key = Value.prefix + record.recordKey
        transaction.require(key, at: previous)
        transaction.put(key, try RecordCoding.encode(record, key: key))
        changes.append(.put(prefix: Value.prefix, key: record.recordKey, record))
    }

    /// Removes a record that must still have its revision.
    public mutating func delete<Value: Record>(_ stored: Stored<Value>) {
        let key = Value.prefix + stored.record.recordKey
        transaction.require(key, at: stored.revision)
        transaction.delete(key)
        changes.append(.delete(prefix: Value.prefix, key: stored.record.recordKey))
    }

    /// Requires that a record is unchanged, without writing it.
    public mutating func require<Value: Record>(_ stored: Stored<Value>) {
        transaction.require(Value.prefix + stored.record.recordKey, at: stored.revision)
    }

    /// Whether there is nothing to write.
    public var isEmpty: Bool { changes.isEmpty }
    /// How many records are written or removed.
    public var count: Int { changes.count }
}

/// JSON with sorted keys: the same record is always the same bytes.
enum RecordCoding {
    static func encode(_ record: some Record, key: String) throws(CatalogError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            return try [UInt8](encoder.encode(record))
        } catch {
            throw .malformed(key: key, reason: "\(error)")
        }
    }

    static func decode<Value: Record>(_ type: Value.Type, from entry: Entry) throws(CatalogError) -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(entry.value))
        } catch {
            throw .malformed(key: entry.key, reason: "\(error)")
        }
    }
}

/// The records of a catalog, all held in memory and written through: reading never waits.
///
/// It must be the catalog's only writer. Any thread.
public final class RecordStore: Sendable {
    private struct Row: Sendable {
        let record: any Record
        let revision: Revision
    }

    private struct Table: Sendable {
        var rows: [String: Row] = [:]
        /// The keys of `rows` in order, for pages.
        var keys: [String] = []
        /// Likewise those of each group.
        var groups: [String: [String]] = [:]

        /// The position of the first of `keys` that is not less than `key`.
        static func position(of key: String, in keys: [String]) -> Int {
            var low = 0
            var high = keys.count
            while low < high {
                let middle = (low + high) / 2
                if keys[middle] < key { low = middle + 1 } else { high = middle }
            }
            return low
        }

        mutating func put(_ key: String, _ row: Row) {
            let old = rows.updateValue(row, forKey: key)
            if old == nil { keys.insert(key, at: Table.position(of: key, in: keys)) }
            guard old?.record.group != row.record.group else { return }
            leave(old?.record.group, key)
            guard let group = row.record.group else { return }
            let place = Table.position(of: key, in: groups[group] ?? [])
            groups[group, default: []].insert(key, at: place)
        }

        mutating func delete(_ key: String) {
            guard let row = rows.removeValue(forKey: key) else { return }
            keys.remove(at: Table.position(of: key, in: keys))
            leave(row.record.group, key)
        }

        private mutating func leave(_ group: String?, _ key: String) {
            guard let group else { return }
            let place = Table.position(of: key, in: groups[group] ?? [])
            groups[group]?.remove(at: place)
            if groups[group]?.isEmpty == true { groups[group] = nil }
        }
    }

    /// What a catalog holds.
    private static let kinds: [any Record.Type] = [
        ServerRecord.self, KeyRecord.self, PoolRecord.self, PoolIntentRecord.self, VolumeRecord.self,
        MarkerRecord.self, NodeRecord.self, AdminRecord.self, TokenRecord.self, GrantRecord.self,
        CapabilityRecord.self, IntentRecord.self, SessionRecord.self, WriterRecord.self,
        IdempotencyRecord.self,
    ]

    private let catalog: any Catalog
    private let tables: Mutex<[String: Table]>
    /// Held from a commit until memory shows it, so that memory follows the catalog's order.
    private let order = KeyedLock()

    /// Loads every record of `catalog`.
    public init(catalog: any Catalog) async throws(CatalogError) {
        self.catalog = catalog
        var tables: [String: Table] = [:]
        for kind in RecordStore.kinds { tables[kind.prefix] = try await Self.load(kind, from: catalog) }
        self.tables = Mutex(tables)
    }

    /// Whether only what makes room should be written.
    public func isShortOfSpace() async -> Bool { await catalog.isShortOfSpace() }

    /// The record with this key; nil when there is none.
    public func get<Value: Record>(_ type: Value.Type, _ key: String) -> Stored<Value>? {
        guard let row = tables.withLock({ $0[Value.prefix]?.rows[key] }) else { return nil }
        return stored(row)
    }

    /// Records with keys after `after`, in order, at most `limit` that `isIncluded` lets through; of one group if that is
    /// named, which costs no look at the others.
    public func page<Value: Record>(
        _ type: Value.Type, in group: String? = nil, after: String? = nil, limit: Int,
        where isIncluded: (Value) -> Bool = { _ in true }
    ) -> [Stored<Value>] {
        var found: [Stored<Value>] = []
        var last = after
        while found.count < limit {
            // A piece at a time: filtering runs outside the lock, and whoever writes has not to copy the table for it.
            let rows = piece(Value.prefix, group, after: last)
            for (_, row) in rows where found.count < limit {
                if let stored: Stored<Value> = stored(row), isIncluded(stored.record) { found.append(stored) }
            }
            guard rows.count == RecordStore.pieceRows, let end = rows.last else { break }
            last = end.key
        }
        return found
    }

    private static let pieceRows = 512

    /// The rows with keys after `after`, at most `pieceRows` of them.
    private func piece(_ prefix: String, _ group: String?, after: String?) -> [(key: String, row: Row)] {
        tables.withLock { tables in
            guard let table = tables[prefix] else { return [] }
            let keys = group.map { table.groups[$0] ?? [] } ?? table.keys
            var start = after.map { Table.position(of: $0, in: keys) } ?? 0
            if let after, start < keys.count, keys[start] == after { start += 1 }
            let end = min(keys.count, start + RecordStore.pieceRows)
            return keys[start..<end].compactMap { key in table.rows[key].map { (key, $0) } }
        }
    }

    /// Every record of a kind that `isIncluded` lets through, in order of keys.
    public func all<Value: Record>(
        _ type: Value.Type, in group: String? = nil, where isIncluded: (Value) -> Bool = { _ in true }
    ) -> [Stored<Value>] {
        page(type, in: group, limit: .max, where: isIncluded)
    }

    /// How many records of a kind there are.
    public func count<Value: Record>(_ type: Value.Type) -> Int {
        tables.withLock { $0[Value.prefix]?.keys.count ?? 0 }
    }

    /// How many records of a kind a group has.
    public func count<Value: Record>(_ type: Value.Type, in group: String) -> Int {
        tables.withLock { $0[Value.prefix]?.groups[group]?.count ?? 0 }
    }

    /// The group that has the most records of a kind, with how many that are; nil when there is none.
    public func largestGroup<Value: Record>(_ type: Value.Type) -> (group: String, count: Int)? {
        let groups = tables.withLock { $0[Value.prefix]?.groups ?? [:] }
        return groups.max { ($0.value.count, $1.key) < ($1.value.count, $0.key) }.map {
            ($0.key, $0.value.count)
        }
    }

    /// Makes the changes durable, then visible.
    ///
    /// - Throws: `conflict` when a record is not as the changes expect; nothing is changed then.
    @discardableResult
    public func commit(_ changes: RecordChanges) async throws(CatalogError) -> Revision {
        try await order.withLock("") { () async throws(CatalogError) -> Revision in
            let revision = try await catalog.commit(changes.transaction)
            tables.withLock { tables in
                // In the catalog's order: what is removed goes before what is written.
                for case .delete(let prefix, let key) in changes.changes { tables[prefix]?.delete(key) }
                for case .put(let prefix, let key, let record) in changes.changes {
                    tables[prefix, default: Table()].put(key, Row(record: record, revision: revision))
                }
            }
            return revision
        }
    }

    private func stored<Value: Record>(_ row: Row) -> Stored<Value>? {
        guard let record = row.record as? Value else { return nil }
        return Stored(record: record, revision: row.revision)
    }

    private static func load<Value: Record>(
        _ type: Value.Type, from catalog: any Catalog
    ) async throws(CatalogError) -> Table {
        var table = Table()
        var last: String?
        while true {
            let entries = try await catalog.list(
                prefix: Value.prefix, after: last, limit: Limits.catalogPageEntriesMax)
            for entry in entries {
                let record = try RecordCoding.decode(type, from: entry)
                table.put(
                    String(entry.key.dropFirst(Value.prefix.count)),
                    Row(record: record, revision: entry.revision))
            }
            guard let end = entries.last else { return table }
            last = end.key
        }
    }
}
