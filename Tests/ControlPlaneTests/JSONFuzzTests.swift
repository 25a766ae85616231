import Core
import Foundation
import Simulation
import TestSupport
import Testing

@testable import ControlPlane

/// Anything at all where JSON is expected. What is accepted is what Foundation's reader makes of it, too.
///
/// `SLUICE_FUZZ` multiplies the inputs; `corpus/json` has what to begin with: `y_` is accepted, `n_` refused.
@Suite(.background) struct JSONFuzzTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(
        path: "corpus/json")
    private static let values = 2000 * Fuzzer.factor

    private static func corpus() throws -> [(name: String, bytes: [UInt8])] {
        try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted().map { name in
            (name, [UInt8](try Data(contentsOf: folder.appending(path: name))))
        }
    }

    @Test func theCorpusIsAcceptedAndRefusedAsItsNamesSay() throws {
        let corpus = try Self.corpus()
        #expect(corpus.count > 40)
        for (name, bytes) in corpus {
            #expect(((try? JSONParser.parse(bytes)) != nil) == name.hasPrefix("y_"), "\(name)")
            Self.check(bytes, name)
        }
    }

    @Test func mutatedInputsAreReadAsFoundationReadsThemOrRefused() throws {
        let fuzzer = Fuzzer(
            "JSON", corpus: try Self.corpus().map(\.bytes), tokens: Self.scraps.map { Array($0.utf8) })
        var (wrong, read) = (0, 0)
        fuzzer.run(15_000) { input, place, _ in
            guard wrong < 10 else { return }
            if !Self.check(input, place) { wrong += 1 }
            if (try? JSONParser.parse(input)) != nil { read += 1 }
        }
        #expect(read > 400)
    }

    @Test func aWrittenValueIsReadAsItselfHoweverItIsSpelt() throws {
        var random = SplitMix(seed: 0xFACADE)
        for number in 0..<2 * Self.values {
            let value = Self.value(depth: 0, &random)
            let spelt = Self.text(of: value, &random)
            Self.check(spelt, "\(number)")
            #expect(try JSONParser.parse(spelt) == value, "\(number): \(Self.shown(spelt))")
            #expect(try JSONParser.parse(value.text) == value, "\(number)")
        }
    }

    /// The readers of fields take whatever the parser made.
    @Test func fieldsAnswerAnyValueWithAValueOrAProblem() throws {
        let members = ["size", "name", "labels", "rights", "range", "limits", "at", "n", "csr", "resource"]
        var random = SplitMix(seed: 0xF1E1D)
        var texts = ["1GiB", "18446744073709551615B", "-1", "2030-01-31T12:00:00Z", "volume/a", "read", ""]
        texts += ["9999-99-99T99:99:99Z", "1e9", "\u{0}", "18446744073709551615k", "volume/", "\u{661}k"]
        var taken: [Int: Int] = [:]
        var refused: [Int: Int] = [:]
        for _ in 0..<Self.values {
            var object: [String: JSONValue] = [:]
            for member in members where !random.once(in: 3) {
                object[member] =
                    random.once(in: 2)
                    ? .string(texts[random.below(texts.count)]) : Self.value(depth: 5, &random)
            }
            let fields = try Fields(.object(object), known: members)
            var reader = 0
            func read<Value>(_ body: () throws(Problem) -> Value) {
                reader += 1
                do throws(Problem) {
                    _ = try body()
                    taken[reader, default: 0] += 1
                } catch {
                    #expect(error.code.httpStatus == 422, "\(error.detail)")
                    refused[reader, default: 0] += 1
                }
            }
            read { () throws(Problem) in try fields.size("size") }
            read { () throws(Problem) in try fields.requiredName("name") }
            read { () throws(Problem) in try fields.labels() }
            read { () throws(Problem) in try fields.patchedLabels(["a": "b"]) }
            read { () throws(Problem) in try fields.rights(on: .volume) }
            read { () throws(Problem) in try fields.range() }
            read { () throws(Problem) in try fields.rateLimits() }
            read { () throws(Problem) in try fields.time("at") }
            read { () throws(Problem) in try fields.integer("n", in: 1...9) }
            read { () throws(Problem) in try fields.pem("csr", bytesMax: 100) }
            read { () throws(Problem) in try fields.requiredResource() }
            read { () throws(Problem) in try fields.text("name", bytesMax: 10) }
            read { () throws(Problem) in try fields.texts("rights", countMax: 3, bytesMax: 10) }
        }
        // Each has seen what it takes and what it does not.
        #expect(taken.count == 13 && refused.count == 13, "\(taken) \(refused)")
    }

    // MARK: The judge

    /// Whether the parser and Foundation agree on a text, as far as they should.
    @discardableResult
    private static func check(_ input: [UInt8], _ what: String) -> Bool {
        let theirs = try? JSONSerialization.jsonObject(with: Data(input), options: .fragmentsAllowed)
        do throws(JSONError) {
            let ours = try JSONParser.parse(input)
            let again = try? JSONParser.parse(ours.text)
            guard again == ours else {
                Issue.record("\(what): what it writes is read otherwise: \(shown(input))")
                return false
            }
            // It drops every byte order mark, also within a text.
            let hasMark = Data(input).range(of: Data([0xEF, 0xBB, 0xBF])) != nil
            guard hasMark || isBeyondFoundation(ours) || theirs.map({ agree(ours, $0) }) == true else {
                Issue.record("\(what): Foundation reads it otherwise: \(shown(input))")
                return false
            }
        } catch {
            guard (0...input.count).contains(error.offset) else {
                Issue.record("\(what): an error at byte \(error.offset) of \(input.count)")
                return false
            }
            guard theirs == nil || isStricter(error, input) else {
                Issue.record("\(what): Foundation reads it, we do not: \(error.reason): \(shown(input))")
                return false
            }
        }
        return true
    }

    /// What we refuse and Foundation reads: a second member, a depth, other encodings, a comma before the end of a list.
    private static func isStricter(_ error: JSONError, _ input: [UInt8]) -> Bool {
        let before = input.prefix(error.offset).last { ![0x20, 0x09, 0x0A, 0x0D].contains($0) }
        let next = error.offset < input.count ? input[error.offset] : 0
        if before == UInt8(ascii: ","), next == UInt8(ascii: "]") || next == UInt8(ascii: "}") { return true }
        return error.reason.hasPrefix("nested deeper") || error.reason.hasSuffix("is there twice")
            // UTF-16 and UTF-32, with or without a byte order mark.
            || input.prefix(4).contains(0) || input.starts(with: [0xEF, 0xBB, 0xBF])
            || input.starts(with: [0xFE, 0xFF]) || input.starts(with: [0xFF, 0xFE])
    }

    /// Numbers that Foundation has no room for.
    private static func isBeyondFoundation(_ value: JSONValue) -> Bool {
        switch value {
        case .number(let text):
            guard let number = Double(text) else { return true }
            return !number.isFinite || number == 0 || abs(number) < 1e-300 || text.utf8.count > 15
        case .array(let values): return values.contains(where: isBeyondFoundation)
        case .object(let members): return members.values.contains(where: isBeyondFoundation)
        case .null, .bool, .integer, .string: return false
        }
    }

    private static func agree(_ ours: JSONValue, _ theirs: Any) -> Bool {
        switch ours {
        case .null: return theirs is NSNull
        case .bool(let value): return (theirs as? Bool) == value
        case .integer(let value): return (theirs as? NSNumber)?.uint64Value == value
        case .number(let text):
            guard let number = Double(text), let other = (theirs as? NSNumber)?.doubleValue else {
                return false
            }
            return abs(number - other) <= abs(number) * 1e-9
        case .string(let text): return (theirs as? String).map { $0.utf8.elementsEqual(text.utf8) } ?? false
        case .array(let values):
            guard let others = theirs as? [Any], others.count == values.count else { return false }
            return zip(values, others).allSatisfy { agree($0, $1) }
        case .object(let members):
            guard let others = theirs as? [String: Any], others.count == members.count else { return false }
            return members.allSatisfy { name, value in others[name].map { agree(value, $0) } ?? false }
        }
    }

    private static func shown(_ input: [UInt8]) -> String {
        "\(String(decoding: input.prefix(400), as: UTF8.self).debugDescription) (\(input.count) bytes)"
    }

    // MARK: Inputs

    private static let scraps: [String] = [
        "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "\\uD800", "\\uDC00", "\\u0000", "null", "true",
        "false",
        "0", "-", "1e5", ".", "E+", "18446744073709551615", "18446744073709551616", " ", "\n", "\u{0}",
        "\u{1f600}",
        "{\"a\":", "[[[[[[[[", "]]]]]]]]", "//", "/*", "'", "\u{feff}",
    ]

    private static func value(depth: Int, _ random: inout SplitMix) -> JSONValue {
        switch random.below(depth < Limits.jsonDepthMax ? 9 : 6) {
        case 0: return .null
        case 1: return .bool(random.once(in: 2))
        case 2: return .integer(random.next() >> UInt64(random.below(64)))
        case 3:
            let texts = ["-1", "0.5", "1e3", "-2.25E-7", "1.0", "-0.125", "18446744073709551616"]
            return .number(texts[random.below(texts.count)])
        case 4, 5: return .string(string(&random))
        case 6, 7:
            var members: [String: JSONValue] = [:]
            for _ in 0..<random.below(4) { members[string(&random)] = value(depth: depth + 1, &random) }
            return .object(members)
        default: return .array((0..<random.below(4)).map { _ in value(depth: depth + 1, &random) })
        }
    }

    private static func string(_ random: inout SplitMix) -> String {
        let scalars: [Unicode.Scalar] = [
            "a", "b", "Z", "0", "/", "\"", "\\", "\n", "\u{0}", "\u{1f}", "\u{7f}", "\u{e9}", "\u{301}",
            "\u{2028}", "\u{ffff}", "\u{1f600}", "\u{10ffff}",
        ]
        var text = String.UnicodeScalarView()
        for _ in 0..<random.below(8) { text.append(scalars[random.below(scalars.count)]) }
        return String(text)
    }

    /// One of the ways to write a value.
    private static func text(of value: JSONValue, _ random: inout SplitMix) -> [UInt8] {
        var output: [UInt8] = []
        write(value, &output, &random)
        return output
    }

    private static func write(_ value: JSONValue, _ output: inout [UInt8], _ random: inout SplitMix) {
        func space() {
            for _ in 0..<random.below(3) { output.append([0x20, 0x09, 0x0A, 0x0D][random.below(4)]) }
        }
        space()
        switch value {
        case .null: output += Array("null".utf8)
        case .bool(let value): output += Array("\(value)".utf8)
        case .integer(let value): output += Array("\(value)".utf8)
        case .number(let text): output += Array(text.utf8)
        case .string(let text): write(text, &output, &random)
        case .array(let values):
            output.append(UInt8(ascii: "["))
            for (position, value) in values.enumerated() {
                if position > 0 { output.append(UInt8(ascii: ",")) }
                write(value, &output, &random)
            }
            space()
            output.append(UInt8(ascii: "]"))
        case .object(let members):
            output.append(UInt8(ascii: "{"))
            for (position, member) in members.enumerated() {
                if position > 0 { output.append(UInt8(ascii: ",")) }
                space()
                write(member.key, &output, &random)
                space()
                output.append(UInt8(ascii: ":"))
                write(member.value, &output, &random)
            }
            space()
            output.append(UInt8(ascii: "}"))
        }
        space()
    }

    private static func write(_ text: String, _ output: inout [UInt8], _ random: inout SplitMix) {
        output.append(UInt8(ascii: "\""))
        for scalar in text.unicodeScalars {
            let mustEscape = scalar.value < 0x20 || scalar == "\"" || scalar == "\\"
            guard mustEscape || random.once(in: 4) else {
                output += Array(String(scalar).utf8)
                continue
            }
            for unit in String(scalar).utf16 {
                let digits = String(unit, radix: 16, uppercase: random.once(in: 2))
                output += Array(("\\u" + String(repeating: "0", count: 4 - digits.count) + digits).utf8)
            }
        }
        output.append(UInt8(ascii: "\""))
    }
}
