import Core
import Reactor
import TLS
import Wire

/// A channel over TLS and TCP.
public typealias SecureChannel = DataChannel<SecureLink>

/// One connection to the data port of an I/O server: requests in, completions out, many at a time.
///
/// Lives on one reactor and is used on that reactor's thread only. Requests that are submitted in one wake-up
/// leave in as few TLS records and sends as fit; completions come in one call per wake-up. Memory for READ
/// and WRITE is the caller's and must stay valid until the completion. Everything that the server sends is
/// checked; a server that breaks the protocol costs the channel and nothing else.
@safe
public final class DataChannel<Link: ChannelLink>: CompletionTarget {
    /// Where a channel is in its life.
    public enum State: Sendable {
        /// Made, `connect` not called yet.
        case idle
        /// Connecting, TLS handshake or HELLO under way.
        case connecting
        /// Handles can be opened and requests submitted.
        case ready
        /// Ended; `channelClosed` has been or is about to be called.
        case closed
    }

    /// Where the channel is in its life.
    public internal(set) var state = State.idle
    /// What HELLO negotiated; nil before `channelReady`.
    public internal(set) var greeting: HelloReply?

    let reactor: Reactor
    let core: ChannelCore
    let options: ChannelOptions
    let link: Link
    var delegate: (any DataChannelDelegate<Link>)?
    var outgoing: OutgoingFrames<Link>
    var controls: ControlQueue
    /// For timers.
    var target: TargetID?
    var isDelivering = false
    var isAtBatchEnd = false
    var ending: ChannelError?
    /// The handle for the requests that are being sent again; nil when there are none.
    var repeating: (handle: UInt32, isShared: Bool)?
    /// Requests that this connection sent again.
    private(set) var repeated = 0
    var deadline: TimerID?
    var pulse: TimerID?
    var hasHeard = false
    /// Pulses of silence, and those of them while a reply is awaited.
    var quietPulses: UInt64 = 0
    var awaitedPulses: UInt64 = 0
    /// Its server takes what is sent and answers nothing: since when, in the reactor's time.
    var unansweredSince: UInt64?
    /// How many events the server may still send.
    var eventBudget = EventBudget()
    /// How long it took to connect, in nanoseconds; nil when nobody was reached.
    private(set) var dialNanoseconds: UInt64?
    private var dialledAt: UInt64 = 0
    /// Set when no further request is taken, because it is to go on elsewhere: the end that comes with the last reply.
    private var departure: ChannelError?

    /// A channel that goes on with the slots of `core`, if that was suspended; the options' ticket must be that
    /// of its session then.
    init(
        reactor: Reactor, link: Link, options: ChannelOptions, core: ChannelCore,
        delegate: any DataChannelDelegate<Link>
    ) {
        self.reactor = reactor
        self.core = core
        self.link = link
        self.options = options
        self.delegate = delegate
        controls = ControlQueue()
        outgoing = OutgoingFrames(sink: link)
    }

    // MARK: Entry points

    /// Starts to connect; call it once. `channelReady` or `channelClosed` follows.
    public func connect() {
        precondition(state == .idle, "a channel connects once")
        state = .connecting
        let target = reactor.register(self)
        self.target = target
        deadline = reactor.setTimer(
            after: Nanoseconds.milliseconds(options.dialMilliseconds), target: target,
            token: ChannelTimer.deadline)
        dialledAt = reactor.now
        do throws(ChannelError) {
            try link.connect(for: self)
        } catch {
            ending = error
            askForBatchEnd()
        }
    }

    /// Sends an I/O request, at the latest when this wake-up ends.
    ///
    /// - Returns: false when no slot is free or too much waits to be sent, which the next completion changes;
    ///   or when the channel is not ready.
    public func submit(_ request: ChannelRequest) -> Bool {
        guard state == .ready, ending == nil, departure == nil, outgoing.hasRoom else { return false }
        guard unsafe isWellFormed(request) else {
            preconditionFailure("a request without memory, or of more bytes than the server takes")
        }
        guard let header = unsafe core.begin(request) else { return false }
        if header.length > 0 {
            unsafe outgoing.append(
                header, UnsafeRawBufferPointer(start: request.payload, count: Int(header.length)))
            if outgoing.isWorthSending, !link.isSending { link.sendEarly() }
        } else {
            outgoing.append(header)
        }
        askForBatchEnd()
        return true
    }

