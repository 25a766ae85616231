import Core
import Testing

@testable import Capability

@Suite struct CapabilityErrorTests {
    private let table: [(CapabilityError, Status, String)] = [
        (.malformed("x"), .badCapability, "malformed"), (.tooLarge, .tooLarge, "too-large"),
        (.unknownKey, .badCapability, "unknown-key"),
        (.badSignature(block: 0), .badCapability, "bad-signature"),
        (.badProof, .badCapability, "bad-proof"), (.expired(at: 1), .expired, "expired"),
        (.notYetValid(at: 1), .notYetValid, "not-yet-valid"),
        (.wrongAudience, .wrongAudience, "wrong-audience"), (.wrongHolder, .wrongHolder, "wrong-holder"),
        (.widened(block: 1, what: "rights"), .badCapability, "widened"),
        (.delegationExhausted, .badCapability, "delegation-exhausted"),
        (.sealed, .badRequest, "sealed"), (.signingFailed("x"), .internalError, "signing-failed"),
    ]

    @Test func everyErrorHasItsStatusItsWordAndASentence() {
        for (error, status, name) in table {
            #expect(error.status == status)
            #expect(error.name == name)
            #expect(error.description.count > 10 && error.description != name)
        }
        #expect(Set(table.map(\.2)).count == table.count)
    }

    @Test func timesAreSaidInWords() {
        #expect(CapabilityError.expired(at: 1_800_000_000).description.contains("2027-01-15T08:00:00Z"))
    }
}

@Suite struct UTCTimeTests {
    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00Z"), (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"), (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"), (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"), (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "second 253402300800 since 1970"),
            (UInt64.max, "second 18446744073709551615 since 1970"),
        ] as [(UInt64, String)])
    func pointsInTimeAreWrittenAsDates(seconds: UInt64, text: String) {
        #expect(UTCTime.text(seconds) == text)
    }

    @Test(
        arguments: [
            (0, "0 s"), (59, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (86_400, "1 d"),
            (90_061, "1 d 1 h"), (3_605, "1 h"),
        ] as [(UInt64, String)])
    func durationsAreWrittenInTheirTwoLargestUnits(seconds: UInt64, text: String) {
        #expect(UTCTime.duration(seconds) == text)
    }
}
