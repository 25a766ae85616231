import Catalog
import Core
import Foundation
import TestSupport
import Testing

@Suite(.serialized, .blocking) struct SQLiteCatalogTests {
    @Test func whatWasCommittedIsThereAfterReopening() async throws {
        let place = try Place()
        let first = try place.open()
        let revision = try await first.commit(
            transaction {
                $0.put("volumes/a", [1, 2])
                $0.put("volumes/b", [])
            })
        try first.close()
        let second = try place.open()
        let entry = try #require(try await second.get("volumes/a"))
        #expect(entry == Entry(key: "volumes/a", value: [1, 2], revision: revision))
        #expect(try await second.get("volumes/b")?.value == [])
        #expect(try await second.get("volumes/c") == nil)
        try second.close()
    }

    @Test(.enabled(if: geteuid() == 0, "needs root and mount(2)"))
    func onAFullFileSystemWhatMakesRoomIsWrittenAllTheSameAndTheCatalogOpens() async throws {
        let place = try Place()
        let folder = place.folder.path
        #expect(try Command(["mount", "-t", "tmpfs", "-o", "size=256m", "none", folder]).wait() == 0)
        defer { _ = try? Command(["umount", "-l", folder]).wait() }
        let catalog = try place.open()
        _ = try await catalog.commit(transaction { for n in 0..<500 { $0.put("a/\(n)", [1]) } })
        #expect(await !catalog.isShortOfSpace())
        try Command(["sh", "-c", "cat /dev/zero > \(folder)/rest"]).wait()
        // More than the write-ahead log has room for by itself.
        for round in 0..<40 {
            _ = try await catalog.commit(
                transaction { $0.put("b/\(round)", [UInt8](repeating: 9, count: 100_000)) })
            _ = try await catalog.commit(transaction { $0.delete("b/\(round)") })
        }
        #expect(await catalog.isShortOfSpace())
        _ = try await catalog.commit(transaction { for n in 0..<500 { $0.delete("a/\(n)") } })
        try catalog.close()
        let again = try place.open()
        #expect(try await again.get("a/1") == nil)
        _ = try await again.commit(transaction { $0.put("c", [1]) })
        try again.close()
        // A little is not enough to make anew what is kept, also for a server that did not see it go.
        try Command(["truncate", "-s", "-8M", "\(folder)/rest"]).wait()
        let third = try place.open()
        #expect(await third.isShortOfSpace())
        // Nothing is written meanwhile: whoever asks is told all the same.
        try Command(["sh", "-c", "rm \(folder)/rest*"]).wait()
        #expect(await !third.isShortOfSpace())
        try third.close()
    }

    @Test func aCommitWhoseConditionFailsChangesNothing() async throws {
        let place = try Place()
        let catalog = try place.open()
        let first = try await catalog.commit(transaction { $0.put("a", [1]) })
        let second = try await catalog.commit(
            transaction {
                $0.require("a", at: first)
                $0.put("a", [2])
            })
        #expect(second > first)
        await #expect(throws: CatalogError.conflict(key: "a")) {
            try await catalog.commit(
                transaction {
                    $0.put("b", [9])
                    $0.require("a", at: first)
                    $0.delete("a")
                })
        }
        await #expect(throws: CatalogError.conflict(key: "a")) {
            try await catalog.commit(
                transaction {
                    $0.require("a", at: 0)
                    $0.put("a", [3])
                })
        }
        #expect(try await catalog.get("a")?.value == [2])
        #expect(try await catalog.get("b") == nil)
        try catalog.close()
    }

    @Test func ofManyWritersWithTheSameConditionOneWins() async throws {
        let place = try Place()
        let catalog = try place.open()
        let winners = await withTaskGroup(of: Bool.self) { group in
            for number in UInt8(0)..<20 {
                group.addTask {
                    let claim = transaction {
                        $0.require("claim", at: 0)
                        $0.put("claim", [number])
                    }
                    return (try? await catalog.commit(claim)) != nil
                }
            }
            return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
        }
        #expect(winners == 1)
        try catalog.close()
    }

    @Test func listsAreInOrderOfKeyAndHeldToTheirPrefix() async throws {
        let place = try Place()
        let catalog = try place.open()
        _ = try await catalog.commit(
            transaction { changes in
                for key in ["v/b", "v/a", "v/c", "v", "v0", "w/a", "u/z"] { changes.put(key, []) }
            })
        #expect(
            try await catalog.list(prefix: "v/", after: nil, limit: 10).map(\.key) == ["v/a", "v/b", "v/c"])
        #expect(try await catalog.list(prefix: "v/", after: "v/a", limit: 1).map(\.key) == ["v/b"])
        #expect(try await catalog.list(prefix: "v/", after: "v/c", limit: 10).isEmpty)
        try catalog.close()
    }

    @Test func aSecondOpenerIsRefused() throws {
        let place = try Place()
        let catalog = try place.open()
        #expect(throws: CatalogError.inUse(path: place.path)) { try place.open() }
        try catalog.close()
        try place.open().close()
    }

    @Test func otherFilesAreRefusedAndNotTouched() throws {
        let place = try Place()
        let bytes = Data("this is no database, and it is longer than a header".utf8)
        try bytes.write(to: URL(filePath: place.path))
        #expect(throws: CatalogError.self) { try place.open() }
        #expect(try Data(contentsOf: URL(filePath: place.path)) == bytes)
    }
}
