import ArgumentParser
import Core

extension ByteCount: ExpressibleByArgument {
    /// A count from an argument such as `1GiB`.
    public init?(argument: String) { self.init(text: argument) }
}

extension AccessMode: ExpressibleByArgument {}

extension Isolation: ExpressibleByArgument {}
extension WhenFull: ExpressibleByArgument {}

/// What a command works on: `volume/NAME`, or `NAME` for short.
struct ResourceReference: ExpressibleByArgument, CustomStringConvertible {
    var kind: ResourceKind
    var name: ResourceName

    init?(argument: String) {
        var parts = argument.split(separator: "/", omittingEmptySubsequences: false)
        if parts.count == 1 { parts.insert("volume", at: 0) }
        guard parts.count == 2, let kind = ResourceKind(name: String(parts[0])),
            let name = ResourceName(String(parts[1]))
        else { return nil }
        self.kind = kind
        self.name = name
    }

    var description: String { "\(kind.name)/\(name)" }

    /// What `--help` says of what can be granted.
    static let help = ArgumentHelp("What it is for: volume/NAME.", valueName: "kind/name")
}

/// The name of a volume: `NAME`, or `volume/NAME` as attachments and grants name it.
struct VolumeArgument: ExpressibleByArgument, CustomStringConvertible {
    var name: ResourceName

    init?(argument: String) {
        guard let resource = ResourceReference(argument: argument), resource.kind == .volume else {
            return nil
        }
        name = resource.name
    }

    var description: String { name.text }
}

/// The name of a pool, node, grant or marker, or of what is to be made.
struct NameArgument: ExpressibleByArgument, CustomStringConvertible {
    var name: ResourceName

    init?(argument: String) {
        guard let name = ResourceName(argument) else { return nil }
        self.name = name
    }

    var description: String { name.text }
}

/// The id of a capability, a session or an operation: 32 hex digits, or the first of them, as far as they name one.
struct IdentifierArgument: ExpressibleByArgument, CustomStringConvertible {
    /// Small hex digits.
    var text: String

    private static let digits = 8...2 * Identifier.byteCount

    init?(argument: String) {
        text = argument.lowercased()
        guard Self.digits.contains(text.utf8.count), text.utf8.allSatisfy("0123456789abcdef".utf8.contains)
        else { return nil }
    }

    var description: String { text }

    /// What `--help` says.
    static func help(_ noun: String) -> ArgumentHelp {
        ArgumentHelp("The \(noun)'s id, or its first \(digits.lowerBound) digits or more.")
    }

    /// The whole id: what the list at `path` has that begins so.
    ///
    /// - Throws: `Failure` when there is none, or more than one.
    func whole(_ noun: String, _ path: String, _ api: ControlAPI) throws -> String {
        if text.utf8.count == Self.digits.upperBound { return text }
        let all: [Identified] = try api.list(path)
        return try choose(noun, among: all.map(\.id))
    }

    /// The one of some ids that begins so.
    func choose(_ noun: String, among ids: [String]) throws -> String {
        let found = ids.filter { $0.hasPrefix(text) }
        guard let first = found.first else {
            throw Failure(
                .notFound, "there is no \(noun) whose id begins with \(text). See `sluice \(noun) list`.")
        }
        guard found.count == 1 else {
            let some = found.prefix(4).joined(separator: ", ") + (found.count > 4 ? ", …" : "")
            throw Failure(
                .usage, "more than one \(noun) has an id that begins with \(text): \(some); give more digits")
        }
        return first
    }

    /// What a list has of each, as far as it is looked up here.
    private struct Identified: Codable, Sendable {
        var id: String
    }
}

/// Rights as `read,write,…`.
struct RightsArgument: ExpressibleByArgument, CustomStringConvertible {
    var rights: Rights

    init?(argument: String) {
        let names = argument.split(separator: ",").map(String.init)
        guard !names.isEmpty, let rights = Rights(names: names) else { return nil }
        self.rights = rights
    }

    var description: String { rights.names.joined(separator: ",") }

    /// What `--help` says.
    static let help = "Separated by commas: read, write, discard, flush, resize, snapshot."
}

