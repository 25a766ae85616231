import Capability
import Core

/// What a capability gives to a handle, whatever the kind of its resource: every request is held against it, RENEW puts
/// another in its place, and fences take it away.
struct HandleAuthority {
    /// `ok` while requests may run; otherwise what every further request is answered with.
    var denial = Status.badHandle
    /// Whether the client has been told that the end is near.
    var expiryAnnounced = false
    var rights: Rights = []
    var terms = CapabilityTerms.none
    /// The capability's byte range; the whole resource where it names none.
    var rangeStart: UInt64 = 0
    var rangeEnd: UInt64 = .max
    /// When the client is told that the end is near, in nanoseconds of the clock of `terms.deadline`.
    var noticeDue: UInt64 = 0
    /// Ceilings that the limiter enforces.
    var limits = IOLimits.none

    /// Whether a request may run that needs these rights, at `now` of the clock of `terms.deadline`.
    @inline(__always)
    func check(needed: Rights, now: UInt64) -> Status {
        guard denial == .ok else { return denial }
        guard now < terms.deadline else { return .expired }
        return rights.isSuperset(of: needed) ? .ok : .denied
    }

    /// Whether the capability names these bytes.
    @inline(__always)
    func covers(_ start: UInt64, _ end: UInt64) -> Bool { start >= rangeStart && end <= rangeEnd }

    /// The bytes that it names.
    var range: ByteRange {
        guard let range = ByteRange(offset: rangeStart, length: rangeEnd - rangeStart) else {
            preconditionFailure("start and end come from one range")
        }
        return range
    }

    /// Whether it lets something be changed.
    var mayChange: Bool { !rights.isDisjoint(with: .mutating) }

    /// Takes over what a capability says of time, place and rate; `now` in nanoseconds of the clock for lives. Of a
    /// short life the notice is a quarter, so that a client that renews when it hears of the end does not renew all
    /// the time.
    mutating func take(_ effective: EffectiveCapability, _ terms: CapabilityTerms, now: UInt64) {
        self.terms = terms
        let life = terms.deadline - min(now, terms.deadline)
        noticeDue = terms.deadline - min(Limits.expiryNoticeSeconds * 1_000_000_000, life / 4)
        rangeStart = effective.range?.offset ?? 0
        rangeEnd = effective.range?.end ?? .max
        expiryAnnounced = false
        limits = effective.limits
    }
}
