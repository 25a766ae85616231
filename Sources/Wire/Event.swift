import Core

/// What a server tells a channel unasked; the raw values are part of the protocol.
public enum EventKind: UInt16, Sendable, CaseIterable, Hashable {
    /// The resource's size changed.
    case resized = 1
    /// The handle is dead.
    case revoked = 2
    /// The handle's capability ends soon.
    case expiring = 3
    /// The server goes away soon.
    case draining = 4
    /// The server restarts the driver, or the driver works again.
    case driverRecovering = 5

    /// The name in documents and logs, such as `DRIVER_RECOVERING`.
    public var name: String {
        switch self {
        case .resized: "RESIZED"
        case .revoked: "REVOKED"
        case .expiring: "EXPIRING"
        case .draining: "DRAINING"
        case .driverRecovering: "DRIVER_RECOVERING"
        }
    }
}

/// An event with its fields in their own types.
public enum ChannelEvent: Sendable, Hashable {
    /// The resource behind the handle has this many bytes now.
    case resized(handle: UInt32, size: UInt64)
    /// The handle is dead: every request on it fails with `status`, for the reason given.
    case revoked(handle: UInt32, status: Status, reason: String)
    /// The handle's capability expires at `expiry`, in Unix seconds: send RENEW.
    case expiring(handle: UInt32, expiry: UInt64)
    /// The server goes away within so many seconds; `target` is where to go, as ADDRESS:PORT, or empty.
    case draining(seconds: UInt64, target: String)
    /// The driver behind the handle is being restarted, or (not `isRecovering`) works again; requests wait
    /// meanwhile.
    case driverRecovering(handle: UInt32, isRecovering: Bool)
    /// Too many processes of the driver were lost, for the reason given: requests wait until an administrator starts it
    /// again.
    case driverQuarantined(handle: UInt32, reason: String)

    /// The event's kind.
    public var kind: EventKind {
        switch self {
        case .resized: .resized
        case .revoked: .revoked
        case .expiring: .expiring
        case .draining: .draining
        case .driverRecovering, .driverQuarantined: .driverRecovering
        }
    }

    /// The handle that it is about; nil for what is about the whole channel.
    public var handle: UInt32? {
        switch self {
        case .resized(let handle, _), .revoked(let handle, _, _), .expiring(let handle, _),
            .driverRecovering(let handle, _), .driverQuarantined(let handle, _):
            handle
        case .draining: nil
        }
    }

    /// The frame, header and payload, of the event that has this number on its channel.
    public func frame(number: UInt32) -> [UInt8] {
        var payload: [UInt8] = []
        var header = ReplyHeader(
            flags: ReplyHeader.eventFlag, slot: ReplyHeader.eventSlot, opcode: kind.rawValue, sequence: number
        )
        switch self {
        case .resized(let handle, let size):
            header.value = size
            header.detail = UInt64(handle)
        case .revoked(let handle, let status, let reason):
            header.status = status.rawValue
            header.detail = UInt64(handle)
            payload = ErrorMessage.encode(reason)
        case .expiring(let handle, let expiry):
            header.value = expiry
            header.detail = UInt64(handle)
        case .draining(let seconds, let target):
            header.value = seconds
            payload = ErrorMessage.encode(target)
        case .driverRecovering(let handle, let isRecovering):
            header.value = isRecovering ? 1 : 0
            header.detail = UInt64(handle)
        case .driverQuarantined(let handle, let reason):
            header.status = Status.quarantined.rawValue
            header.value = 1
            header.detail = UInt64(handle)
            payload = ErrorMessage.encode(reason)
        }
        header.length = UInt32(payload.count)
        return header.bytes + payload
    }

    /// The event in a frame that passed `ReplyHeader.fault(payloadBytesMax:)`.
    ///
    /// - Returns: nil for a kind that this version does not know, which a client ignores.
    /// - Throws: `badFrame` for a known kind with an impossible field.
    public static func decode(_ header: ReplyHeader, payload: [UInt8]) throws(StatusError) -> ChannelEvent? {
        guard let kind = EventKind(rawValue: header.opcode) else { return nil }
        guard let handle = UInt32(exactly: header.detail), let status = header.knownStatus else {
            throw StatusError(.badFrame, "an event holds an impossible handle or status")
        }
        switch kind {
        case .resized:
            guard header.value <= Limits.volumeBytesMax else {
                throw StatusError(.badFrame, "an event holds an impossible size")
            }
            return .resized(handle: handle, size: header.value)
        case .revoked:
            guard status != .ok else { throw StatusError(.badFrame, "a revocation has no reason") }
            return .revoked(handle: handle, status: status, reason: ErrorMessage.decode(payload))
        case .expiring: return .expiring(handle: handle, expiry: header.value)
        case .draining:
            guard header.value <= Limits.drainSecondsMax else {
                throw StatusError(.badFrame, "an event holds an impossible time")
            }
            return .draining(seconds: header.value, target: ErrorMessage.decode(payload))
        case .driverRecovering:
            guard header.value <= 1 else { throw StatusError(.badFrame, "an event holds an impossible flag") }
            if status == .quarantined, header.value == 1 {
                return .driverQuarantined(handle: handle, reason: ErrorMessage.decode(payload))
            }
            return .driverRecovering(handle: handle, isRecovering: header.value == 1)
        }
    }
}
