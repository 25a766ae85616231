import Core
import DriverKit
import Wire

// All that the services ask of a kind of resource, and the only file of theirs that names them all. Whoever adds a kind
// adds a case, and answers what the compiler asks for then, in a folder of the kind's own, as `Volumes` is for volumes.

/// What a published resource has that others of its kind have, and other kinds have not.
enum ResourceForm: Sendable {
    case volume(PublishedVolume)

    var kind: ResourceKind {
        switch self {
        case .volume: .volume
        }
    }

    /// Whether its driver has opened it.
    var isOpen: Bool {
        switch self {
        case .volume(let volume): volume.geometry != nil
        }
    }
}

/// What a handle's resource is, as far as requests are judged by it.
enum OpenResource {
    /// The entry of no handle.
    case nothing
    case volume(OpenVolume)

    /// What a handle knows of a resource, on a channel that takes so many bytes of payload; nil when its driver has
    /// yet to open it.
    init?(_ form: ResourceForm, payloadBytesMax: UInt32) {
        switch form {
        case .volume(let volume):
            guard let open = OpenVolume(volume, payloadBytesMax: payloadBytesMax) else { return nil }
            self = .volume(open)
        }
    }

    /// nil for the entry of no handle.
    var kind: ResourceKind? {
        switch self {
        case .nothing: nil
        case .volume: .volume
        }
    }

    /// What logs call it.
    var noun: String { kind?.name ?? "resource" }

    /// Whether a request may run whose rights the handle has.
    @inline(__always)
    func check(_ demand: RequestDemand, _ authority: HandleAuthority) -> Status {
        switch self {
        case .nothing: .badHandle
        case .volume(let volume):
            if case .volume = demand.kind { volume.check(demand, authority) } else { .badHandle }
        }
    }
}

/// What is known of a request beside its slot.
enum RequestOperation {
    case nothing
    /// COPY_RANGE.
    case copy(CopyOperation)
    /// COMPARE_AND_WRITE.
    case compare(CompareOperation)
    /// BLOCK_STATUS with the marker that it names.
    case changes(since: Identifier)
}

// MARK: What a reactor asks

extension ServiceShard {
    /// Takes in the structure of a request on a resource.
    func structureArrived(_ channel: ServiceChannel, _ slot: UInt16, _ structure: [UInt8]) {
        switch channel.handles[channel.slots[slot].handle].opened {
        case .nothing: answer(channel, slot, .badHandle)
        case .volume: structureArrivedForVolume(channel, slot, structure)
        }
    }

    /// Gives the driver a request that may run.
    @inline(__always)
    func start(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ port: Borrowed<DriverPort>
    ) {
        switch channel.handles[position].opened {
        case .nothing: answer(channel, slot, .badHandle)
        case .volume: startOnVolume(channel, slot, position, port)
        }
    }

    /// Goes on when the driver has done a step of a request. Apart from `complete`, which most requests go through
    /// once.
    @inline(never)
    func stepEnded(_ channel: ServiceChannel, _ slot: UInt16, _ completion: DriverCompletion) {
        let status = Status(rawValue: completion.status) ?? .driverFailed
        switch channel[operation: slot] {
        case .nothing, .changes: ended(channel, slot, completion)
        case .compare(let compare): compareStepEnded(channel, slot, compare, status)
        case .copy(let copy): copyStepEnded(channel, slot, copy, status, completion)
        }
    }

    /// Answers a request of which the driver has nothing any more.
    @inline(__always)
    func finish(
        _ channel: ServiceChannel, _ slot: UInt16, _ position: UInt8, _ completion: DriverCompletion
    ) {
        switch channel.handles[position].opened {
        case .nothing: answer(channel, slot, .badHandle)
        case .volume: finishOnVolume(channel, slot, position, completion)
        }
    }
}

extension Handle {
    /// The handle as OPEN, STAT and RENEW describe it.
    var state: ResourceState {
        switch opened {
        case .nothing: preconditionFailure("a handle that is open has a resource")
        case .volume(let volume): volume.state(of: self)
        }
    }
}

// MARK: What a pool's thread does

extension IOServices {
    /// Has the driver open a resource unless it is open, and returns what it is then. On the thread of its pool.
    func open(_ id: Identifier, in pool: Pool) throws(StatusError) -> ResourceForm {
        let known = state.withLock { $0.directory.resources[id] }
        guard let known, !known.isGoing else { throw StatusError(.notFound, "there is no such resource") }
        if known.form.isOpen { return known.form }
        let form: ResourceForm
        switch known.form {
        case .volume(var volume):
            volume.geometry = try openVolume(known, volume, in: pool)
            form = .volume(volume)
        }
        state.withLock { $0.directory.resources[id]?.form = form }
        return form
    }

    /// Has the driver close a resource if it is open. On the thread of its pool.
    func close(_ id: Identifier, in pool: Pool) {
        let known = state.withLock { $0.directory.resources[id] }
        guard let known, known.form.isOpen else { return }
        let form: ResourceForm
        switch known.form {
        case .volume(var volume):
            try? pool.volumes().closeVolume(known.index)
            volume.geometry = nil
            form = .volume(volume)
        }
        state.withLock { $0.directory.resources[id]?.form = form }
    }
}

extension Pool {
    /// What each of its resources takes of its space, in bytes; not every driver knows. On the pool's thread.
    func usage() throws(StatusError) -> [Identifier: UInt64] {
        switch driver.kind {
        case .volume: try volumes().usage()
        case .fileset, .endpoint: [:]
        }
    }
}

// MARK: What is told of it

extension ServerEvent.Kind {
    /// Those of the kinds of resource.
    static let ofResources = ofVolumes
}

extension ResourceKind {
    /// That the device of a resource has failed requests; nil for a kind that nobody publishes.
    var errorsEvent: ServerEvent.Kind? {
        switch self {
        case .volume: .volumeErrors
        case .fileset, .endpoint: nil
        }
    }

    /// The request that a driver of this kind knows as that; nil where there is none.
    func operation(_ opcode: DriverOpcode) -> Opcode? {
        switch self {
        case .volume: opcode.onVolume
        case .fileset, .endpoint: nil
        }
    }
}
