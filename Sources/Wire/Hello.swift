import Core

/// The payload of the first request of every channel: versions, features, limits, and which session it
/// belongs to.
///
/// | bytes | field |
/// |---|---|
/// | 0..<8 | `SLUICE/1` |
/// | 8..<10, 10..<12 | lowest and highest version that the client speaks |
/// | 12..<16 | largest payload wanted, 0 for the server's choice |
/// | 16..<24 | features wanted |
/// | 24..<26 | slots wanted, 0 for the server's choice |
/// | 26..<28 | channel to resume, or 0 |
/// | 28..<30 | flags: bit 0, the connection resumes that channel |
/// | 30..<32 | reserved, 0 |
/// | 32..<48 | session to join, or zero for a new one |
/// | 48..<80 | that session's secret, or zero |
/// | 80..<96 | client instance, or zero |
/// | 96… | client name: 16-bit length and UTF-8 |
public struct Hello: Sendable, Hashable {
    /// What every HELLO and its reply start with.
    public static let magic = Array("SLUICE/1".utf8)
    /// The only version there is.
    public static let version: UInt16 = 1
    /// The length of a session's secret, in bytes.
    public static let secretByteCount = 32
    /// The payload's length without a name, in bytes.
    public static let byteCountMin = 98
    private static let resumesFlag: UInt16 = 1 << 0

    /// The lowest version that the client speaks.
    public var versionMin: UInt16
    /// The highest version that the client speaks.
    public var versionMax: UInt16
    /// The largest payload that the client wants to send or receive, in bytes; 0 leaves it to the server.
    public var payloadBytesMax: UInt32
    /// The features that the client wants.
    public var features: Features
    /// The queue depth that the client wants; 0 leaves it to the server.
    public var slots: UInt16
    /// The channel of the session that this connection continues; nil for a channel of its own.
    public var resumes: UInt16?
    /// The session that this channel joins; `.zero` for a new one.
    public var session: Identifier
    /// The secret of the session to join, `secretByteCount` long; all zero for a new one.
    public var secret: [UInt8]
    /// Who begins a session: sessions of one instance, and of one TLS key, are one writer. `.zero` makes every session
    /// an instance of its own. Only in a HELLO that begins a session.
    public var instance: Identifier
    /// The client's name for lists and logs: at most `Limits.peerNameBytesMax` bytes, no control or format character.
    public var clientName: String

    /// A HELLO that speaks version 1.
    public init(
        payloadBytesMax: UInt32 = 0, features: Features = [], slots: UInt16 = 0, session: Identifier = .zero,
        secret: [UInt8]? = nil, resumes: UInt16? = nil, instance: Identifier = .zero, clientName: String = ""
    ) {
        versionMin = Hello.version
        versionMax = Hello.version
        self.payloadBytesMax = payloadBytesMax
        self.features = features
        self.slots = slots
        self.resumes = resumes
        self.session = session
        self.secret = secret ?? Array(repeating: 0, count: Hello.secretByteCount)
        self.instance = instance
        self.clientName = clientName
    }

    /// Whether the channel joins a session.
    public var isJoining: Bool { session != .zero }

