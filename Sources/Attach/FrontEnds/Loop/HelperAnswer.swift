import CFUSE
import Glibc

/// What a helper process has done, on its way to whoever has started it.
enum HelperAnswer {
    /// Writes an answer into a pipe, and waits until it was read; false when nobody will read it any more. Where the
    /// descriptor is no pipe it is enough that it was written.
    static func give(_ text: String, to descriptor: Int32) -> Bool {
        let bytes = Array(text.utf8)
        guard unsafe write(descriptor, bytes, bytes.count) == bytes.count else { return false }
        while sluice_attach_unread_bytes(descriptor) > 0 {
            var entry = pollfd(fd: descriptor, events: 0, revents: 0)
            guard unsafe poll(&entry, 1, AttachLimits.answerLookMilliseconds) > 0 else { continue }
            // The other end is closed; it may have read the answer before.
            return sluice_attach_unread_bytes(descriptor) <= 0
        }
        return true
    }
}
