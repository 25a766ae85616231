#if canImport(CIPSecMB)
import CIPSecMB
import COpenSSL
import Glibc

/// AES-GCM (RFC 5116 §5.1, §5.2) by intel-ipsec-mb, for either direction.
@safe
struct MultiBufferGCM {
    private let library: UnsafeMutablePointer<IMB_MGR>
    private let keys: UnsafeMutablePointer<gcm_key_data>
    private let is256: Int32

    // SAFETY: written once, before first use; what it holds are addresses of functions, which keep no state in it.
    nonisolated(unsafe) private static let library = unsafe sluice_imb_new()

    /// Nil where the CPU has no instructions for it, and for other algorithms than AES-GCM.
    init?(suite: CipherSuite) {
        guard suite != .chaCha20Poly1305, let library = unsafe Self.library,
            let keys = unsafe sluice_gcm_keys_new()
        else { return nil }
        unsafe self.library = unsafe library
        unsafe self.keys = unsafe keys
        is256 = suite == .aes256GCM ? 1 : 0
    }

    func release() {
        unsafe sluice_gcm_keys_free(keys)
    }

    func setKey(_ key: UnsafePointer<UInt8>) {
        unsafe sluice_gcm_set_key(library, is256, key, keys)
    }

    @inline(__always)
    func seal(
        nonce: UnsafePointer<UInt8>, header: UnsafePointer<UInt8>, headerBytes: Int,
        _ content: UnsafeBufferPointer<iovec>, count: Int, type: UInt8, to body: UnsafeMutablePointer<UInt8>
    ) {
        unsafe sluice_gcm_seal(
            library, is256, keys, nonce, header, UInt64(headerBytes), content.baseAddress,
            UInt64(content.count), UInt64(count), type, body)
    }

    @inline(__always)
    func open(
        nonce: UnsafePointer<UInt8>, header: UnsafePointer<UInt8>, headerBytes: Int,
        _ body: UnsafePointer<UInt8>, first: UnsafeMutablePointer<UInt8>, firstCount: Int,
        second: UnsafeMutablePointer<UInt8>?, secondCount: Int
    ) -> Bool {
        var tag: (UInt64, UInt64) = (0, 0)
        return unsafe withUnsafeMutableBytes(of: &tag) { tag in
            unsafe sluice_gcm_open(
                library, is256, keys, nonce, header, UInt64(headerBytes), body, first, UInt64(firstCount),
                second, UInt64(secondCount), tag.bindMemory(to: UInt8.self).baseAddress)
            return unsafe CRYPTO_memcmp(
                tag.baseAddress, body + firstCount + secondCount, RecordCipher.tagBytes) == 0
        }
    }
}
#endif
