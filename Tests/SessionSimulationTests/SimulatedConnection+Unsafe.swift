import Core
import Services
import Simulation
import Wire

@testable import DataPlane
@testable import Reactor

/// A connection without TLS: two streams of bytes, and the server's end of it.
///
/// Bytes arrive in order and once, as TCP has it, but arbitrarily late: those of a connection that the client gave up
/// long ago may still come.
final class SimulatedConnection: ChannelOwner, BatchTarget {
    private enum Phase {
        case greeting
        /// HELLO waits for the end of the channel's old connection.
        case resuming
        case open
        /// What waits is sent, then the connection ends.
        case closing
        /// Everything was sent; waiting for the peer to notice.
        case lingering
        case closed
    }

    private enum Part {
        case header
        case payload(slot: UInt16, left: Int)
        case body
        case skip(left: Int)
        case waiting
        /// HELLO is not answered yet.
        case held
        case ended
    }

    /// Replies that are produced while this many bytes are under way wait in the services.
    private static let windowBytes = 600
    /// How long a client that does not read has, when the server closes.
    private static let lingerNanoseconds: UInt64 = 2_000_000_000

    let number: Int
    /// Whose it is.
    let client: Int
    let server: SimulatedServer
    /// Nothing arrives at either end before.
    var frozenUntil: UInt64 = 0
    private let shard: ServiceShard
    private let reactor: Reactor
    private var channel: ServiceChannel?
    private var phase = Phase.greeting
    private var part = Part.header
    private var request = ResourceRequest(opcode: 0, operation: nil)
    private var limits = FrameLimits.greeting
    private var frames = MessageFrames()
    private var isFlushScheduled = false
    private var closingSince: UInt64 = 0

    var toServer = BytePipe()
    var toClient = BytePipe()
    /// The client's end is closed: it sends and hears no more.
    private(set) var isClientClosed = false
    /// The client said so: the server will know that it was not an accident.
    private(set) var isClosedInOrder = false
    /// Nothing more comes from the server, once what is under way has arrived.
    private(set) var isServerClosed = false

    init(number: Int, client: Int, server: SimulatedServer, reactor index: Int, thumbprint: Digest32) {
        self.number = number
        self.client = client
        self.server = server
        shard = server.shards[index]
        reactor = server.reactors[index]
        channel = shard.attach(owner: self, thumbprint: thumbprint, peerAddress: "c\(number)")
        if channel == nil { teardown() }
    }

    var isGone: Bool { phase == .closed && isClientClosed }
    /// Nothing will ever arrive at either end, and nobody says so.
    var isSilent: Bool { frozenUntil == .max }
    var isFrozen: Bool { frozenUntil > server.world.now }

    /// When the server's timer ends it, whatever the network does; nil while there is none.
    var deadline: UInt64? {
        switch phase {
        case .closing, .lingering: closingSince + SimulatedConnection.lingerNanoseconds
        case .greeting, .resuming, .open, .closed: nil
        }
    }

    // MARK: The client's end

    func send(_ frame: [UInt8]) {
        if !isClientClosed { toServer.append(frame) }
    }

    /// The client gives the connection up. Without order, only some of what is under way arrives, unless nothing is lost.
    func closeClient(inOrder: Bool, losesSome: Bool = true) {
        guard !isClientClosed else { return }
        isClientClosed = true
        isClosedInOrder = inOrder
        if !inOrder, losesSome { toServer.cut(to: server.world.random.below(toServer.count + 1)) }
        toClient.cut(to: 0)
    }

    /// The server's end breaks; some of what is under way to the client arrives.
    func breakServer() {
        guard phase != .closed else { return }
        toServer.cut(to: 0)
        toClient.cut(to: server.world.random.below(toClient.count + 1))
        teardown()
    }

    // MARK: The server's end

    /// Takes in what has arrived, or some of it; false when there is nothing to do.
    func receive() -> Bool {
        if let deadline, server.world.now > deadline {
            teardown()
            return true
        }
        guard !isFrozen else { return false }
        switch phase {
        case .greeting, .open:
            var moved = false
            for _ in 0..<1 + server.world.random.below(6) where receivePart() { moved = true }
            if !moved, isClientClosed, !isWaiting { return end() }
            return moved
        // Nothing is read, but the end of a broken connection is heard all the same.
        case .resuming: return isClientClosed && end()
        case .closing: return false
        case .lingering:
            // The client has heard the end.
            teardown()
            return true
        case .closed:
            guard toServer.count > 0 else { return false }
            toServer.cut(to: 0)
            return true
        }
    }

    private var isWaiting: Bool { if case .waiting = part { true } else { false } }

