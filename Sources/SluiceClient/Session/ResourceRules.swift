import Core
import Wire

/// What a session needs to know of the kind of resource that it has opened. Values without state: what is known is handed
/// in.
public protocol ResourceRules: Sendable {
    /// What it is.
    var kind: ResourceKind { get }

    /// What to make of a resource that a server describes in an answer to OPEN or RENEW.
    ///
    /// - Parameters:
    ///   - isOpened: OPEN is answered, which may have come after anything; in an answer to RENEW the handle stayed as it
    ///     was.
    ///   - known: what was believed of it before; nil the first time.
    func judge(_ described: ResourceState, isOpened: Bool, known: ResourceState?) -> ResourceVerdict

    /// What to make of an event that says something of the resource; the events that say something of the server, or of
    /// the capability, need no judgement.
    func judge(_ event: ChannelEvent, known: ResourceState) -> EventVerdict
}

/// What a server's description of a resource means for whoever uses it.
public enum ResourceVerdict {
    /// It is the resource, as it is now.
    case taken(ResourceState, Findings)
    /// What this side remembers of the resource is not true any more: nobody can go on with it.
    case over(ChannelError)
    /// No server that is right says that; the text says what is wrong. Another connection may find a server that is.
    case notBelieved(String)

    /// What was found besides.
    public struct Findings: Sendable {
        /// Others may change it at the same time.
        public var isShared = false
        /// It has grown to so many bytes, which an event says only to who is connected.
        public var newSize: UInt64?
        /// What of the description was not believed, and is as it was before.
        public var doubt: String?
    }
}

/// What an event means for whoever uses the resource.
public enum EventVerdict {
    /// The resource is this now.
    case taken(ResourceState)
    /// It is not believed; the text says why.
    case notBelieved(String)
}
