import Core
import Glibc
import Logging
import Reactor
import TLS

/// What the control server does on its reactor's thread: listeners, the table of connections, one timer for
/// all.
final class ControlLoop: CompletionTarget, @unchecked Sendable {
    // SAFETY: made on the reactor's thread, and used there only: by completions, by posted work, and by the
    // dispatcher, whose executor is the reactor's.

    let reactor: Reactor
    /// What new connections are made of; replaced when the server has another certificate.
    var tls: TLSContext
    let limits: ControlServerLimits
    let logger: Logger
    let buffers = TLSBufferPool(retainedBytesMax: 4 << 20)
    /// Plaintext on its way in; used inside one call only.
    let incoming = IncomingBuffer(bytes: 16 * 1024)
    /// Plaintext on its way out; used inside one call only.
    var outgoing: [UInt8] = []

    private var dispatcher: ControlDispatcher?
    private var target: TargetID?
    private var listeners: [Int32] = []
    private var pausedListeners: Set<Int> = []
    private var connections: [UInt64: ControlConnection] = [:]
    private var nextConnection: UInt64 = 1
    /// Connections of each caller that has presented a certificate.
    private var connectionsOf: [ControlCaller: Int] = [:]
    private let handler: any ControlHandler
    private var turns: RequestTurns<(ControlRequest, ControlRequestID)>
    /// Requests in the hands of the handler, with what each counts as.
    private var running: [ControlRequestID: RequestTurns<(ControlRequest, ControlRequestID)>.Turn] = [:]
    private var unread: UnreadAnswers
    private var isSweeping = false
    private var stopping: (deadline: UInt64, done: () -> Void)?

    private static let sweepToken = UInt32.max
    private static let closeToken = UInt32.max - 1
    private static let sweepNanoseconds: UInt64 = 1_000_000_000

    init(
        reactor: Reactor, tls: TLSContext, limits: ControlServerLimits, handler: any ControlHandler,
        logger: Logger
    ) {
        self.reactor = reactor
        self.tls = tls
        self.limits = limits
        self.logger = logger
        self.handler = handler
        turns = RequestTurns(limits.turns)
        unread = UnreadAnswers(limits)
        outgoing.reserveCapacity(limits.sendBytes + 32 * 1024)
        dispatcher = ControlDispatcher(handler: handler, loop: self, executor: reactor.executor)
        target = reactor.register(self)
    }

    // MARK: Listening

    func listen(_ descriptors: [Int32]) {
        listeners = descriptors
        for index in descriptors.indices { accept(index) }
    }

    private func accept(_ index: Int) {
        guard let target else { return }
        reactor.acceptMultishot(fd: listeners[index], target: target, token: UInt32(index))
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if token == Self.sweepToken { return sweep() }
        if token == Self.closeToken { return }
        let index = Int(token)
        guard index < listeners.count else {
            if result >= 0 { _ = Glibc.close(result) }
            return
        }
        if result >= 0 { open(result) }
        guard !flags.more, stopping == nil else { return }
        if result < 0 {
            logger.warning("accepting control connections pauses: \(ReactorError.text(errno: -result))")
            pausedListeners.insert(index)
            keepSweeping()
        } else {
            accept(index)
        }
    }

    private func open(_ descriptor: Int32) {
        if connections.count >= limits.connections, !makeRoom() {
            _ = Glibc.close(descriptor)
            return
        }
        do {
            let id = nextConnection
            nextConnection += 1
            let connection = try ControlConnection(id: id, fd: descriptor, loop: self)
            connections[id] = connection
            connection.start()
            keepSweeping()
        } catch {
            logger.error("a control connection could not be set up: \(error)")
            _ = Glibc.close(descriptor)
        }
    }

    /// Ends the connection without a certificate that has been idle longest, or else one of whoever has the most; false
    /// when there is none.
    private func makeRoom() -> Bool {
        let idle = connections.values.filter(\.isExpendable)
        if let oldest = idle.min(by: { $0.activeAt < $1.activeAt }) {
            oldest.end()
            return true
        }
        let greedy = connectionsOf.filter { !$0.key.isAdmin }.max { $0.value < $1.value }?.key
        let theirs = connections.values.filter { $0.caller == greedy || greedy == nil }
        guard
            let oldest = theirs.min(by: {
                ($0.isBusy ? 1 : 0, $0.activeAt) < ($1.isBusy ? 1 : 0, $1.activeAt)
            })
        else { return false }
        logger.notice(
            "a control connection makes room for another: the server has its most",
            metadata: ["most": "\(limits.connections)", "caller": "\(oldest.account)"])
        oldest.end()
        return true
    }

