/// What a connection has under way to its peer. A value without I/O.
struct SendState {
    /// Since when the kernel has had what is being sent, in nanoseconds of the reactor; nil when it has nothing.
    private(set) var since: UInt64?
    /// Whether it waits for its turn to send.
    private var isScheduled = false
    /// Whether what is sent has to be taken soon, because its buffer is needed.
    private(set) var isHurried = false

    /// When it is looked at next whether the peer takes anything, of a connection that ends with the server.
    private var nextLook = UInt64.max

    var isSending: Bool { since != nil }

    /// There is something to send; whether that has to wait for a turn.
    mutating func wants() -> Bool {
        if isScheduled { return false }
        isScheduled = true
        return true
    }

    /// Its turn has come.
    mutating func takeTurn() { isScheduled = false }

    /// The kernel has a piece.
    mutating func began(now: UInt64) { since = now }

    /// The kernel is done with it.
    mutating func ended() { since = nil }

    /// The buffer of what is sent is needed, or not any more.
    mutating func hurry(_ isHurried: Bool) { self.isHurried = isHurried }

    /// When the peer is late to take it; `.max` when nothing is sent.
    func deadline(patience: UInt64, hurried: UInt64) -> UInt64 {
        guard let since else { return .max }
        return min(since + (isHurried ? hurried : patience), nextLook)
    }

    /// The connection ends with the server: has it looked at whether the peer takes anything, from `time` on.
    mutating func look(at time: UInt64) { nextLook = time }

    /// Whether it is time to look.
    func isLookDue(now: UInt64) -> Bool { isSending && nextLook <= now }
}
