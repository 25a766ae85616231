/// How many bytes of answers wait for each caller to read them, over all its connections.
///
/// A value, for the reactor's thread; one for a server.
struct UnreadAnswers {
    private let perCaller: Int
    private let all: Int
    private var total = 0
    private var bytes: [ControlCaller: Int] = [:]

    init(_ limits: ControlServerLimits) {
        perCaller = limits.unreadBytesPerCaller
        all = limits.unreadBytes
    }

    /// A connection of the caller has so many more of them, or fewer.
    mutating func change(_ caller: ControlCaller, by count: Int) {
        guard count != 0, !caller.isAdmin else { return }
        total += count
        let theirs = bytes[caller, default: 0] + count
        bytes[caller] = theirs > 0 ? theirs : nil
    }

    /// Whether the caller has more than one may, or than it leaves to others. No administrator has.
    func isTooMuch(of caller: ControlCaller) -> Bool {
        guard let theirs = bytes[caller] else { return false }
        return theirs > perCaller || theirs > all - total
    }
}
