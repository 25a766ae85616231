import Core
import Reactor

/// One channel of a session, through all its connections.
final class SessionMember<Link: ChannelLink> {
    enum Phase {
        /// No connection, and none is to be made now: another member's is needed first.
        case idle
        /// No connection; a timer says when to try.
        case waiting
        case connecting
        /// HELLO is answered, OPEN is not.
        case opening
        /// The connection waits for a capability to open with.
        case needsCapability
        /// The connection waits for another session to let go of the resource; a timer says when to try.
        case conflicted
        case open
    }

    let index: Int
    let core: ChannelCore
    var phase = Phase.idle
    var channel: DataChannel<Link>?
    var handle: UInt32 = 0
    var backoff = Backoff()
    var timer: TimerID?
    /// When the channel was opened last, in the reactor's time.
    var openedAt: UInt64 = 0

    /// What was known of the server's places when the last connection was begun.
    var placesRound = 0
    /// The capability of the last OPEN.
    var openedWith: [UInt8] = []

    init(index: Int, ledger: SessionLedger, holdsExpired: Bool) {
        self.index = index
        core = ChannelCore(ledger: ledger)
        core.holdsExpired = holdsExpired
    }
}
