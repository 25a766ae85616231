import Core

/// How a driver host broke the rules.
enum HostViolation: Sendable, Hashable, CustomStringConvertible {
    /// It completed what nobody was ever given.
    case inventedTag(UInt64)
    /// It completed what only an earlier host was given.
    case staleTag(UInt64)
    /// It completed a request twice, or under a tag that fits no request of its own.
    case repeatedTag(UInt64)
    /// It answered with a number that is no status, or none that a driver may give.
    case badStatus(UInt16)
    /// It covered another number of bytes than it was asked to.
    case badValue(UInt64, expected: UInt64)
    /// It answered a block status with extents that cover nothing, more than was asked, or are not whole.
    case badMap(UInt64, bytes: UInt32)

    var description: String {
        switch self {
        case .inventedTag(let tag): "it completed request \(tag), which nobody asked for"
        case .staleTag(let tag): "it completed request \(tag), which was given to an earlier host"
        case .repeatedTag(let tag): "it completed request \(tag), which is finished or was never given"
        case .badStatus(let status): "it answered with status \(status), which no driver gives"
        case .badValue(let value, let expected): "it covered \(value) bytes where \(expected) were asked for"
        case .badMap(let value, let bytes): "it said in \(bytes) bytes what \(value) bytes are like"
        }
    }
}

extension Status {
    /// Whether a driver may answer a request with it. The others are the server's own words, such as REVOKED,
    /// which make a consumer give up its rights or wait.
    var isForDrivers: Bool {
        switch self {
        case .ok, .badRequest, .unknownOpcode, .badLength, .outOfRange, .unaligned, .badHandle, .notFound,
            .tooLarge, .notSupported, .readOnly, .busy, .timedOut, .ioError, .noSpace, .mediumError,
            .driverFailed, .internalError, .miscompare:
            true
        case .badFrame, .badSlot, .badSequence, .versionMismatch, .alreadyExists, .protocolViolation,
            .denied, .badCapability, .expired, .notYetValid, .revoked, .wrongHolder, .wrongAudience,
            .staleEpoch, .fenced, .writerConflict, .tooManyChannels, .tooManyHandles, .draining,
            .driverRecovering, .quarantined, .outcomeUnknown, .noSpaceYet:
            false
        }
    }
}

extension Status {
    /// What a host says of a control call that failed; what a driver would not say counts as its failure.
    init(ofCall raw: UInt16) {
        switch Status(rawValue: raw) {
        case .alreadyExists?: self = .alreadyExists
        case .denied?: self = .denied
        case let status? where status != .ok && status.isForDrivers: self = status
        default: self = .driverFailed
        }
    }
}