    /// Parses a payload.
    ///
    /// - Throws: `badFrame` for another magic, a length that is off or reserved bits; `versionMismatch` where
    ///   the client does not speak version 1; `badRequest` for a name or a secret that is not allowed.
    public init(bytes: [UInt8]) throws(StatusError) {
        var reader = ByteReader(bytes)
        guard reader.read(count: Hello.magic.count) == Hello.magic else {
            throw StatusError(.badFrame, "HELLO does not start with SLUICE/1")
        }
        guard let versionMin = reader.read(UInt16.self), let versionMax = reader.read(UInt16.self),
            let payload = reader.read(UInt32.self), let features = reader.read(UInt64.self),
            let slots = reader.read(UInt16.self), let channel = reader.read(UInt16.self),
            let flags = reader.read(UInt16.self), let reserved = reader.read(UInt16.self),
            let session = reader.readIdentifier(), let secret = reader.read(count: Hello.secretByteCount),
            let instance = reader.readIdentifier()
        else { throw StatusError(.badFrame, "HELLO is shorter than its fields") }
        guard versionMin <= versionMax, reserved == 0, flags & ~Hello.resumesFlag == 0 else {
            throw StatusError(.badFrame, "HELLO has reserved bits set or its versions reversed")
        }
        guard (versionMin...versionMax).contains(Hello.version) else {
            throw StatusError(.versionMismatch, "this server speaks version 1 only")
        }
        guard let name = reader.readText(maximum: Limits.peerNameBytesMax), reader.remaining == 0 else {
            throw StatusError(.badFrame, "HELLO's name is longer than 128 bytes, not UTF-8, or not its end")
        }
        guard ShownText.isPlain(name) else {
            throw StatusError(.badRequest, "HELLO's name holds a control or format character")
        }
        guard session != .zero || secret.allSatisfy({ $0 == 0 }) else {
            throw StatusError(.badRequest, "HELLO has a secret and no session that it belongs to")
        }
        let isResuming = flags & Hello.resumesFlag != 0
        let wantsResume = Features(rawValue: features).contains(.resume)
        guard isResuming ? wantsResume && session != .zero : channel == 0 else {
            throw StatusError(.badRequest, "HELLO names a channel without a session, or without RESUME")
        }
        resumes = isResuming ? channel : nil
        self.versionMin = versionMin
        self.versionMax = versionMax
        self.payloadBytesMax = payload
        self.features = Features(rawValue: features)
        self.slots = slots
        self.session = session
        self.secret = secret
        self.instance = instance
        clientName = name
    }

    /// The payload's bytes; a name that is too long is cut, and a secret of the wrong length is a bug of the
    /// caller.
    public var bytes: [UInt8] {
        precondition(secret.count == Hello.secretByteCount, "a session's secret has 32 bytes")
        var writer = ByteWriter(capacity: Hello.byteCountMin + clientName.utf8.count)
        writer.write(bytes: Hello.magic)
        writer.write(versionMin)
        writer.write(versionMax)
        writer.write(payloadBytesMax)
        writer.write(features.rawValue)
        writer.write(slots)
        writer.write(resumes ?? 0)
        writer.write(resumes == nil ? 0 : Hello.resumesFlag)
        writer.write(UInt16(0))
        writer.write(session)
        writer.write(bytes: secret)
        writer.write(instance)
        writer.writeText(Hello.shortened(clientName))
        return writer.bytes
    }

    /// What the server grants of the sizes asked for: at most its own, at least the protocol's minimum.
    public func granted(payloadBytesMax serverMax: UInt32, slots serverSlots: UInt16) -> (
        payloadBytesMax: UInt32, slots: UInt16
    ) {
        let payload = payloadBytesMax == 0 ? serverMax : min(payloadBytesMax, serverMax)
        let depth = slots == 0 ? min(UInt16(Limits.slotsDefault), serverSlots) : min(slots, serverSlots)
        return (max(payload, UInt32(Limits.payloadBytesMin)), max(depth, 1))
    }

    static func shortened(_ text: String) -> String {
        var bytes = Array(text.utf8.prefix(Limits.peerNameBytesMax))
        while true {
            if let valid = String(validating: bytes, as: UTF8.self) { return valid }
            bytes.removeLast()
        }
    }
}

/// Optional parts of the protocol that both sides must want before either uses them.
public struct Features: OptionSet, Sendable, Hashable {
    /// The bits as on the wire; unknown ones are ignored by the server and never granted.
    public let rawValue: UInt64

    /// Features from bits.
    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// The session outlives its connections: a lost channel can be resumed and unanswered requests repeated.
    public static let resume = Features(rawValue: 1 << 0)
}
