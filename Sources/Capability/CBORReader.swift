import Core

/// Reads the CBOR of capabilities and refuses whatever `CBORWriter` would not have written: long heads,
/// indefinite lengths, map keys out of order or twice, tags, floating point, nesting that is too deep.
///
/// It never allocates by a length that the input claims, and hands out byte strings as ranges of `source`.
struct CBORReader {
    let source: [UInt8]
    private(set) var position: Int
    private let end: Int
    private var depth = 0

    init(_ source: [UInt8], range: Range<Int>) {
        self.source = source
        position = range.lowerBound
        end = range.upperBound
    }

    /// Where a map's reading stands.
    struct MapCursor {
        fileprivate var remaining: Int
        fileprivate var last: (major: UInt8, argument: UInt64)?
    }

    /// Says that everything was read.
    func finish() throws(CapabilityError) {
        guard position == end else { throw .malformed("bytes follow where it should end") }
    }

    mutating func unsigned() throws(CapabilityError) -> UInt64 {
        try head(.unsigned, "an unsigned integer")
    }

    mutating func integer() throws(CapabilityError) -> Int64 {
        let (major, argument) = try anyHead()
        return try integer(major, argument)
    }

    /// The range of a byte string's content, of exactly `count` bytes when that is given.
    mutating func byteString(count: Int? = nil) throws(CapabilityError) -> Range<Int> {
        let range = try content(of: .bytes, "a byte string")
        if let count, range.count != count {
            throw .malformed("a byte string of \(range.count) bytes stands where \(count) belong")
        }
        return range
    }

    /// The range of a text's content; the caller checks the characters.
    mutating func text() throws(CapabilityError) -> Range<Int> {
        try content(of: .text, "a text")
    }

    /// Enters an array and returns how many items it has.
    mutating func openArray() throws(CapabilityError) -> Int {
        try enter(.array, "an array", bytesPerItem: 1)
    }

    mutating func closeArray() { depth -= 1 }

    /// Enters a map; read it with `nextKey` until that returns nil.
    mutating func openMap() throws(CapabilityError) -> MapCursor {
        MapCursor(remaining: try enter(.map, "a map", bytesPerItem: 2), last: nil)
    }

    /// The next key of a map, whose value the caller reads next; nil at the map's end.
    mutating func nextKey(_ map: inout MapCursor) throws(CapabilityError) -> Int64? {
        guard map.remaining > 0 else {
            depth -= 1
            return nil
        }
        map.remaining -= 1
        let (major, argument) = try anyHead()
        let key = try integer(major, argument)
        if let last = map.last, (last.major, last.argument) >= (major, argument) {
            throw .malformed("map keys are repeated or out of order")
        }
        map.last = (major, argument)
        return key
    }

    private func integer(_ major: UInt8, _ argument: UInt64) throws(CapabilityError) -> Int64 {
        guard let magnitude = Int64(exactly: argument), major <= CBORMajor.negative.rawValue else {
            throw .malformed("something else stands where a small integer belongs")
        }
        return major == CBORMajor.negative.rawValue ? -1 - magnitude : magnitude
    }

    private mutating func content(
        of major: CBORMajor, _ wanted: StaticString
    ) throws(CapabilityError) -> Range<Int> {
        let length = try head(major, wanted)
        guard length <= UInt64(end - position) else { throw .malformed("it is cut short") }
        let start = position
        position += Int(length)
        return start..<position
    }

    private mutating func enter(
        _ major: CBORMajor, _ wanted: StaticString, bytesPerItem: Int
    ) throws(CapabilityError) -> Int {
        let count = try head(major, wanted)
        guard count <= UInt64((end - position) / bytesPerItem) else { throw .malformed("it is cut short") }
        depth += 1
        guard depth <= Limits.capabilityNestingMax else { throw .malformed("it is nested too deeply") }
        return Int(count)
    }

    private mutating func head(
        _ major: CBORMajor, _ wanted: StaticString
    ) throws(CapabilityError) -> UInt64 {
        let (found, argument) = try anyHead()
        guard found == major.rawValue else {
            throw .malformed("something else stands where \(wanted) belongs")
        }
        return argument
    }

    private mutating func anyHead() throws(CapabilityError) -> (major: UInt8, argument: UInt64) {
        guard position < end else { throw .malformed("it is cut short") }
        let first = source[position]
        position += 1
        let information = first & 31
        let argument: UInt64
        switch information {
        case 0..<24: argument = UInt64(information)
        case 24: argument = try bigEndian(count: 1, above: 23)
        case 25: argument = try bigEndian(count: 2, above: 0xff)
        case 26: argument = try bigEndian(count: 4, above: 0xffff)
        case 27: argument = try bigEndian(count: 8, above: 0xffff_ffff)
        default: throw .malformed("it has an item of indefinite or reserved length")
        }
        return (first >> 5, argument)
    }

    private mutating func bigEndian(count: Int, above floor: UInt64) throws(CapabilityError) -> UInt64 {
        guard end - position >= count else { throw .malformed("it is cut short") }
        var value: UInt64 = 0
        for _ in 0..<count {
            value = value << 8 | UInt64(source[position])
            position += 1
        }
        guard value > floor else { throw .malformed("a number is not in its shortest form") }
        return value
    }
}
