import Core
import Reactor
import TLS
import Wire

/// Which volume a `VolumeClient` opens, and how: what sessions of every kind can be told, and what is its own.
@dynamicMemberLookup
public struct VolumeClientOptions: Sendable {
    /// What sessions of every kind can be told.
    public var session: SessionOptions
    /// The DNS name or IP address that the server's certificate must be for.
    public var serverName: String
    /// A client's context with ALPN `sluice/1` and the identity that the capability is bound to.
    public var tls: TLSContext
    /// The writer generation that somebody knew whose place the client takes; nil if it takes nobody's.
    public var knownGeneration: UInt64?

    /// One channel with the defaults.
    public init(
        addresses: [SocketAddress], serverName: String, tls: TLSContext, capability: [UInt8],
        rights: Rights = []
    ) {
        session = SessionOptions(addresses: addresses, capability: capability, rights: rights)
        self.serverName = serverName
        self.tls = tls
    }

    /// What `session` has, without its name.
    public subscript<Value>(dynamicMember path: WritableKeyPath<SessionOptions, Value>) -> Value {
        get { session[keyPath: path] }
        set { session[keyPath: path] = newValue }
    }
}

/// Hears of a volume; called on the reactor's thread, and kept alive until `volumeClosed`.
public protocol VolumeClientDelegate: AnyObject {
    /// Every channel has opened the volume: requests can be submitted.
    func volumeReady(_ volume: VolumeClient)
    /// Requests ended: those of one channel in one wake-up. New ones may be submitted from here.
    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>)
    /// `submit` takes requests again, though none was completed.
    func volumeHasRoom(_ volume: VolumeClient)
    /// The server said something; once, however many channels heard it. After `resized`, `state` holds the
    /// new size.
    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent)
    /// A connection is lost, or getting it back does not work for another reason than before; requests wait.
    func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError)
    /// The server takes what is sent on a connection and has answered nothing for so many nanoseconds, not even a PING;
    /// requests wait. Once, until `volumeIsAnswered` or `volumeInterrupted`.
    func volumeIsUnanswered(_ volume: VolumeClient, forNanoseconds silence: UInt64)
    /// The server answers again on every connection.
    func volumeIsAnswered(_ volume: VolumeClient)
    /// The server said what is not believed, such as that the volume has shrunk or that its clients should go where its
    /// certificate does not name it; all stays as it is.
    func volumeIgnored(_ volume: VolumeClient, _ what: String)
    /// Every channel works again, after so many nanoseconds; that many requests were sent again.
    func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int)
    /// The server wants a capability that has not expired before it goes on: call `renew`.
    func volumeNeedsCapability(_ volume: VolumeClient)
    /// The end, after the completions of all requests: the last call.
    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError)
}

extension ResourceState {
    /// What of a volume there is and may be used.
    var usable: ByteRange {
        let end = min(range.end, size)
        let first = min(range.offset, end)
        guard let usable = ByteRange(offset: first, length: end - first) else {
            preconditionFailure("a range that ends at \(end) fits")
        }
        return usable
    }
}

extension ByteRange {
    /// Says that another range is not within this one, both as the command line takes them.
    func refusal(of wanted: ByteRange) -> String {
        "the range \(wanted.offset):\(wanted.length) is not within \(offset):\(length) (offset and length in bytes), "
            + "which is what there is of the volume and may be used"
    }
}

extension VolumeClientDelegate {
    /// Nothing: an interruption passes, or ends in `volumeClosed`.
    public func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError) {}

    /// Nothing: it passes, or ends in `volumeInterrupted`.
    public func volumeIsUnanswered(_ volume: VolumeClient, forNanoseconds silence: UInt64) {}

    /// Nothing.
    public func volumeIsAnswered(_ volume: VolumeClient) {}

    /// Nothing.
    public func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int) {}

    /// Nothing.
    public func volumeIgnored(_ volume: VolumeClient, _ what: String) {}

    /// Ends the client: nobody renews.
    public func volumeNeedsCapability(_ volume: VolumeClient) { volume.end(.expired) }
}
