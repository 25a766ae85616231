import Core
import Testing

@testable import ControlPlane

/// What is JSON for the control API, and where reading stops in what is not.
@Suite struct JSONParserTests {
    private func parse(_ text: String) throws(JSONError) -> JSONValue {
        try JSONParser.parse(Array(text.utf8))
    }

    private func error(_ text: String) -> JSONError? { error(Array(text.utf8)) }

    private func error(_ bytes: [UInt8]) -> JSONError? {
        do throws(JSONError) {
            _ = try JSONParser.parse(bytes)
            return nil
        } catch { return error }
    }

    @Test func valuesOfEveryTypeAreRead() throws {
        let text = " {\"a\" : [ 1 ,\t-2.5e+3,true,false,null,\"x\",{ },[ ]]}\r\n "
        let list: [JSONValue] = [
            .integer(1), .number("-2.5e+3"), .bool(true), .bool(false), .null, .string("x"), .object([:]),
            .array([]),
        ]
        #expect(try parse(text) == .object(["a": .array(list)]))
        #expect(try parse("7") == .integer(7))
    }

    @Test func wholeNumbersOf64BitsAreExactAndOthersKeepTheirText() throws {
        #expect(try parse("18446744073709551615") == .integer(.max))
        for text in ["18446744073709551616", "-1", "1.0", "1e3", "1E-3", "0.5", "-0.0", "1e400"] {
            #expect(try parse(text) == .number(text))
        }
        #expect(try parse("0") == .integer(0))
        for text in ["01", "-", "+1", ".5", "1.", "1e", "1e+", "-01", "0x1", "1_0", "--1", "NaN", "Infinity"]
        {
            #expect(error(text) != nil, "\(text)")
        }
    }

    @Test func escapesAreReadAndOthersRefused() throws {
        #expect(
            try parse(#""\"\\\/\b\f\n\r\t\u0041\u00e9\uD83D\ude00""#)
                == .string("\"\\/\u{8}\u{c}\n\r\tA\u{e9}\u{1f600}"))
        #expect(try parse("\"\u{1f600}\u{e9}\"") == .string("\u{1f600}\u{e9}"))
        for text in [
            #""\x41""#, #""\u12""#, #""\u12G4""#, #""\u+123""#, #""\uD83D""#, #""\uD83Dx""#,
            #""\uD83D\u0041""#, #""\uDE00""#, #""\"#, #""\u"#, #"""#, #""a"#,
        ] { #expect(error(text) != nil, "\(text)") }
    }

    @Test func stringsAreUTF8WithoutControlCharacters() {
        for byte in UInt8(0)..<0x20 { #expect(error([0x22, byte, 0x22]) != nil, "\(byte)") }
        // Lone continuation, overlong, surrogate, beyond Unicode, cut off.
        for bytes: [UInt8] in [
            [0x80], [0xC0, 0xAF], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80],
            [0xF0, 0x9F, 0x98], [0xFF],
        ] { #expect(error([0x22] + bytes + [0x22])?.reason == "a string that is not UTF-8") }
        #expect(error([0xEF, 0xBB, 0xBF, 0x31])?.offset == 0, "a byte order mark")
    }

    @Test func aMemberIsThereOnce() {
        #expect(error(#"{"a":1,"b":2,"a":3}"#)?.reason == "the member \"a\" is there twice")
        #expect(error(#"{"a":1,"\u0061":3}"#)?.reason == "the member \"a\" is there twice")
        #expect(error(#"{"a":{"a":1},"b":[{"a":1},{"a":1}]}"#) == nil)
    }

    @Test func nestingIsBoundedExactly() {
        let most = Limits.jsonDepthMax
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            func nested(_ depth: Int) -> String {
                String(repeating: open, count: depth) + "1" + String(repeating: close, count: depth)
            }
            #expect(error(nested(most)) == nil)
            #expect(error(nested(most + 1))?.reason.hasPrefix("nested deeper") == true)
            #expect(error(nested(100_000))?.reason.hasPrefix("nested deeper") == true)
        }
        // One after the other is no depth.
        #expect(error("[" + Array(repeating: "[[]]", count: 1000).joined(separator: ",") + "]") == nil)
    }

    @Test func thePlaceOfTheErrorIsWhereReadingStopped() {
        let places: [(String, Int)] = [
            ("", 0), ("   ", 3), ("1 2", 2), ("{\"a\" 1}", 5), ("{\"a\":1,}", 7), ("[1,]", 3), ("[1 2]", 3),
            ("{a:1}", 1), ("tru", 3), ("nulL", 3), ("[1", 2), ("{", 1), ("{\"a\":", 5), ("]", 0),
        ]
        for (text, offset) in places { #expect(error(text)?.offset == offset, "\(text)") }
    }

    @Test func whatIsWrittenIsReadBack() throws {
        let value = JSONValue.object([
            "": .string("\u{0}\u{1f}\u{7f}\"\\/\n\u{2028}\u{1f600}"), "z": .array([.null, .bool(false)]),
            "a": .object(["n": .integer(.max), "d": .number("-1.5E-7")]),
        ])
        #expect(try JSONParser.parse(value.text) == value)
        #expect(value.text.last == 0x0A && value.text.dropLast().allSatisfy { $0 >= 0x20 && $0 != 0x7F })
    }
}
