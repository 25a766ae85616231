import Catalog
import Core
import Foundation
import Simulation
import TestSupport
import Testing

/// Revisions, conditions, order and bounds of transactions.
@Suite(.serialized, .blocking) struct CatalogTransactionTests {
    @Test func revisionsRiseByOneWithWhatIsCommittedAlsoOverAReopening() async throws {
        let place = try Place()
        var catalog = try place.open()
        #expect(try await catalog.commit(transaction { $0.put("a", [1]) }) == 1)
        await #expect(throws: CatalogError.conflict(key: "a")) {
            try await catalog.commit(transaction { $0.require("a", at: 7) })
        }
        #expect(try await catalog.commit(transaction { $0.put("b", [1]) }) == 2, "a refusal uses none up")
        try catalog.close()
        catalog = try place.open()
        #expect(try await catalog.commit(transaction { $0.delete("nothing") }) == 3)
        #expect(try await catalog.get("a")?.revision == 1, "what is not written keeps its revision")
        try catalog.close()
    }

    @Test func aKeyThatWasRemovedAndMadeAgainIsAnotherToItsCondition() async throws {
        let place = try Place()
        let catalog = try place.open()
        let first = try await catalog.commit(transaction { $0.put("a", [1]) })
        _ = try await catalog.commit(transaction { $0.delete("a") })
        #expect(try await catalog.get("a") == nil)
        await #expect(throws: CatalogError.conflict(key: "a")) {
            try await catalog.commit(transaction { $0.require("a", at: first) })
        }
        let again = try await catalog.commit(
            transaction {
                $0.require("a", at: 0)
                $0.put("a", [1])
            })
        await #expect(throws: CatalogError.conflict(key: "a")) {
            try await catalog.commit(transaction { $0.require("a", at: first) })
        }
        #expect(try await catalog.commit(transaction { $0.require("a", at: again) }) == again + 1)
        try catalog.close()
    }

    @Test func whatIsRemovedGoesBeforeWhatIsWritten() async throws {
        let place = try Place()
        let catalog = try place.open()
        let revision = try await catalog.commit(
            transaction {
                $0.put("a", [1])
                $0.put("a", [2])
                $0.delete("a")
            })
        #expect(try await catalog.get("a") == Entry(key: "a", value: [2], revision: revision))
        try catalog.close()
    }

    @Test func whatIsTooLargeIsRefusedAndChangesNothing() async throws {
        let place = try Place()
        let catalog = try place.open()
        let most = Limits.catalogOperationsMax
        let refused: [Transaction] = [
            transaction { $0.put("", []) },
            transaction { $0.put(String(repeating: "k", count: Limits.catalogKeyBytesMax + 1), []) },
            transaction { $0.put("k", [UInt8](repeating: 0, count: Limits.catalogValueBytesMax + 1)) },
            transaction { for number in 0...most { $0.put("k\(number)", []) } },
            transaction { for number in 0...most { $0.delete("k\(number)") } },
            transaction { for number in 0...most { $0.require("k\(number)", at: 0) } },
        ]
        for transaction in refused {
            do throws(CatalogError) {
                _ = try await catalog.commit(transaction)
                Issue.record("it was taken")
            } catch { guard case .tooLarge = error else { throw error } }
        }
        #expect(try await catalog.list(prefix: "", after: nil, limit: 1).isEmpty)
        let key = String(repeating: "k", count: Limits.catalogKeyBytesMax)
        let value = [UInt8](repeating: 7, count: Limits.catalogValueBytesMax)
        _ = try await catalog.commit(
            transaction {
                $0.put(key, value)
                for number in 1..<most { $0.put("k\(number)", []) }
            })
        #expect(try await catalog.get(key)?.value == value)
        try catalog.close()
    }

    @Test func keysAreInOrderOfTheirBytesAndPagesAreBounded() async throws {
        let place = try Place()
        let catalog = try place.open()
        let keys = ["v/", "v/Z", "v/a", "v/a/b", "v/é", "v/\u{ffff}", "v/\u{10000}", "w", "v", "V/a"]
        _ = try await catalog.commit(
            transaction { changes in
                for key in keys.shuffled() { changes.put(key, []) }
                for number in 0..<Limits.catalogPageEntriesMax + 1 { changes.put("x/\(number)", []) }
            })
        #expect(try await catalog.list(prefix: "v/", after: nil, limit: 100).map(\.key) == Array(keys[0..<7]))
        #expect(try await catalog.list(prefix: "v/", after: "v/a", limit: 2).map(\.key) == ["v/a/b", "v/é"])
        // A key of before the prefix, and one that is not there.
        #expect(try await catalog.list(prefix: "v/", after: "a", limit: 1).map(\.key) == ["v/"])
        #expect(try await catalog.list(prefix: "v/", after: "v/b", limit: 1).map(\.key) == ["v/é"])
        for limit in [0, -5, Int.min] {
            #expect(try await catalog.list(prefix: "v/", after: nil, limit: limit).isEmpty)
        }
        let page = try await catalog.list(prefix: "x/", after: nil, limit: .max)
        #expect(page.count == Limits.catalogPageEntriesMax)
        // What looks like a pattern of SQL is none.
        #expect(try await catalog.list(prefix: "v%", after: nil, limit: 10).isEmpty)
        #expect(try await catalog.list(prefix: "_/", after: nil, limit: 10).isEmpty)
        try catalog.close()
    }

    /// A plain dictionary is the judge of a long history.
    @Test func aLongHistoryIsWhatADictionaryMakesOfIt() async throws {
        let place = try Place()
        var catalog = try place.open()
        var random = SplitMix(seed: 0xCA7A_106)
        var model: [String: Entry] = [:]
        var last: Revision = 0
        for step in 0..<400 {
            var changes = Transaction()
            var isMet = true
            var written: [String: [UInt8]] = [:]
            var removed: Set<String> = []
            for _ in 0..<random.below(5) {
                let key = "k/\(random.below(12))"
                switch random.below(3) {
                case 0:
                    let present = model[key]?.revision ?? 0
                    let claimed = random.once(in: 6) ? present + 1 : present
                    isMet = isMet && claimed == present
                    changes.require(key, at: claimed)
                case 1:
                    written[key] = [UInt8(truncatingIfNeeded: step)]
                    changes.put(key, [UInt8(truncatingIfNeeded: step)])
                default:
                    removed.insert(key)
                    changes.delete(key)
                }
            }
            do throws(CatalogError) {
                let revision = try await catalog.commit(changes)
                #expect(isMet && revision == last + 1)
                last = revision
                for key in removed { model[key] = nil }
                for (key, value) in written {
                    model[key] = Entry(key: key, value: value, revision: revision)
                }
            } catch {
                guard case .conflict = error else { throw error }
                #expect(!isMet)
            }
            if random.once(in: 60) {
                try catalog.close()
                catalog = try place.open()
            }
            let found = try await catalog.list(prefix: "k/", after: nil, limit: 100)
            #expect(found == model.values.sorted { $0.key < $1.key }, "step \(step)")
        }
        try catalog.close()
    }
}
