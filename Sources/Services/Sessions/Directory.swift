import Capability
import Core
import DriverKit

/// What the whole server knows of pools, resources, nodes, revocations and sessions, as plain values.
///
/// It decides and has no side effects; `IOServices` keeps it under a lock. It is looked at when something is
/// opened, renewed or changed, never for a request on a handle.
struct Directory {
    /// An enrolled node.
    struct Node {
        var name: String
        var epoch: UInt64
    }

    var pools: [String: Pool] = [:]
    var resources: [Identifier: PublishedResource] = [:]
    var nodes: [Identifier: Node] = [:]
    var revocations = RevocationSet()
    var sessions = SessionRegistry()
    /// Sessions whose claims have changed since somebody last saved them.
    var changedSessions: Set<Identifier> = []
    /// Resources that have got another writer since somebody last saved that.
    var changedWriters: Set<Identifier> = []
    /// What `IOServices` has yet to tell others.
    var effects = Effects()
    /// The next resource number of each pool, and those that can be used again.
    private var nextIndex: [String: UInt32] = [:]
    private var freeIndices: [String: [UInt32]] = [:]
}

/// What an accepted OPEN or RENEW may do.
struct Admission {
    let capability: EffectiveCapability
    let rights: Rights
    /// The resource's id.
    let resource: Identifier
    let name: String
    let accessMode: AccessMode
    let index: UInt32
    /// What it is; its driver may have yet to open it.
    let form: ResourceForm
    let pool: Pool
    let nodeName: String
    /// Whether the handle counts among the resource's writers until `endClaim`.
    let holdsClaim: Bool
    /// What the capability is worth, and until when.
    let terms: CapabilityTerms
    /// Whether the claim has to be saved before the client may know of it.
    let needsSaving: Bool
    /// The resource's, with this handle.
    let writerGeneration: UInt64
}

extension Rights {
    /// The rights that change what a resource holds.
    static let mutating: Rights = [.write, .discard]
}

extension Directory {
    /// Whether the holder of a verified capability still has its authority.
    func standing(_ capability: EffectiveCapability) -> StatusError? {
        if let reason = revocations.reason(capability.id) {
            return StatusError(.revoked, "the capability was revoked: \(reason)")
        }
        guard let node = nodes[capability.subject] else {
            return StatusError(.staleEpoch, "the node that the capability was issued to is not enrolled")
        }
        // The control plane issues by the catalog, which this side follows.
        guard node.epoch >= capability.nodeEpoch else {
            return StatusError(.busy, "the server has yet to hear of the node's new epoch: try again")
        }
        guard node.epoch == capability.nodeEpoch else {
            return StatusError(.staleEpoch, "the capability was issued before the node was enrolled anew")
        }
        guard let resource = resources[capability.resource], resource.kind == capability.kind,
            !resource.isGoing
        else { return StatusError(.notFound, "there is no such resource any more, or not here") }
        let kind = resource.kind.name
        guard resource.epoch >= capability.resourceEpoch else {
            return StatusError(.busy, "the server has yet to hear of the \(kind)'s new epoch: try again")
        }
        guard resource.epoch == capability.resourceEpoch else {
            let why = resource.epochReason.map { ": \($0)" } ?? ""
            return StatusError(
                .staleEpoch, "the capability was issued before the \(kind)'s epoch changed\(why)")
        }
        return nil
    }

    /// Decides on an OPEN (wanted rights empty: all there are) and takes the writer's place where that is needed.
    mutating func admit(
        _ capability: EffectiveCapability, wanted: Rights, session: Identifier, takesOver: Bool, now: Moment
    ) -> Result<Admission, StatusError> {
        if let refusal = standing(capability) { return .failure(refusal) }
        guard let resource = resources[capability.resource] else {
            return .failure(StatusError(.notFound, "there is no such resource here"))
        }
        let kind = resource.kind.name
        guard let pool = pools[resource.pool] else {
            return .failure(
                StatusError(.driverFailed, "pool \(resource.pool), which holds the \(kind), does not run"))
        }
        var rights = wanted.isEmpty ? capability.rights : wanted
        guard capability.rights.isSuperset(of: rights) else {
            let missing = rights.subtracting(capability.rights).names.joined(separator: ", ")
            return .failure(StatusError(.denied, "the capability does not give: \(missing)"))
        }
        if resource.accessMode == .multiReader {
            guard wanted.isDisjoint(with: .mutating) else {
                return .failure(
                    StatusError(.readOnly, "the \(kind) is in mode multi-reader: nobody may write"))
            }
            rights.subtract(.mutating)
        }
        guard sessions.bind(session, node: capability.subject) else {
            let count = sessions.shares.sessions(of: capability.subject)
            return .failure(
                StatusError(
                    .busy,
                    "node \(nodes[capability.subject]?.name ?? "") has \(count.counted("session")), as many as it leaves to others"
                ))
        }
        let holdsClaim = !rights.isDisjoint(with: .mutating)
        let terms = CapabilityTerms(capability, now: now)
        if holdsClaim,
            let refusal = claimWriter(
                of: resource.id, session: session, by: terms, takesOver: takesOver, now: now)
        {
            return .failure(refusal)
        }
        return .success(
            Admission(
                capability: capability, rights: rights, resource: resource.id, name: resource.name,
                accessMode: resource.accessMode, index: resource.index, form: resource.form, pool: pool,
                nodeName: nodes[capability.subject]?.name ?? "", holdsClaim: holdsClaim, terms: terms,
                needsSaving: holdsClaim && needsSaving(session, on: resource.id),
                writerGeneration: resources[resource.id]?.writer.generation ?? 0))
    }

    /// The node whose capability a session used first; nil when there is none, or not any more.
    func nodeName(of session: Identifier) -> String? {
        sessions.sessions[session]?.node.flatMap { nodes[$0]?.name }
    }

    /// Adds a resource, which `make` makes of its number, or says why not; one that is known already stays as it
    /// is. One whose pool does not run cannot be opened, but who may write to it goes on to have it.
    mutating func publish(
        _ id: Identifier, of kind: ResourceKind, in pool: String, _ make: (UInt32) -> PublishedResource
    ) -> StatusError? {
        if let known = resources[id] {
            return known.kind == kind && known.pool == pool && !known.isGoing
                ? nil : StatusError(.alreadyExists, "a \(known.kind.name) with this id exists already")
        }
        guard resources.count < Limits.volumesMax else {
            return StatusError(.busy, "the server has its most volumes, \(Limits.volumesMax)")
        }
        resources[id] = make(takeIndex(in: pool))
        return nil
    }

    /// A number for a further resource of a pool.
    private mutating func takeIndex(in pool: String) -> UInt32 {
        if let free = freeIndices[pool]?.popLast() { return free }
        let index = nextIndex[pool, default: 0]
        nextIndex[pool] = index + 1
        return index
    }

    /// Forgets a resource whose driver has closed it.
    mutating func unpublish(_ id: Identifier) {
        guard let resource = resources.removeValue(forKey: id) else { return }
        for session in resource.writers.keys {
            sessions[session]?.claims.remove(id)
            changedSessions.insert(session)
        }
        changedWriters.insert(id)
        freeIndices[resource.pool, default: []].append(resource.index)
    }
}
