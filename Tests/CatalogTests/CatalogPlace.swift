import Catalog
import Foundation
import TestSupport
import Testing

/// A catalog in a folder that goes when the test ends.
final class Place {
    let folder: URL
    var path: String { folder.appending(path: "catalog.sqlite").path }

    init() throws {
        folder = FileManager.default.temporaryDirectory.appending(path: "sluice-catalog-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(at: folder) }

    func open() throws(CatalogError) -> SQLiteCatalog { try SQLiteCatalog(path: path) }

    /// The files as a killed process leaves them to the next: a copy, while the catalog is open.
    func copy() throws -> Place {
        let copy = try Place()
        for name in try FileManager.default.contentsOfDirectory(atPath: folder.path)
        where name.hasSuffix(".sqlite") || name.hasSuffix("-wal") {
            try FileManager.default.copyItem(
                at: folder.appending(path: name), to: copy.folder.appending(path: name))
        }
        return copy
    }

    /// Runs a script of SQL on the closed file, as another program would.
    func sql(_ script: String) throws {
        let program = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
        #expect(try Command(["python3", "-c", program, path, script]).wait() == 0)
    }
}

/// A transaction of what `build` adds.
func transaction(_ build: (inout Transaction) -> Void) -> Transaction {
    var transaction = Transaction()
    build(&transaction)
    return transaction
}
