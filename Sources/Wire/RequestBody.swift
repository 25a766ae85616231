import Core

/// The structure that follows a request; its opcode says which one. Those of every kind of resource are read here, those of
/// one kind by what knows this kind.
public enum RequestBody: Sendable {
    /// Nothing.
    case nothing
    /// Of HELLO.
    case hello(Hello)
    /// Of OPEN.
    case open(OpenRequest)
    /// Of RENEW.
    case renew(RenewRequest)
    /// Of a request on a resource: its bytes.
    case structure([UInt8])
    /// It cannot be read.
    case invalid(StatusError)

    /// The structure that follows a request of `opcode`.
    public init(_ bytes: [UInt8], of opcode: Opcode?) {
        do throws(StatusError) {
            switch opcode {
            case .hello: self = .hello(try Hello(bytes: bytes))
            case .open: self = .open(try OpenRequest(bytes: bytes))
            case .renew: self = .renew(try RenewRequest(bytes: bytes))
            case .stat, .close, .ping, nil: self = .nothing
            case .some: self = .structure(bytes)
            }
        } catch { self = .invalid(error) }
    }
}
