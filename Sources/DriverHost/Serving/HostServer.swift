import Core
import DriverKit
import Glibc
import Reactor

/// The main thread of a driver host: takes the server's commands one after another and answers them.
final class HostServer {
    private let control: ControlSocket
    private let lifeline: FileDescriptor
    /// The server, which this process must not outlive.
    private let parent: Int32
    private let drivers: [any InstalledDriver.Type]
    private let store: HostDescriptorStore
    private var driver: (any InstalledDriver)?
    private var reactors: [HostReactor] = []

    init(
        control: ControlSocket, lifeline: consuming FileDescriptor, parent: Int32,
        drivers: [any InstalledDriver.Type]
    ) {
        self.parent = parent
        self.control = control
        self.lifeline = lifeline
        self.drivers = drivers
        store = HostDescriptorStore(control: control)
    }

    /// Serves until the server closes the socket, and returns the exit code.
    func run() -> Int32 {
        do throws(ControlSocket.Failure) {
            try control.send(HostMessage.hello(version: HostMessage.version).encoded(call: 0))
        } catch { return 0 }
        while true {
            do throws(ControlSocket.Failure) {
                guard var packet = try control.receive(waits: true) else { continue }
                guard let (call, command) = HostCommand.decode(packet.bytes),
                    packet.descriptors.count == command.descriptorCount
                else { return fail("the server sent a packet that is not understood") }
                try perform(command, call, &packet.descriptors)
            } catch {
                return error == .closed ? 0 : fail("the control socket: \(error)")
            }
        }
    }

    private func fail(_ message: String) -> Int32 {
        let text = "sluice-driver: \(message)\n"
        _ = unsafe write(2, text, text.utf8.count)
        return 70
    }

    private func perform(
        _ command: HostCommand, _ call: UInt64, _ descriptors: inout ControlSocket.Descriptors
    ) throws(ControlSocket.Failure) {
        if case .stored(let name) = command { return store.received(descriptors.take(), name) }
        let message: HostMessage
        do throws(StatusError) {
            message = .done(try answer(command, call, &descriptors))
        } catch {
            message = .failed(status: error.status.rawValue, message: error.message)
        }
        try control.send(message.encoded(call: call))
    }

    private func answer(
        _ command: HostCommand, _ call: UInt64, _ descriptors: inout ControlSocket.Descriptors
    ) throws(StatusError) -> HostAnswer {
        switch command {
        case .stored: return .nothing
        case .start(let start): return try self.start(start)
        case .addQueue(let index, let bytes, let capacity):
            try addQueue(Int(index), bytes, Int(capacity), &descriptors)
        case .capacity:
            let capacity = try opened.capacity()
            return .capacity(total: capacity.total, used: capacity.used, free: capacity.free)
        case .configure(let settings): try opened.configure(settings: settings)
        case .perform(let words):
            let outcome = try opened.perform(words)
            try take(outcome.change)
            return try inParts(outcome.answer, call)
        }
        return .nothing
    }

    /// What is open, by index.
    private var open: [UInt32: Identifier] = [:]

    /// Tells the queues what a call has changed.
    private func take(_ change: CallOutcome.Change) throws(StatusError) {
        switch change {
        case .nothing: break
        case .opened(let index, let id):
            open[index] = id
            try changed([index])
        case .closed(let index):
            open[index] = nil
            try changed([index])
        case .changed(let id): try changed(open.filter { $0.value == id }.map(\.key))
        }
    }

    private var opened: any InstalledDriver {
        get throws(StatusError) {
            guard let driver else { throw StatusError(.badRequest, "the host has not been started") }
            return driver
        }
    }

    /// Opens the driver with the rights of the server, then gives them up for good.
    private func start(_ start: HostStart) throws(StatusError) -> HostAnswer {
        guard driver == nil else { throw StatusError(.badRequest, "the host was started already") }
        guard let type = drivers.first(where: { $0.name == start.driver }) else {
            let names = drivers.map { $0.name }.sorted().joined(separator: ", ")
            throw StatusError(.notFound, "there is no driver '\(start.driver)': there are \(names)")
        }
        let driver = try type.init(
            DriverEnvironment(
                settings: start.settings, folder: start.folder, store: store, isolation: .isolated))
        let needs = try type.needs(settings: start.settings)
        let path = needs.folder ?? start.folder
        let folder = FileDescriptor(
            owning: unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW))
        if folder.raw < 0 {
            throw StatusError(.driverFailed, "\(path): \(ReactorError.text(errno: errno))")
        }
        let policy = SandboxPolicy(
            folder: folder.raw, user: start.user, parent: parent, needs: needs)
        do {
            let count = max(1, min(Int(start.queues), Limits.hostQueuesMax))
            // Who holds the pool's locks next must find its device at rest, too.
            let held = [lifeline.raw] + store.locks
            var prepared: [PreparedReactor] = []
            for number in 0..<count {
                prepared.append(try PreparedReactor(number: number, held: held))
            }
            let gaps = try Sandbox.enter(policy)
            for one in prepared { reactors.append(try HostReactor(one)) }
            self.driver = driver
            return .started(gaps: gaps, notes: driver.notes)
        } catch { throw StatusError(.driverFailed, "the driver host cannot start: \(error)") }
    }

    private func addQueue(
        _ index: Int, _ arenaBytes: UInt64, _ capacity: Int, _ descriptors: inout ControlSocket.Descriptors
    ) throws(StatusError) {
        let driver = try opened
        guard index < reactors.count, capacity.nonzeroBitCount == 1, capacity <= Limits.driverRingEntriesMax
        else { throw StatusError(.badRequest, "the host has no queue \(index) of \(capacity) entries") }
        let arena = try Arena(mapping: descriptors.take(), bytes: Int(clamping: arenaBytes))
        let lane: Lane
        do throws(ReactorError) {
            lane = try Lane(mapping: descriptors.take(), capacity: capacity)
        } catch { throw StatusError(.driverFailed, "a lane cannot be mapped: \(error)") }
        let bell = Doorbell(descriptors.take())
        let serverBell = Doorbell(descriptors.take())
        try reactors[index].serve(
            driver: driver, arena: arena, lane: lane, bell: bell, serverBell: serverBell)
        try reactors[index].indicesChanged(Array(open.keys))
    }

    /// Tells every reactor, and returns when all of them know.
    private func changed(_ indices: [UInt32]) throws(StatusError) {
        // One that has ended keeps no other from hearing of it.
        var failure: StatusError?
        for reactor in reactors {
            do throws(StatusError) { try reactor.indicesChanged(indices) } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
    }

    /// Sends all of an answer but its last part, and returns that.
    private func inParts(_ answer: [UInt8], _ call: UInt64) throws(StatusError) -> HostAnswer {
        var rest = answer[...]
        while rest.count > Limits.controlPartBytesMax {
            let part = Array(rest.prefix(Limits.controlPartBytesMax))
            rest = rest.dropFirst(Limits.controlPartBytesMax)
            do throws(ControlSocket.Failure) {
                try control.send(HostMessage.done(.part(part, isLast: false)).encoded(call: call))
            } catch { throw StatusError(.driverFailed, "the control socket: \(error)") }
        }
        return .part(Array(rest), isLast: true)
    }
}
