import Core

/// A frame's payload that cannot be accepted: the status to answer with and a sentence for the peer's
/// operator.
public struct WireError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The code for the reply.
    public let status: Status
    /// What was wrong and what would be right; holds nothing secret.
    public let message: String

    /// An error with its code and sentence.
    public init(_ status: Status, _ message: String) {
        self.status = status
        self.message = message
    }

    /// The code's name and the sentence.
    public var description: String { "\(status.name): \(message)" }
}

/// The optional payload of an error reply: UTF-8 text of at most `Limits.errorMessageBytesMax` bytes.
public enum ErrorMessage {
    /// The bytes of `text`, cut at a character's edge where it is too long.
    public static func encode(_ text: String) -> [UInt8] {
        var bytes = Array(text.utf8.prefix(Limits.errorMessageBytesMax + 1))
        guard bytes.count > Limits.errorMessageBytesMax else { return bytes }
        bytes.removeLast()
        while !bytes.isEmpty, String(validating: bytes, as: UTF8.self) == nil { bytes.removeLast() }
        return bytes
    }

    /// The text that a peer sent, one line that is safe to show (`ShownText`): invalid UTF-8 is replaced, and what
    /// is too long is cut.
    public static func decode(_ bytes: some Sequence<UInt8>) -> String {
        ShownText.line(String(decoding: Array(bytes.prefix(Limits.errorMessageBytesMax)), as: UTF8.self))
    }
}
