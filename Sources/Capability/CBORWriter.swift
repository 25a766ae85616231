/// The major types of CBOR that a capability uses (RFC 8949 §3.1).
enum CBORMajor: UInt8 {
    case unsigned = 0
    case negative = 1
    case bytes = 2
    case text = 3
    case array = 4
    case map = 5
}

/// Writes deterministically encoded CBOR (RFC 8949 §4.2.1): shortest heads, definite lengths.
struct CBORWriter {
    private(set) var bytes: [UInt8] = []

    init(capacity: Int = 0) {
        bytes.reserveCapacity(capacity)
    }

    mutating func head(_ major: CBORMajor, _ argument: UInt64) {
        let type = major.rawValue << 5
        switch argument {
        case 0..<24:
            bytes.append(type | UInt8(argument))
        case 24...0xff:
            bytes.append(type | 24)
            bigEndian(argument, count: 1)
        case 0x100...0xffff:
            bytes.append(type | 25)
            bigEndian(argument, count: 2)
        case 0x1_0000...0xffff_ffff:
            bytes.append(type | 26)
            bigEndian(argument, count: 4)
        default:
            bytes.append(type | 27)
            bigEndian(argument, count: 8)
        }
    }

    private mutating func bigEndian(_ value: UInt64, count: Int) {
        for index in (0..<count).reversed() {
            bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(index * 8)))
        }
    }

    mutating func unsigned(_ value: UInt64) { head(.unsigned, value) }

    mutating func integer(_ value: Int64) {
        if value >= 0 { head(.unsigned, UInt64(value)) } else { head(.negative, UInt64(-1 - value)) }
    }

    mutating func byteString(_ value: some Collection<UInt8>) {
        head(.bytes, UInt64(value.count))
        bytes.append(contentsOf: value)
    }

    mutating func text(_ value: String) {
        head(.text, UInt64(value.utf8.count))
        bytes.append(contentsOf: value.utf8)
    }

    mutating func array(count: Int) { head(.array, UInt64(count)) }

    /// Appends items that are encoded already.
    mutating func encoded(_ items: some Collection<UInt8>) { bytes.append(contentsOf: items) }

    mutating func map(_ map: CBORMapWriter) {
        head(.map, UInt64(map.entries.count))
        for entry in map.entries.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            bytes.append(contentsOf: entry.key)
            bytes.append(contentsOf: entry.value)
        }
    }
}

/// Collects a map with integer keys; `CBORWriter.map` puts them in deterministic order.
struct CBORMapWriter {
    fileprivate(set) var entries: [(key: [UInt8], value: [UInt8])] = []

    /// Adds an entry; a key is added once.
    mutating func put(_ key: Int64, _ body: (inout CBORWriter) -> Void) {
        var name = CBORWriter()
        name.integer(key)
        precondition(!entries.contains { $0.key == name.bytes }, "a map key was written twice")
        var value = CBORWriter()
        body(&value)
        entries.append((name.bytes, value.bytes))
    }
}
