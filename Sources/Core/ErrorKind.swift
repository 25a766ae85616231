/// Whose fault a failure is: by it a client decides whether to retry, to ask for rights, or to report a bug.
public enum ErrorKind: String, Sendable, CaseIterable {
    /// The request was wrong; repeating it will fail again.
    case caller
    /// The request was understood and the caller may not do it.
    case denied
    /// The server cannot do it now; the same request may succeed later.
    case busy
    /// The device or the driver failed.
    case device
    /// A defect in Sluice itself.
    case bug
}
