import Core
import Reactor
import Synchronization
import TLS
import Wire

/// A server in small that keeps its sessions when connections are lost, as `API/data-channel.md` §4 says, and
/// counts what it executes.
final class ResumingPeer: Sendable {
    /// What became of the last request of a slot.
    private enum Outcome: Sendable {
        case none
        /// Its header arrived, its payload did not.
        case dropped
        case answered(Opcode, Status, value: UInt64)
        case repeatable
    }

    private struct Slot: Sendable {
        var sequence: UInt32 = 0
        var outcome = Outcome.none
        var takesAny = false
    }

    private struct State: Sendable {
        var bytes: [UInt8]
        /// Slots by channel of the session that there is.
        var channels: [[Slot]] = []
        var session = Identifier(high: 1, low: 1)
        var isRestarted = false
        /// How often each change was executed, by its first byte's offset.
        var executions: [UInt64: Int] = [:]
        var flushes = 0
        var opens = 0
        var takeOvers = 0
        var resumes = 0
        var epoch: UInt64 = 1
        var accessMode = AccessMode.singleWriter
        var openStatus = Status.ok
        /// The capability has ended: until RENEW, whose answer is this, nothing is executed.
        var renewStatus: Status?
        var renewals = 0
        var pings = 0
        var violations = 0
    }

    private let state: Mutex<State>
    let slots: UInt16

    init(size: Int = 1 << 20, slots: UInt16 = 9) {
        self.slots = slots
        state = Mutex(State(bytes: [UInt8](repeating: 0, count: size)))
    }

    // MARK: What tests look at and change

    var bytes: [UInt8] { state.withLock { $0.bytes } }
    var executions: [UInt64: Int] { state.withLock { $0.executions } }
    var flushes: Int { state.withLock { $0.flushes } }
    var resumes: Int { state.withLock { $0.resumes } }
    var opens: Int { state.withLock { $0.opens } }
    var takeOvers: Int { state.withLock { $0.takeOvers } }
    var pings: Int { state.withLock { $0.pings } }
    /// Sequences that a client must not send.
    var violations: Int { state.withLock { $0.violations } }

    /// Forgets the session: the next resume is NOT_FOUND.
    func forgetSession() {
        state.withLock {
            $0.channels = []
            $0.session = Identifier(high: 1, low: $0.session.low + 1)
        }
    }

    /// Forgets the slots, as a restart does.
    func restart() {
        state.withLock { state in
            for channel in state.channels.indices {
                for slot in state.channels[channel].indices {
                    state.channels[channel][slot] = Slot(takesAny: true)
                }
            }
            state.isRestarted = true
        }
    }

    func set(epoch: UInt64) { state.withLock { $0.epoch = epoch } }
    func set(accessMode: AccessMode) { state.withLock { $0.accessMode = accessMode } }
    func set(openStatus: Status) { state.withLock { $0.openStatus = openStatus } }

    /// Has the capability end; RENEW is answered with `renewStatus`.
    func expire(renewStatus: Status = .ok) { state.withLock { $0.renewStatus = renewStatus } }
    var renewals: Int { state.withLock { $0.renewals } }

    // MARK: Serving

    /// Serves a connection until it ends. `before` sees each request after its payload has arrived and before
    /// it is executed, `after` when it was executed and is not answered yet.
    func serve(
        _ connection: PeerConnection, before: (RequestHeader) throws -> Void = { _ in },
        after: (RequestHeader) throws -> Void = { _ in }
    ) throws {
        let channel = try greet(connection)
        while true {
            let header = try connection.nextHeader()
            let isRepeat = try admit(header, channel)
            let payload = try connection.payload(of: header)
            try before(header)
            let (status, body, value, opcode) = execute(header, payload, channel, isRepeat)
            try after(header)
            var answer = ReplyHeader(to: header, status: status, length: UInt32(body.count), value: value)
            answer.opcode = opcode.rawValue
            try connection.send(answer.bytes + body)
        }
    }

