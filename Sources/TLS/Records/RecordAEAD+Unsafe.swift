import Glibc

/// The cipher of one direction's records by one of the libraries at hand, chosen once for each connection.
///
/// A value without reference counts: whoever made it releases it, once. Both libraries make the same bytes.
enum RecordAEAD {
    case openSSL(OpenSSLAEAD)
    #if canImport(CIPSecMB)
    case multiBuffer(MultiBufferGCM)
    #endif

    enum Library: CaseIterable {
        case openSSL
        /// intel-ipsec-mb: AES-GCM with what the CPU has for it, up to VAES with 512 bits, and no set-up to speak of
        /// for a short record.
        case multiBuffer
    }

    /// A cipher without a key yet; nil when `library` refuses or has no such algorithm here.
    init?(suite: CipherSuite, isSealing: Bool, library: Library?) {
        #if canImport(CIPSecMB)
        if library != .openSSL, let cipher = MultiBufferGCM(suite: suite) {
            self = .multiBuffer(cipher)
            return
        }
        #endif
        guard library != .multiBuffer, let cipher = OpenSSLAEAD(suite: suite, isSealing: isSealing) else {
            return nil
        }
        self = .openSSL(cipher)
    }

    /// Sets the key, which is as long as the suite's.
    func setKey(_ key: UnsafePointer<UInt8>) -> Bool {
        switch self {
        case .openSSL(let cipher): return unsafe cipher.setKey(key)
        #if canImport(CIPSecMB)
        case .multiBuffer(let cipher):
            unsafe cipher.setKey(key)
            return true
        #endif
        }
    }

    /// Encrypts the content, `count` bytes in pieces none of which is empty, and its `type` to `body`, with the tag
    /// behind them.
    @inline(__always)
    func seal(
        nonce: UnsafePointer<UInt8>, header: UnsafePointer<UInt8>, headerBytes: Int,
        _ content: UnsafeBufferPointer<iovec>, count: Int, type: UInt8, to body: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        switch self {
        case .openSSL(let cipher):
            return unsafe cipher.seal(
                nonce: nonce, header: header, headerBytes: headerBytes, content, count: count, type: type,
                to: body)
        #if canImport(CIPSecMB)
        case .multiBuffer(let cipher):
            unsafe cipher.seal(
                nonce: nonce, header: header, headerBytes: headerBytes, content, count: count, type: type,
                to: body)
            return true
        #endif
        }
    }

    /// Decrypts `body` to `first` and then `second`; false when the tag behind it is not the right one.
    @inline(__always)
    func open(
        nonce: UnsafePointer<UInt8>, header: UnsafePointer<UInt8>, headerBytes: Int,
        _ body: UnsafePointer<UInt8>, first: UnsafeMutablePointer<UInt8>, firstCount: Int,
        second: UnsafeMutablePointer<UInt8>?, secondCount: Int
    ) -> Bool {
        switch self {
        case .openSSL(let cipher):
            return unsafe cipher.open(
                nonce: nonce, header: header, headerBytes: headerBytes, body, first: first,
                firstCount: firstCount, second: second, secondCount: secondCount)
        #if canImport(CIPSecMB)
        case .multiBuffer(let cipher):
            return unsafe cipher.open(
                nonce: nonce, header: header, headerBytes: headerBytes, body, first: first,
                firstCount: firstCount, second: second, secondCount: secondCount)
        #endif
        }
    }

    /// Wipes and frees the keys; the value must not be used again.
    func release() {
        switch self {
        case .openSSL(let cipher): cipher.release()
        #if canImport(CIPSecMB)
        case .multiBuffer(let cipher): cipher.release()
        #endif
        }
    }
}
