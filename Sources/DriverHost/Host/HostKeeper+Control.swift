import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// A call that waits for the host's answer.
final class PendingCall: Sendable {
    enum Outcome: Sendable {
        case answered(HostMessage)
        /// The host was lost: the call is made again.
        case hostLost
        case timedOut
    }

    let instance: Int
    let command: HostCommand
    /// What is known of the command where it is in the words of the driver's kind.
    let kindCall: KindCall?
    private let answer = Mutex([UInt8]())
    private let outcome = OneShot<Outcome>()

    init(instance: Int, command: HostCommand, kindCall: KindCall?) {
        self.instance = instance
        self.command = command
        self.kindCall = kindCall
    }

    func hostLost() { outcome.give(.hostLost) }

    /// What a packet of the answer is.
    enum Judgement {
        /// More have to come.
        case unfinished
        /// With it this is the whole answer, which fits the question.
        case whole(HostMessage)
        /// It does not fit the question.
        case violation
    }

    /// Judges a packet of the answer. On the keeper's thread.
    func judge(_ message: HostMessage) -> Judgement {
        switch (command, message) {
        case (_, .failed), (.capacity, .done(.capacity)), (.configure, .done(.nothing)):
            return .whole(message)
        case (.perform, .done(.part(let part, let isLast))):
            let (soFar, isTooLong) = answer.withLock { answer in
                answer += part
                return (isLast ? answer : [], answer.count > Limits.controlAnswerBytesMax)
            }
            if isTooLong { return .violation }
            guard isLast else { return .unfinished }
            return kindCall?.fits(soFar) == true ? .whole(.done(.part(soFar, isLast: true))) : .violation
        default: return .violation
        }
    }

    /// Gives the answer to who waits for it.
    func give(_ answer: HostMessage) { outcome.give(.answered(answer)) }

    func wait(milliseconds: Int64) -> Outcome {
        outcome.take(milliseconds: milliseconds) ?? .timedOut
    }
}

/// The control sockets of the hosts.
extension HostKeeper {
    func send(
        _ command: HostCommand, to host: HostInstance, descriptors: [Int32] = []
    ) throws(ControlSocket.Failure) {
        try host.control.send(command.encoded(call: 0), descriptors: descriptors)
    }

    /// Sends what the opening of a pool consists of; the answer comes to `opened`.
    func sendOpening(
        _ command: HostCommand, of resource: OpenedByCall? = nil, to host: HostInstance,
        descriptors: [Int32] = []
    ) throws(ControlSocket.Failure) {
        let call = nextCall()
        host.openings[call] = HostInstance.Asked(command: command, resource: resource)
        try host.control.send(command.encoded(call: call), descriptors: descriptors)
    }

    private func nextCall() -> UInt64 {
        shared.withLock { shared in
            shared.callsMade += 1
            return shared.callsMade
        }
    }

    /// Takes what a host sent, a bounded number of packets.
    func receive(from host: HostInstance) {
        for _ in 0..<Limits.controlPacketsPerTurnMax where !host.isControlOver {
            do throws(ControlSocket.Failure) {
                guard var packet = try host.control.receive(waits: false) else { return }
                guard let (call, message) = HostMessage.decode(packet.bytes),
                    packet.descriptors.count == message.descriptorCount,
                    take(message, call, from: host, &packet.descriptors)
                else { return accuse(host, "a packet that does not belong on the control socket") }
            } catch {
                host.isControlOver = true
                if error != .closed { accuse(host, "the control socket: \(error)") }
            }
        }
    }

    private func accuse(_ host: HostInstance, _ message: String) {
        host.isControlOver = true
        lose(host, .violation, message)
    }

    /// Takes a message; false when a host must not say it, or not now.
    private func take(
        _ message: HostMessage, _ call: UInt64, from host: HostInstance,
        _ descriptors: inout ControlSocket.Descriptors
    ) -> Bool {
        switch message {
        case .hello(let version):
            guard host.phase == .spawned, version == HostMessage.version else { return false }
            host.phase = .ready
        case .keep(let name):
            guard host === current || host.phase == .starting else { return false }
            let allowance = shared.withLock { $0.allowance }
            return maySpeak(host) && store.keep(descriptors.take(), as: name, allowance: allowance)
        case .forget(let name):
            guard host === current || host.phase == .starting else { return false }
            guard maySpeak(host) else { return false }
            store.forget(name)
        case .done, .failed:
            if host.phase == .ending { return true }
            if let opening = host.openings.removeValue(forKey: call) {
                opened(opening, by: host, message)
                return true
            }
            return answer(call, from: host, message)
        }
        return true
    }

    private func maySpeak(_ host: HostInstance) -> Bool {
        host.maySpeak(now: now, interval: options.policy.unaskedPacketInterval)
    }

