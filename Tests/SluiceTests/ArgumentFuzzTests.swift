import ArgumentParser
import Core
import Simulation
import Testing

@testable import sluice

/// Sizes, lengths of time, ranges and names of the command line: what is taken is what it says, and says so again.
@Suite struct ArgumentFuzzTests {
    private static let fuzzer = Fuzzer(
        "arguments",
        texts: [
            "0", "1", "4096", "4k", "512MB", "1GiB", "16383PiB", "16384PiB", "18446744073709551615",
            "18446744073709551616", "250ms", "2s", "15m",
            "12h", "30d", "213503982334601d", "0:1GiB", "4096:18446744073709547520", "1:18446744073709551615",
            "read,write", "volume/db", "db", "none",
            "team=ml", "old-", "a==b", "-", "=", "0123456789abcdef0123456789abcdef",
        ],
        tokens: [
            "k", "K", "\u{212a}", "ib", "ms", ":", "/", ",", "-", "+", " ", ".", "e", "0x", "٣", "³",
            "\u{301}", "00000000000000000000", "99999999999999999999",
        ])

    @Test func whatIsTakenSaysTheSameAgain() {
        var taken = 0
        Self.fuzzer.run(40_000) { input, place, _ in
            let text = String(decoding: input, as: UTF8.self)
            if let size = ByteCount(argument: text) {
                taken += 1
                // Exact texts are short; others are for people.
                let shown = size.description
                if !shown.contains(".") {
                    #expect(ByteCount(text: shown) == size, "\(place): \(text), \(shown)")
                }
                #expect(text.utf8.first.map { (0x30...0x39).contains($0) } == true, "\(place): \(text)")
            }
            if let time = DurationArgument(argument: text) {
                taken += 1
                #expect(time.seconds > 0, "\(place): \(text)")
                #expect(
                    DurationArgument(argument: time.description)?.seconds == time.seconds, "\(place): \(text)"
                )
                if let short = ShortDurationArgument(argument: text), text.last != "d" {
                    #expect(short.milliseconds / 1000 == time.seconds, "\(place): \(text)")
                }
            }
            if let range = RangeArgument(argument: text) {
                taken += 1
                #expect(
                    range.length > 0 && range.offset.addingReportingOverflow(range.length).overflow == false,
                    "\(place)")
                #expect(
                    RangeArgument(argument: range.description)?.length == range.length, "\(place): \(text)")
            }
            if let rights = RightsArgument(argument: text) {
                taken += 1
                #expect(
                    RightsArgument(argument: rights.description)?.rights == rights.rights, "\(place): \(text)"
                )
            }
            if let resource = ResourceReference(argument: text) {
                taken += 1
                #expect(
                    ResourceReference(argument: resource.description)?.name == resource.name,
                    "\(place): \(text)")
                #expect(ShownText.isPlain(resource.description), "\(place): \(text)")
            }
            if let pair = PairArgument(argument: text) {
                taken += 1
                #expect(!pair.key.isEmpty && pair.description == text, "\(place): \(text)")
            }
            if let id = IdentifierArgument(argument: text) {
                #expect(IdentifierArgument(argument: id.description)?.text == id.text, "\(place): \(text)")
            }
            let ceiling = CeilingArgument<ByteCount>(argument: text)
            if text == "none" {
                #expect(ceiling != nil && ceiling?.value == nil)
            } else {
                #expect(ceiling?.value == ByteCount(argument: text), "\(place): \(text)")
            }
        }
        #expect(taken > 5000)
    }
}