    /// I/O requests that are submitted and not completed.
    public var inFlight: Int { core.inFlight }

    /// I/O requests that can be in flight at once; 0 before `channelReady`.
    public var depth: Int { core.depth }

    /// What the server last said to an I/O request that it refused; empty when it said nothing.
    public var lastMessage: String { core.lastMessage }

    /// Where it is connected to.
    var address: SocketAddress { link.address }

    /// What other channels need to join this channel's session; nil before `channelReady`, or if this one
    /// joined.
    public var ticket: SessionTicket? {
        guard let greeting, greeting.secret.contains(where: { $0 != 0 }) else { return nil }
        return SessionTicket(
            session: greeting.session, secret: SecretBytes(greeting.secret), instance: options.instance)
    }

    /// Turns a capability (binary form) into a handle. `rights` empty: all that it and the access mode allow.
    /// `takesOver` ends sessions of the same TLS key that have no connection and are in the way of writing.
    public func open(
        capability: [UInt8], kind: ResourceKind = .volume, rights: Rights, takesOver: Bool = false,
        completion: @escaping (Result<(handle: UInt32, state: ResourceState), ChannelError>) -> Void
    ) {
        guard (1...Limits.capabilityBytesMax).contains(capability.count) else {
            return completion(.failure(.refused(.open, .badCapability, message: "it is empty or too long")))
        }
        let body = OpenRequest(kind: kind, rights: rights, takesOver: takesOver, capability: capability).bytes
        control(.open, handle: 0, body: body) { completion($0.flatMap(ControlQueue.state)) }
    }

    /// Describes what the handle stands for now.
    public func stat(
        handle: UInt32, completion: @escaping (Result<ResourceState, ChannelError>) -> Void
    ) {
        control(.stat, handle: handle, body: []) { completion($0.flatMap(ControlQueue.state).map(\.state)) }
    }

    /// Puts another capability (binary form) in the place of the handle's; I/O goes on meanwhile.
    public func renew(
        handle: UInt32, capability: [UInt8],
        completion: @escaping (Result<ResourceState, ChannelError>) -> Void
    ) {
        guard (1...Limits.capabilityBytesMax).contains(capability.count) else {
            return completion(.failure(.refused(.renew, .badCapability, message: "it is empty or too long")))
        }
        let body = RenewRequest(capability: capability).bytes
        control(.renew, handle: handle, body: body) {
            completion($0.flatMap(ControlQueue.state).map(\.state))
        }
    }

    /// Gives the handle back, when every request on it has ended.
    public func closeHandle(_ handle: UInt32, completion: @escaping (Result<Void, ChannelError>) -> Void) {
        control(.close, handle: handle, body: []) { completion($0.map { _ in }) }
    }

    /// Sends what the core's last connection left unanswered, with this connection's handle; requests can be
    /// submitted when all of it is on its way.
    func repeatUnanswered(handle: UInt32, isShared: Bool) {
        repeating = (handle, isShared)
        goOnRepeating()
    }

    /// Sends as many of them as may wait for the socket; when a send ends, the next ones follow.
    func goOnRepeating() {
        guard let (handle, isShared) = repeating, state == .ready, ending == nil else { return }
        askForBatchEnd()
        while outgoing.hasRoom {
            guard let next = unsafe core.nextRepeat(handle: handle, isShared: isShared) else {
                repeating = nil
                delegate?.channelOpened(self)
                return
            }
            repeated += 1
            if let payload = unsafe next.payload {
                unsafe outgoing.append(next.header, payload)
            } else {
                unsafe outgoing.append(next.header)
            }
        }
    }

