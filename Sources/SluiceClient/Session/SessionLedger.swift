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

    /// A change was acknowledged.
    @inline(__always)
    func changed() { acknowledged += 1 }

    /// A FLUSH was acknowledged that was submitted after that many changes.
    func flushed(_ covered: UInt64) { durable = max(durable, covered) }

    /// The session is lost, and what was not flushed with it; true when there was any.
    func lose() -> Bool {
        defer { durable = acknowledged }
        return hasUnflushed
    }

    /// A change was given up.
    func unsettle() { unsettled += 1 }

    /// The outcome of a given-up change cannot change anything any more.
    func settle() { unsettled -= 1 }
}
