import Capability
import Core

/// The terms of a capability: whose it is, of which epochs, and until when. Handles and claims stand by them.
struct CapabilityTerms: Sendable, Hashable {
    let capability: Identifier
    /// The node that it was issued to.
    let subject: Identifier
    let nodeEpoch: UInt64
    let resourceEpoch: UInt64
    /// Unix seconds, as the capability says, for people and clients.
    let expiry: UInt64
    /// The same in nanoseconds of the monotonic clock, measured when the capability was taken.
    var deadline: UInt64

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

    init(_ claim: SessionClaim, now: Moment) {
        self.init(
            capability: claim.capability, subject: claim.subject, nodeEpoch: claim.nodeEpoch,
            resourceEpoch: claim.resourceEpoch, expiry: claim.expiry,
            deadline: now.deadline(expiry: claim.expiry))
    }

    /// Of no capability: they have ended.
    static let none = CapabilityTerms(
        capability: .zero, subject: .zero, nodeEpoch: 0, resourceEpoch: 0, expiry: 0, deadline: 0)
}

/// How a handle stops to count among a resource's writers.
enum ClaimEnd {
    /// Its client closed it, or its authority ended.
    case closed
    /// OPEN did not come to a handle: the claim is as if nobody had asked for it.
    case undone
    /// Its capability has ended, and it may be renewed: the claim stays as a courtesy, until somebody else asks.
    case lapsed(CapabilityTerms)
    /// Its connection was lost, and its session goes on: the claim stays.
    case lost(CapabilityTerms)
}
