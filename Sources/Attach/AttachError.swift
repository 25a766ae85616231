import Core
import Glibc

/// Why a volume could not be attached, mounted or detached.
public struct AttachError: Error, Sendable, CustomStringConvertible {
    /// What went wrong, which decides the exit code.
    public enum Reason: String, Sendable, Hashable, Codable {
        /// The device, folder or name is used by something else.
        case busy
        /// What is there would be destroyed.
        case holdsData
        /// Nothing of that name is attached here.
        case notFound
        /// The kernel or the caller's privileges do not allow it.
        case denied
        /// The I/O server cannot be reached, or the connection was lost.
        case unreachable
        /// An operating-system call failed.
        case system
        /// The arguments make no sense together.
        case usage
        /// A signal ended it.
        case interrupted
    }

    /// Which kind of failure it is.
    public var reason: Reason
    /// What happened, to whom, and what to do next.
    public var message: String
    /// What the server calls it, such as `NO_GRANT`; nil where that is not its word.
    public var code: String?

    /// An error of its parts.
    public init(_ reason: Reason, _ message: String, code: String? = nil) {
        self.reason = reason
        self.message = message
        self.code = code
    }

    /// The error of a system call, from a positive errno(3).
    public static func system(_ errorNumber: Int32, _ what: String) -> AttachError {
        let text = "\(what): \(describe(errorNumber))"
        return switch errorNumber {
        case EBUSY: AttachError(.busy, text)
        case EPERM, EACCES: AttachError(.denied, text + "; attaching a device needs root (CAP_SYS_ADMIN)")
        default: AttachError(.system, text)
        }
    }

    /// The message.
    public var description: String { message }

    /// strerror(3) in words.
    static func describe(_ errorNumber: Int32) -> String {
        unsafe String(cString: strerror(errorNumber))
    }
}

extension Status {
    /// The positive errno(3) with which a block request that failed so ends: what a disk could say, nothing
    /// else.
    var blockErrno: Int32 {
        switch self {
        case .ok: 0
        case .noSpace, .noSpaceYet: ENOSPC
        case .notSupported: EOPNOTSUPP
        case .readOnly: EROFS
        case .badRequest, .unaligned, .badLength, .outOfRange: EINVAL
        default: EIO
        }
    }
}
