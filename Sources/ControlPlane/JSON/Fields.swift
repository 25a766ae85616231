import Core

/// The members of one JSON object of a request, read one by one; a member that nobody knows is refused.
struct Fields {
    private let members: [String: JSONValue]
    private let path: String

    /// The members of `value`, which must be an object with no member but `known`.
    init(_ value: JSONValue, at path: String = "", known: [String]) throws(Problem) {
        guard case .object(let members) = value else {
            let what = path.isEmpty ? "the body" : path
            throw Problem(
                path.isEmpty ? .invalidJSON : .invalidField, "\(what) is \(value.typeName)",
                field: path.isEmpty ? nil : path, expected: "an object")
        }
        self.members = members
        self.path = path
        if let stranger = members.keys.sorted().first(where: { !known.contains($0) }) {
            let shown = String(stranger.prefix(64))
            throw Problem(
                .unknownField, "there is no field \(name(shown))", field: name(shown),
                expected: known.isEmpty ? "an empty object" : "one of \(known.joined(separator: ", "))")
        }
    }

    private func name(_ member: String) -> String { path.isEmpty ? member : "\(path).\(member)" }

    /// Whether the member is there, also as `null`.
    func has(_ member: String) -> Bool { members[member] != nil }

    /// The member; nil when it is not there or `null`.
    func value(_ member: String) -> JSONValue? {
        guard let value = members[member], value != .null else { return nil }
        return value
    }

    private func missing(_ member: String, expected: String) -> Problem {
        Problem(.missingField, "\(name(member)) is missing", field: name(member), expected: expected)
    }

    private func wrong(_ member: String, _ value: JSONValue, expected: String) -> Problem {
        .invalid(name(member), "is \(value.typeName)", expected: expected)
    }

    // MARK: Types

    /// Text of at most `bytesMax` bytes without control characters.
    func text(_ member: String, bytesMax: Int) throws(Problem) -> String? {
        let expected = "text of at most \(bytesMax) bytes without control characters"
        guard let value = value(member) else { return nil }
        guard case .string(let text) = value else { throw wrong(member, value, expected: expected) }
        guard text.utf8.count <= bytesMax, text.unicodeScalars.allSatisfy(Fields.isPlain) else {
            throw .invalid(name(member), "is too long or holds control characters", expected: expected)
        }
        return text
    }

    /// Such a text, which must be there.
    func requiredText(_ member: String, bytesMax: Int) throws(Problem) -> String {
        guard let text = try text(member, bytesMax: bytesMax) else {
            throw missing(member, expected: "text of at most \(bytesMax) bytes")
        }
        return text
    }

    static func isPlain(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value >= 0x20 && !(0x7F...0x9F).contains(scalar.value)
    }

    /// A text with line breaks, such as PEM.
    func pem(_ member: String, bytesMax: Int) throws(Problem) -> [UInt8] {
        let expected = "PEM text of at most \(bytesMax) bytes"
        guard let value = value(member) else { throw missing(member, expected: expected) }
        guard case .string(let text) = value, text.utf8.count <= bytesMax else {
            throw wrong(member, value, expected: expected)
        }
        return Array(text.utf8)
    }

    /// A list of texts without control characters.
    func texts(_ member: String, countMax: Int, bytesMax: Int) throws(Problem) -> [String]? {
        let expected = "a list of at most \(countMax) texts of at most \(bytesMax) bytes"
        guard let value = value(member) else { return nil }
        guard case .array(let items) = value else { throw wrong(member, value, expected: expected) }
        var texts: [String] = []
        for item in items {
            guard case .string(let text) = item, text.utf8.count <= bytesMax, texts.count < countMax,
                text.unicodeScalars.allSatisfy(Fields.isPlain)
            else { throw .invalid(name(member), "is too long or holds something else", expected: expected) }
            texts.append(text)
        }
        return texts
    }

    /// A resource name.
    func resourceName(_ member: String) throws(Problem) -> String? {
        guard let value = value(member) else { return nil }
        guard case .string(let text) = value else { throw wrong(member, value, expected: ResourceName.rule) }
        guard ResourceName(text) != nil else {
            throw .invalid(name(member), "is not a name", expected: ResourceName.rule)
        }
        return text
    }

    /// A resource name that must be there.
    func requiredName(_ member: String) throws(Problem) -> String {
        guard let text = try resourceName(member) else { throw missing(member, expected: ResourceName.rule) }
        return text
    }

    /// A whole number within `range`.
    func integer(_ member: String, in range: ClosedRange<UInt64>) throws(Problem) -> UInt64? {
        guard let value = value(member) else { return nil }
        let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
        guard case .integer(let number) = value else { throw wrong(member, value, expected: expected) }
        guard range.contains(number) else {
            throw .invalid(name(member), "is out of range", expected: expected)
        }
        return number
    }