    private func answer(_ call: UInt64, from host: HostInstance, _ message: HostMessage) -> Bool {
        guard let pending = shared.withLock({ $0.calls[call] }), pending.instance == host.number else {
            return false
        }
        switch pending.judge(message) {
        case .unfinished: return true
        // It stays among the calls: the loss of its host has it made again at once.
        case .violation: return false
        case .whole(let answer):
            shared.withLock { shared in
                shared.calls[call] = nil
                shared.note(pending, answer)
            }
            if case .opens(let index, _) = pending.kindCall?.effect { forgetFlushFailure(index) }
            pending.give(answer)
            return true
        }
    }

    // MARK: Calls, on the pool's thread

    /// Makes a call in the words of the driver's kind, and returns the answer, which fits.
    func call(_ call: KindCall) throws(StatusError) -> [UInt8] {
        guard case .part(let answer, _) = try self.call(.perform(call.bytes), call) else {
            throw StatusError(.driverFailed, "the driver host does not answer what it was asked")
        }
        return answer
    }

    /// Makes a call, again where its host is lost meanwhile: every call may be repeated.
    func call(_ command: HostCommand, _ kindCall: KindCall? = nil) throws(StatusError) -> HostAnswer {
        for _ in 0..<Limits.controlCallAttemptsMax {
            let (serving, id) = try awaitHost(command, kindCall)
            do throws(ControlSocket.Failure) {
                try serving.control.send(command.encoded(call: id))
            } catch {
                lost(instance: serving.instance, cause: .hang, message: "the control socket: \(error)")
            }
            switch serving.pending.wait(milliseconds: Limits.controlCallMillisecondsMax) {
            case .answered(.done(let answer)): return answer
            case .answered(.failed(let status, let message)):
                throw StatusError(Status(ofCall: status), message.onOneLine)
            case .answered, .hostLost: continue
            case .timedOut:
                lost(instance: serving.instance, cause: .hang, message: "a control call was not answered")
            }
        }
        throw StatusError(.driverFailed, "the driver host was lost each time that it was asked")
    }

    private struct Serving {
        let instance: Int
        let control: ControlSocket
        let pending: PendingCall
    }

    /// Waits until a host serves, and notes the call.
    private func awaitHost(
        _ command: HostCommand, _ kindCall: KindCall?
    ) throws(StatusError) -> (Serving, UInt64) {
        let deadline = SystemClock.monotonic() + UInt64(Limits.recoveryWaitMillisecondsMax) * 1_000_000
        while true {
            let turn = OneShot<Void>()
            let found: Result<(Serving, UInt64), StatusError>? = shared.withLock { shared in
                if shared.isOver { return .failure(StatusError(.driverFailed, "the pool was stopped")) }
                if shared.report.state == .quarantined {
                    return .failure(
                        StatusError(
                            .quarantined,
                            "the pool's driver was lost too often; see the driver's last end, then restart the pool"
                        ))
                }
                guard let (instance, control) = shared.serving else {
                    shared.waiting.append(turn)
                    return nil
                }
                shared.callsMade += 1
                if let kindCall { shared.allowKeeping(for: kindCall) }
                let pending = PendingCall(instance: instance, command: command, kindCall: kindCall)
                shared.calls[shared.callsMade] = pending
                return .success(
                    (Serving(instance: instance, control: control, pending: pending), shared.callsMade))
            }
            if let found { return try found.get() }
            let now = SystemClock.monotonic()
            guard now < deadline, turn.take(milliseconds: Int64((deadline - now) / 1_000_000) + 1) != nil
            else {
                shared.withLock { $0.waiting.removeAll { $0 === turn } }
                throw StatusError(.driverRecovering, "the pool's driver is being replaced; try again")
            }
        }
    }
}

extension UInt64 {
    fileprivate mutating func raise(to other: UInt64) { self = Swift.max(self, other) }
}

extension HostKeeper.Shared {
    /// Takes over what a host has done, before anything else is heard of it: the next one must find it so.
    fileprivate mutating func note(_ pending: PendingCall, _ message: HostMessage) {
        switch (pending.command, message) {
        case (.perform, .done(.part)):
            guard let call = pending.kindCall else { return }
            switch call.effect {
            case .opens(let index, let subject):
                open[index] = OpenedByCall(call: call, subject: subject)
                flushFailures[index] = nil
            case .removes(let id): if explained.removeValue(forKey: id) != nil { sumExplained() }
            case .nothing, .makes: break
            }
        case (.configure(let settings), .done(.nothing)): self.settings = settings
        default: break
        }
    }

    fileprivate mutating func allowKeeping(for call: KindCall) {
        switch call.effect {
        case .makes(let id, let bytes):
            explained[id, default: HostKeeper.Explained()].size.raise(to: bytes)
            explained[id]?.calls += 1
        case .opens: break
        case .nothing, .removes: return
        }
        allowance.count = min(allowance.count + Limits.storedDescriptorsPerCall, Limits.storedDescriptorsMax)
        sumExplained()
    }

    private mutating func sumExplained() {
        allowance.memoryBytes = explained.values.reduce(0) { $0.addingSaturated($1.memoryBytes) }
    }
}
