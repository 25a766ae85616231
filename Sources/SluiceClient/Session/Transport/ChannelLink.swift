import Reactor

/// Takes the bytes of frames that go out.
public protocol FrameSink: AnyObject {
    /// Bytes that were written and that the network has not taken yet.
    var pendingBytes: Int { get }

    /// Takes bytes, which are the caller's again when this returns.
    ///
    /// - Safety: the bytes are there until this returns.
    func write(_ bytes: UnsafeRawBufferPointer) throws(ChannelError)
}

/// The bytes of one connection, there and back, in order and protected: TLS over a socket, or what a simulator has in its
/// place.
///
/// Lives on the reactor of its channel and is used on that thread only. It tells its channel what happens by the
/// methods that `DataChannel` has for links, never from within a call that the channel makes, and keeps the channel
/// alive from `connect` until it has nothing of it any more.
public protocol ChannelLink: FrameSink {
    /// Where it connects to.
    var address: SocketAddress { get }
    /// What the server at the other end is known by; once the link is secured.
    var serverNames: ServerNames { get }
    /// Whether the network has bytes that it has not said the end of.
    var isSending: Bool { get }

    /// Begins to connect; the channel calls it once.
    func connect(for channel: DataChannel<Self>) throws(ChannelError)
    /// Calls the channel's `batchEnded` once, when this wake-up ends.
    func askForBatchEnd()
    /// Sends what was written; while a send is under way, that one's end is told to the channel, which asks again.
    func send()
    /// Sends what was written in the middle of a wake-up, so that the server works at it while more is gathered.
    func sendEarly()
    /// Puts what has arrived into `room`, which is not empty; nil when nothing is left, 0 when the server has said its
    /// goodbye.
    ///
    /// - Safety: `room` may be written until this returns.
    func read(into room: UnsafeMutableRawBufferPointer) throws(ChannelError) -> Int?
    /// Whether the network has acknowledged nothing for so long though bytes wait for that.
    func isUnheard(milliseconds: UInt32) -> Bool
    /// Ends the connection: in order, so that the server knows that nobody comes back, which takes a second at most; or
    /// as if it were lost. The channel hears nothing more.
    func end(inOrder: Bool)
}

/// Makes the connections of a session, and looks whether there is somebody to connect to.
public protocol SessionTransport: AnyObject {
    /// A connection.
    associatedtype Link: ChannelLink
    /// One look at a place.
    associatedtype Dial: PlaceDial

    /// A link that is not connected yet.
    func makeLink(to address: SocketAddress, on reactor: Reactor) throws(ChannelError) -> Link
    /// Looks whether the place takes connections, and sends it nothing. `answer` is called once, later, on the
    /// reactor's thread, unless the dial is stopped; nil when it cannot be asked now.
    func dial(
        _ address: SocketAddress, on reactor: Reactor, _ answer: @escaping (_ isThere: Bool) -> Void
    ) -> Dial?
}

/// One look whether a place takes connections.
public protocol PlaceDial: AnyObject {
    /// Looks no longer: there will be no answer.
    func stop()
}
