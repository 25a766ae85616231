/// What the channels of one session know together: which acknowledged changes a FLUSH has made durable, and
/// which changes were given up without an answer.
///
/// One thread, that of the channels.
final class SessionLedger {
    /// Changes that were acknowledged without FUA, ever.
    private(set) var acknowledged: UInt64 = 0
    /// How many of them a FLUSH has covered.
    private var durable: UInt64 = 0
    /// Changes that were given up and may still be executed: no other change may be sent before they are
    /// settled, since the older could land on top of the newer.
    private(set) var unsettled = 0

    /// Whether a loss of the session may lose what was acknowledged.
    var hasUnflushed: Bool { durable < acknowledged }

    /// Notes that a change was acknowledged.
    @inline(__always)
    func changed() { acknowledged += 1 }

    /// Notes that a FLUSH was acknowledged which was submitted after that many changes.
    func flushed(_ covered: UInt64) { durable = max(durable, covered) }

    /// Gives up what was not flushed, since the session is lost; true when there was any.
    func lose() -> Bool {
        defer { durable = acknowledged }
        return hasUnflushed
    }

    /// Notes that a change was given up.
    func unsettle() { unsettled += 1 }

    /// Notes that a given-up change can change nothing any more.
    func settle() { unsettled -= 1 }
}