    /// A volume's size: a number of bytes, or text such as `1GiB`, rounded up to whole granules.
    func size(_ member: String) throws(Problem) -> UInt64? {
        guard let value = value(member) else { return nil }
        let granule = Limits.volumeSizeGranule
        let expected =
            "\(granule) to \(Limits.volumeBytesMax), in bytes or as text such as \"1GiB\"; it is rounded up to a multiple of \(granule)"
        let bytes: UInt64
        switch value {
        case .integer(let number): bytes = number
        case .string(let text):
            guard text.utf8.count <= 32, let count = ByteCount(text: text) else {
                throw .invalid(name(member), "is not a size", expected: expected)
            }
            bytes = count.bytes
        default: throw wrong(member, value, expected: expected)
        }
        guard bytes > 0, bytes <= Limits.volumeBytesMax else {
            throw .invalid(name(member), "is \(bytes)", expected: expected)
        }
        return (bytes + granule - 1) / granule * granule
    }

    /// A volume's size that must be there.
    func requiredSize(_ member: String) throws(Problem) -> UInt64 {
        guard let size = try size(member) else {
            throw missing(member, expected: "a number of bytes, or text such as \"1GiB\"")
        }
        return size
    }

    /// One of the texts of an enumeration.
    func choice<Value: RawRepresentable & CaseIterable>(
        _ member: String, of type: Value.Type
    ) throws(Problem) -> Value? where Value.RawValue == String {
        guard let value = value(member) else { return nil }
        let expected = "one of " + type.allCases.map(\.rawValue).joined(separator: ", ")
        guard case .string(let text) = value else { throw wrong(member, value, expected: expected) }
        guard let choice = Value(rawValue: text) else {
            throw .invalid(name(member), "is unknown", expected: expected)
        }
        return choice
    }

    /// An RFC 3339 time in UTC, as Unix seconds.
    func time(_ member: String) throws(Problem) -> UInt64? {
        guard let value = value(member) else { return nil }
        let expected = "a time in UTC such as 2030-01-31T12:00:00Z"
        guard case .string(let text) = value else { throw wrong(member, value, expected: expected) }
        guard let seconds = Timestamp.parse(text) else {
            throw .invalid(name(member), "is not a time", expected: expected)
        }
        return seconds
    }

    // MARK: Sluice's own

    /// Names and values that a user attaches.
    func labels(_ member: String = "labels") throws(Problem) -> [String: String]? {
        guard let value = value(member) else { return nil }
        return try Fields.texts(
            value, at: name(member), countMax: Limits.labelsMax, bytesMax: Limits.labelValueBytesMax)
    }

    /// The labels after a merge patch (RFC 7396): `null` removes one, and all when it stands for the object.
    func patchedLabels(_ present: [String: String]) throws(Problem) -> [String: String] {
        try patched("labels", present, countMax: Limits.labelsMax, bytesMax: Limits.labelValueBytesMax)
    }

    /// A pool's settings.
    func settings() throws(Problem) -> [String: String] {
        guard let value = value("settings") else { return [:] }
        return try Fields.texts(
            value, at: name("settings"), countMax: Limits.poolSettingsMax,
            bytesMax: Limits.poolSettingBytesMax)
    }

    /// A pool's settings after a merge patch.
    func patchedSettings(_ present: [String: String]) throws(Problem) -> [String: String] {
        try patched(
            "settings", present, countMax: Limits.poolSettingsMax, bytesMax: Limits.poolSettingBytesMax)
    }

    private func patched(
        _ member: String, _ present: [String: String], countMax: Int, bytesMax: Int
    ) throws(Problem) -> [String: String] {
        guard let value = members[member] else { return present }
        guard case .object(let changes) = value else {
            if value == .null { return [:] }
            throw wrong(member, value, expected: "an object of texts")
        }
        let kept = changes.filter { $0.value != .null }
        let added = try Fields.texts(.object(kept), at: member, countMax: countMax, bytesMax: bytesMax)
        var texts = present.filter { changes[$0.key] == nil }
        texts.merge(added) { _, new in new }
        guard texts.count <= countMax else {
            throw .invalid(member, "are too many", expected: "at most \(countMax)")
        }
        return texts
    }

    private static func texts(
        _ value: JSONValue, at path: String, countMax: Int, bytesMax: Int
    ) throws(Problem) -> [String: String] {
        let expected = "at most \(countMax) texts of at most \(bytesMax) bytes without control characters"
        guard case .object(let members) = value else {
            throw .invalid(path, "is \(value.typeName)", expected: "an object of texts")
        }
        guard members.count <= countMax else {
            throw .invalid(path, "has too many members", expected: expected)
        }
        var texts: [String: String] = [:]
        for (key, member) in members.sorted(by: { $0.key < $1.key }) {
            guard (1...Limits.labelNameCharactersMax).contains(key.utf8.count), key.utf8.allSatisfy(isKeyByte)
            else {
                throw .invalid(
                    path, "has a member whose name is not allowed",
                    expected:
                        "names of 1 to \(Limits.labelNameCharactersMax) characters of A-Z a-z 0-9 . _ / -")
            }
            guard case .string(let text) = member, text.utf8.count <= bytesMax,
                text.unicodeScalars.allSatisfy(isPlain)
            else { throw .invalid("\(path).\(key)", "has a wrong value", expected: expected) }
            texts[key] = text
        }
        return texts
    }