    /// Notes who is at the other end of a connection.
    func identified(_ caller: ControlCaller) { connectionsOf[caller, default: 0] += 1 }

    /// Notes that a connection of the caller has so many more bytes that wait to be read; false when that is too much.
    func holds(_ caller: ControlCaller, more count: Int) -> Bool {
        unread.change(caller, by: count)
        return count <= 0 || !unread.isTooMuch(of: caller)
    }

    func remove(_ connection: ControlConnection) {
        connections[connection.id] = nil
        if let caller = connection.caller, let count = connectionsOf[caller] {
            connectionsOf[caller] = count > 1 ? count - 1 : nil
        }
        if connections.isEmpty { finishStopping() }
    }

    // MARK: Time

    private func keepSweeping() {
        guard !isSweeping, let target else { return }
        isSweeping = true
        _ = reactor.setTimer(after: Self.sweepNanoseconds, target: target, token: Self.sweepToken)
    }

    private func sweep() {
        isSweeping = false
        let now = reactor.now
        for connection in Array(connections.values) { connection.checkTime(now: now) }
        for index in pausedListeners { accept(index) }
        pausedListeners.removeAll()
        if let stopping, now >= stopping.deadline {
            for connection in Array(connections.values) { connection.end() }
            finishStopping()
        }
        if !connections.isEmpty || stopping != nil { keepSweeping() }
    }

    // MARK: Requests

    /// Hands a request to the handler when it is its caller's turn; false when the caller has too many.
    func dispatch(_ request: ControlRequest, id: ControlRequestID) -> Bool {
        guard dispatcher != nil else { return false }
        let caller = ControlCaller(request)
        let isUrgent = caller.isAdmin && handler.isUrgent(request)
        guard turns.add((request, id), of: caller, isUrgent: isUrgent) else { return false }
        serveNext()
        return true
    }

    private func serveNext() {
        while let dispatcher, let ((request, id), turn) = turns.next() {
            guard let connection = connections[id.connection], connection.takesTurn(id.stream) else {
                // The client has given the request up.
                turns.ended(turn)
                connections[id.connection]?.requestCompleted(id.stream)
                continue
            }
            running[id] = turn
            connection.begun(id.stream, dispatcher.start(request, id: id))
        }
    }

    /// Gives another request its turn, when one is answered or has begun a streaming answer.
    func turnEnded(_ id: ControlRequestID) {
        guard let turn = running.removeValue(forKey: id) else { return }
        turns.ended(turn)
        serveNext()
    }

    /// True when a streaming answer was begun and is to be written.
    func answer(_ id: ControlRequestID, _ response: ControlResponse) -> Bool {
        connections[id.connection]?.answer(id.stream, response) ?? false
    }

    @discardableResult
    func write(_ bytes: [UInt8], _ id: ControlRequestID, end: Bool) -> Bool {
        connections[id.connection]?.write(id.stream, bytes, end: end) ?? false
    }

    func isBacklogged(_ id: ControlRequestID) -> Bool {
        connections[id.connection]?.isBacklogged(id.stream) ?? false
    }

    func whenDrained(_ id: ControlRequestID, _ continuation: CheckedContinuation<Bool, Never>) {
        guard let connection = connections[id.connection] else {
            return continuation.resume(returning: false)
        }
        connection.whenDrained(id.stream, continuation)
    }

    func requestCompleted(_ id: ControlRequestID) {
        turnEnded(id)
        connections[id.connection]?.requestCompleted(id.stream)
    }

    // MARK: Stopping

    var isStopping: Bool { stopping != nil }

    func beginStop(graceSeconds: Int, done: @escaping () -> Void) {
        let grace = UInt64(max(0, graceSeconds)) * 1_000_000_000
        stopping = (reactor.now + grace, done)
        for descriptor in listeners {
            guard let target else { break }
            reactor.cancelAll(fd: descriptor)
            reactor.close(fd: descriptor, target: target, token: Self.closeToken)
        }
        listeners = []
        pausedListeners = []
        for connection in Array(connections.values) { connection.beginShutdown() }
        keepSweeping()
        if connections.isEmpty { finishStopping() }
    }

    private func finishStopping() {
        guard let done = stopping?.done else { return }
        stopping = (.max, {})
        done()
        if let target { reactor.unregister(target) }
        target = nil
        dispatcher = nil
    }
}
