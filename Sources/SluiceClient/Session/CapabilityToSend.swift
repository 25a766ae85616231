import Capability
import Core
import TLS

/// A capability in the form in which it goes over a data channel.
public struct CapabilityToSend: Sendable {
    /// The sealed capability, binary form.
    public let bytes: [UInt8]

    /// Seals the capability unless it is: an open one holds the seed with which it can be attenuated further,
    /// and that is nobody else's business.
    public init(_ capability: Capability) throws(CapabilityError) {
        bytes =
            capability.isSealed ? capability.bytes : try capability.sealed(keys: OpenSSLSignatures()).bytes
    }

    /// Parses the text form (`slcap1_…`), without surrounding white space, and seals it.
    public init(text: String) throws(CapabilityError) {
        try self.init(try Capability(text: text))
    }
}
