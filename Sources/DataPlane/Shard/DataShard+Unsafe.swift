import Core
import Glibc
import Logging
import Reactor
import Services
import Synchronization
import TLS

/// The data plane of one reactor: its connections and the buffers that they share.
///
/// Confined to the reactor's thread.
@safe
final class DataShard: BatchTarget {
    let reactor: Reactor
    let services: ServiceShard
    let options: DataServerOptions
    let idleNanoseconds: UInt64
    let logger: Logger
    let load: ShardLoad
    var tls: TLSContext
    /// Recycles ciphertext of all connections.
    let buffers = TLSBufferPool()
    /// Where plaintext is decrypted to, and taken out of before the next connection uses it.
    let plaintext: UnsafeMutableRawBufferPointer
    /// Gathers the replies of one connection after the other.
    var gatherer = RecordGatherer()
    /// Slots of replies whose last byte is gathered.
    var gatheredSlots: [UInt16] = []
    /// Where a piece of ciphertext of a metered connection is received.
    private let ciphertext: UnsafeMutableRawBufferPointer
    /// Connections that have something to send.
    private var outputs = TurnQueue<DataConnection>()
    /// Connections that are metered and have something to receive.
    private var inputs = TurnQueue<DataConnection>()
    /// Connections of which something has arrived that waits for time for signatures.
    private var asking = TurnQueue<DataConnection>()
    private var isTakingAsking = false
    private var isScheduled = false
    /// The wake-up that the next four are of.
    private var turn: UInt64 = 0
    /// Whether `batchEnded` has run in it.
    private var isTurnBegun = false
    private var sentBytes = 0
    private var receivedBytes = 0
    /// Requests that it has taken up.
    var acceptedRequests = 0
    private var signaturesBefore: UInt64 = 0
    /// When somebody who wants much had a turn last, and in which wake-up they gave way to what had just arrived.
    private var tookTurnAt: UInt64 = 0
    private var gaveWayTurn: UInt64 = 0
    private(set) var connections: [ObjectIdentifier: DataConnection] = [:]
    /// When connections had to make room last.
    var roomMadeAt: UInt64 = 0
    /// Ciphertext that is kept for channels which the server does not read from now.
    var unread = UnreadInput()
    /// When those that have opened nothing were looked through for what they have of it.
    var strangersSeenAt: UInt64 = 0
    private var isStopping = false
    private var drained: (() -> Void)?
    private var finishTarget: TargetID?
    private var finishTimer: TimerID?

    init(
        reactor: Reactor, services: ServiceShard, tls: TLSContext, options: DataServerOptions,
        load: ShardLoad,
        configuration: IOServices.Configuration
    ) {
        self.reactor = reactor
        self.services = services
        self.tls = tls
        self.options = options
        self.load = load
        logger = configuration.logger
        idleNanoseconds = UInt64(configuration.idleSeconds) * 1_000_000_000
        unsafe plaintext = .allocate(byteCount: Limits.plaintextBytes, alignment: 64)
        unsafe ciphertext = .allocate(byteCount: Limits.plaintextBytes, alignment: 64)
        gatheredSlots.reserveCapacity(Limits.slotsPerChannelMax)
    }

    deinit {
        unsafe plaintext.deallocate()
        unsafe ciphertext.deallocate()
    }

    // MARK: Turns

    /// Has a connection send what it has, when it is its session's turn.
    func scheduleOutput(_ connection: DataConnection) {
        outputs.append(connection, flow: connection.flow)
        schedule()
    }

    /// Has a connection receive a piece, when it is its session's turn.
    func scheduleInput(_ connection: DataConnection) {
        inputs.append(connection, flow: connection.flow)
        schedule()
    }

    /// Has a connection take up what has arrived, when there is time for signatures and it is its session's turn.
    func scheduleSignatures(_ connection: DataConnection) {
        asking.append(connection, flow: connection.flow)
        schedule()
    }

    private func schedule() {
        guard !isScheduled else { return }
        isScheduled = true
        reactor.atBatchEnd(self)
    }

    /// Sends and receives for as many as a wake-up has time for: others must not wait long for their turn.
    func batchEnded() {
        isScheduled = false
        beginTurn()
        let (most, piece) = share
        var givesWay = giveWay()
        // Who wants something for the first time is not to wait for what is sent to others.
        takeInputs { true }
        while let (connection, flow, isFresh) = outputs.next(onlyFresh: givesWay || sentBytes >= most) {
            let bytes = connection.flush(piece)
            outputs.charge(bytes + Limits.turnCost, flow: flow)
            sentBytes += bytes
            if !isFresh { tookTurnAt = reactor.now }
            // What is a moment's work to encrypt does not wait for what takes longer.
            if isFresh, bytes > 0, !outputs.isEmpty {
                reactor.submit()
                // It may have asked again already.
                givesWay = givesWay || giveWay()
            }
        }
        takeInputs { givesWay || receivedBytes >= most || !hasTimeForInput }
        if !asking.isEmpty { takeAsking(most) }
        if !outputs.isEmpty || !inputs.isEmpty || !asking.isEmpty { schedule() }
    }

    /// Whether those that want much wait, because others want little just now: what drivers are to be given for them is
    /// given before this runs again in the same wake-up, what drivers have of them comes back soon, and what has arrived
    /// meanwhile may be of them.
    private func giveWay() -> Bool {
        guard services.isMixed else { return false }
        if !isTurnBegun {
            isTurnBegun = true
            return true
        }
        if reactor.now &- tookTurnAt > Limits.mixedPatience { return false }
        if services.expectsLoneRequest { return true }
        if reactor.turn &- gaveWayTurn <= 1 || !reactor.hasMore { return false }
        gaveWayTurn = reactor.turn
        return true
    }