    /// Takes no further request, and ends the connection when those before are answered; the session goes on.
    func leave(_ why: String) {
        guard state == .ready, departure == nil else { return }
        departure = .lost(why)
        leaveIfAnswered()
    }

    /// Ends the connection if it is to be left and nothing is unanswered.
    func leaveIfAnswered() {
        guard let departure, repeating == nil, core.inFlight + core.givenUp == 0, controls.isEmpty else {
            return
        }
        end(departure)
    }

    func dialled() { dialNanoseconds = reactor.now - dialledAt }

    /// Ends the channel: requests in flight end with `ioError`, then `channelClosed` comes. Safe to call
    /// twice.
    public func close() {
        end(.closed)
    }

    // MARK: The reactor

    /// For the reactor.
    public func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token == ChannelTimer.pulse { return pulsed() }
        deadline = nil
        end(.timedOut("connecting to \(address) and saying HELLO"))
    }

    /// For the link: writes and sends what this wake-up's submissions left behind.
    func batchEnded() {
        isAtBatchEnd = false
        if let ending { return end(ending) }
        send()
        // A request that must not be sent again has ended without a reply.
        if core.completionCount > 0 || !core.notices.isEmpty { deliver() }
    }

    /// Asks once a wake-up for `batchEnded`.
    func askForBatchEnd() {
        guard !isAtBatchEnd else { return }
        isAtBatchEnd = true
        link.askForBatchEnd()
    }

    private func isWellFormed(_ request: ChannelRequest) -> Bool {
        if unsafe request.namesMarker && request.opcode != .blockStatus { return false }
        let opcode = unsafe request.opcode
        guard !opcode.kind.isControl else { return false }
        let (rule, count) = unsafe (opcode.rule, request.count)
        let hasBuffer = unsafe request.buffer != nil
        return switch rule.payload {
        case .none where rule.covers == .transfer, .covered:
            count > 0 && count <= core.payloadBytesMax && hasBuffer
        case .coveredTwice: count > 0 && count <= core.payloadBytesMax / 2 && hasBuffer
        case .none, .optionalBody: hasBuffer || !opcode.fillsBuffer
        // A request has no place for a structure.
        case .body, .structure: false
        }
    }

    // MARK: Control requests

    /// Sends a control request when the slot for them is free.
    func control(
        _ opcode: Opcode, handle: UInt32, body: [UInt8], completion: @escaping ControlQueue.Completion
    ) {
        guard state == .ready, ending == nil else { return completion(.failure(ending ?? .closed)) }
        controls.append(
            ControlQueue.Entry(opcode: opcode, handle: handle, body: body, completion: completion))
        sendNextControl()
    }

    func sendNextControl() {
        guard let next = controls.waiting, outgoing.hasRoom,
            let header = core.beginControl(next.opcode, handle: next.handle, bodyBytes: next.body.count)
        else { return }
        controls.begin()
        outgoing.append(header, next.body)
        askForBatchEnd()
    }
}

extension DataChannel where Link == SecureLink {
    /// A channel that will connect to `address`.
    ///
    /// - Parameters:
    ///   - serverName: the DNS name or IP address that the server's certificate must be for.
    ///   - tls: a client's context with ALPN `sluice/1` and the identity that capabilities are bound to.
    ///   - buffers: shared by the channels of one reactor; nil makes one of its own.
    public convenience init(
        reactor: Reactor, address: SocketAddress, serverName: String, tls: TLSContext,
        options: ChannelOptions = ChannelOptions(), buffers: TLSBufferPool? = nil,
        delegate: any DataChannelDelegate<SecureLink>
    ) throws(ChannelError) {
        let link = try SecureLink(
            reactor: reactor, address: address, serverName: serverName, tls: tls,
            buffers: buffers ?? TLSBufferPool(retainedBytesMax: 4 << 20))
        self.init(
            reactor: reactor, link: link, options: options, core: ChannelCore(), delegate: delegate)
    }
}
