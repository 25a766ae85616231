import Core
import Foundation
import GRDB

/// The catalog of a single server: one SQLite file in WAL mode, every commit synced (`synchronous = FULL`).
///
/// Work runs on a queue of its own. While it is open nobody else can open the file, not even to read.
public final class SQLiteCatalog: Catalog {
    /// The schema that this version writes, kept in `PRAGMA user_version`.
    public static let schemaVersion = 1
    /// "SLUI", kept in `PRAGMA application_id`: tells a catalog from any other SQLite file.
    static let applicationID = 0x534C_5549

    private let queue: DatabaseQueue
    private let path: String
    private let reserve: CatalogReserve

    /// Opens the catalog at `path`, or makes an empty one when there is no file. Blocks; not for a reactor.
    ///
    /// - Throws: `inUse`, `newerVersion`, `notACatalog`, `readOnly`, `full` or `failed`.
    public init(path: String) throws(CatalogError) {
        self.path = path
        reserve = CatalogReserve(catalog: path)
        queue = try SQLiteCatalog.open(path, reserve)
    }

    private static func open(_ path: String, _ reserve: CatalogReserve) throws(CatalogError) -> DatabaseQueue
    {
        do throws(CatalogError) { return try open(path) } catch {
            guard case .full = error, reserve.release() else { throw error }
            return try open(path)
        }
    }

    private static func open(_ path: String) throws(CatalogError) -> DatabaseQueue {
        do {
            var configuration = Configuration()
            configuration.label = "sluice.catalog"
            configuration.prepareDatabase { database in
                try database.execute(sql: "PRAGMA locking_mode = EXCLUSIVE")
                // What is deleted is overwritten: it may have been a secret.
                try database.execute(sql: "PRAGMA secure_delete = ON")
            }
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.writeWithoutTransaction { database in
                try SQLiteCatalog.checkIdentity(of: database, path: path)
                try SQLiteCatalog.makeDurable(database)
                try SQLiteCatalog.makeSchema(in: database)
            }
            return queue
        } catch {
            throw SQLiteCatalog.translate(error, path: path)
        }
    }

    /// Whether the file system was full, and what the catalog kept for that is in use: nothing new should be written that
    /// makes no room. Looks whether there is room again, since what would find that out otherwise is not written.
    public func isShortOfSpace() async -> Bool {
        guard reserve.isUsed else { return false }
        await withCheckedContinuation { continuation in
            queue.asyncWriteWithoutTransaction { [reserve] _ in
                reserve.fill()
                continuation.resume()
            }
        }
        return reserve.isUsed
    }

    /// Closes the file; later calls fail.
    public func close() throws(CatalogError) {
        do {
            try queue.close()
        } catch {
            throw SQLiteCatalog.translate(error, path: path)
        }
    }

    /// The entry of a key; nil when there is none.
    public func get(_ key: String) async throws(CatalogError) -> Entry? {
        try await perform { database in
            let row = try Row.fetchOne(
                database, sql: "SELECT value, revision FROM entries WHERE key = ?", arguments: [key])
            return row.map { SQLiteCatalog.entry(key: key, row: $0) }
        }
    }

    /// Entries of a prefix, in order of keys; at most `Limits.catalogPageEntriesMax`, whatever `limit` says.
    public func list(prefix: String, after: String?, limit: Int) async throws(CatalogError) -> [Entry] {
        let limit = min(max(limit, 0), Limits.catalogPageEntriesMax)
        return try await perform { database in
            let rows = try Row.fetchAll(
                database,
                sql: """
                    SELECT key, value, revision FROM entries
                    WHERE key >= ? AND key > ? AND substr(key, 1, length(?)) = ? ORDER BY key LIMIT ?
                    """, arguments: [prefix, after ?? "", prefix, prefix, limit])
            return rows.map { SQLiteCatalog.entry(key: $0["key"], row: $0) }
        }
    }

    /// Applies all of a transaction or nothing, and syncs it to the disk.
    public func commit(_ transaction: Transaction) async throws(CatalogError) -> Revision {
        try SQLiteCatalog.checkLimits(of: transaction)
        return try await perform { [path, reserve] database in
            var revision: Revision = 0
            func apply() throws {
                try database.inTransaction(.immediate) {
                    revision = try SQLiteCatalog.apply(transaction, to: database)
                    return .commit
                }
            }
            do { try apply() } catch {
                guard case .full = SQLiteCatalog.translate(error, path: path) else { throw error }
                _ = reserve.release()
                // What the log holds goes into the database, and its room is used once more. Whether that worked, the
                // next try tells.
                _ = try? database.checkpoint(.restart)
                try apply()
            }
            if reserve.isUsed { reserve.fill() }
            // Short of space, the log is emptied each time, so that it never has all there is.
            if reserve.isUsed { _ = try? database.checkpoint(.restart) }
            return revision
        }
    }

    private static func apply(_ transaction: Transaction, to database: Database) throws -> Revision {
        for condition in transaction.conditions {
            let found = try Int64.fetchOne(
                database, sql: "SELECT revision FROM entries WHERE key = ?", arguments: [condition.key])
            guard UInt64(found ?? 0) == condition.revision else {
                throw CatalogError.conflict(key: condition.key)
            }
        }
        let next = try (Int64.fetchOne(database, sql: "SELECT revision FROM history") ?? 0) + 1
        try database.execute(sql: "UPDATE history SET revision = ?", arguments: [next])
        for key in transaction.deletes {
            try database.execute(sql: "DELETE FROM entries WHERE key = ?", arguments: [key])
        }
        for put in transaction.puts {
            try database.execute(
                sql: """
                    INSERT INTO entries (key, value, revision) VALUES (?, ?, ?)
                    ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision
                    """, arguments: [put.key, Data(put.value), next])
        }
        return UInt64(next)
    }

    private static func entry(key: String, row: Row) -> Entry {
        let value: Data = row["value"]
        let revision: Int64 = row["revision"]
        return Entry(key: key, value: [UInt8](value), revision: UInt64(revision))
    }

    /// Runs `body` on the catalog's queue. A cancelled task still gets its answer: a commit is never left in doubt.
    private func perform<Value: Sendable>(
        _ body: @escaping @Sendable (Database) throws -> Value
    ) async throws(CatalogError) -> Value {
        let path = path
        let result: Result<Value, CatalogError> = await withCheckedContinuation { continuation in
            queue.asyncWriteWithoutTransaction { database in
                do {
                    continuation.resume(returning: .success(try body(database)))
                } catch {
                    continuation.resume(returning: .failure(SQLiteCatalog.translate(error, path: path)))
                }
            }
        }
        return try result.get()
    }
}
