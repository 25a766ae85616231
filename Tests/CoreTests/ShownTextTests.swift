import Core
import Testing

@Suite struct ShownTextTests {
    @Test func whatSteersATerminalOrHidesIsEscapedAsInJSON() {
        #expect(ShownText.line("a\u{1b}[2J\u{7}\u{7f}\u{9b}b") == "a\\u001b[2J\\u0007\\u007f\\u009bb")
        #expect(
            ShownText.line("one\ntwo\r\n\tthree\u{0b}\u{85}\u{2028}\u{2029}")
                == "one\\ntwo\\r\\n\\tthree\\u000b\\u0085\\u2028\\u2029")
        let bidi: [UInt32] = Array(0x202A...0x202E) + Array(0x2066...0x2069) + [0x200E, 0x200F, 0x061C]
        for value in bidi + [0xFEFF, 0xAD, 0x200B, 0x2060, 0xFFF9, 0x115F, 0x1160, 0x3164, 0xFFA0, 0x34F] {
            let scalar = Unicode.Scalar(value)!
            let digits = String(value, radix: 16)
            let escape = "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            #expect(ShownText.line("x\(scalar)y") == "x\(escape)y")
            #expect(ShownText.lines("x\(scalar)y") == "x\(escape)y")
        }
        #expect(ShownText.line("\u{E0001}") == "\\udb40\\udc01")
    }

    @Test func whatPeopleWriteStays() {
        for text in [
            "", "volume/data: 1GiB", "Größe µs – “ok”", "日本語", "שלום", "👩‍🔬", "❤\u{FE0F}", "e\u{301}", "a\\nb",
        ] {
            #expect(ShownText.line(text) == text)
            #expect(ShownText.isPlain(text))
        }
        #expect(ShownText.lines("one\n  two\n") == "one\n  two\n")
        #expect(!ShownText.isPlain("a\nb"))
    }

    @Test func aLineHasAnEnd() {
        #expect(ShownText.line("abcdef", charactersMax: 6) == "abcdef")
        #expect(ShownText.line("abc\u{1b}ef", charactersMax: 4) == "abc\\u001b…")
        let tall = "e" + String(repeating: "\u{301}", count: 10_000)
        #expect(ShownText.line(tall, charactersMax: 100).unicodeScalars.count == 101)
    }
}

@Suite struct SaturationTests {
    @Test func sumsAndProductsThatDoNotFitAreTheLargestNumber() {
        #expect(UInt64.max.addingSaturated(1) == .max)
        #expect(UInt64(3).addingSaturated(4) == 7)
        #expect(UInt64(3).subtractingSaturated(4) == 0)
        #expect(UInt64(4).subtractingSaturated(3) == 1)
        #expect((UInt64(1) << 63).multipliedSaturated(by: 2) == .max)
        #expect(Nanoseconds.seconds(1 << 35) == .max)
        #expect(Nanoseconds.seconds(2) == 2_000_000_000)
        #expect(Nanoseconds.milliseconds(.max) == .max)
        #expect(Nanoseconds.milliseconds(5000) == 5_000_000_000)
    }
}
