import Core

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
