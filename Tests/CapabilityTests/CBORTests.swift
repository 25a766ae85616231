import Core
import Testing

@testable import Capability

@Suite struct CBORTests {
    /// Numbers of RFC 8949 Appendix A with their encodings.
    private let numbers: [(Int64, String)] = [
        (0, "00"), (1, "01"), (10, "0a"), (23, "17"), (24, "1818"), (25, "1819"), (100, "1864"),
        (1_000, "1903e8"), (1_000_000, "1a000f4240"), (1_000_000_000_000, "1b000000e8d4a51000"),
        (-1, "20"), (-10, "29"), (-100, "3863"), (-1_000, "3903e7"),
    ]

    private func reader(_ hex: String) throws -> CBORReader {
        let bytes = try #require(Hex.decode(hex))
        return CBORReader(bytes, range: 0..<bytes.count)
    }

    @Test func integersEncodeAndDecodeAsInTheStandard() throws {
        for (value, hex) in numbers {
            var writer = CBORWriter()
            writer.integer(value)
            #expect(Hex.encode(writer.bytes) == hex)
            var reader = try reader(hex)
            #expect(try reader.integer() == value)
            try reader.finish()
        }
    }

    @Test func everyLengthOfNumberRoundTripsAtItsBorders() throws {
        let borders: [UInt64] = [
            0, 23, 24, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, .max,
        ]
        for value in borders {
            var writer = CBORWriter()
            writer.unsigned(value)
            var reader = CBORReader(writer.bytes, range: 0..<writer.bytes.count)
            #expect(try reader.unsigned() == value)
            try reader.finish()
        }
    }

    @Test(arguments: [
        "1800", "1817", "190000", "1900ff", "1a00000000", "1a0000ffff", "1b0000000000000000",
        "1b00000000ffffffff",
    ])
    func refusesNumbersThatAreNotInTheirShortestForm(hex: String) throws {
        var reader = try reader(hex)
        #expect(throws: CapabilityError.malformed("a number is not in its shortest form")) {
            try reader.unsigned()
        }
    }

    @Test(arguments: ["", "18", "19ff", "1a010203", "1b01020304050607", "1c", "1d", "1e", "1f", "f9ff"])
    func refusesCutAndReservedHeads(hex: String) throws {
        var reader = try reader(hex)
        #expect(throws: CapabilityError.self) { try reader.unsigned() }
    }

    @Test func refusesIntegersBeyond64BitsOfSign() throws {
        for hex in ["1b8000000000000000", "3bffffffffffffffff", "41ff", "f5", "c001"] {
            var reader = try reader(hex)
            #expect(throws: CapabilityError.self) { try reader.integer() }
        }
        var least = try reader("3b7fffffffffffffff")
        #expect(try least.integer() == .min)
    }

    @Test func stringsReportWhereTheirContentLies() throws {
        var bytes = try reader("43010203")
        #expect(try bytes.byteString() == 1..<4)
        try bytes.finish()
        var text = try reader("6449455446")
        #expect(try text.text() == 1..<5)
        var wrongLength = try reader("43010203")
        #expect(throws: CapabilityError.self) { try wrongLength.byteString(count: 2) }
    }

    @Test(arguments: ["4201", "5bffffffffffffffff00", "5b7fffffffffffffff00", "5f4101ff", "6101"])
    func refusesByteStringsThatAreCutIndefiniteOrText(hex: String) throws {
        var reader = try reader(hex)
        #expect(throws: CapabilityError.self) { try reader.byteString() }
    }

    @Test func refusesCountsThatTheInputCannotHold() throws {
        for hex in ["9bffffffffffffffff", "9a7fffffff00", "8200", "9f00ff"] {
            var reader = try reader(hex)
            #expect(throws: CapabilityError.self) { try reader.openArray() }
        }
        for hex in ["bbffffffffffffffff", "bb8000000000000000", "a101", "bfff"] {
            var reader = try reader(hex)
            #expect(throws: CapabilityError.self) { try reader.openMap() }
        }
    }

    @Test(arguments: ["a201000100", "a202000100", "a220000100", "a2390100002000", "a22000390100a000"])
    func refusesMapKeysThatRepeatOrAreOutOfOrder(hex: String) throws {
        var reader = try reader(hex)
        var map = try reader.openMap()
        #expect(throws: CapabilityError.self) {
            while try reader.nextKey(&map) != nil { _ = try reader.unsigned() }
            try reader.finish()
        }
    }

    @Test func mapsAreWrittenInTheOrderThatTheReaderDemands() throws {
        let keys: [Int64] = [-65_545, 24, 3, -1, 0, -65_537, 23, 300, 1]
        var map = CBORMapWriter()
        for key in keys { map.put(key) { $0.integer(key) } }
        var writer = CBORWriter()
        writer.map(map)
        var reader = CBORReader(writer.bytes, range: 0..<writer.bytes.count)
        var cursor = try reader.openMap()
        var seen: [Int64] = []
        while let key = try reader.nextKey(&cursor) {
            #expect(try reader.integer() == key)
            seen.append(key)
        }
        try reader.finish()
        #expect(seen == [0, 1, 3, 23, 24, 300, -1, -65_537, -65_545])
    }

    @Test func refusesNestingBeyondTheLimit() throws {
        let bytes = [UInt8](repeating: 0x81, count: 6)
        var reader = CBORReader(bytes, range: 0..<bytes.count)
        for _ in 0..<Limits.capabilityNestingMax { #expect(try reader.openArray() == 1) }
        #expect(throws: CapabilityError.malformed("it is nested too deeply")) {
            try reader.openArray()
        }
    }

    @Test func refusesBytesAfterTheEnd() throws {
        var reader = try reader("0000")
        _ = try reader.unsigned()
        #expect(throws: CapabilityError.self) { try reader.finish() }
    }

    @Test func readsNothingBeyondItsRange() throws {
        let bytes: [UInt8] = [0x43, 1, 2, 3]
        var reader = CBORReader(bytes, range: 0..<3)
        #expect(throws: CapabilityError.self) { try reader.byteString() }
    }
}