    private static func isKeyByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "/"),
            UInt8(ascii: "-"):
            true
        default: false
        }
    }

    /// Rights on a resource of a kind, at least one.
    func rights(_ member: String = "rights", on kind: ResourceKind) throws(Problem) -> Rights? {
        guard let value = value(member) else { return nil }
        let known = Fields.names(ofRightsOn: kind)
        let expected = "at least one of \(known.joined(separator: ", "))"
        guard case .array(let items) = value else { throw wrong(member, value, expected: expected) }
        guard items.count <= Limits.rightItemsMax else {
            throw .invalid(name(member), "has more than \(Limits.rightItemsMax) items", expected: expected)
        }
        var names: [String] = []
        for item in items {
            guard case .string(let text) = item, known.contains(text) else {
                throw .invalid(
                    name(member), "has an item that is no right of \(kind.withArticle)", expected: expected)
            }
            names.append(text)
        }
        guard !names.isEmpty, let rights = Rights(names: names) else {
            throw .invalid(name(member), "is empty", expected: expected)
        }
        return rights
    }

    /// Rights that must be there.
    func requiredRights(on kind: ResourceKind) throws(Problem) -> Rights {
        guard let rights = try rights(on: kind) else {
            let known = Fields.names(ofRightsOn: kind)
            throw missing("rights", expected: "at least one of \(known.joined(separator: ", "))")
        }
        return rights
    }

    private static func names(ofRightsOn kind: ResourceKind) -> [String] {
        Kinds.grantable(kind)?.rights.names ?? []
    }

    /// A byte range with `offset` and `length`.
    func range(_ member: String = "range") throws(Problem) -> ByteRange? {
        guard let value = value(member) else { return nil }
        let path = name(member)
        let fields = try Fields(value, at: path, known: ["offset", "length"])
        let offset = try fields.integer("offset", in: 0...Limits.volumeBytesMax)
        let length = try fields.integer("length", in: 1...Limits.volumeBytesMax)
        guard let length else { throw fields.missing("length", expected: "a number of bytes") }
        guard let range = ByteRange(offset: offset ?? 0, length: length), range.end <= Limits.volumeBytesMax
        else {
            throw .invalid(path, "ends after the largest volume", expected: "a range within the volume")
        }
        return range
    }

    /// Ceilings, each optional.
    func limits(_ member: String = "limits", over present: IOLimits = .none) throws(Problem) -> IOLimits? {
        guard let value = value(member) else { return nil }
        let fields = try Fields(value, at: name(member), known: ["iops", "bytesPerSecond"])
        var limits = present
        if fields.has("iops") { limits.iops = try fields.integer("iops", in: 1...UInt64.max) }
        if fields.has("bytesPerSecond") {
            limits.bytesPerSecond = try fields.integer("bytesPerSecond", in: 1...UInt64.max)
        }
        return limits
    }

    /// Ceilings of a volume, each optional; what is left out stays as it is at `present`. A burst is of a ceiling: it goes
    /// with the last one, and without one it is refused.
    func rateLimits(
        _ member: String = "limits", over present: RateLimits = .none
    ) throws(Problem) -> RateLimits? {
        guard let value = value(member) else { return nil }
        let fields = try Fields(
            value, at: name(member), known: ["iops", "bytesPerSecond", "burstMilliseconds"])
        var limits = present.isUnlimited ? RateLimits.none : present
        if fields.has("iops") { limits.iops = try fields.integer("iops", in: 1...UInt64.max) }
        if fields.has("bytesPerSecond") {
            limits.bytesPerSecond = try fields.integer("bytesPerSecond", in: 1...UInt64.max)
        }
        if fields.has("burstMilliseconds") {
            limits.burstMilliseconds = try fields.integer(
                "burstMilliseconds", in: 0...Limits.rateBurstMillisecondsMax)
        }
        guard limits.isUnlimited else { return limits }
        if fields.value("burstMilliseconds") != nil {
            throw .invalid(
                name("\(member).burstMilliseconds"), "needs a rate",
                expected: "iops or bytesPerSecond, beside it or on the volume already")
        }
        return RateLimits.none
    }

    /// The kind and name in a resource reference such as `volume/demo`.
    func requiredResource(
        _ member: String = "resource"
    ) throws(Problem) -> (kind: ResourceKind, name: String) {
        let expected = Kinds.reference
        guard let value = value(member) else { throw missing(member, expected: expected) }
        guard case .string(let text) = value else { throw wrong(member, value, expected: expected) }
        guard let resource = Fields.resource(text) else {
            throw .invalid(name(member), "is not a resource that can be granted", expected: expected)
        }
        return resource
    }

    /// What a text such as `volume/demo` says; nil for one that is no reference to what can be granted.
    static func resource(_ text: String) -> (kind: ResourceKind, name: String)? {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, let kind = ResourceKind(name: String(parts[0])),
            Kinds.grantable(kind) != nil, let name = ResourceName(String(parts[1]))
        else { return nil }
        return (kind, name.text)
    }
}
