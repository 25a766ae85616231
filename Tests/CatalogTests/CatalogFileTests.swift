import Core
import Foundation
import TestSupport
import Testing

@testable import Catalog

/// The file of a catalog after a kill, with damage, of other versions and programs, and where nothing can be written.
@Suite(.serialized, .blocking) struct CatalogFileTests {
    private func keys(_ catalog: SQLiteCatalog) async throws -> [String] {
        try await catalog.list(prefix: "", after: nil, limit: 1000).map(\.key)
    }

    @Test func aKilledServerLeavesEveryAnsweredCommitAndNoPartOfAnother() async throws {
        let place = try Place()
        let catalog = try place.open()
        for round in 1...10 {
            _ = try await catalog.commit(
                transaction {
                    for part in 0..<3 { $0.put("r\(round)/\(part)", [UInt8](repeating: 1, count: 3000)) }
                })
            let left = try place.copy()
            let again = try left.open()
            #expect(try await keys(again).count == 3 * round)
            // It goes on where the other had been.
            #expect(try await again.commit(transaction { $0.put("z", []) }) == Revision(round + 1))
            try again.close()
        }
        // Killed within a commit: wherever the log ends, it ends with a whole transaction.
        let whole = try place.copy()
        let log = URL(filePath: whole.path + "-wal")
        let bytes = try Data(contentsOf: log)
        var counts: Set<Int> = []
        for cut in stride(from: 0, through: bytes.count, by: max(1, bytes.count / 60)) {
            let torn = try place.copy()
            try bytes.prefix(cut).write(to: URL(filePath: torn.path + "-wal"))
            let again = try torn.open()
            let found = try await keys(again)
            #expect(found.count % 3 == 0, "\(cut) bytes of the log: \(found.count) keys")
            counts.insert(found.count)
            try again.close()
        }
        #expect(counts.count > 5 && counts.contains(0))
        try catalog.close()
    }

    @Test func aDamagedLogIsCutAtTheDamage() async throws {
        let place = try Place()
        let catalog = try place.open()
        for round in 1...10 { _ = try await catalog.commit(transaction { $0.put("r\(round)", [1]) }) }
        let length = try Data(contentsOf: URL(filePath: place.path + "-wal")).count
        var lost = 0
        for part in 0..<20 {
            let left = try place.copy()
            let log = URL(filePath: left.path + "-wal")
            var bytes = try Data(contentsOf: log)
            bytes[length * part / 20 + 7] ^= 0x55
            try bytes.write(to: log)
            let again = try left.open()
            let found = try await keys(again)
            #expect(Set(found) == Set((1...10).prefix(found.count).map { "r\($0)" }), "the first of them")
            lost = max(lost, 10 - found.count)
            try again.close()
        }
        #expect(lost > 5)
        try catalog.close()
    }

