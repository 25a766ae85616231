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
    private let volumes = Mutex([Identifier: UInt64]())
    private let outcome = OneShot<Outcome>()

    init(instance: Int, command: HostCommand) {
        self.instance = instance
        self.command = command
    }

    func hostLost() { outcome.give(.hostLost) }

    /// Takes a packet of the answer; false when it does not fit the question.
    func take(_ message: HostMessage) -> Bool {
        switch (command, message) {
        case (_, .failed): outcome.give(.answered(message))
        case (.volumes, .done(.volumes(let some, let isLast))),
            (.usage, .done(.volumes(let some, let isLast))):
            let count = volumes.withLock { volumes in
                volumes.merge(some) { $1 }
                return volumes.count
            }
            if count > Limits.volumesPerPoolMax { return false }
            if isLast { outcome.give(.answered(.done(.volumes(volumes.withLock { $0 }, isLast: true)))) }
        case (.capacity, .done(.capacity)), (.open, .done(.geometry)), (.prepare, .done(.left)):
            outcome.give(.answered(message))
        case (.create, .done(.nothing)), (.resize, .done(.nothing)), (.delete, .done(.nothing)),
            (.close, .done(.nothing)), (.configure, .done(.nothing)):
            outcome.give(.answered(message))
        default: return false
        }
        return true
    }

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
        _ command: HostCommand, to host: HostInstance, descriptors: [Int32] = []
    ) throws(ControlSocket.Failure) {
        let call = nextCall()
        host.openings[call] = command
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
            if let command = host.openings.removeValue(forKey: call) {
                opened(command, by: host, message)
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
        let pending = shared.withLock { shared -> PendingCall? in
            guard let pending = shared.calls[call], pending.instance == host.number else { return nil }
            if case .done(.volumes(_, isLast: false)) = message { return pending }
            shared.calls[call] = nil
            shared.note(pending.command, message)
            return pending
        }
        guard let pending else { return false }
        if case .open(_, let index) = pending.command { forgetFlushFailure(index) }
        return pending.take(message)
    }

    // MARK: Calls, on the pool's thread

    /// Makes a call, again where its host is lost meanwhile: every call may be repeated.
    func call(_ command: HostCommand) throws(StatusError) -> HostAnswer {
        for _ in 0..<Limits.controlCallAttemptsMax {
            let (serving, id) = try awaitHost(command)
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
    private func awaitHost(_ command: HostCommand) throws(StatusError) -> (Serving, UInt64) {
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
                shared.allowKeeping(for: command)
                let pending = PendingCall(instance: instance, command: command)
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
    fileprivate mutating func note(_ command: HostCommand, _ message: HostMessage) {
        switch (command, message) {
        case (.open(let id, let index), .done(.geometry)):
            open[index] = id
            flushFailures[index] = nil
        case (.configure(let settings), .done(.nothing)): self.settings = settings
        case (.delete(let id), .done(.nothing)):
            if explained.removeValue(forKey: id) != nil { sumExplained() }
        default: break
        }
    }

    fileprivate mutating func allowKeeping(for command: HostCommand) {
        switch command {
        case .create(let id, let size), .resize(let id, let size):
            explained[id, default: HostKeeper.ExplainedVolume()].size.raise(
                to: min(size, Limits.volumeBytesMax))
            explained[id]?.calls += 1
        case .open: break
        default: return
        }
        allowance.count = min(allowance.count + Limits.storedDescriptorsPerCall, Limits.storedDescriptorsMax)
        sumExplained()
    }

    private mutating func sumExplained() {
        allowance.memoryBytes = explained.values.reduce(0) { $0.addingSaturated($1.memoryBytes) }
    }
}
