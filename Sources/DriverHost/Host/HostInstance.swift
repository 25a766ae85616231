import CSandbox
import Core
import DriverKit
import Glibc
import Reactor

/// One driver host as the server knows it: its process, its control socket, and its lifeline. Confined to
/// the keeper's thread, apart from `control`.
final class HostInstance {
    /// How far it is.
    enum Phase {
        /// The program has been started and has not spoken.
        case spawned
        /// It waits for the driver's name.
        case ready
        /// It opens the driver and goes into its sandbox.
        case starting
        /// It waits until nothing of its predecessor is left.
        case started
        /// It opens volumes and queues.
        case opening
        /// Queues are attached.
        case serving
        /// It is being ended.
        case ending
    }

    /// What a host was asked in the opening phase.
    struct Asked {
        let command: HostCommand
        /// What the command opens, where that is a resource.
        let resource: OpenedByCall?
    }

    /// What a new host opens.
    enum Opening {
        case resource(OpenedByCall)
        case queue(IsolatedQueue)
    }

    /// Counts up from the pool's first host.
    let number: Int
    let control: ControlSocket
    let process: ChildProcess
    /// Ends when the process is gone and the kernel has let go of everything that it had in flight.
    let lifeline: FileDescriptor
    let processDescriptor: FileDescriptor
    var phase = Phase.spawned
    /// Whether it was ever given requests.
    var wasServing = false
    /// How it ended.
    var exit: ChildProcess.Exit?
    var isLifelineOver = false
    var isControlOver = false
    /// Calls of the opening phase that are not answered yet, by call number.
    var openings: [UInt64: Asked] = [:]
    /// What it is still to open, the next one last: it is asked for a few at a time.
    var toOpen: [Opening] = []
    /// How much it may say that it was not asked for.
    private var allowance = Limits.unaskedPacketsBurst
    private var allowanceSince = SystemClock.monotonic()
    /// What its sandbox could not do.
    var sandboxGaps: [String] = []
    /// Lanes by queue, made for this host.
    var lanes: [Int: HostLane] = [:]

    /// Starts the program.
    init(number: Int, executable: String) throws(ReactorError) {
        self.number = number
        let sockets = try ControlSocket.pair()
        var ends: [Int32] = [-1, -1]
        let result = unsafe sluice_pipe(&ends)
        if result < 0 { throw .system(call: "pipe2", errno: -result) }
        let readEnd = FileDescriptor(owning: ends[0])
        let writeEnd = FileDescriptor(owning: ends[1])
        process = try ChildProcess(
            executable: executable, arguments: [],
            environment: ["SWIFT_BACKTRACE=enable=no", "PATH=/usr/bin:/bin", "LANG=C"],
            descriptors: [
                (sockets.host.raw, DriverHostProcess.controlDescriptor),
                (writeEnd.raw, DriverHostProcess.lifelineDescriptor),
            ])
        processDescriptor = try process.duplicateDescriptor()
        control = sockets.server
        lifeline = readEnd
    }

    /// Whether nothing of it can touch a device or our memory any more.
    var isGone: Bool { exit != nil && isLifelineOver }

    /// How it ended, in words.
    var exitMessage: String {
        switch exit {
        case .exited(let code): "exited with \(code)"
        case .signalled(let signal): "killed by signal \(signal)"
        case nil: "still there"
        }
    }

    /// Counts a packet that answers nothing, of which one is allowed each `interval`; false when there are too many.
    func maySpeak(now: UInt64, interval: UInt64) -> Bool {
        let earned = (now &- allowanceSince) / interval
        if earned > 0 {
            allowance = min(Limits.unaskedPacketsBurst, allowance + Int(clamping: earned))
            allowanceSince &+= earned &* interval
        }
        allowance -= 1
        return allowance >= 0
    }

    /// Drops what a host that has ended had sent and nobody will take. It may hold descriptors, the other end
    /// of the lifeline among them, and then the lifeline would never end.
    func discardPackets() {
        while true {
            do throws(ControlSocket.Failure) {
                guard try control.receive(waits: false) != nil else { return }
            } catch {
                if error != .malformed { return }
            }
        }
    }

    /// Takes the exit once the process has ended.
    func reap() {
        if exit == nil { exit = process.exitIfEnded }
    }
}

/// What connects one queue with one host. Handed to the queue's reactor.
final class HostLane: @unchecked Sendable {
    // SAFETY: the lane's words are atomic; its rings are used by the queue's reactor only, after it was
    // posted there.
    let lane: Lane
    /// Rung by us, for the host.
    let bell: Doorbell
    /// Rung by the host, for us.
    let serverBell: Doorbell

    init(capacity: Int) throws(ReactorError) {
        lane = try Lane(capacity: capacity)
        bell = try Doorbell()
        serverBell = try Doorbell()
    }
}
