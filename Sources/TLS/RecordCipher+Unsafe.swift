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

/// Protects or unprotects the records of one direction (RFC 8446 §5.2, §5.3). Nothing is allocated per record.
@safe
final class RecordCipher {
    /// Record header: type, version, length.
    static let headerBytes = 5
    static let tagBytes = 16
    /// What a record is longer than its content: header, inner type, tag.
    static let overheadBytes = headerBytes + 1 + tagBytes

    /// Records protected with the present key.
    private(set) var sequence: UInt64 = 0

    private let suite: CipherSuite
    private let isSealing: Bool
    private let context: OpaquePointer
    private var secret: TrafficSecret
    /// The nonce of the present record; its last 8 bytes change.
    private let nonce: UnsafeMutableRawPointer
    private var nonceLow: UInt64 = 0

    private static let nonceBytes = 12

    /// A cipher with the key that `secret` gives; nil when OpenSSL refuses.
    init?(suite: CipherSuite, secret: TrafficSecret, isSealing: Bool) {
        guard secret.count == suite.secretBytes, let context = unsafe EVP_CIPHER_CTX_new() else { return nil }
        self.suite = suite
        self.secret = secret
        self.isSealing = isSealing
        unsafe self.context = unsafe context
        unsafe nonce = .allocate(byteCount: 16, alignment: 8)
        guard unsafe EVP_CipherInit_ex(context, suite.algorithm, nil, nil, nil, isSealing ? 1 : 0) == 1,
            install(secret)
        else { return nil }
    }

    deinit {
        unsafe EVP_CIPHER_CTX_free(context)
        unsafe OPENSSL_cleanse(nonce, 16)
        unsafe nonce.deallocate()
    }

    /// Goes on to the next generation of keys; false when OpenSSL fails.
    func update() -> Bool {
        guard let next = secret.next(suite), install(next) else { return false }
        secret = next
        return true
    }

    /// Writes one record with `count` bytes of content at `content` to `target`, which has room for
    /// `overheadBytes` more. At most 16 KiB. False only when OpenSSL fails.
    @inline(__always)
    func seal(
        type: UInt8, _ content: UnsafeRawPointer?, count: Int, to target: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        let length = count + 1 + Self.tagBytes
        unsafe target[0] = RecordType.applicationData
        unsafe target[1] = 3
        unsafe target[2] = 3
        unsafe target[3] = UInt8(truncatingIfNeeded: length >> 8)
        unsafe target[4] = UInt8(truncatingIfNeeded: length)
        let body = unsafe target + Self.headerBytes
        var done: Int32 = 0
        var type = type
        guard unsafe EVP_EncryptInit_ex(context, nil, nil, nil, nextNonce()) == 1,
            unsafe EVP_EncryptUpdate(context, nil, &done, target, Int32(Self.headerBytes)) == 1,
            unsafe count == 0
                || EVP_EncryptUpdate(
                    context, body, &done, content?.assumingMemoryBound(to: UInt8.self), Int32(count)) == 1,
            unsafe EVP_EncryptUpdate(context, body + count, &done, &type, 1) == 1,
            unsafe EVP_EncryptFinal_ex(context, body + count + 1, &done) == 1
        else { return false }
        return unsafe EVP_CIPHER_CTX_ctrl(
            context, EVP_CTRL_AEAD_GET_TAG, Int32(Self.tagBytes), body + count + 1) == 1
    }

    /// Unprotects the record at `record`, whose body has `bodyBytes` bytes (at least a tag): the first
    /// `firstCount` bytes of the inner plaintext go to `first`, the rest to `second`. False when the record is
    /// not authentic; what was written is then worth nothing.
    @inline(__always)
    func open(
        _ record: UnsafePointer<UInt8>, bodyBytes: Int, first: UnsafeMutablePointer<UInt8>, firstCount: Int,
        second: UnsafeMutablePointer<UInt8>?
    ) -> Bool {
        let body = unsafe record + Self.headerBytes
        let rest = bodyBytes - Self.tagBytes - firstCount
        var done: Int32 = 0
        guard unsafe EVP_DecryptInit_ex(context, nil, nil, nil, nextNonce()) == 1,
            unsafe EVP_DecryptUpdate(context, nil, &done, record, Int32(Self.headerBytes)) == 1,
            unsafe EVP_DecryptUpdate(context, first, &done, body, Int32(firstCount)) == 1,
            unsafe rest == 0 || EVP_DecryptUpdate(context, second, &done, body + firstCount, Int32(rest)) == 1
        else { return false }
        let tag = unsafe UnsafeMutableRawPointer(mutating: body + firstCount + rest)
        guard unsafe EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(Self.tagBytes), tag) == 1
        else {
            return false
        }
        var none: UInt64 = 0
        return unsafe withUnsafeMutableBytes(of: &none) { scratch in
            unsafe EVP_DecryptFinal_ex(context, scratch.bindMemory(to: UInt8.self).baseAddress, &done) == 1
        }
    }

    /// The nonce of the next record: the key's IV with the sequence number in its last 8 bytes.
    @inline(__always)
    private func nextNonce() -> UnsafePointer<UInt8> {
        unsafe nonce.storeBytes(
            of: (nonceLow ^ sequence).bigEndian, toByteOffset: Self.nonceBytes - 8, as: UInt64.self)
        sequence &+= 1
        return unsafe UnsafePointer(nonce.assumingMemoryBound(to: UInt8.self))
    }

    /// Sets key and IV of `secret`, and starts to count from zero.
    private func install(_ secret: TrafficSecret) -> Bool {
        let keyed = unsafe secret.expand("key", count: suite.keyBytes, suite) { key in
            unsafe EVP_CipherInit_ex(context, nil, nil, key.baseAddress, nil, isSealing ? 1 : 0) == 1
        }
        let ready: Void? = unsafe secret.expand("iv", count: Self.nonceBytes, suite) { iv in
            unsafe nonce.copyMemory(from: iv.baseAddress!, byteCount: Self.nonceBytes)
            nonceLow = unsafe UInt64(
                bigEndian: nonce.loadUnaligned(fromByteOffset: Self.nonceBytes - 8, as: UInt64.self))
        }
        sequence = 0
        return keyed == true && ready != nil
    }
}

/// Content types of records (RFC 8446 §5.1).
enum RecordType {
    static let alert: UInt8 = 21
    static let handshake: UInt8 = 22
    static let applicationData: UInt8 = 23
}
