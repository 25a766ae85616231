/// Why a connection cannot go on.
public enum HTTP2Error: Error, Sendable, Equatable, CustomStringConvertible {
    /// The peer does not speak HTTP/2. `refusal` is a readable HTTP/1.1 answer when its bytes look like
    /// HTTP/1.
    case notHTTP2(refusal: [UInt8]?)
    /// The library refused the input; the connection is to be closed after what is still to be sent.
    case broken(String)
    /// The library could not be set up: out of memory.
    case outOfMemory

    /// One sentence for the log.
    public var description: String {
        switch self {
        case .notHTTP2: "the peer does not speak HTTP/2"
        case .broken(let reason): "HTTP/2 connection broken: \(reason)"
        case .outOfMemory: "out of memory while setting up an HTTP/2 session"
        }
    }
}
