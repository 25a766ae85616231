import Capability
import Core

/// By what authority a session may write to a volume: what is left of a handle when its connection is lost.
struct WriteAuthority: Sendable, Hashable {
    let capability: Identifier
    let subject: Identifier
    let nodeEpoch: UInt64
    let resourceEpoch: UInt64
    /// Unix seconds, as its capability says.
    let expiry: UInt64
    /// The same in nanoseconds of the monotonic clock, measured when the capability was taken.
    let deadline: UInt64

    init(
        capability: Identifier, subject: Identifier, nodeEpoch: UInt64, resourceEpoch: UInt64, expiry: UInt64,
        deadline: UInt64
    ) {
        self.capability = capability
        self.subject = subject
        self.nodeEpoch = nodeEpoch
        self.resourceEpoch = resourceEpoch
        self.expiry = expiry
        self.deadline = deadline
    }

    init(_ capability: EffectiveCapability, now: Moment) {
        self.init(
            capability: capability.id, subject: capability.subject, nodeEpoch: capability.nodeEpoch,
            resourceEpoch: capability.resourceEpoch, expiry: capability.expiry,
            deadline: now.deadline(expiry: capability.expiry))
    }

    init(_ claim: SavedSession.Claim, now: Moment) {
        self.init(
            capability: claim.capability, subject: claim.subject, nodeEpoch: claim.nodeEpoch,
            resourceEpoch: claim.resourceEpoch, expiry: claim.expiry,
            deadline: now.deadline(expiry: claim.expiry))
    }

    init(_ handle: Handle) {
        self.init(
            capability: handle.capability, subject: handle.subject, nodeEpoch: handle.nodeEpoch,
            resourceEpoch: handle.resourceEpoch, expiry: handle.expiry, deadline: handle.deadline)
    }
}

/// How a handle stops to count among a volume's writers.
enum ClaimEnd {
    /// Its client closed it, or its authority ended.
    case closed
    /// OPEN did not come to a handle: as if it had not been asked.
    case undone
    /// Its capability has ended, and it may be renewed: the claim stays as a courtesy, until somebody else asks.
    case lapsed(WriteAuthority)
    /// Its connection was lost, and its session goes on: the claim stays.
    case lost(WriteAuthority)
}
