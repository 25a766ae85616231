import COpenSSL

/// The AEAD algorithms of TLS 1.3 (RFC 8446 §B.4) with what the key schedule needs to know of them.
enum CipherSuite: UInt16, CaseIterable {
    case aes128GCM = 0x1301
    case aes256GCM = 0x1302
    case chaCha20Poly1305 = 0x1303

    var keyBytes: Int { self == .aes128GCM ? 16 : 32 }
    var secretBytes: Int { self == .aes256GCM ? 48 : 32 }

    /// The hash of the key schedule.
    var digest: OpaquePointer? { unsafe self == .aes256GCM ? EVP_sha384() : EVP_sha256() }

    /// The algorithm, fetched once: looking it up for every key would take longer than setting the key.
    var algorithm: OpaquePointer? {
        switch self {
        case .aes128GCM: unsafe Self.fetched.0
        case .aes256GCM: unsafe Self.fetched.1
        case .chaCha20Poly1305: unsafe Self.fetched.2
        }
    }

    // SAFETY: written once, before first use; fetched algorithms are immutable.
    nonisolated(unsafe) private static let fetched = unsafe (
        EVP_CIPHER_fetch(nil, "AES-128-GCM", nil), EVP_CIPHER_fetch(nil, "AES-256-GCM", nil),
        EVP_CIPHER_fetch(nil, "ChaCha20-Poly1305", nil)
    )
}

/// A traffic secret of the key schedule (RFC 8446 §7.1), wiped when it goes.
@safe
final class TrafficSecret {
    private let memory: UnsafeMutableBufferPointer<UInt8>

    /// A copy of `bytes`.
    init(_ bytes: UnsafeBufferPointer<UInt8>) {
        unsafe memory = .allocate(capacity: bytes.count)
        _ = unsafe memory.initialize(from: bytes)
    }

    deinit {
        unsafe OPENSSL_cleanse(memory.baseAddress, memory.count)
        unsafe memory.deallocate()
    }

    var count: Int { unsafe memory.count }

    /// The secret that follows this one after a key update (RFC 8446 §7.2).
    func next(_ suite: CipherSuite) -> TrafficSecret? {
        unsafe expand("traffic upd", count: count, suite) { unsafe TrafficSecret($0) }
    }

    /// Derives `count` bytes for `label` (HKDF-Expand-Label with an empty context, RFC 8446 §7.1), which exist
    /// while `body` runs. One block of the hash is enough for all that TLS asks for.
    func expand<Result>(
        _ label: String, count: Int, _ suite: CipherSuite, _ body: (UnsafeBufferPointer<UInt8>) -> Result
    ) -> Result? {
        let fullLabel = Array("tls13 ".utf8) + Array(label.utf8)
        let info: [UInt8] = [0, UInt8(count), UInt8(fullLabel.count)] + fullLabel + [0, 1]
        return unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Int(EVP_MAX_MD_SIZE)) { block in
            defer { unsafe OPENSSL_cleanse(block.baseAddress, block.count) }
            let done = unsafe HMAC(
                suite.digest, memory.baseAddress, Int32(memory.count), info, info.count, block.baseAddress,
                nil)
            guard unsafe done != nil, count <= suite.secretBytes else { return nil }
            return unsafe body(UnsafeBufferPointer(rebasing: block[..<count]))
        }
    }
}
