import Core
import DriverKit
import Reactor
import Synchronization
import Wire

/// What a data reactor is at, as it says with `ReactorPulse.Marker`: the kind of an activity.
///
/// The words are those of an `ActiveRequest`; of `driving` only the pool's number.
enum ShardActivity: UInt64, Sendable {
    /// A request that was offered.
    case takingUp = 1
    /// A driver's queue.
    case driving = 2
    /// A request that a driver has done.
    case answering = 3
    /// An answer on its way into records.
    case sending = 4
}

/// A request in the words of an activity.
struct ActiveRequest {
    let tag: RequestTag
    let opcode: UInt16
    /// The position of its handle in its channel's table.
    let position: UInt8
    let count: UInt32
    let offset: UInt64

    @inline(__always)
    init(_ tag: RequestTag, opcode: UInt16, position: UInt8, count: UInt32, offset: UInt64) {
        self.tag = tag
        self.opcode = opcode
        self.position = position
        self.count = count
        self.offset = offset
    }

    init(_ words: (UInt64, UInt64, UInt64)) {
        self.init(
            RequestTag(echo: words.0), opcode: UInt16(truncatingIfNeeded: words.1 >> 48),
            position: UInt8(truncatingIfNeeded: words.1 >> 32), count: UInt32(truncatingIfNeeded: words.1),
            offset: words.2)
    }

    @inline(__always)
    var words: (UInt64, UInt64, UInt64) {
        (tag.rawValue, UInt64(opcode) << 48 | UInt64(position) << 32 | UInt64(count), offset)
    }
}

/// A request that a reactor was at when it stood.
public struct SightedRequest: Sendable, Hashable {
    /// Which request it is, whoever sends it again on whatever connection.
    public let identity: RequestIdentity
    /// What was done with it, in words.
    public let activity: String
    /// The resource, such as `volume/db`.
    public let resource: String
    /// Where it came from.
    public let peer: String

    /// All of it for a person.
    public var description: String {
        "\(activity) a \(identity.opcodeName) of \(identity.count) bytes at \(identity.offset) of \(resource) "
            + "from \(peer) (key \(identity.holder))"
    }
}

/// What a watchdog may know of a shard whose thread stands: who its channels are, and what its drivers took last.
///
/// The shard's thread changes it when channels come, open resources and go; the watchdog asks without waiting. Any
/// thread.
final class ShardSight: Sendable {
    private struct Opened {
        let kind: ResourceKind
        let resource: Identifier
        let name: String
        let port: UInt8
        let index: UInt32
    }

    private struct Channel {
        let holder: Digest32
        let peer: String
        var handles: [UInt8: Opened] = [:]
    }

    private struct State {
        var channels: [UInt32: Channel] = [:]
        /// The request that a pool's driver, or the way to its host, took last.
        var ports: [UInt8: Confined<SubmissionRing>] = [:]
    }

    private let state = Mutex(State())

    // MARK: The shard's side

    func attached(_ channel: ServiceChannel) {
        state.withLock {
            $0.channels[channel.number] = Channel(holder: channel.thumbprint, peer: channel.peerAddress)
        }
    }

    func opened(
        _ channel: ServiceChannel, _ position: UInt8, _ kind: ResourceKind, _ resource: Identifier,
        name: String, _ port: UInt8, _ index: UInt32
    ) {
        state.withLock {
            $0.channels[channel.number]?.handles[position] = Opened(
                kind: kind, resource: resource, name: name, port: port, index: index)
        }
    }

    func ended(_ channel: ServiceChannel) {
        state.withLock { $0.channels[channel.number] = nil }
    }

    func added(port: UInt8, _ submissions: SubmissionRing) {
        state.withLock { $0.ports[port] = Confined(submissions) }
    }

    func removed(port: UInt8) {
        state.withLock { $0.ports[port] = nil }
    }

    /// The name of the resource that a channel has open; its id where that is not known.
    func name(of resource: Identifier, on channel: UInt32) -> String {
        state.withLock { state in
            state.channels[channel]?.handles.values.first { $0.resource == resource }?.name ?? resource.hex
        }
    }

    // MARK: The watchdog's side

    /// The request that an activity is about; nil when there is none, or when the shard's thread stands where it
    /// changes what is known here.
    func request(of activity: ReactorPulse.Activity) -> SightedRequest? {
        state.withLockIfAvailable { state -> SightedRequest? in
            guard let kind = ShardActivity(rawValue: activity.kind) else { return nil }
            if kind == .driving { return driven(by: UInt8(truncatingIfNeeded: activity.words.0), state) }
            let request = ActiveRequest(activity.words)
            guard let channel = state.channels[UInt32(request.tag.channel)],
                let opened = channel.handles[request.position]
            else { return nil }
            let words =
                switch kind {
                case .takingUp: "taking up"
                case .answering: "answering"
                case .sending, .driving: "sending the answer of"
                }
            return SightedRequest(
                identity: RequestIdentity(
                    holder: channel.holder, volume: opened.resource,
                    opcode: request.opcode, offset: request.offset, count: request.count),
                activity: words, resource: "\(opened.kind.name)/\(opened.name)", peer: channel.peer)
        } ?? nil
    }

    private func driven(by port: UInt8, _ state: borrowing State) -> SightedRequest? {
        guard let request = state.ports[port]?.value.lastTaken, let opcode = request.opcode,
            let channel = state.channels[UInt32(RequestTag(echo: request.tag).channel)],
            let opened = channel.handles.values.first(where: { $0.port == port && $0.index == request.index }
            ), let operation = opened.kind.operation(opcode)
        else { return nil }
        return SightedRequest(
            identity: RequestIdentity(
                holder: channel.holder, volume: opened.resource, opcode: operation.rawValue,
                offset: request.offset, count: UInt32(truncatingIfNeeded: request.length)),
            activity: "having the driver do", resource: "\(opened.kind.name)/\(opened.name)",
            peer: channel.peer)
    }
}

extension IOServices {
    /// The request that a reactor is at, going by what it says of itself; nil where it says nothing of one, and for
    /// reactors that serve no channels. Waits for nobody.
    public func request(of activity: ReactorPulse.Activity, on remote: ReactorRemote) -> SightedRequest? {
        let sight = sights.withLockIfAvailable { $0.first { $0.remote === remote }?.sight } ?? nil
        return sight?.request(of: activity)
    }
}

extension ServiceShard {
    /// Says that the thread is at a request, from here to the next one, or to the end of the turn. Nobody has looked at
    /// its slot yet: one that does not exist must not make another channel of this.
    @inline(__always)
    func note(
        _ activity: ShardActivity, _ channel: ServiceChannel, _ request: ResourceRequest, _ position: UInt8
    ) {
        let tag = RequestTag(channel: channel.number, slot: request.slot & 0xFF, sequence: request.sequence)
        note(
            activity,
            ActiveRequest(
                tag, opcode: request.opcode, position: position, count: request.count, offset: request.offset)
        )
    }

    /// Likewise, of the request in a slot.
    @inline(__always)
    func note(_ activity: ShardActivity, _ channel: ServiceChannel, _ slot: UInt16) {
        note(
            activity,
            ActiveRequest(
                channel.tag(slot), opcode: channel.slots[slot].opcode, position: channel.slots[slot].handle,
                count: channel.slots[slot].count, offset: channel.slots[slot].offset))
    }

    @inline(__always)
    private func note(_ activity: ShardActivity, _ request: ActiveRequest) {
        let words = request.words
        marker.note(kind: activity.rawValue, words.0, words.1, words.2)
    }
}
