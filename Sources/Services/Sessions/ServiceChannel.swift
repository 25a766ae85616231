import Core
import DequeModule
import Wire

/// What a shard tells the owner of a connection. Called on the shard's thread, never from within a call that the
/// owner makes for the same channel other than at the end of a batch.
public protocol ChannelOwner: AnyObject {
    /// Answers or events wait (`ServiceShard.takeMessage`, `takeReply`). Once, until the owner has taken all.
    func channelHasOutput()
    /// A request that was told to wait may be tried again.
    func channelMayContinue()
    /// Close the connection; the text says why.
    func channelMustClose(_ reason: String)
    /// The client goes on with the channel on another connection: give this one up now, nothing more of it counts.
    func channelWasSuperseded()
    /// Somebody has ended the connection, and its client may go on with the channel: give it up now.
    func channelIsDisconnected(_ reason: String)
    /// Somebody waits for the end of the connection if its client's machine is gone: find that out soon.
    func channelIsDoubted()
    /// The authority of the request in `slot` has ended: nothing more of what is arriving of it is stored.
    func channelMustSkip(slot: UInt16)
    /// The buffer of the reply that is being sent is needed: the client reads it now, or the connection ends.
    func channelMustHurry()
    /// Others of its node wait for buffers that it has: if its client takes nothing, or does not go on writing, end the
    /// connection; a client that comes back goes on with the channel.
    func channelIsInTheWay()
    /// HELLO is answered, after `Greeting.undecided`; when it was refused, close once the answer is sent.
    func channelWasGreeted(isAccepted: Bool)
}

/// What a HELLO has come to.
public enum Greeting {
    /// The channel takes requests.
    case accepted
    /// The answer is the channel's last.
    case refused
    /// `ChannelOwner.channelWasGreeted` will say: the old connection of the channel has yet to end. Read nothing more
    /// until then.
    case undecided
}

/// One data channel as the services see it: its place in a session, its slots and its handles.
///
/// Confined to its shard's thread. It outlives its connection until the last request that the connection started
/// has ended.
public final class ServiceChannel {
    /// The channel's number in its shard; part of the tags that the driver returns.
    let number: UInt32
    /// The connection's number, which no other of the shard ever has.
    let connection: UInt64
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    let thumbprint: Digest32
    /// Where it comes from.
    public let peerAddress: String

    /// Why a request has to be offered again.
    enum Stall: Equatable {
        case nothing
        /// The channel itself has too much that waits to be sent.
        case own
        /// There is no room for it in the arena of a pool.
        case room(port: UInt8)
        /// It is about to be offered again.
        case over
    }

    weak var owner: (any ChannelOwner)?
    var session: Identifier?
    var sessionChannel: UInt16 = 0
    /// Its session's number in `ServiceShard.flows`; `Flows.none` before the first OPEN.
    var flow = Flows.none
    /// The number of the node whose part of an arena its buffers count in; that of its session.
    var share = Flows.none
    var slots = SlotTable(count: 1)
    var handles = HandleTable()
    var operations = OperationTable()
    /// What waits to be sent beside the answers of slots: those of control requests, refusals without a slot, events.
    var messages = Deque<ChannelMessage>()
    /// The longest payload that it was granted, in bytes.
    public internal(set) var payloadBytesMax: UInt32 = 0
    /// Arena bytes that its requests hold.
    public internal(set) var chargedBytes = 0
    var isOutputAnnounced = false
    /// What its next request waits for.
    var stall = Stall.nothing
    /// The room that it waits for, in bytes.
    var wantedBytes = 0
    /// Whether the client may go on with the channel on another connection.
    var isResumable = false
    /// Whether this connection goes on with what an earlier one left.
    var isResumed = false
    /// Set when the connection is gone.
    var isDetached = false
    /// Set when it is gone and the channel may go on.
    var isLost = false
    /// Set when the client has closed the connection in order.
    var isClosedByClient = false
    /// Set when somebody waits for its end: what drivers have of it is not repeated.
    var isCutOff = false
    /// Called when the channel has ended for good.
    var endWaiters: [() -> Void] = []

    var requests: UInt64 = 0
    var bytesRead: UInt64 = 0
    var bytesWritten: UInt64 = 0

    init(
        number: UInt32, connection: UInt64, thumbprint: Digest32, peerAddress: String, owner: any ChannelOwner
    ) {
        self.number = number
        self.connection = connection
        self.thumbprint = thumbprint
        self.peerAddress = peerAddress
        self.owner = owner
    }

    /// A small number that its session has on this reactor while it has something open; nil before.
    public var sessionNumber: Int? { flow == Flows.none ? nil : Int(flow) }
    /// Likewise the number of the node whose capability its session used first there; nil before.
    public var nodeNumber: UInt32? { share == Flows.none ? nil : share }
    /// Whether HELLO was accepted.
    public var isEstablished: Bool { session != nil }
    /// The payload of the answers that wait, in bytes, as if all were as long as the oldest.
    public var replyBytesExpected: Int {
        let replies = slots.replies
        return replies.isEmpty ? 0 : replies.count * Int(slots[replies.first].replyBytes)
    }
    /// Whether something waits that goes before the answers of slots (`ServiceShard.takeMessage`).
    public var hasMessages: Bool { !messages.isEmpty }
    /// Whether the owner was told of output and has not taken all of it yet.
    public var hasOutput: Bool { isOutputAnnounced }

    /// Requests that are not answered yet, one that is still being received included.
    public var unansweredRequests: Int { slots.unanswered }

    /// Tells the client that the server goes away in so many seconds, and where to go instead, or nothing.
    public func announceDraining(seconds: UInt64, target: String) {
        if isEstablished { push(.draining(seconds: seconds, target: target)) }
    }

    /// Queues a message and tells the owner.
    private func push(_ message: ChannelMessage) {
        guard !isDetached else { return }
        messages.append(message)
        announceOutput()
    }

    /// Queues the answer of a request that occupies no slot any more.
    func push(_ answer: RequestAnswer, _ body: AnswerBody = .nothing) {
        push(.answer(answer, body))
    }

    /// Queues an event; a client that lets events pile up loses the channel.
    func push(_ event: ChannelEvent) {
        guard messages.count < Limits.waitingFramesMax else {
            owner?.channelMustClose("it does not read its events")
            return
        }
        push(.event(event))
    }

    /// Tells the owner once that there is something to send.
    @inline(__always)
    func announceOutput() {
        if !isOutputAnnounced {
            isOutputAnnounced = true
            owner?.channelHasOutput()
        }
    }
}
