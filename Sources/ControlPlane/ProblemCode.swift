import Core

/// The stable names of what the control API refuses (`code` of a problem). Never renamed.
public enum ProblemCode: String, Sendable, CaseIterable {
    // What the request says is wrong.
    case invalidJSON = "INVALID_JSON"
    case invalidField = "INVALID_FIELD"
    case unknownField = "UNKNOWN_FIELD"
    case missingField = "MISSING_FIELD"
    case invalidParameter = "INVALID_PARAMETER"
    case invalidCursor = "INVALID_CURSOR"
    case invalidHeader = "INVALID_HEADER"
    case invalidToken = "INVALID_TOKEN"
    case invalidRequest = "INVALID_REQUEST"
    case unsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE"
    case bodyTooLarge = "BODY_TOO_LARGE"
    case idempotencyMismatch = "IDEMPOTENCY_MISMATCH"
    case keyChanged = "KEY_CHANGED"
    case shrink = "SHRINK"
    // Who asks may not.
    case unauthenticated = "UNAUTHENTICATED"
    case forbidden = "FORBIDDEN"
    case noGrant = "NO_GRANT"
    case beyondGrant = "BEYOND_GRANT"
    // What it names is not there, or not so.
    case notFound = "NOT_FOUND"
    case noSuchRoute = "NO_SUCH_ROUTE"
    case methodNotAllowed = "METHOD_NOT_ALLOWED"
    case alreadyExists = "ALREADY_EXISTS"
    case inUse = "IN_USE"
    case preconditionFailed = "PRECONDITION_FAILED"
    case notEnrolled = "NOT_ENROLLED"
    case conflict = "CONFLICT"
    // Not now, or not here.
    case limitReached = "LIMIT_REACHED"
    case noSpace = "NO_SPACE"
    case busy = "BUSY"
    case notReady = "NOT_READY"
    case notSupported = "NOT_SUPPORTED"
    case deviceFailed = "DEVICE_FAILED"
    case catalogFailed = "CATALOG_FAILED"
    case internalError = "INTERNAL_ERROR"

    /// The HTTP status (RFC 9110 §15) that the code comes with.
    public var httpStatus: Int {
        switch self {
        case .invalidJSON, .invalidParameter, .invalidCursor, .invalidHeader, .invalidRequest: 400
        case .unauthenticated: 401
        case .forbidden, .noGrant, .beyondGrant, .invalidToken: 403
        case .notFound, .noSuchRoute: 404
        case .methodNotAllowed: 405
        case .alreadyExists, .inUse, .conflict, .notEnrolled: 409
        case .preconditionFailed: 412
        case .bodyTooLarge: 413
        case .unsupportedMediaType: 415
        case .invalidField, .unknownField, .missingField, .idempotencyMismatch, .keyChanged, .shrink,
            .notSupported:
            422
        case .internalError: 500
        case .busy, .notReady, .catalogFailed, .deviceFailed: 503
        case .limitReached, .noSpace: 507
        }
    }

    /// A few words that say the same in every answer.
    public var title: String {
        switch self {
        case .invalidJSON: "The body is not the JSON that is expected"
        case .invalidField: "A field has a wrong value"
        case .unknownField: "A field is not known"
        case .missingField: "A field is missing"
        case .invalidParameter: "A query parameter is wrong"
        case .invalidCursor: "The cursor is not one of ours"
        case .invalidHeader: "A header is wrong"
        case .invalidToken: "The enrolment token does not count"
        case .invalidRequest: "The request is wrong"
        case .unsupportedMediaType: "The body's media type is not JSON"
        case .bodyTooLarge: "The body is too large"
        case .idempotencyMismatch: "The idempotency key was used for another request"
        case .keyChanged: "The request is for another key"
        case .shrink: "A volume cannot shrink"
        case .unauthenticated: "A client certificate is needed"
        case .forbidden: "The role does not allow this"
        case .noGrant: "No grant allows this"
        case .beyondGrant: "The grant does not allow this much"
        case .notFound: "There is no such resource"
        case .noSuchRoute: "There is nothing at this path"
        case .methodNotAllowed: "The method is not allowed here"
        case .alreadyExists: "The name is taken"
        case .inUse: "The resource is in use"
        case .preconditionFailed: "The resource has changed"
        case .notEnrolled: "The node has not enrolled"
        case .conflict: "Another change came first"
        case .limitReached: "A limit is reached"
        case .noSpace: "There is no space left"
        case .busy: "The server is busy"
        case .notReady: "The server is not ready"
        case .notSupported: "This is not supported"
        case .deviceFailed: "The device failed"
        case .catalogFailed: "The catalog failed"
        case .internalError: "A defect in the server"
        }
    }

    /// The code for what the services answered; total over every status.
    public static func of(_ status: Status) -> ProblemCode {
        switch status {
        case .notFound: .notFound
        case .alreadyExists: .alreadyExists
        case .noSpace, .noSpaceYet: .noSpace
        case .notSupported: .notSupported
        case .busy, .writerConflict, .tooManyChannels, .tooManyHandles, .draining, .driverRecovering,
            .timedOut:
            .busy
        case .ioError, .mediumError, .driverFailed, .quarantined, .outcomeUnknown: .deviceFailed
        case .ok, .internalError: .internalError
        case .badRequest, .unknownOpcode, .badFrame, .badLength, .outOfRange, .unaligned, .badSlot,
            .badSequence,
            .badHandle, .versionMismatch, .tooLarge, .protocolViolation, .readOnly, .miscompare:
            .invalidRequest
        case .denied, .badCapability, .expired, .notYetValid, .revoked, .wrongHolder, .wrongAudience,
            .staleEpoch,
            .fenced:
            .forbidden
        }
    }
}
