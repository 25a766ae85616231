import Core
import Reactor
import TLS
import Wire

/// A volume of an I/O server, over one or more channels of one session, which outlives its connections.
///
/// Lives on one reactor and is used on its thread only; to use several reactors, make one client on each and
/// let the others join the first one's session with its `ticket`.
@safe
public final class VolumeClient: SessionClient<SecureTransport> {
    private var delegate: (any VolumeClientDelegate)?

    /// A client; `buffers` may be shared by everything on the reactor that uses TLS.
    public init(
        reactor: Reactor, options: VolumeClientOptions, buffers: TLSBufferPool? = nil,
        delegate: any VolumeClientDelegate
    ) {
        self.delegate = delegate
        let transport = SecureTransport(
            serverName: options.serverName, tls: options.tls, buffers: buffers ?? TLSBufferPool())
        super.init(
            reactor: reactor, transport: transport,
            rules: VolumeRules(knownGeneration: options.knownGeneration), options: options.session)
    }

    /// Sends a request on the next channel that has a free slot, at the latest when this wake-up ends.
    ///
    /// `buffer` is as `ChannelRequest` says and stays valid until the completion; a READ or WRITE has at most
    /// `state.transferBytesMax` bytes. `tag` comes back with the completion.
    ///
    /// - Returns: false when no channel can take it now, which the next completion or `volumeHasRoom` changes;
    ///   or when the client is not ready.
    public func submit(
        _ opcode: Opcode, flags: RequestFlags = [], offset: UInt64 = 0, count: UInt32 = 0,
        buffer: UnsafeMutableRawPointer? = nil, namesMarker: Bool = false, tag: UInt64
    ) -> Bool {
        unsafe submit(
            ChannelRequest(
                opcode, flags: flags, handle: 0, offset: offset, count: count, buffer: buffer,
                namesMarker: namesMarker, tag: tag))
    }

    // MARK: What the session says

    override func ready() { delegate?.volumeReady(self) }

    override func completed(_ completions: Span<ChannelCompletion>) {
        delegate?.volumeCompleted(self, completions)
    }

    override func hasRoom() { delegate?.volumeHasRoom(self) }

    override func heard(_ event: ChannelEvent) { delegate?.volumeEvent(self, event) }

    override func interrupted(by reason: ChannelError) { delegate?.volumeInterrupted(self, reason) }

    override func unanswered(forNanoseconds silence: UInt64) {
        delegate?.volumeIsUnanswered(self, forNanoseconds: silence)
    }

    override func answered() { delegate?.volumeIsAnswered(self) }

    override func doubted(_ what: String) { delegate?.volumeIgnored(self, what) }

    override func resumed(afterNanoseconds pause: UInt64, repeated: Int) {
        delegate?.volumeResumed(self, afterNanoseconds: pause, repeated: repeated)
    }

    override func needsCapability() { delegate?.volumeNeedsCapability(self) }

    override func closed(_ error: ChannelError) {
        let listener = delegate
        delegate = nil
        listener?.volumeClosed(self, error)
    }
}
