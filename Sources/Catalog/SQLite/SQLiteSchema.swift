import Core
import GRDB

/// What the file must be before it is used, and what errors mean.
extension SQLiteCatalog {
    static func checkIdentity(of database: Database, path: String) throws {
        let application = try Int.fetchOne(database, sql: "PRAGMA application_id") ?? 0
        let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        let tables = try Int.fetchOne(database, sql: "SELECT count(*) FROM sqlite_master") ?? 0
        if tables == 0, application == 0, version == 0 { return }
        guard application == applicationID else {
            throw CatalogError.notACatalog(path: path, reason: "it is a database of another program")
        }
        guard version <= schemaVersion else {
            throw CatalogError.newerVersion(found: version, known: schemaVersion)
        }
    }

    static func makeDurable(_ database: Database) throws {
        let mode = try String.fetchOne(database, sql: "PRAGMA journal_mode = WAL")
        guard mode == "wal" else {
            throw CatalogError.failed(
                "SQLite cannot use write-ahead logging here (it answers \(mode ?? "nothing"))")
        }
        try database.execute(sql: "PRAGMA synchronous = FULL")
    }

    /// Writes nothing where all is there: a full disk must not keep the catalog from being opened.
    static func makeSchema(in database: Database) throws {
        let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        let application = try Int.fetchOne(database, sql: "PRAGMA application_id") ?? 0
        if version == schemaVersion, application == applicationID { return }
        try database.inTransaction(.immediate) {
            try database.execute(
                sql: """
                    CREATE TABLE IF NOT EXISTS entries (
                        key TEXT NOT NULL PRIMARY KEY,
                        value BLOB NOT NULL,
                        revision INTEGER NOT NULL
                    ) WITHOUT ROWID;
                    CREATE TABLE IF NOT EXISTS history (
                        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
                        revision INTEGER NOT NULL
                    );
                    INSERT OR IGNORE INTO history (one, revision) VALUES (1, 0);
                    PRAGMA application_id = \(applicationID);
                    PRAGMA user_version = \(schemaVersion);
                    """)
            return .commit
        }
    }

    static func checkLimits(of transaction: Transaction) throws(CatalogError) {
        let counts = [transaction.conditions.count, transaction.puts.count, transaction.deletes.count]
        guard counts.allSatisfy({ $0 <= Limits.catalogOperationsMax }) else {
            throw .tooLarge("a transaction of more than \(Limits.catalogOperationsMax) operations")
        }
        for put in transaction.puts {
            guard (1...Limits.catalogKeyBytesMax).contains(put.key.utf8.count) else {
                throw .tooLarge("a key of \(put.key.utf8.count) bytes")
            }
            guard put.value.count <= Limits.catalogValueBytesMax else {
                throw .tooLarge("the value of \(put.key), \(put.value.count) bytes")
            }
        }
    }

    static func translate(_ error: any Error, path: String) -> CatalogError {
        if let error = error as? CatalogError { return error }
        guard let error = error as? DatabaseError else { return .failed("\(error)") }
        switch error.resultCode {
        case .SQLITE_BUSY, .SQLITE_LOCKED: return .inUse(path: path)
        case .SQLITE_READONLY, .SQLITE_PERM, .SQLITE_CANTOPEN: return .readOnly(path: path)
        case .SQLITE_FULL: return .full(path: path)
        case .SQLITE_NOTADB, .SQLITE_CORRUPT:
            return .notACatalog(path: path, reason: error.message ?? "it is damaged")
        default: return .failed(error.message ?? "SQLite error \(error.resultCode.rawValue)")
        }
    }
}
