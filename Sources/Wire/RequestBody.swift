import Core

/// The structure that follows a request, read; which one says its opcode.
public enum RequestBody: Sendable {
    /// Nothing.
    case nothing
    /// Of HELLO.
    case hello(Hello)
    /// Of OPEN.
    case open(OpenRequest)
    /// Of RENEW.
    case renew(RenewRequest)
    /// Of COPY_RANGE.
    case source(CopySource)
    /// Of BLOCK_STATUS: the marker since which changes are asked for.
    case marker(Identifier)
    /// It cannot be read.
    case invalid(StatusError)

    /// The structure that follows a request of `opcode`.
    public init(_ bytes: [UInt8], of opcode: Opcode?) {
        do throws(StatusError) {
            switch opcode {
            case .hello: self = .hello(try Hello(bytes: bytes))
            case .open: self = .open(try OpenRequest(bytes: bytes))
            case .renew: self = .renew(try RenewRequest(bytes: bytes))
            case .copyRange: self = .source(try CopySource(bytes: bytes))
            case .blockStatus:
                guard let marker = Identifier(bytes: bytes) else {
                    throw StatusError(.badLength, "a marker's id has \(Identifier.byteCount) bytes")
                }
                self = .marker(marker)
            case .stat, .close, .ping, .read, .write, .writeZeroes, .discard, .flush, .compareAndWrite, nil:
                self = .nothing
            }
        } catch { self = .invalid(error) }
    }
}