    @Test func aNewerVersionIsRefusedAndNotTouched() async throws {
        let place = try Place()
        try await fill(place)
        try place.sql("PRAGMA user_version = \(SQLiteCatalog.schemaVersion + 1);")
        let before = try Data(contentsOf: URL(filePath: place.path))
        #expect(
            throws: CatalogError.newerVersion(
                found: SQLiteCatalog.schemaVersion + 1, known: SQLiteCatalog.schemaVersion)
        ) { try place.open() }
        #expect(try Data(contentsOf: URL(filePath: place.path)) == before)
        try place.sql("PRAGMA user_version = \(SQLiteCatalog.schemaVersion);")
        let catalog = try place.open()
        #expect(try await keys(catalog) == ["a"])
        try catalog.close()
    }

    @Test func theDatabaseOfAnotherProgramIsRefused() throws {
        for script in [
            "CREATE TABLE t (x);", "PRAGMA application_id = 77; CREATE TABLE entries (key TEXT);",
            "PRAGMA user_version = 3; CREATE TABLE t (x);",
        ] {
            let place = try Place()
            try place.sql(script)
            do throws(CatalogError) {
                _ = try place.open()
                Issue.record("\(script) was taken")
            } catch { guard case .notACatalog = error else { throw error } }
        }
    }

    /// The first start writes the schema in one transaction; killed before it, it leaves an empty database.
    @Test func aFirstStartThatWasInterruptedIsDoneAgain() async throws {
        for bytes in [Data(), nil] {
            let place = try Place()
            if let bytes {
                try bytes.write(to: URL(filePath: place.path))
            } else {
                try place.sql("PRAGMA journal_mode = WAL;")
            }
            try await fill(place)
            let catalog = try place.open()
            #expect(try await keys(catalog) == ["a"])
            try catalog.close()
        }
        // What had the name of a catalog and no version yet.
        let place = try Place()
        try place.sql("PRAGMA application_id = \(SQLiteCatalog.applicationID);")
        try await fill(place)
    }

    @Test func aDamagedFileIsSaidToBe() async throws {
        let whole = try Place()
        let catalog = try whole.open()
        var written: [String: [UInt8]] = [:]
        for round in 0..<50 {
            let value = [UInt8](repeating: 5, count: 2000)
            written["k\(round)"] = value
            _ = try await catalog.commit(transaction { $0.put("k\(round)", value) })
        }
        try catalog.close()
        let bytes = try Data(contentsOf: URL(filePath: whole.path))
        func damaged(_ body: (inout Data) -> Void) throws -> Place {
            let place = try Place()
            var copy = bytes
            body(&copy)
            try copy.write(to: URL(filePath: place.path))
            return place
        }
        let broken: [(String, (inout Data) -> Void)] = [
            ("no header", { $0.replaceSubrange(0..<16, with: Data(count: 16)) }),
            ("a page size that is none", { $0.replaceSubrange(16..<18, with: [0, 3]) }),
            ("cut within the first page", { $0 = $0.prefix(1000) }),
            ("the schema's page zeroed", { $0.replaceSubrange(100..<4096, with: Data(count: 3996)) }),
        ]
        for (what, body) in broken {
            let place = try damaged(body)
            do throws(CatalogError) {
                let catalog = try place.open()
                // What is found out later is said then.
                _ = try await catalog.list(prefix: "", after: nil, limit: 1000)
                Issue.record("\(what): nobody noticed")
            } catch {
                if case .notACatalog = error { continue }
                Issue.record("\(what): \(error)")
            }
        }
        // Pages of entries: an error or what was written, and no end of the process.
        for page in stride(from: 4096, to: bytes.count, by: 4096) {
            let place = try damaged {
                $0.replaceSubrange(page..<page + 64, with: Data(repeating: 0xA5, count: 64))
            }
            do throws(CatalogError) {
                let catalog = try place.open()
                let found = try await catalog.list(prefix: "", after: nil, limit: 1000)
                // SQLite keeps no sum over the bytes of a value.
                let wrong = found.reduce(0) { sum, entry in
                    sum + zip(entry.value, written[entry.key] ?? []).count { $0 != $1 }
                }
                #expect(found.map(\.key) == written.keys.sorted() && wrong <= 64, "page at \(page)")
                try catalog.close()
            } catch {
                guard case .notACatalog = error else {
                    Issue.record("page at \(page): \(error)")
                    continue
                }
            }
        }
    }

    @Test func aFolderThatIsNotThereAndAFileThatIsNoneAreSaidToBe() throws {
        let place = try Place()
        let missing = "\(place.folder.path)/missing/catalog.sqlite"
        #expect(throws: CatalogError.readOnly(path: missing)) { try SQLiteCatalog(path: missing) }
        #expect(throws: CatalogError.readOnly(path: place.folder.path)) {
            try SQLiteCatalog(path: place.folder.path)
        }
    }

    @Test(.enabled(if: geteuid() == 0, "needs root and mount(2)"))
    func aFileSystemThatIsReadOnlyIsSaidToBeAndACatalogGoesOnAfterIt() async throws {
        let place = try Place()
        let folder = place.folder.path
        #expect(try Command(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder]).wait() == 0)
        defer { _ = try? Command(["umount", "-l", folder]).wait() }
        try await fill(place)
        #expect(try Command(["mount", "-o", "remount,ro", folder]).wait() == 0)
        #expect(throws: CatalogError.self) { try place.open() }
        #expect(try Command(["mount", "-o", "remount,rw", folder]).wait() == 0)
        try await fill(place)
    }

    @Test(.enabled(if: geteuid() == 0, "needs root and mount(2)"))
    func theReserveIsASixteenthAtMostAndLetGoOfWhereNothingElseIsLeft() async throws {
        for (size, expected) in [(64, 4 << 20), (1024, 16 << 20)] {
            let place = try Place()
            let folder = place.folder.path
            #expect(try Command(["mount", "-t", "tmpfs", "-o", "size=\(size)m", "none", folder]).wait() == 0)
            defer { _ = try? Command(["umount", "-l", folder]).wait() }
            try await fill(place)
            let reserve = place.path + "-reserve"
            let attributes = try FileManager.default.attributesOfItem(atPath: reserve)
            #expect(attributes[.size] as? Int == expected)
            #expect((attributes[.posixPermissions] as? Int) == 0o600)
            // Less than the least is left: it goes at the next opening, and the catalog can be written.
            try Command(["sh", "-c", "cat /dev/zero > \(folder)/rest"]).wait()
            let catalog = try place.open()
            #expect(!FileManager.default.fileExists(atPath: reserve))
            #expect(await catalog.isShortOfSpace())
            _ = try await catalog.commit(transaction { $0.put("b", [UInt8](repeating: 1, count: 100_000)) })
            try FileManager.default.removeItem(atPath: "\(folder)/rest")
            _ = try await catalog.commit(transaction { $0.delete("b") })
            #expect(FileManager.default.fileExists(atPath: reserve), "there is room again")
            #expect(await !catalog.isShortOfSpace())
            try catalog.close()
        }
    }

    private func fill(_ place: Place) async throws {
        let catalog = try place.open()
        _ = try await catalog.commit(transaction { $0.put("a", [1]) })
        try catalog.close()
    }
}
