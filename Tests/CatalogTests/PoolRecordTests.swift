import Core
import Foundation
import Testing

@testable import Catalog

@Suite struct PoolRecordTests {
    private let pool = PoolRecord(
        id: Identifier(high: 1, low: 2), name: "default", driver: "file", settings: ["direct": "false"],
        isolation: .inline, createdAt: 7)

    @Test func isolationIsKept() throws {
        let bytes = try RecordCoding.encode(pool, key: "pools/default")
        let text = String(decoding: bytes, as: UTF8.self)
        #expect(text.contains(#""isolation":"inline""#))
        let read = try JSONDecoder().decode(PoolRecord.self, from: Data(bytes))
        #expect(read == pool)
        #expect(read.isolation == .inline)
    }

    @Test func aRecordFromBeforeThereWasAChoiceIsIsolated() throws {
        let bytes = try RecordCoding.encode(pool, key: "pools/default")
        let old = String(decoding: bytes, as: UTF8.self)
            .replacingOccurrences(of: #""isolation":"inline","#, with: "")
        #expect(!old.contains("isolation"))
        let read = try JSONDecoder().decode(PoolRecord.self, from: Data(old.utf8))
        #expect(read.isolation == .isolated)
        #expect(read.settings == ["direct": "false"])
    }
}
