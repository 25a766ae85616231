import Core
import DriverKit

extension HostSupervisor {
    /// What happened.
    enum Input: Sendable, Hashable {
        /// The pool begins; the first input.
        case begin
        /// The host is ready to be attached: its driver is open and its sandbox shut.
        case started(host: Int, processID: Int32, user: UInt32?, gaps: [String])
        /// The host will never serve.
        case startFailed(host: Int, message: String)
        /// The host is no good any more; its process may still exist.
        case lost(host: Int, cause: DriverHostReport.End.Cause, message: String)
        /// The host's process and its io_uring rings exist no more: it touches no buffer and no device. A host that
        /// was not lost before is lost with this.
        case gone(host: Int)
        /// All queues use the host, and it was given what was unfinished.
        case activated(host: Int, pause: UInt64, replayed: UInt64)
        /// The timer that was armed is due; to say so too early does no harm.
        case timerFired
        /// An administrator wants another host.
        case restartRequested
        /// An administrator wants a host of the program that is installed now.
        case upgradeRequested
        /// Nothing is in flight on any queue and none starts anything.
        case quiesced
        /// Requests are to fail in quarantine, or to wait.
        case quarantineFails(Bool)
        /// The pool ends.
        case stopRequested
    }

    /// What is to be done, in this order.
    enum Action: Sendable, Equatable {
        /// Start a host.
        case spawn(host: Int)
        /// SIGKILL, however far the host is.
        case kill(host: Int)
        /// The queues leave the host: nothing that it says from now on counts.
        case detachQueues
        /// The queues give the host what is unfinished, then what waits; also ends `failRequests` and
        /// `quiesceQueues`. Answer with `activated`.
        case attachQueues(host: Int)
        /// The queues give the host nothing more. Answer with `quiesced` when nothing is in flight.
        case quiesceQueues
        /// The queues go on with the host that they have.
        case resumeQueues
        /// Whoever calls the driver is refused, until `attachQueues`; requests wait, also those that failed until now.
        case refuseCalls
        /// The queues fail what they have and whatever comes, until `attachQueues`.
        case failRequests(Status)
        /// Arm a timer, nanoseconds from now, in place of the one before.
        case armTimer(UInt64)
        /// Nothing is due.
        case cancelTimer
        /// An administrator wants to hear of it.
        case report(DriverHostEvent)
        /// The answer to `restartRequested`; nil is success.
        case answerRestart(StatusError?)
        /// The answer to `upgradeRequested`: the pause in nanoseconds.
        case answerUpgrade(Result<UInt64, StatusError>)
    }
}