    /// Has connections receive, of whoever's turn it is, or only of those that wanted nothing lately.
    private func takeInputs(onlyFresh: () -> Bool) {
        let most = unsafe services.isMixed ? Limits.mixedInputBytes : ciphertext.count
        let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: ciphertext[..<most])
        while let (connection, flow, isFresh) = inputs.next(onlyFresh: onlyFresh()) {
            // Nor does what is encrypted wait for what takes longer to decrypt.
            if !isFresh, services.isMixed { reactor.submit() }
            let bytes = unsafe connection.receivePiece(piece)
            inputs.charge(bytes + Limits.turnCost, flow: flow)
            receivedBytes += bytes
            if !isFresh { tookTurnAt = reactor.now }
        }
    }

    /// Has those take up what has arrived for whose signatures the wake-up has time.
    private func takeAsking(_ most: Int) {
        isTakingAsking = true
        defer { isTakingAsking = false }
        let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: ciphertext[..<Limits.mixedInputBytes])
        while hasTimeForSignatures, hasTimeForInput, receivedBytes < most,
            let (connection, flow, _) = asking.next(onlyFresh: false)
        {
            let bytes = unsafe connection.receivePiece(piece)
            asking.charge(bytes + Limits.turnCost, flow: flow)
            receivedBytes += bytes
        }
    }

    /// Whether this wake-up may take up further requests before others had their turn.
    var hasTimeForInput: Bool {
        guard services.isMixed else { return true }
        beginTurn()
        return acceptedRequests < Limits.mixedTurnRequests
    }

    /// Whether this wake-up may check further signatures: each takes as long as many reads, and who has no right asks for
    /// them as easily as others. Whoever comes later does not go before those that wait for it.
    var hasTimeForSignatures: Bool {
        if reactor.turn != turn { beginTurn() }
        guard asking.isEmpty || isTakingAsking else { return false }
        return services.signaturesChecked &- signaturesBefore < Limits.turnSignatures
    }

    private func beginTurn() {
        guard reactor.turn != turn else { return }
        turn = reactor.turn
        isTurnBegun = false
        (sentBytes, receivedBytes, acceptedRequests) = (0, 0, 0)
        signaturesBefore = services.signaturesChecked
    }

    /// How much a wake-up sends, and receives of those who send much, and how much of that for one connection.
    private var share: (turn: Int, piece: Int) {
        if !services.isShared { return (.max, options.outputBytesTarget) }
        return services.isMixed
            ? (Limits.mixedTurnBytes, Limits.mixedPieceBytes)
            : (Limits.sharedTurnBytes, Limits.sharedPieceBytes)
    }

    // MARK: Connections

    /// Takes over a connected socket.
    func adopt(_ fd: Int32) {
        guard !isStopping else { return refuse(fd) }
        let peer = (try? Sockets.peerAddress(fd: fd))?.description ?? "unknown"
        Sockets.setNoDelay(fd: fd)
        Sockets.setKeepAlive(
            fd: fd, idleSeconds: Limits.keepAliveSeconds, intervalSeconds: Limits.keepAliveIntervalSeconds)
        do throws(TLSError) {
            let session = try TLSConnection(context: tls, buffers: buffers)
            let accepted = DataConnection(shard: self, fd: fd, tls: session, peerAddress: peer)
            connections[ObjectIdentifier(accepted)] = accepted
            accepted.begin()
        } catch {
            logger.error("a connection cannot be set up", metadata: ["peer": "\(peer)", "error": "\(error)"])
            refuse(fd)
        }
    }

    private func refuse(_ fd: Int32) {
        _ = Glibc.close(fd)
        load.left()
    }

    /// Forgets a connection that has closed its descriptor.
    func remove(_ connection: DataConnection) {
        guard connections.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        load.left()
        if isStopping, connections.isEmpty { finishStop() }
    }

    /// Ends all connections when what they have in flight is answered, or after a while; `done` runs when nothing of them
    /// is in flight any more.
    func stop(_ done: @escaping () -> Void) {
        isStopping = true
        drained = done
        for connection in Array(connections.values) { connection.finish() }
        guard !connections.isEmpty else { return finishStop() }
        let timer = ShardTimer(shard: self)
        let target = reactor.register(timer)
        finishTarget = target
        finishTimer = reactor.setTimer(after: options.finishNanoseconds, target: target, token: 0)
    }

    /// Closes what has taken too long to finish.
    fileprivate func closeLate() {
        for connection in Array(connections.values) { connection.close("the server is stopping") }
    }

    private func finishStop() {
        guard let done = drained else { return }
        drained = nil
        if let finishTimer { reactor.cancelTimer(finishTimer) }
        if let finishTarget { reactor.unregister(finishTarget) }
        finishTarget = nil
        services.stop(done)
    }
}

/// The timer of a shard that ends; apart from it, so that the reactor's hold on it makes no cycle.
private final class ShardTimer: CompletionTarget {
    private weak var shard: DataShard?

    init(shard: DataShard) {
        self.shard = shard
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) { shard?.closeLate() }
}

/// How many connections a reactor has, counted from when they are given to it. Any thread.
final class ShardLoad: Sendable {
    private let count = Atomic<Int>(0)

    var connections: Int { count.load(ordering: .relaxed) }

    func joined() {
        count.add(1, ordering: .relaxed)
    }

    func left() {
        count.subtract(1, ordering: .relaxed)
    }
}
