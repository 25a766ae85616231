import Core
import Foundation
import Logging
import Testing

@testable import Logs

@Suite struct LogFormatTests {
    private func line(_ message: String, _ values: [(String, String)] = [], _ format: LogFormat = .text)
        -> String
    {
        let line = LogLine(
            milliseconds: 1_800_000_000_007, level: .notice, label: "sluiced", message: message,
            values: values.map { (key: $0.0, value: $0.1) })
        return String(decoding: line.bytes(format), as: UTF8.self)
    }

    @Test func aLineSaysWhenHowBadWhoWhatAndTheValues() {
        #expect(
            line("node enrolled", [("by", "admin:admin"), ("node", "n1")])
                == "2027-01-15T08:00:00.007Z notice sluiced node enrolled by=admin:admin node=n1\n")
    }

    @Test func valuesThatCouldBeMisreadAreQuoted() {
        #expect(line("m", [("a", "two words")]).hasSuffix(" m a=\"two words\"\n"))
        #expect(line("m", [("a", "x=y")]).hasSuffix(" m a=\"x=y\"\n"))
        #expect(line("m", [("a", "")]).hasSuffix(" m a=\"\"\n"))
        #expect(line("m", [("a", "say \"no\" \\")]).hasSuffix(" m a=\"say \\\"no\\\" \\\\\"\n"))
        #expect(line("m", [("a", "Grüße")]).hasSuffix(" m a=\"Grüße\"\n"))
    }

    /// What a node can put into a path or a body: a line of its own, an escape sequence, text that runs the other way.
    @Test(arguments: LogFormat.allCases) func nobodyForgesALineOrAValue(_ format: LogFormat) {
        let forged =
            "x\n2026-11-30T00:00:00.000Z notice sluiced volume deleted by=admin:admin\r\u{1b}[2K\u{9b}31m\u{202e}\u{7}"
        let text = line("request refused: \(forged)", [("path", forged), ("a b\nc=d", "v")], format)
        #expect(text.filter { $0 == "\n" }.count == 1 && text.hasSuffix("\n"))
        #expect(text.unicodeScalars.dropLast().allSatisfy { $0.isASCII && $0.value >= 0x20 })
        // Outside of quotes there is no key that the program did not give.
        let outside = text.split(separator: "\"", omittingEmptySubsequences: false).enumerated()
            .filter { $0.offset.isMultiple(of: 2) }.map(\.element).joined()
        #expect(!outside.contains("by=admin"))
        if format == .text { #expect(outside.contains(" path=") && outside.contains(" a_b_c_d=v")) }
    }

    @Test func everyCharacterIsOneLineAndComesBackFromJSON() throws {
        let first = stride(from: UInt32(0), to: 0x3000, by: 256)
        for start in Array(first) + [0xE000, 0xFE00, 0xFF00, 0x1F600, 0xE0000, 0x10FF00] {
            let scalars = (start..<start + 256).compactMap(Unicode.Scalar.init)
            let text = String(String.UnicodeScalarView(scalars))
            let json = line(text, [("v", text)], .json)
            #expect(json.filter { $0.isNewline }.count == 1)
            let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
            #expect(object?["message"] as? String == text)
            #expect((object?["values"] as? [String: String]) == ["v": text])
            for scalar in line(text, [("v", text)]).unicodeScalars.dropLast() {
                switch scalar.properties.generalCategory {
                case .control, .format, .lineSeparator, .paragraphSeparator: Issue.record("\(scalar.value)")
                default: break
                }
            }
        }
    }

    @Test func aLongValueEndsAndSaysSo() {
        let text = line("m", [("a", String(repeating: "é", count: 5000))])
        #expect(text.utf8.count < Limits.logValueBytesMax + 200)
        #expect(text.hasSuffix("… (8976 more bytes)\"\n"))
        let many = line("m", (0..<500).map { ("k\($0)", "v") })
        #expect(many.split(separator: " ").count == Limits.logValuesMax + 4)
    }
}
