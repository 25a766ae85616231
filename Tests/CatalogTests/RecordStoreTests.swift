import Core
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Catalog

/// A catalog in memory, whose commits a test refuses.
private final class MemoryCatalog: Catalog {
    private struct State {
        var entries: [String: Entry] = [:]
        var revision: Revision = 0
        var failure: CatalogError?
    }

    private let state = Mutex(State())

    func fail(_ error: CatalogError?) { state.withLock { $0.failure = error } }

    func get(_ key: String) async throws(CatalogError) -> Entry? { state.withLock { $0.entries[key] } }

    func list(prefix: String, after: String?, limit: Int) async throws(CatalogError) -> [Entry] {
        let found = state.withLock { state in
            state.entries.values.filter { $0.key.hasPrefix(prefix) && $0.key > after ?? "" }
        }
        return Array(found.sorted { $0.key < $1.key }.prefix(limit))
    }

    func commit(_ transaction: Transaction) async throws(CatalogError) -> Revision {
        try state.withLock { state throws(CatalogError) in
            if let failure = state.failure { throw failure }
            for condition in transaction.conditions
            where state.entries[condition.key]?.revision ?? 0 != condition.revision {
                throw .conflict(key: condition.key)
            }
            state.revision += 1
            for key in transaction.deletes { state.entries[key] = nil }
            for put in transaction.puts {
                state.entries[put.key] = Entry(key: put.key, value: put.value, revision: state.revision)
            }
            return state.revision
        }
    }

    func write(_ key: String, _ text: String) async throws {
        var transaction = Transaction()
        transaction.put(key, Array(text.utf8))
        _ = try await commit(transaction)
    }
}

/// How far a test's writer and reader are.
private final class Progress: Sendable {
    let isOver = Atomic<Bool>(false)
    /// Values that the reader has seen.
    let seen = Mutex<Set<UInt64>>([])
}

