import Core

/// Why a capability was refused, or could not be made.
public enum CapabilityError: Error, Hashable, Sendable {
    /// The bytes are not a capability, or say something that no capability may say; the text says what.
    case malformed(String)
    /// Larger than `Limits.capabilityBytesMax`, or with more blocks than `Limits.attenuationBlocksMax`.
    case tooLarge
    /// The key id in the header is none of the verifier's keys.
    case unknownKey
    /// A signature does not match; block 0 is the issuer's, the others are attenuations.
    case badSignature(block: Int)
    /// The proof at the end does not belong to the last block: the capability was cut, joined or altered.
    case badProof
    /// The validity ended, in seconds since 1970.
    case expired(at: UInt64)
    /// The validity has not begun, in seconds since 1970.
    case notYetValid(at: UInt64)
    /// Issued for another cluster.
    case wrongAudience
    /// Bound to another key than the one that the channel authenticated.
    case wrongHolder
    /// An attenuation block (counted from 1) grants more than what came before it.
    case widened(block: Int, what: String)
    /// An attenuation names another holder, and no delegation is left.
    case delegationExhausted
    /// The capability is sealed: it cannot be attenuated any more.
    case sealed
    /// The signature library failed; the text says how.
    case signingFailed(String)
}

extension CapabilityError {
    /// The code that the data channel and the API answer with.
    public var status: Status {
        switch self {
        case .malformed, .unknownKey, .badSignature, .badProof, .widened, .delegationExhausted: .badCapability
        case .tooLarge: .tooLarge
        case .expired: .expired
        case .notYetValid: .notYetValid
        case .wrongAudience: .wrongAudience
        case .wrongHolder: .wrongHolder
        case .sealed: .badRequest
        case .signingFailed: .internalError
        }
    }

    /// The stable word for this error in `API/capability.md` and its test vectors, such as `bad-signature`.
    public var name: String {
        switch self {
        case .malformed: "malformed"
        case .tooLarge: "too-large"
        case .unknownKey: "unknown-key"
        case .badSignature: "bad-signature"
        case .badProof: "bad-proof"
        case .expired: "expired"
        case .notYetValid: "not-yet-valid"
        case .wrongAudience: "wrong-audience"
        case .wrongHolder: "wrong-holder"
        case .widened: "widened"
        case .delegationExhausted: "delegation-exhausted"
        case .sealed: "sealed"
        case .signingFailed: "signing-failed"
        }
    }
}

extension CapabilityError: CustomStringConvertible {
    /// One sentence that says what is wrong and, where there is a remedy, what to do.
    public var description: String {
        switch self {
        case .malformed(let what): "this is not a valid capability: \(what)"
        case .tooLarge:
            "the capability is larger than \(Limits.capabilityBytesMax) bytes "
                + "or has more than \(Limits.attenuationBlocksMax) attenuations"
        case .unknownKey: "the capability is signed with a key that this server does not trust; get a new one"
        case .badSignature(block: 0): "the issuer's signature on the capability is wrong"
        case .badSignature(let block): "the signature on attenuation \(block) of the capability is wrong"
        case .badProof: "the capability's proof does not match its last block: a block was removed or altered"
        case .expired(let time): "the capability expired at \(UTCTime.text(time)); get a new one"
        case .notYetValid(let time): "the capability is valid only from \(UTCTime.text(time))"
        case .wrongAudience: "the capability is for another cluster"
        case .wrongHolder: "the capability belongs to another key than this channel's TLS client key"
        case .widened(let block, let what): "attenuation \(block) of the capability widens its \(what)"
        case .delegationExhausted: "the capability may not be handed to another holder"
        case .sealed: "the capability is sealed and cannot be attenuated; attenuate the open one it came from"
        case .signingFailed(let what): "signing failed: \(what)"
        }
    }
}
