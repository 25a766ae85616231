import Core
import Reactor
import TLS
import Wire

/// Why a data channel could not be used or has ended.
public enum ChannelError: Error, Sendable, CustomStringConvertible {
    /// The TCP connection could not be made.
    case unreachable(address: String, reason: String)
    /// TLS failed: the certificate is not trusted, or the peer is no Sluice server.
    case tls(TLSError)
    /// The server answered a request with an error.
    case refused(Opcode, Status, message: String)
    /// The server sent what no right server sends; the text says what.
    case violation(String)
    /// The server did not answer in time; the text says what was waited for.
    case timedOut(String)
    /// The connection ended, or broke, without this side's doing.
    case lost(String)
    /// Others may have changed the volume while this side had no claim to it; the text says what tells.
    case superseded(String)
    /// The capability has ended: requests wait for another one, or the client has ended because nobody brings one.
    case expired
    /// This side closed the channel.
    case closed

    /// One sentence for the user.
    public var description: String {
        switch self {
        case .unreachable(let address, let reason): "cannot connect to \(address): \(reason)"
        case .tls(let error): error.description
        case .refused(let opcode, let status, let message):
            message.isEmpty
                ? "the server refused \(opcode.name): \(status.name)"
                : "the server refused \(opcode.name): \(status.name): \(message)"
        case .violation(let text): "the server broke the protocol: \(text)"
        case .timedOut(let what): "the server did not answer in time: \(what)"
        case .lost(let reason): "the connection was lost: \(reason)"
        case .superseded(let text): text
        case .expired: "the capability has ended, and another one is needed"
        case .closed: "the channel is closed"
        }
    }

    /// Whether this side ended the channel because its user wanted that.
    var isDeliberate: Bool { if case .closed = self { true } else { false } }

    /// The code that the error stands for; requests that were in flight end with `ioError` whatever it is.
    public var status: Status {
        switch self {
        case .unreachable, .lost, .closed: .ioError
        case .superseded: .staleEpoch
        case .expired: .expired
        case .tls(let error): error.kind == .denied ? .denied : .ioError
        case .refused(_, let status, _): status
        case .violation: .protocolViolation
        case .timedOut: .timedOut
        }
    }

    /// Whose fault it is.
    public var kind: ErrorKind { status.kind ?? .bug }
}
