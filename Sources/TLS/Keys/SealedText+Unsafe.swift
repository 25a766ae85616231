import COpenSSL
import Core

/// Secrets that are kept where others may read them: AES-256-GCM under a key that is kept elsewhere (NIST SP 800-38D).
public enum SealedText {
    private static let nonceBytes = 12
    private static let tagBytes = 16

    /// The bytes, sealed, as base64url of nonce, ciphertext and tag.
    ///
    /// - Parameters:
    ///   - context: must be the same at opening; it is authenticated, not stored.
    ///   - key: 32 bytes. At most 2^32 texts may be sealed with one.
    public static func seal(
        _ bytes: [UInt8], context: [UInt8], key: SecretBytes, random: any RandomSource
    ) -> String {
        let nonce = random.bytes(nonceBytes)
        var tag = [UInt8](repeating: 0, count: tagBytes)
        let sealed = run(isSealing: true, bytes, context: context, key: key, nonce: nonce, tag: &tag)
        guard let sealed else { preconditionFailure("AES-256-GCM is not available: \(ErrorQueue.drain())") }
        return Base64URL.encode(nonce + sealed + tag)
    }

    /// What was sealed; nil for a text that was not sealed with this key and context, or was changed.
    public static func open(_ text: String, context: [UInt8], key: SecretBytes) -> [UInt8]? {
        guard let bytes = Base64URL.decode(text), bytes.count >= nonceBytes + tagBytes else { return nil }
        var tag = Array(bytes.suffix(tagBytes))
        return run(
            isSealing: false, Array(bytes[nonceBytes..<bytes.count - tagBytes]), context: context, key: key,
            nonce: Array(bytes[..<nonceBytes]), tag: &tag)
    }

    private static func run(
        isSealing: Bool, _ bytes: [UInt8], context: [UInt8], key: SecretBytes, nonce: [UInt8],
        tag: inout [UInt8]
    ) -> [UInt8]? {
        guard key.count == 32, let cipher = unsafe EVP_CIPHER_CTX_new() else { return nil }
        defer { unsafe EVP_CIPHER_CTX_free(cipher) }
        let begun = unsafe key.withBytes { key in
            unsafe EVP_CipherInit_ex(
                cipher, EVP_aes_256_gcm(), nil, key.baseAddress, nonce, isSealing ? 1 : 0)
        }
        var done: Int32 = 0
        var result = [UInt8](repeating: 0, count: bytes.count + tagBytes)
        guard begun == 1,
            unsafe EVP_CipherUpdate(cipher, nil, &done, context, Int32(context.count)) == 1,
            unsafe EVP_CipherUpdate(cipher, &result, &done, bytes, Int32(bytes.count)) == 1,
            unsafe isSealing
                || EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, Int32(tagBytes), &tag) == 1
        else { return nil }
        let count = Int(done)
        var rest = [UInt8](repeating: 0, count: tagBytes)
        guard unsafe EVP_CipherFinal_ex(cipher, &rest, &done) == 1,
            unsafe !isSealing
                || EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, Int32(tagBytes), &tag) == 1
        else { return nil }
        return Array(result[..<count])
    }
}
