import Capability
import Core
import DriverKit

/// What the whole server knows of pools, volumes, nodes, revocations and sessions, as plain values.
///
/// It decides and has no side effects; `IOServices` keeps it under a lock. It is looked at when something is
/// opened, renewed or changed, never for a request on a handle.
struct Directory {
    /// A published volume.
    struct Volume {
        var descriptor: VolumeDescriptor
        /// The number that the driver knows it by, unique in its pool while the volume exists.
        let index: UInt32
        /// Its shape, once the driver has opened it.
        var geometry: VolumeGeometry?
        /// Sessions that may write; kept in every access mode.
        var writers: [Identifier: Writer] = [:]
        /// Who writes, or did last.
        var writer = VolumeWriter.none
        /// Whether `writer` outlives the server by now.
        var isWriterSaved = true
        /// Set when it is being deleted: nobody may open it any more.
        var isGoing = false
    }

    /// An enrolled node.
    struct Node {
        var name: String
        var epoch: UInt64
    }

    var pools: [String: Pool] = [:]
    var volumes: [Identifier: Volume] = [:]
    var nodes: [Identifier: Node] = [:]
    var revocations = RevocationSet()
    var sessions = SessionRegistry()
    /// Sessions whose claims have changed since somebody last saved them.
    var changedSessions: Set<Identifier> = []
    /// Volumes that have got another writer since somebody last saved that.
    var changedWriters: Set<Identifier> = []
    /// What `IOServices` has yet to tell others.
    var effects = Effects()
    /// The next volume number of each pool, and those that can be used again.
    private var nextIndex: [String: UInt32] = [:]
    private var freeIndices: [String: [UInt32]] = [:]
}

/// What an accepted OPEN or RENEW may do.
struct Admission {
    let capability: EffectiveCapability
    let rights: Rights
    let volume: VolumeDescriptor
    let index: UInt32
    /// nil when the driver has yet to open the volume.
    let geometry: VolumeGeometry?
    let pool: Pool
    let nodeName: String
    /// Whether the handle counts among the volume's writers until `endClaim`.
    let holdsClaim: Bool
    /// What the capability is worth, and until when.
    let authority: WriteAuthority
    /// Whether the claim has to be saved before the client may know of it.
    let needsSaving: Bool
    /// The volume's, with this handle.
    let writerGeneration: UInt64
}

extension Rights {
    /// The rights that change what a volume holds.
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
        guard capability.kind == .volume, let volume = volumes[capability.resource], !volume.isGoing else {
            return StatusError(.notFound, "there is no such resource any more, or not here")
        }
        guard volume.descriptor.epoch >= capability.resourceEpoch else {
            return StatusError(.busy, "the server has yet to hear of the volume's new epoch: try again")
        }
        guard volume.descriptor.epoch == capability.resourceEpoch else {
            let why = volume.descriptor.epochReason.map { ": \($0)" } ?? ""
            return StatusError(
                .staleEpoch, "the capability was issued before the volume's epoch changed\(why)")
        }
        return nil
    }

    /// Decides on an OPEN (wanted rights empty: all there are) and takes the writer's place where that is needed.
    mutating func admit(
        _ capability: EffectiveCapability, wanted: Rights, session: Identifier, takesOver: Bool, now: Moment
    ) -> Result<Admission, StatusError> {
        if let refusal = standing(capability) { return .failure(refusal) }
        guard let volume = volumes[capability.resource] else {
            return .failure(StatusError(.notFound, "there is no such resource here"))
        }
        guard let pool = pools[volume.descriptor.pool] else {
            return .failure(
                StatusError(
                    .driverFailed, "pool \(volume.descriptor.pool), which holds the volume, does not run")
            )
        }
        var rights = wanted.isEmpty ? capability.rights : wanted
        guard capability.rights.isSuperset(of: rights) else {
            let missing = rights.subtracting(capability.rights).names.joined(separator: ", ")
            return .failure(StatusError(.denied, "the capability does not give: \(missing)"))
        }
        if volume.descriptor.accessMode == .multiReader {
            guard wanted.isDisjoint(with: .mutating) else {
                return .failure(
                    StatusError(.readOnly, "the volume is in mode multi-reader: nobody may write"))
            }
            rights.subtract(.mutating)
        }
        guard sessions.bind(session, node: capability.subject) else {
            let count = sessions.shares.sessions(of: capability.subject)
            return .failure(
                StatusError(
                    .busy,
                    "node \(nodes[capability.subject]?.name ?? "") has \(count) sessions, as many as it leaves to others"
                ))
        }
        let holdsClaim = !rights.isDisjoint(with: .mutating)
        let authority = WriteAuthority(capability, now: now)
        if holdsClaim,
            let refusal = claimWriter(
                of: capability.resource, session: session, by: authority, takesOver: takesOver, now: now)
        {
            return .failure(refusal)
        }
        return .success(
            Admission(
                capability: capability, rights: rights, volume: volume.descriptor, index: volume.index,
                geometry: volume.geometry, pool: pool,
                nodeName: nodes[capability.subject]?.name ?? "", holdsClaim: holdsClaim, authority: authority,
                needsSaving: holdsClaim && needsSaving(session, on: capability.resource),
                writerGeneration: volumes[capability.resource]?.writer.generation ?? 0))
    }

    /// The node whose capability a session used first; nil when there is none, or not any more.
    func nodeName(of session: Identifier) -> String? {
        sessions.sessions[session]?.node.flatMap { nodes[$0]?.name }
    }

    /// Adds a volume, or says why not; a volume that is known already stays as it is. One whose pool does not run cannot
    /// be opened, but who may write to it goes on to have it.
    mutating func publish(_ descriptor: VolumeDescriptor) -> StatusError? {
        if let known = volumes[descriptor.id] {
            return known.descriptor.pool == descriptor.pool && !known.isGoing
                ? nil : StatusError(.alreadyExists, "a volume with this id exists already")
        }
        guard volumes.count < Limits.volumesMax else {
            return StatusError(.busy, "the server has its most volumes, \(Limits.volumesMax)")
        }
        let index: UInt32
        if let free = freeIndices[descriptor.pool]?.popLast() {
            index = free
        } else {
            index = nextIndex[descriptor.pool, default: 0]
            nextIndex[descriptor.pool] = index + 1
        }
        volumes[descriptor.id] = Volume(descriptor: descriptor, index: index)
        return nil
    }

    /// Forgets a volume whose driver has closed it.
    mutating func unpublish(_ id: Identifier) {
        guard let volume = volumes.removeValue(forKey: id) else { return }
        for session in volume.writers.keys {
            sessions[session]?.claims.remove(id)
            changedSessions.insert(session)
        }
        changedWriters.insert(id)
        freeIndices[volume.descriptor.pool, default: []].append(volume.index)
    }
}