/// Typed records over a catalog: what is in memory is what is on disk.
@Suite(.timeLimit(.minutes(1))) struct RecordStoreTests {
    private func node(_ name: String, _ number: UInt64 = 1) -> NodeRecord {
        NodeRecord(id: Identifier(high: 1, low: number), name: name, createdAt: 5)
    }

    private func grant(_ name: String, of node: NodeRecord) -> GrantRecord {
        GrantRecord(
            id: Identifier(high: 2, low: 1), name: name, node: node,
            on: ResourceReference(kind: .volume, id: Identifier(high: 3, low: 1), name: "v"),
            rights: .read, range: nil, limits: .none, lifetimeSecondsMax: 1, expiresAt: nil,
            delegationDepth: 0, labels: [:], createdAt: 1)
    }

    private func changes(_ build: (inout RecordChanges) throws -> Void) rethrows -> RecordChanges {
        var changes = RecordChanges()
        try build(&changes)
        return changes
    }

    @Test func recordsAreThereAgainAfterALoadInOrderAndByGroup() async throws {
        let catalog = MemoryCatalog()
        let store = try await RecordStore(catalog: catalog)
        let (one, two) = (node("one", 1), node("two", 2))
        // More than a page of the catalog, and than a piece of the store.
        for start in stride(from: 0, to: 2500, by: 500) {
            try await store.commit(
                changes {
                    for number in start..<start + 500 {
                        try $0.insert(grant("g\(10_000 + number)", of: number % 5 == 0 ? two : one))
                    }
                })
        }
        for store in [store, try await RecordStore(catalog: catalog)] {
            #expect(store.count(GrantRecord.self) == 2500)
            #expect(store.count(GrantRecord.self, in: two.id.hex) == 500)
            #expect(store.largestGroup(GrantRecord.self)?.group == one.id.hex)
            let all = store.all(GrantRecord.self).map(\.record.name)
            #expect(all == (10_000..<12_500).map { "g\($0)" })
            let page = store.page(GrantRecord.self, in: two.id.hex, after: "g10004", limit: 3)
            #expect(page.map(\.record.name) == ["g10005", "g10010", "g10015"])
            // A filter that lets through what is far away is not cut off by pieces.
            let far = store.page(GrantRecord.self, limit: 2) { $0.name >= "g12498" }
            #expect(far.map(\.record.name) == ["g12498", "g12499"])
            #expect(store.page(GrantRecord.self, after: "g12499", limit: 5).isEmpty)
            #expect(store.page(GrantRecord.self, limit: 0).isEmpty)
        }
    }

    @Test func whatTheCatalogRefusesIsNotInMemoryEither() async throws {
        let catalog = MemoryCatalog()
        let store = try await RecordStore(catalog: catalog)
        try await store.commit(changes { try $0.insert(node("a")) })
        let stored = try #require(store.get(NodeRecord.self, "a"))
        catalog.fail(.full(path: "x"))
        await #expect(throws: CatalogError.full(path: "x")) {
            try await store.commit(
                changes {
                    try $0.insert(node("b", 2))
                    $0.delete(stored)
                })
        }
        catalog.fail(nil)
        #expect(store.all(NodeRecord.self).map(\.record.name) == ["a"])
        try await store.commit(changes { try $0.put(node("a", 9), over: stored.revision) })
        await #expect(throws: CatalogError.conflict(key: "nodes/a")) {
            try await store.commit(changes { $0.delete(stored) })
        }
        await #expect(throws: CatalogError.conflict(key: "nodes/a")) {
            try await store.commit(changes { try $0.insert(node("a")) })
        }
        #expect(store.get(NodeRecord.self, "a")?.record.id.low == 9)
    }

    @Test func aRequiredRecordThatWasChangedKeepsEverythingFromBeingWritten() async throws {
        let store = try await RecordStore(catalog: MemoryCatalog())
        try await store.commit(changes { try $0.insert(node("a")) })
        let before = try #require(store.get(NodeRecord.self, "a"))
        let isEmpty = changes { $0.require(before) }.isEmpty
        #expect(isEmpty, "a condition writes nothing")
        try await store.commit(changes { try $0.put(node("a", 2), over: before.revision) })
        await #expect(throws: CatalogError.conflict(key: "nodes/a")) {
            try await store.commit(
                changes {
                    try $0.insert(node("b"))
                    $0.require(before)
                })
        }
        #expect(store.get(NodeRecord.self, "b") == nil)
    }

    @Test func memoryTakesWhatIsRemovedAndWrittenInTheOrderOfTheCatalog() async throws {
        let catalog = MemoryCatalog()
        let store = try await RecordStore(catalog: catalog)
        try await store.commit(changes { try $0.insert(node("a")) })
        let stored = try #require(store.get(NodeRecord.self, "a"))
        try await store.commit(
            changes {
                try $0.put(node("a", 2), over: stored.revision)
                $0.delete(stored)
            })
        let again = try await RecordStore(catalog: catalog)
        #expect(store.get(NodeRecord.self, "a")?.record.id.low == 2)
        #expect(again.get(NodeRecord.self, "a")?.record.id.low == 2)
        #expect(store.count(NodeRecord.self) == 1)
    }

    @Test func aGroupFollowsItsRecords() async throws {
        let store = try await RecordStore(catalog: MemoryCatalog())
        let (one, two) = (node("one", 1), node("two", 2))
        try await store.commit(changes { try $0.insert(grant("g", of: one)) })
        let first = try #require(store.get(GrantRecord.self, "g"))
        try await store.commit(changes { try $0.put(grant("g", of: two), over: first.revision) })
        #expect(store.count(GrantRecord.self, in: one.id.hex) == 0)
        let second = try #require(store.page(GrantRecord.self, in: two.id.hex, limit: 9).first)
        try await store.commit(changes { $0.delete(second) })
        #expect(store.largestGroup(GrantRecord.self) == nil && store.count(GrantRecord.self) == 0)
    }

    @Test func aRecordThatCannotBeReadIsNamed() async throws {
        for (key, text) in [
            ("nodes/a", "{"), ("volumes/v", #"{"id":"00"}"#), ("pool-intents/p", "[]"),
            ("grants/g", #"{"rights":["fly"]}"#), ("idempotency/x", "null"),
        ] {
            let catalog = MemoryCatalog()
            try await catalog.write(key, text)
            do throws(CatalogError) {
                _ = try await RecordStore(catalog: catalog)
                Issue.record("\(key) was read")
            } catch {
                guard case .malformed(key, _) = error else { throw error }
            }
        }
        // What nobody knows is left alone: a newer version's kind of record.
        let catalog = MemoryCatalog()
        try await catalog.write("filesets/f", "?")
        _ = try await RecordStore(catalog: catalog)
    }

    @Test func whatEarlierVersionsWroteIsRead() async throws {
        let catalog = MemoryCatalog()
        let id = Identifier(high: 1, low: 2).hex
        let hash = String(repeating: "ab", count: 32)
        try await catalog.write(
            "idempotency/\(hash)",
            #"{"hash":"\#(hash)","request":"\#(hash)","createdAt":1,"status":201,"headers":{},"body":"{}"}"#)
        try await catalog.write(
            "volumes/v",
            #"{"id":"\#(id)","name":"v","pool":"p","size":1,"accessMode":"shared","labels":{},"epoch":1,"#
                + #""state":"ready","createdAt":1,"updatedAt":1,"version":3}"#)
        let store = try await RecordStore(catalog: catalog)
        let answer = try #require(store.get(IdempotencyRecord.self, hash)?.record)
        #expect(answer.begun == nil && answer.sealed == nil && answer.caller == nil && answer.status == 201)
        let volume = try #require(store.get(VolumeRecord.self, "v")?.record)
        #expect(volume.limits == .none && volume.blockSize == nil && volume.version == 3)
    }

    @Test func readersSeeWholeTransactionsWhileOthersWrite() async throws {
        let store = try await RecordStore(catalog: MemoryCatalog())
        try await store.commit(
            changes {
                try $0.insert(node("a", 0))
                try $0.insert(node("b", 0))
            })
        let progress = Progress()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                while !progress.isOver.load(ordering: .relaxed) {
                    let both = store.all(NodeRecord.self).map(\.record.id.low)
                    try #require(both.count == 2 && both[0] == both[1], "\(both)")
                    progress.seen.withLock { _ = $0.insert(both[0]) }
                    await Task.yield()
                }
            }
            group.addTask {
                defer { progress.isOver.store(true, ordering: .relaxed) }
                var number: UInt64 = 0
                while number < 300 || progress.seen.withLock({ $0.count }) < 50 {
                    number += 1
                    let a = try #require(store.get(NodeRecord.self, "a"))
                    let b = try #require(store.get(NodeRecord.self, "b"))
                    var changes = RecordChanges()
                    try changes.put(node("a", number), over: a.revision)
                    try changes.put(node("b", number), over: b.revision)
                    try await store.commit(changes)
                }
            }
            try await group.waitForAll()
        }
    }
}
