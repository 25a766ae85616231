import COpenSSL
import Core

/// What can go wrong in the TLS target. Peer behaviour and hostile bytes end here, never in a trap.
public enum TLSError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A parameter of a context or of a certificate to issue makes no sense; the text says which and why.
    case configuration(String)
    /// PEM or DER that is not what it should be: a key, a certificate or a certificate request.
    case malformed(String)
    /// The peer's certificate is not trusted: wrong authority or fingerprint, or missing.
    case untrustedPeer(String)
    /// The peer's certificate, or its authority's, does not count yet or no longer: one of two clocks is wrong, or
    /// nobody renewed it. Unix seconds; `now` is this machine's clock.
    case untimelyPeer(notBefore: UInt64, notAfter: UInt64, now: UInt64, isAuthority: Bool)
    /// The peer's certificate is for others: the name that was wanted, and those that the certificate has. Nothing
    /// but their form was checked.
    case misnamedPeer(wanted: String, names: [String])
    /// The handshake failed for another reason: no common version, cipher or application protocol, garbage.
    case handshakeFailed(String)
    /// The peer ended the connection with a fatal alert; the text is the alert's name.
    case peerAlert(String)
    /// An established connection received bytes that are no valid record.
    case protocolViolation(String)
    /// The connection was closed by this side, or had failed before this call.
    case closed
    /// OpenSSL failed to do what should always succeed, such as to allocate.
    case library(String)

    /// One line for logs and for people.
    public var description: String {
        switch self {
        case .configuration(let text): "TLS set-up is wrong: \(text)"
        case .malformed(let text): "not valid: \(text)"
        case .untrustedPeer(let text): "the peer's certificate is not trusted: \(text)"
        case .untimelyPeer(let notBefore, let notAfter, let now, let isAuthority):
            "the peer's certificate" + (isAuthority ? "'s authority" : "")
                + (now < notBefore
                    ? " is not valid before \(Timestamp.text(notBefore))"
                    : " ended at \(Timestamp.text(notAfter))")
                + ", and this machine's clock says \(Timestamp.text(now))"
        case .misnamedPeer(let wanted, let names):
            "the peer's certificate does not name \(wanted)"
                + (names.isEmpty ? "" : ", but \(names.joined(separator: ", "))")
        case .handshakeFailed(let text): "TLS handshake failed: \(text)"
        case .peerAlert(let text): "the peer ended the TLS connection: \(text)"
        case .protocolViolation(let text): "the peer broke the TLS protocol: \(text)"
        case .closed: "the TLS connection is closed"
        case .library(let text): "OpenSSL failed: \(text)"
        }
    }

    /// Which of the five kinds of error this is.
    public var kind: ErrorKind {
        switch self {
        case .configuration, .malformed, .handshakeFailed, .peerAlert, .protocolViolation, .closed: .caller
        case .untrustedPeer, .untimelyPeer, .misnamedPeer: .denied
        case .library: .bug
        }
    }
}

/// OpenSSL's per-thread error queue. It is kept empty: every failure path drains it, so that no call on the
/// hot path needs to clear it first.
enum ErrorQueue {
    /// The reason of the first error in the queue, for people; empties the queue.
    static func drain() -> String {
        let code = ERR_get_error()
        defer { ERR_clear_error() }
        guard code != 0 else { return "no reason given" }
        if let reason = unsafe ERR_reason_error_string(code) { return unsafe String(cString: reason) }
        return "error \(code)"
    }

    /// The reason code of the first error in the queue, which stays as it is; 0 when it is empty.
    static func firstReason() -> Int32 {
        let code = ERR_peek_error()
        return code & 0x8000_0000 != 0 ? 0 : Int32(code & 0x7F_FFFF)
    }
}
