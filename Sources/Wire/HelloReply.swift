import Core

/// The payload of HELLO's reply: what was negotiated and the session that the channel is in.
///
/// | bytes | field |
/// |---|---|
/// | 0..<8 | `SLUICE/1` |
/// | 8..<10 | version |
/// | 10..<12 | slots granted |
/// | 12..<16 | largest payload, in bytes |
/// | 16..<24 | features granted |
/// | 24..<40 | session |
/// | 40..<72 | the session's secret if the session is new, else zero |
/// | 72..<74 | this channel's number in the session, from 0 |
/// | 74..<76 | the most channels that the session may have |
/// | 76..<78 | the most handles that the channel may have open |
/// | 78..<80 | what the server kept of the channel: 0 nothing, it is new; 1 its slots; 2 the session only |
/// | 80..<84 | idle limit in seconds, 0 for none |
/// | 84..<88 | linger: seconds that the session outlives its last connection, 0 without RESUME |
/// | 88..<104 | cluster: what a capability must name as its audience |
/// | 104… | server name: 16-bit length and UTF-8 |
public struct HelloReply: Sendable, Hashable {
    /// The payload's length without a name, in bytes.
    public static let byteCountMin = 106
    /// The payload's greatest length, in bytes.
    public static let byteCountMax = byteCountMin + Limits.peerNameBytesMax

    /// The version that both speak.
    public var version: UInt16
    /// How many slots the client may use, numbered from 0.
    public var slots: UInt16
    /// The longest payload in either direction, in bytes.
    public var payloadBytesMax: UInt32
    /// The features that both may use.
    public var features: Features
    /// The session.
    public var session: Identifier
    /// What another channel needs to join the session; all zero on a channel that joined.
    public var secret: [UInt8]
    /// The channel's number in the session, from 0.
    public var channel: UInt16
    /// The most channels of the session.
    public var channelsMax: UInt16
    /// The most open handles of the channel.
    public var handlesMax: UInt16
    /// The client sends something at least this often, in seconds; 0 where it need not.
    public var idleSeconds: UInt32
    /// What the server still has of the channel.
    public var resumption: Resumption
    /// How long the session outlives its last connection if it may write nothing, in seconds; 0 without RESUME.
    public var lingerSeconds: UInt32
    /// The cluster that the server belongs to.
    public var cluster: Identifier
    /// The server's name, for people.
    public var serverName: String

    /// A reply from its fields.
    public init(
        slots: UInt16, payloadBytesMax: UInt32, features: Features = [], session: Identifier,
        secret: [UInt8]? = nil, channel: UInt16 = 0,
        channelsMax: UInt16 = UInt16(Limits.channelsPerSessionMax),
        handlesMax: UInt16 = UInt16(Limits.handlesPerChannelMax), idleSeconds: UInt32 = Limits.idleSeconds,
        resumption: Resumption = .fresh, lingerSeconds: UInt32 = 0, cluster: Identifier, serverName: String
    ) {
        version = Hello.version
        self.slots = slots
        self.payloadBytesMax = payloadBytesMax
        self.features = features
        self.session = session
        self.secret = secret ?? Array(repeating: 0, count: Hello.secretByteCount)
        self.channel = channel
        self.channelsMax = channelsMax
        self.handlesMax = handlesMax
        self.idleSeconds = idleSeconds
        self.resumption = resumption
        self.lingerSeconds = lingerSeconds
        self.cluster = cluster
        self.serverName = serverName
    }

    /// Parses a payload; sizes outside the protocol's limits are refused.
    ///
    /// - Throws: `badFrame`, or `versionMismatch` for a version other than 1.
    public init(bytes: [UInt8]) throws(StatusError) {
        var reader = ByteReader(bytes)
        guard reader.read(count: Hello.magic.count) == Hello.magic else {
            throw StatusError(.badFrame, "the reply to HELLO does not start with SLUICE/1")
        }
        guard let version = reader.read(UInt16.self), let slots = reader.read(UInt16.self),
            let payload = reader.read(UInt32.self), let features = reader.read(UInt64.self),
            let session = reader.readIdentifier(), let secret = reader.read(count: Hello.secretByteCount),
            let channel = reader.read(UInt16.self), let channels = reader.read(UInt16.self),
            let handles = reader.read(UInt16.self), let kept = reader.read(UInt16.self),
            let idle = reader.read(UInt32.self), let linger = reader.read(UInt32.self),
            let cluster = reader.readIdentifier(),
            let name = reader.readText(maximum: Limits.peerNameBytesMax),
            reader.remaining == 0, let resumption = Resumption(rawValue: kept), ShownText.isPlain(name)
        else { throw StatusError(.badFrame, "the reply to HELLO is malformed") }
        guard version == Hello.version else {
            throw StatusError(
                .versionMismatch, "the server chose version \(version), which this client does not speak")
        }
        guard (1...Limits.slotsPerChannelMax).contains(Int(slots)),
            (Limits.payloadBytesMin...Limits.payloadBytesMax).contains(Int(payload)), session != .zero
        else { throw StatusError(.badFrame, "the reply to HELLO grants sizes outside the protocol's limits") }
        self.version = version
        self.slots = slots
        self.payloadBytesMax = payload
        self.features = Features(rawValue: features)
        self.session = session
        self.secret = secret
        self.channel = channel
        self.channelsMax = channels
        self.handlesMax = handles
        self.idleSeconds = idle
        self.resumption = resumption
        lingerSeconds = linger
        self.cluster = cluster
        serverName = name
    }

    /// The payload's bytes; a name that is too long is cut.
    public var bytes: [UInt8] {
        precondition(secret.count == Hello.secretByteCount, "a session's secret has 32 bytes")
        var writer = ByteWriter(capacity: HelloReply.byteCountMax)
        writer.write(bytes: Hello.magic)
        writer.write(version)
        writer.write(slots)
        writer.write(payloadBytesMax)
        writer.write(features.rawValue)
        writer.write(session)
        writer.write(bytes: secret)
        writer.write(channel)
        writer.write(channelsMax)
        writer.write(handlesMax)
        writer.write(resumption.rawValue)
        writer.write(idleSeconds)
        writer.write(lingerSeconds)
        writer.write(cluster)
        writer.writeText(Hello.shortened(serverName))
        return writer.bytes
    }
}

/// What a server kept of a channel whose connection was lost.
public enum Resumption: UInt16, Sendable, Hashable {
    /// Nothing: the channel is new, every slot's first sequence is 1.
    case fresh = 0
    /// Its slots, and the last reply of each that may not be executed twice.
    case slots = 1
    /// The session alone, because the server was restarted: each slot takes whatever sequence comes first.
    case session = 2
}
