import Core
import SluiceClient

/// How a command ends; the one table of exit codes (sysexits(3) where it has a code).
enum ExitStatus: Int32, CaseIterable {
    case ok = 0
    case failure = 1
    case usage = 64
    case notFound = 66
    case unreachable = 69
    case conflict = 73
    case busy = 75
    case denied = 77
    case interrupted = 130

    /// What the code means, for `--help`.
    var meaning: String {
        switch self {
        case .ok: "done"
        case .failure: "failed; the message says why"
        case .usage: "an argument is wrong"
        case .notFound: "there is nothing of that name"
        case .unreachable: "the I/O server cannot be reached"
        case .conflict: "it exists already, holds data, or was changed meanwhile"
        case .busy: "it is in use, or the server is busy: try again later"
        case .denied: "not allowed"
        case .interrupted: "stopped by a signal; the message says what became of it"
        }
    }

    /// The code of an error that has no other, in JSON and YAML.
    var code: String {
        switch self {
        case .ok: "OK"
        case .failure: "FAILED"
        case .usage: "USAGE"
        case .notFound: "NOT_FOUND"
        case .unreachable: "UNREACHABLE"
        case .conflict: "CONFLICT"
        case .busy: "BUSY"
        case .denied: "DENIED"
        case .interrupted: "INTERRUPTED"
        }
    }

    /// The table, for `--help`.
    static let help =
        "EXIT CODES:\n"
        + allCases.map { status in
            let code = String(status.rawValue)
            return "  \(code)\(String(repeating: " ", count: 4 - code.count))\(status.meaning)"
        }.joined(separator: "\n")

    /// The exit code of an error of the control client.
    init(_ error: ClientError) {
        // The command has seen that it is a name; what the server misses is what it names.
        if error.code == "INVALID_FIELD", error.namedNoun != nil {
            self = .notFound
            return
        }
        switch (error.status, error.code) {
        case (nil, "NOT_THE_CONTROL_API"): self = .unreachable
        case (nil, ClientError.takenCode): self = .conflict
        case (_, "UNREACHABLE"), (nil, "TIMED_OUT"), (_, "CONNECTION_BROKEN"): self = .unreachable
        case (_, "IN_USE"), (_, "BUSY"), (_, "WRITER_CONFLICT"): self = .busy
        case (_, _) where error.isBeyondWaiting: self = .failure
        case (404, _): self = .notFound
        case (401, _), (403, _): self = .denied
        case (409, _), (412, _): self = .conflict
        case (408, _), (429, _), (503, _): self = .busy
        case (nil, "NO_CREDENTIALS"): self = .notFound
        case (400, _), (413, _), (422, _), (nil, "BAD_SERVER"), (nil, "INVALID_TOKEN"): self = .usage
        default: self = error.kind == .denied ? .denied : .failure
        }
    }

    /// The exit code of a status of the data channel.
    init(_ status: Status) {
        switch status.kind {
        case .none: self = .ok
        case .denied: self = .denied
        case .busy: self = .busy
        case .caller where status == .notFound: self = .notFound
        case .caller where status == .alreadyExists: self = .conflict
        case .caller where status == .outOfRange || status == .unaligned || status == .tooLarge: self = .usage
        case .caller, .device, .bug: self = .failure
        }
    }
}

extension ClientError {
    /// The kind of the resource that a wrong field names.
    var namedNoun: String? {
        switch field {
        case "node": "node"
        case "pool": "pool"
        case "resource": "volume"
        default: nil
        }
    }
}

/// Why a command did not do its work: one line for the user, and an exit code.
struct Failure: Error, CustomStringConvertible {
    /// The exit code.
    var status: ExitStatus
    /// What is wrong and what to do next, without a line end.
    var message: String
    /// The stable code, such as `IN_USE`.
    var code: String

    /// - Parameter code: what the server or the channel calls it; nil for what the exit code says.
    init(_ status: ExitStatus, _ message: String, code: String? = nil) {
        self.status = status
        self.message = message
        self.code = code ?? status.code
    }

    var description: String { message }
}
