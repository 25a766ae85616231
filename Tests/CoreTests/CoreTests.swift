import Core
import Testing

@Suite struct ByteRangeTests {
    @Test func anOverflowingRangeDoesNotExist() {
        #expect(ByteRange(offset: .max, length: 1) == nil)
        #expect(ByteRange(offset: .max, length: 0) != nil)
    }

    @Test func containsChecksOverflow() throws {
        let range = try #require(ByteRange(offset: 4096, length: 8192))
        #expect(range.contains(offset: 4096, length: 8192))
        #expect(range.contains(offset: 12288, length: 0))
        #expect(!range.contains(offset: 4095, length: 1))
        #expect(!range.contains(offset: 4096, length: 8193))
        #expect(!range.contains(offset: .max, length: 2))
        #expect(!range.contains(offset: 8192, length: .max))
    }
}

@Suite struct TextTests {
    @Test func hexAndBase64RoundTrip() {
        for count in 0..<70 {
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ count) }
            #expect(Hex.decode(Hex.encode(bytes)) == bytes)
            #expect(Base64URL.decode(Base64URL.encode(bytes)) == bytes)
        }
    }

    @Test(arguments: ["A", "AB", "AAB", "A=", "A A", "é", "AA+A"])
    func wrongBase64IsRefused(text: String) {
        #expect(Base64URL.decode(text) == nil)
    }

    @Test(arguments: ["0", "0g", "xyz", "é"])
    func wrongHexIsRefused(text: String) {
        #expect(Hex.decode(text) == nil)
    }

    @Test func knownBase64() {
        #expect(Base64URL.encode([0xfb, 0xff]) == "-_8")
        #expect(Base64URL.decode("AA") == [0])
    }
}

@Suite struct NameTests {
    @Test(arguments: ["a", "db-1", "0", String(repeating: "x", count: 63)])
    func goodNames(text: String) { #expect(ResourceName(text)?.text == text) }

    @Test(arguments: ["", "-a", "a-", "A", "a.b", "a/b", "ä", "a\n", String(repeating: "x", count: 64)])
    func wrongNames(text: String) { #expect(ResourceName(text) == nil) }
}

@Suite struct ByteCountTests {
    @Test(
        arguments: [
            ("4096", 4096), ("4k", 4096), ("4KiB", 4096), ("4kB", 4000), ("1GiB", 1 << 30),
            ("512MB", 512_000_000),
            ("0", 0), ("7b", 7),
        ] as [(String, UInt64)])
    func parses(text: String, bytes: UInt64) { #expect(ByteCount(text: text)?.bytes == bytes) }

    @Test(arguments: ["", "k", "-1", "1.5G", "4x", "4kk", "99999999999999999999", "16384p", "1 G"])
    func refuses(text: String) {
        #expect(ByteCount(text: text) == nil)
    }

    @Test func formats() {
        #expect(ByteCount(1 << 30).description == "1GiB")
        #expect(ByteCount(1536).description == "1.5KiB")
        #expect(ByteCount(5).description == "5B")
        #expect(ByteCount(.max).description == "16384.0PiB")
    }
}

@Suite struct BytesTests {
    @Test func fieldsRoundTrip() {
        var writer = ByteWriter()
        writer.write(UInt8(1))
        writer.write(UInt16(0x0203))
        writer.write(UInt64.max - 1)
        writer.writeText("né")
        var reader = ByteReader(writer.bytes)
        #expect(reader.read(UInt8.self) == 1)
        #expect(reader.read(UInt16.self) == 0x0203)
        #expect(reader.read(UInt64.self) == UInt64.max - 1)
        #expect(reader.readText(maximum: 10) == "né")
        #expect(reader.remaining == 0)
        #expect(reader.read(UInt8.self) == nil)
    }

    @Test func hostileCountsAreRefused() {
        var reader = ByteReader([5, 0, 1, 2])
        #expect(reader.readCounted(maximum: 10) == nil)
        var negative = ByteReader([1, 2])
        #expect(negative.read(count: -1) == nil)
        #expect(negative.read(count: .max) == nil)
        var invalid = ByteReader([2, 0, 0xff, 0xfe])
        #expect(invalid.readText(maximum: 10) == nil)
    }
}

@Suite struct StatusTests {
    @Test func everyStatusIsMappedAndNamesAreUnique() {
        #expect(Set(Status.allCases.map(\.name)).count == Status.allCases.count)
        for status in Status.allCases {
            #expect((status.kind == nil) == (status == .ok))
            #expect((status.errno == 0) == (status == .ok))
        }
    }
}

@Suite struct RightsTests {
    @Test func namesRoundTrip() {
        #expect(Rights(names: ["read", "flush"]) == [.read, .flush])
        #expect(Rights(names: ["admin"]) == nil)
        #expect(Rights(names: Rights.all.names) == Rights.all)
    }
}

@Suite struct IdentifierTests {
    @Test func bytesAndTextRoundTrip() throws {
        let identifier = try #require(Identifier(hex: "000102030405060708090a0b0c0d0e0f"))
        #expect(identifier.bytes == Array(0...15))
        #expect(identifier.hex == "000102030405060708090a0b0c0d0e0f")
        #expect(Identifier(bytes: [1, 2, 3]) == nil)
        let digest = try #require(Digest32(bytes: Array(0...31)))
        #expect(Digest32(hex: digest.hex) == digest)
    }
}

@Suite struct SecretBytesTests {
    @Test func comparesAndLends() {
        let secret = SecretBytes([1, 2, 3])
        #expect(secret.equals([1, 2, 3]))
        #expect(!secret.equals([1, 2, 4]))
        #expect(!secret.equals([1, 2]))
        #expect(unsafe secret.withBytes { unsafe Array($0) } == [1, 2, 3])
        #expect(!String(describing: secret).contains("["))
    }
}
