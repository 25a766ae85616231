/// The one code space for driver completions, data-channel replies and service results.
///
/// The raw values are part of the data-channel protocol (`API/data-channel.md`): they are never reused.
public enum Status: UInt16, Sendable, CaseIterable, Hashable {
    case ok = 0

    // The caller's fault.
    case badRequest = 1
    case unknownOpcode = 2
    case badFrame = 3
    case badLength = 4
    case outOfRange = 5
    case unaligned = 6
    case badSlot = 7
    case badSequence = 8
    case badHandle = 9
    case notFound = 10
    case versionMismatch = 11
    case tooLarge = 12
    case notSupported = 13
    case alreadyExists = 14
    case protocolViolation = 15
    case miscompare = 16

    // Denied.
    case denied = 32
    case badCapability = 33
    case expired = 34
    case notYetValid = 35
    case revoked = 36
    case wrongHolder = 37
    case wrongAudience = 38
    case staleEpoch = 39
    case readOnly = 40
    case fenced = 41

    // Not now.
    case busy = 64
    case writerConflict = 65
    case tooManyChannels = 66
    case tooManyHandles = 67
    case draining = 68
    case driverRecovering = 69
    case timedOut = 70
    /// The pool has no space now, and its setting has writers wait: the client sends the same again later.
    case noSpaceYet = 71

    // The device failed.
    case ioError = 96
    case noSpace = 97
    case mediumError = 98
    case driverFailed = 99
    case quarantined = 100
    case outcomeUnknown = 101

    // A defect.
    case internalError = 128
}

extension Status {
    /// Whose fault this status is; `ok` has none.
    public var kind: ErrorKind? {
        switch self {
        case .ok: nil
        case .badRequest, .unknownOpcode, .badFrame, .badLength, .outOfRange, .unaligned, .badSlot,
            .badSequence, .badHandle, .notFound, .versionMismatch, .tooLarge, .notSupported,
            .alreadyExists, .protocolViolation, .miscompare:
            .caller
        case .denied, .badCapability, .expired, .notYetValid, .revoked, .wrongHolder, .wrongAudience,
            .staleEpoch, .readOnly, .fenced:
            .denied
        case .busy, .writerConflict, .tooManyChannels, .tooManyHandles, .draining, .driverRecovering,
            .timedOut, .noSpaceYet:
            .busy
        case .ioError, .noSpace, .mediumError, .driverFailed, .quarantined, .outcomeUnknown: .device
        case .internalError: .bug
        }
    }

    /// The stable name that logs, the API and the documentation use, such as `REVOKED`.
    public var name: String {
        switch self {
        case .ok: "OK"
        case .badRequest: "BAD_REQUEST"
        case .unknownOpcode: "UNKNOWN_OPCODE"
        case .badFrame: "BAD_FRAME"
        case .badLength: "BAD_LENGTH"
        case .outOfRange: "OUT_OF_RANGE"
        case .unaligned: "UNALIGNED"
        case .badSlot: "BAD_SLOT"
        case .badSequence: "BAD_SEQUENCE"
        case .badHandle: "BAD_HANDLE"
        case .notFound: "NOT_FOUND"
        case .versionMismatch: "VERSION_MISMATCH"
        case .tooLarge: "TOO_LARGE"
        case .notSupported: "NOT_SUPPORTED"
        case .alreadyExists: "ALREADY_EXISTS"
        case .protocolViolation: "PROTOCOL_VIOLATION"
        case .miscompare: "MISCOMPARE"
        case .denied: "DENIED"
        case .badCapability: "BAD_CAPABILITY"
        case .expired: "EXPIRED"
        case .notYetValid: "NOT_YET_VALID"
        case .revoked: "REVOKED"
        case .wrongHolder: "WRONG_HOLDER"
        case .wrongAudience: "WRONG_AUDIENCE"
        case .staleEpoch: "STALE_EPOCH"
        case .readOnly: "READ_ONLY"
        case .fenced: "FENCED"
        case .busy: "BUSY"
        case .writerConflict: "WRITER_CONFLICT"
        case .tooManyChannels: "TOO_MANY_CHANNELS"
        case .tooManyHandles: "TOO_MANY_HANDLES"
        case .draining: "DRAINING"
        case .driverRecovering: "DRIVER_RECOVERING"
        case .timedOut: "TIMED_OUT"
        case .noSpaceYet: "NO_SPACE_YET"
        case .ioError: "IO_ERROR"
        case .noSpace: "NO_SPACE"
        case .mediumError: "MEDIUM_ERROR"
        case .driverFailed: "DRIVER_FAILED"
        case .quarantined: "QUARANTINED"
        case .outcomeUnknown: "OUTCOME_UNKNOWN"
        case .internalError: "INTERNAL_ERROR"
        }
    }

    /// The positive Linux errno (errno(3)) that a block device or a file system shows for this status; 0 for `ok`.
    public var errno: Int32 {
        switch self {
        case .ok: 0
        case .badRequest, .unknownOpcode, .badFrame, .badLength, .unaligned, .badSlot, .badSequence,
            .versionMismatch, .protocolViolation:
            22  // EINVAL
        case .outOfRange: 34  // ERANGE
        case .badHandle: 9  // EBADF
        case .notFound: 2  // ENOENT
        case .tooLarge: 90  // EMSGSIZE
        case .notSupported: 95  // EOPNOTSUPP
        case .alreadyExists: 17  // EEXIST
        case .denied, .badCapability, .wrongHolder, .wrongAudience: 13  // EACCES
        case .readOnly: 30  // EROFS
        case .expired, .notYetValid, .revoked, .staleEpoch, .fenced: 5  // EIO, what a lost device gives
        case .busy, .writerConflict: 16  // EBUSY
        case .tooManyChannels, .tooManyHandles, .draining, .driverRecovering: 11  // EAGAIN
        case .timedOut: 110  // ETIMEDOUT
        case .ioError, .mediumError, .driverFailed, .quarantined, .outcomeUnknown, .internalError: 5  // EIO
        case .miscompare: 84  // EILSEQ
        case .noSpace, .noSpaceYet: 28  // ENOSPC
        }
    }

    /// The status for a Linux errno that a device operation returned, as a positive number.
    public static func fromDevice(errno: Int32) -> Status {
        switch errno {
        case 0: .ok
        case 27, 28, 122: .noSpace  // EFBIG, ENOSPC, EDQUOT
        case 95, 38: .notSupported  // EOPNOTSUPP, ENOSYS
        case 30: .readOnly  // EROFS
        case 22: .badRequest  // EINVAL
        case 11, 16: .busy  // EAGAIN, EBUSY
        case 61, 84, 74: .mediumError  // ENODATA, EILSEQ, EBADMSG
        default: .ioError
        }
    }
}