/// A byte range as `OFFSET:LENGTH`.
struct RangeArgument: ExpressibleByArgument, CustomStringConvertible {
    var offset: UInt64
    var length: UInt64

    init?(argument: String) {
        let parts = argument.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let offset = ByteCount(text: String(parts[0]))?.bytes,
            let length = ByteCount(text: String(parts[1]))?.bytes, length > 0,
            !offset.addingReportingOverflow(length).overflow
        else { return nil }
        self.offset = offset
        self.length = length
    }

    var description: String { "\(offset):\(length)" }

    var model: RangeModel { RangeModel(offset: offset, length: length) }
}

/// A length of time as `90`, `90s`, `15m`, `12h` or `30d`.
struct DurationArgument: ExpressibleByArgument, CustomStringConvertible {
    var seconds: UInt64

    init(seconds: UInt64) { self.seconds = seconds }

    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && $0.isNumber }
        let scales: [Substring: UInt64] = ["": 1, "s": 1, "m": 60, "h": 3600, "d": 86400]
        guard let number = UInt64(digits), let scale = scales[argument.dropFirst(digits.count)] else {
            return nil
        }
        let (product, overflow) = number.multipliedReportingOverflow(by: scale)
        guard !overflow, product > 0 else { return nil }
        seconds = product
    }

    var description: String { "\(seconds)s" }
}

/// Since when: how long ago, as a length of time, or a time in UTC.
struct SinceArgument: ExpressibleByArgument, Sendable {
    /// How long ago; nil for a time.
    var seconds: UInt64?
    /// RFC 3339; nil for a length of time.
    var time: String?

    init?(argument: String) {
        if let duration = DurationArgument(argument: argument) {
            seconds = duration.seconds
        } else if Timestamp.parse(argument) != nil {
            time = argument
        } else {
            return nil
        }
    }
}

/// A ceiling that can be taken away: a value, or `none`.
struct CeilingArgument<Value: ExpressibleByArgument & Sendable>: ExpressibleByArgument, Sendable {
    /// Nil for `none`.
    var value: Value?

    init?(argument: String) {
        if argument == "none" { return }
        guard let value = Value(argument: argument) else { return nil }
        self.value = value
    }
}

/// A length of time that may be short, as `250ms`, `2s`, `2` (seconds) or `5m`.
struct ShortDurationArgument: ExpressibleByArgument, Sendable {
    var milliseconds: UInt64

    var seconds: Double { Double(milliseconds) / 1000 }

    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && $0.isNumber }
        let scales: [Substring: UInt64] = ["ms": 1, "": 1000, "s": 1000, "m": 60_000, "h": 3_600_000]
        guard let number = UInt64(digits), let scale = scales[argument.dropFirst(digits.count)] else {
            return nil
        }
        let (product, overflow) = number.multipliedReportingOverflow(by: scale)
        if overflow { return nil }
        milliseconds = product
    }
}

/// `KEY=VALUE`; also `KEY-` where a label may be taken away.
struct PairArgument: ExpressibleByArgument, CustomStringConvertible {
    var key: String
    /// Nil for `KEY-`.
    var value: String?

    init?(argument: String) {
        if let equals = argument.firstIndex(of: "=") {
            key = String(argument[..<equals])
            value = String(argument[argument.index(after: equals)...])
        } else if argument.hasSuffix("-") {
            key = String(argument.dropLast())
        } else {
            return nil
        }
        if key.isEmpty { return nil }
    }

    var description: String { value.map { "\(key)=\($0)" } ?? "\(key)-" }

    /// The pairs as the API takes them; nil for none.
    ///
    /// - Throws: a usage error for a key without a value, or one that comes twice.
    static func dictionary(_ pairs: [PairArgument], option: String) throws -> [String: String]? {
        if pairs.isEmpty { return nil }
        var result: [String: String] = [:]
        for pair in pairs {
            guard let value = pair.value else {
                throw ValidationError("\(option) wants KEY=VALUE, not '\(pair)'")
            }
            guard result.updateValue(value, forKey: pair.key) == nil else {
                throw ValidationError("\(option) sets '\(pair.key)' twice")
            }
        }
        return result
    }
}