    private func receivePart() -> Bool {
        switch part {
        case .header:
            guard toServer.count >= Limits.headerBytes,
                let header = RequestHeader(bytes: toServer.take(Limits.headerBytes))
            else { return false }
            request = ResourceRequest(header, limits)
            accept()
        case .payload(let slot, let left):
            guard let channel, toServer.count > 0 else { return false }
            let count = min(
                left, toServer.count,
                server.world.random.once(in: 4) ? 1 + server.world.random.below(64) : .max)
            let buffer = unsafe shard.payloadBuffer(channel, slot: slot)
            let start = buffer.count - left
            for (at, byte) in toServer.take(count).enumerated() { unsafe buffer[start + at] = byte }
            part = left > count ? .payload(slot: slot, left: left - count) : .header
            if left == count { shard.payloadArrived(channel, slot: slot) }
        case .body:
            guard let channel, toServer.count >= Int(request.payloadBytes) else { return false }
            let body = toServer.take(Int(request.payloadBytes))
            part = .header
            bodyArrived(channel, body)
        case .skip(let left):
            guard toServer.count > 0 else { return false }
            let count = min(left, toServer.count)
            _ = toServer.take(count)
            part = left > count ? .skip(left: left - count) : .header
        case .waiting, .held, .ended: return false
        }
        return true
    }

    private func accept() {
        guard let channel else { return }
        if phase == .greeting {
            guard request.verdict == .ok else { return server.world.fail("no valid HELLO") }
            part = .body
            return
        }
        let length = Int(request.payloadBytes)
        switch shard.accept(channel, request) {
        case .done: part = .header
        case .skip: part = length > 0 ? .skip(left: length) : .header
        case .body: part = .body
        case .payload(let slot): part = .payload(slot: slot, left: length)
        case .wait:
            part = .waiting
            scheduleFlush()
        case .end: server.world.fail("the client broke the protocol")
        }
    }

    private func bodyArrived(_ channel: ServiceChannel, _ bytes: [UInt8]) {
        let body = RequestBody(bytes, of: request.operation)
        if phase == .open {
            if [Opcode.open, .renew].contains(request.operation) { server.world.asks(client) }
            return shard.control(channel, request, body)
        }
        switch shard.hello(channel, request, body) {
        case .accepted: established(channel)
        case .refused: close()
        case .undecided:
            phase = .resuming
            part = .held
        }
    }

    private func established(_ channel: ServiceChannel) {
        phase = .open
        limits = .established(payloadBytesMax: channel.payloadBytesMax)
    }

    func channelHasOutput() { scheduleFlush() }

    func channelMayContinue() {
        if isWaiting { accept() }
    }

    func channelMustClose(_ reason: String) { close() }

    func channelMustSkip(slot: UInt16) {
        switch part {
        case .payload(slot, let left): part = .skip(left: left)
        case .body where request.slot == slot: part = .skip(left: Int(request.payloadBytes))
        default: break
        }
    }

    /// Nothing: replies are sent whole, and what is late is lost when the seed has it be.
    func channelIsInTheWay() {}

    /// Nothing: replies are sent whole.
    func channelMustHurry() {}

    /// Nothing: the simulated kernel reports a lost peer when the seed has it do so.
    func channelIsDoubted() {}

    func channelWasSuperseded() {
        server.world.note("connection is superseded", number)
        teardown()
    }

    func channelIsDisconnected(_ reason: String) {
        server.world.note("connection is ended by an administrator", number)
        teardown()
    }

    func channelWasGreeted(isAccepted: Bool) {
        guard phase == .resuming else { return }
        guard isAccepted, let channel else { return close() }
        established(channel)
        part = .header
    }

    private func scheduleFlush() {
        guard !isFlushScheduled else { return }
        isFlushScheduled = true
        reactor.atBatchEnd(self)
    }

    /// Sends what this wake-up produced, as far as the client reads.
    func batchEnded() {
        isFlushScheduled = false
        guard let channel, phase != .closed, phase != .lingering else { return }
        while toClient.count < SimulatedConnection.windowBytes {
            if let message = shard.takeMessage(channel) {
                if case .answer(let answer, _) = message, answer.opcode == Opcode.open.rawValue,
                    answer.status == .ok
                {
                    server.world.takes(client)
                }
                toClient.append(frames.frame(message))
                continue
            }
            guard let reply = unsafe shard.takeReply(channel) else {
                if phase == .closing {
                    phase = .lingering
                    isServerClosed = true
                }
                break
            }
            toClient.append(unsafe ReplyHeader(reply.answer, length: reply.payload.count).bytes)
            toClient.append(unsafe Array(reply.payload))
            unsafe shard.release(channel, slot: reply.answer.slot)
        }
        if isClientClosed { toClient.cut(to: 0) }
    }

    /// The client has read: there may be room for more.
    func windowOpened() {
        if channel?.hasOutput == true || phase == .closing { scheduleFlush() }
    }

    private func close() {
        guard phase == .greeting || phase == .resuming || phase == .open else { return }
        phase = .closing
        closingSince = server.world.now
        part = .ended
        scheduleFlush()
    }

    /// The server notices that the client's end is closed.
    private func end() -> Bool {
        server.world.note("server hears the end of connection", number)
        if server.world.bug == .halfAWriteIsExecuted, case .payload(let slot, _) = part, let channel {
            shard.payloadArrived(channel, slot: slot)
            reactor.step(now: server.world.now)
        }
        teardown()
        return true
    }

    private func teardown() {
        phase = .closed
        part = .ended
        isServerClosed = true
        if let channel {
            if server.world.bug != nil { server.tamper(before: channel, of: shard) }
            shard.detach(channel, isClosedByClient: isClosedInOrder)
        }
        channel = nil
    }
}