    private func greet(_ connection: PeerConnection) throws -> Int {
        let (header, body) = try connection.nextRequest()
        let hello = try Hello(bytes: body)
        guard hello.features.contains(.resume) else { throw PeerEnded() }
        let reply: HelloReply? = state.withLock { state in
            guard !hello.isJoining || hello.session == state.session else { return nil }
            var reply = HelloReply(
                slots: min(slots, hello.slots), payloadBytesMax: 1 << 20, features: .resume,
                session: state.session, secret: hello.isJoining ? nil : Array(1...32),
                cluster: Identifier(high: 3, low: 4), serverName: "peer")
            if let channel = hello.resumes {
                guard Int(channel) < state.channels.count else { return nil }
                reply.channel = channel
                reply.resumption = state.isRestarted ? .session : .slots
                state.resumes += 1
            } else {
                reply.channel = UInt16(state.channels.count)
                state.channels.append(Array(repeating: Slot(), count: Int(reply.slots)))
            }
            return reply
        }
        guard let reply else {
            try connection.reply(header, .notFound, payload: Array("no such session".utf8))
            throw PeerEnded()
        }
        try connection.reply(header, payload: reply.bytes)
        return Int(reply.channel)
    }

    /// Whether the request is a repeat of one that was executed.
    private func admit(_ header: RequestHeader, _ channel: Int) throws -> Bool {
        try state.withLock { state in
            var slot = state.channels[channel][Int(header.slot)]
            defer { state.channels[channel][Int(header.slot)] = slot }
            let isNext = header.sequence == RequestHeader.successor(of: slot.sequence)
            let isSame = header.sequence == slot.sequence
            switch slot.outcome {
            case _ where slot.takesAny:
                slot = Slot(sequence: header.sequence, outcome: .dropped)
                return false
            case .dropped where isSame: return false
            case .answered where isSame: return true
            case .repeatable where isSame, .repeatable where isNext, .answered where isNext,
                .none where isNext:
                slot = Slot(sequence: header.sequence, outcome: .dropped)
                return false
            case .none, .dropped, .answered, .repeatable:
                state.violations += 1
                throw PeerEnded()
            }
        }
    }

    private func execute(
        _ header: RequestHeader, _ payload: [UInt8], _ channel: Int, _ isRepeat: Bool
    ) -> (Status, [UInt8], UInt64, Opcode) {
        state.withLock { state in
            let opcode = header.knownOpcode ?? .ping
            if isRepeat,
                case .answered(let opcode, let status, let value) =
                    state.channels[channel][Int(header.slot)].outcome
            {
                return (status, [], value, opcode)
            }
            var result: (Status, [UInt8], UInt64, Opcode) = (.ok, [], UInt64(header.count), opcode)
            let range = Int(header.offset)..<Int(header.offset) + Int(header.count)
            if let status = state.renewStatus, opcode == .renew || opcode.rawValue >= Opcode.read.rawValue {
                if opcode == .renew, status == .ok { state.renewStatus = nil }
                if opcode != .renew || status != .ok {
                    let refused = opcode == .renew ? status : .expired
                    state.channels[channel][Int(header.slot)].outcome =
                        .answered(opcode, refused, value: 0)
                    return (refused, [], 0, opcode)
                }
            }
            switch opcode {
            case .open:
                state.opens += 1
                if let request = try? OpenRequest(bytes: payload), request.takesOver { state.takeOvers += 1 }
                result = (state.openStatus, [], 7, .open)
                if state.openStatus == .ok { result.1 = resource(state).bytes }
            case .stat: result.1 = resource(state).bytes
            case .renew:
                state.renewals += 1
                result.1 = resource(state).bytes
            case .read: result.1 = Array(state.bytes[range])
            case .write:
                state.bytes.replaceSubrange(range, with: payload)
                state.executions[header.offset, default: 0] += 1
            case .writeZeroes, .discard:
                state.bytes.replaceSubrange(range, with: repeatElement(0, count: range.count))
                state.executions[header.offset, default: 0] += 1
            case .flush: state.flushes += 1
            case .ping: state.pings += 1
            default: break
            }
            let isCached = opcode.rawValue >= Opcode.read.rawValue && !opcode.rule.isIdempotent
            state.channels[channel][Int(header.slot)].outcome =
                isCached ? .answered(opcode, result.0, value: result.2) : .repeatable
            return result
        }
    }

    private func resource(_ state: State) -> ResourceState {
        var resource = PeerConnection.volume(size: UInt64(state.bytes.count))
        resource.epoch = state.epoch
        resource.accessMode = state.accessMode
        return resource
    }
}

extension PeerConnection {
    /// The header alone; `payload(of:)` takes what follows it.
    func nextHeader() throws -> RequestHeader {
        guard let header = RequestHeader(bytes: try take(Limits.headerBytes)) else { throw PeerEnded() }
        return header
    }

    func payload(of header: RequestHeader) throws -> [UInt8] { try take(Int(header.length)) }
}
