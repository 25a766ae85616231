import Core
import FoundationEssentials
import Reactor

/// Times as the control API writes them (RFC 3339, UTC).
enum TimeText {
    /// Seconds since 1970.
    static var now: UInt64 { SystemWallClock().now() }

    /// `2026-11-24T04:13:27Z`
    static func text(_ secondsSince1970: UInt64) -> String {
        // The year 9999 is as late as the format goes.
        let seconds = min(secondsSince1970, 253_402_300_799)
        return Date(timeIntervalSince1970: TimeInterval(seconds)).formatted(.iso8601)
    }
}
