import Catalog
import Core

/// What somebody wants a capability for.
struct CapabilityWish {
    let node: String
    let kind: ResourceKind
    /// The name of what it is for.
    let resource: String
    let rights: Rights?
    let range: ByteRange?
    let limits: IOLimits?
    let lifetimeSeconds: UInt64?
    let lifetimeSecondsWanted: UInt64?
    let delegationDepth: UInt8?
    let grant: String?

    init(_ context: RequestContext) throws(Problem) {
        let fields = try context.fields(known: [
            "resource", "rights", "range", "limits", "lifetimeSeconds", "lifetimeSecondsWanted",
            "delegationDepth", "grant", "node",
        ])
        (kind, resource) = try fields.requiredResource()
        rights = try fields.rights(on: kind)
        range = try fields.range()
        limits = try fields.limits()
        lifetimeSeconds = try fields.integer("lifetimeSeconds", in: 1...Limits.grantLifetimeSecondsMax)
        lifetimeSecondsWanted = try fields.integer(
            "lifetimeSecondsWanted", in: 1...Limits.grantLifetimeSecondsMax)
        guard lifetimeSeconds == nil || lifetimeSecondsWanted == nil else {
            throw Problem(
                .invalidField, "lifetimeSeconds and lifetimeSecondsWanted exclude each other",
                field: "lifetimeSecondsWanted",
                expected: "one of them: the first is refused where the grant allows less, the second is cut")
        }
        delegationDepth = try fields.integer("delegationDepth", in: 0...Limits.delegationDepthMax).map {
            UInt8($0)
        }
        grant = try fields.resourceName("grant")
        let named = try fields.resourceName("node")
        if let own = context.caller.node {
            guard named == nil || named == own.name else {
                throw Problem(
                    .forbidden, "a node issues capabilities for itself only", field: "node",
                    expected: own.name)
            }
            node = own.name
        } else {
            guard let named else {
                throw Problem(
                    .missingField,
                    "a capability is for a node's key, and \(context.caller.name) is no node", field: "node",
                    expected: "the node that the capability is for")
            }
            node = named
        }
    }

    /// The ceilings that result: those asked for, the grant's where none was asked for.
    func limits(under ceiling: IOLimits) -> IOLimits {
        IOLimits(
            iops: limits?.iops ?? ceiling.iops,
            bytesPerSecond: limits?.bytesPerSecond ?? ceiling.bytesPerSecond)
    }

    func lifetime(under grant: GrantRecord, now: UInt64) -> UInt64 {
        let wanted =
            lifetimeSeconds
            ?? min(lifetimeSecondsWanted ?? Limits.capabilitySecondsDefault, grant.lifetimeSecondsMax)
        guard let end = grant.expiresAt else { return wanted }
        return min(wanted, end - min(now, end - 1))
    }

    /// The first field that asks for more than the grant allows, and what it allows; nil when all is within.
    func excess(over grant: GrantRecord) -> (field: String, allowed: String)? {
        if let rights, !rights.isSubset(of: grant.rights) {
            return ("rights", "at most \(grant.rights.names.joined(separator: ", "))")
        }
        if let range, !grant.covers(range) {
            return ("range", grant.range.map { "within bytes \($0)" } ?? "any")
        }
        if !grant.covers(limits(under: grant.limits)) { return ("limits", "at most the grant's limits") }
        if let lifetimeSeconds, lifetimeSeconds > grant.lifetimeSecondsMax {
            return ("lifetimeSeconds", "at most \(grant.lifetimeSecondsMax)")
        }
        if let delegationDepth, delegationDepth > grant.delegationDepth {
            return ("delegationDepth", "at most \(grant.delegationDepth)")
        }
        return nil
    }
}
