/// Alerts that this side sends or tells apart (RFC 8446 §6).
enum Alert: UInt8 {
    case closeNotify = 0
    case unexpectedMessage = 10
    case badRecordMAC = 20
    case recordOverflow = 22
    case illegalParameter = 47
    case internalError = 80
    case userCanceled = 90

    /// Warning for the two that end a connection in peace, fatal otherwise.
    var level: UInt8 { self == .closeNotify || self == .userCanceled ? 1 : 2 }

    /// The name of an alert that a peer sent, for people.
    static func name(_ description: UInt8) -> String { names[description] ?? "alert \(description)" }

    private static let names: [UInt8: String] = [
        0: "close notify", 10: "unexpected message", 20: "bad record MAC", 22: "record overflow",
        40: "handshake failure", 42: "bad certificate", 43: "unsupported certificate",
        44: "certificate revoked", 45: "certificate expired", 46: "certificate unknown",
        47: "illegal parameter", 48: "unknown CA", 49: "access denied", 50: "decode error",
        51: "decrypt error", 70: "protocol version", 71: "insufficient security", 80: "internal error",
        86: "inappropriate fallback", 90: "user canceled", 109: "missing extension",
        110: "unsupported extension", 112: "unrecognized name", 113: "bad certificate status response",
        115: "unknown PSK identity", 116: "certificate required", 120: "no application protocol",
    ]
}
