import Core

// How values of Core are written into records: identifiers and digests as hex, so that a catalog can be read by
// people; rights as names, so that bit positions may never be confused.

extension Identifier: Codable {
    /// Reads 32 hex digits.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let value = Identifier(hex: text) else { throw invalid("an identifier", text, decoder) }
        self = value
    }

    /// Writes 32 hex digits.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(hex)
    }
}

extension Digest32: Codable {
    /// Reads 64 hex digits.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let value = Digest32(hex: text) else { throw invalid("a digest", text, decoder) }
        self = value
    }

    /// Writes 64 hex digits.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(hex)
    }
}

extension Rights: Codable {
    /// Reads a list of names.
    public init(from decoder: any Decoder) throws {
        let names = try decoder.singleValueContainer().decode([String].self)
        guard let value = Rights(names: names) else { throw invalid("rights", "\(names)", decoder) }
        self = value
    }

    /// Writes a list of names.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(names)
    }
}

extension ResourceKind: Codable {
    /// Reads the kind's name.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let value = ResourceKind(name: text) else { throw invalid("a resource kind", text, decoder) }
        self = value
    }

    /// Writes the kind's name.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(name)
    }
}

extension ByteRange: Codable {
    private enum Key: String, CodingKey {
        case offset
        case length
    }

    /// Reads offset and length.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        let offset = try container.decode(UInt64.self, forKey: .offset)
        let length = try container.decode(UInt64.self, forKey: .length)
        guard let value = ByteRange(offset: offset, length: length) else {
            throw invalid("a range", "\(offset)+\(length)", decoder)
        }
        self = value
    }

    /// Writes offset and length.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(offset, forKey: .offset)
        try container.encode(length, forKey: .length)
    }
}

extension IOLimits: Codable {
    private enum Key: String, CodingKey {
        case iops
        case bytesPerSecond
    }

    /// Reads the ceilings that are there.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        self.init(
            iops: try container.decodeIfPresent(UInt64.self, forKey: .iops),
            bytesPerSecond: try container.decodeIfPresent(UInt64.self, forKey: .bytesPerSecond))
    }

    /// Writes the ceilings that are there.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encodeIfPresent(iops, forKey: .iops)
        try container.encodeIfPresent(bytesPerSecond, forKey: .bytesPerSecond)
    }
}

extension RateLimits: Codable {
    private enum Key: String, CodingKey {
        case iops
        case bytesPerSecond
        case burstMilliseconds
    }

    /// Reads what is there.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        self.init(
            iops: try container.decodeIfPresent(UInt64.self, forKey: .iops),
            bytesPerSecond: try container.decodeIfPresent(UInt64.self, forKey: .bytesPerSecond),
            burstMilliseconds: try container.decodeIfPresent(UInt64.self, forKey: .burstMilliseconds))
    }

    /// Writes what is there.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encodeIfPresent(iops, forKey: .iops)
        try container.encodeIfPresent(bytesPerSecond, forKey: .bytesPerSecond)
        try container.encodeIfPresent(burstMilliseconds, forKey: .burstMilliseconds)
    }
}

extension SessionClaim: Codable {
    private enum Key: String, CodingKey {
        case volume
        case since
        case capability
        case subject
        case nodeEpoch
        case resourceEpoch
        case expiry
    }

    /// Reads all fields.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        self.init(
            volume: try container.decode(Identifier.self, forKey: .volume),
            since: try container.decode(UInt64.self, forKey: .since),
            capability: try container.decode(Identifier.self, forKey: .capability),
            subject: try container.decode(Identifier.self, forKey: .subject),
            nodeEpoch: try container.decode(UInt64.self, forKey: .nodeEpoch),
            resourceEpoch: try container.decode(UInt64.self, forKey: .resourceEpoch),
            expiry: try container.decode(UInt64.self, forKey: .expiry))
    }

    /// Writes all fields.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(volume, forKey: .volume)
        try container.encode(since, forKey: .since)
        try container.encode(capability, forKey: .capability)
        try container.encode(subject, forKey: .subject)
        try container.encode(nodeEpoch, forKey: .nodeEpoch)
        try container.encode(resourceEpoch, forKey: .resourceEpoch)
        try container.encode(expiry, forKey: .expiry)
    }
}

private func invalid(_ what: String, _ text: String, _ decoder: any Decoder) -> DecodingError {
    .dataCorrupted(
        DecodingError.Context(codingPath: decoder.codingPath, debugDescription: "\(text) is not \(what)"))
}
