import COpenSSL
import Core
import Glibc

/// Collects the traffic secrets of one handshake, as OpenSSL reports them in the format of key logs.
final class HandshakeSecrets {
    private(set) var client: TrafficSecret?
    private(set) var server: TrafficSecret?
    /// The peer's certificate, or its authority's, that was found wanting; a mere claim.
    private(set) var refused: Certificate?

    /// Reports the secrets of `ssl` to this object, which must outlive the handshake.
    func collect(from ssl: OpaquePointer) {
        _ = unsafe sluice_ssl_set_app_data(ssl, Unmanaged.passUnretained(self).toOpaque())
    }

    /// Has every connection of `context` report its secrets.
    static func enable(_ context: OpaquePointer) {
        unsafe SSL_CTX_set_keylog_callback(context) { ssl, line in
            guard let ssl = unsafe ssl, let line = unsafe line, let data = unsafe sluice_ssl_app_data(ssl)
            else { return }
            unsafe Unmanaged<HandshakeSecrets>.fromOpaque(data).takeUnretainedValue().note(line)
        }
    }

    /// Has clients of `context` check their server's chain, and note which certificate was refused.
    static func noteRefusals(_ context: OpaquePointer) {
        unsafe SSL_CTX_set_verify(context, SSL_VERIFY_PEER) { isGood, store in
            guard isGood == 0, let store = unsafe store,
                let ssl = unsafe X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()),
                let data = unsafe sluice_ssl_app_data(OpaquePointer(ssl)),
                let x509 = unsafe X509_STORE_CTX_get_current_cert(store)
            else { return isGood }
            unsafe Unmanaged<HandshakeSecrets>.fromOpaque(data).takeUnretainedValue().refused =
                unsafe try? Certificate(x509: x509)
            return 0
        }
    }

    /// Lets go of the secrets.
    func forget() {
        client = nil
        server = nil
    }

    /// Takes what one line says: a label, the client's random, and the secret in hex, separated by blanks.
    private func note(_ line: UnsafePointer<CChar>) {
        let isClient = unsafe Self.hasPrefix(line, "CLIENT_TRAFFIC_SECRET_0 ")
        guard unsafe isClient || Self.hasPrefix(line, "SERVER_TRAFFIC_SECRET_0 ") else { return }
        guard let blank = unsafe strrchr(line, 0x20) else { return }
        let hex = unsafe blank + 1
        let count = unsafe strlen(hex) / 2
        guard count <= Int(EVP_MAX_MD_SIZE) else { return }
        unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: count) { bytes in
            for index in 0..<count {
                let high = unsafe Self.digit(hex[2 * index])
                let low = unsafe Self.digit(hex[2 * index + 1])
                unsafe bytes[index] = high << 4 | low
            }
            let secret = unsafe TrafficSecret(UnsafeBufferPointer(bytes))
            if isClient { client = secret } else { server = secret }
            unsafe OPENSSL_cleanse(bytes.baseAddress, count)
        }
    }

    private static func hasPrefix(_ line: UnsafePointer<CChar>, _ prefix: StaticString) -> Bool {
        unsafe strncmp(line, prefix.utf8Start, prefix.utf8CodeUnitCount) == 0
    }

    private static func digit(_ character: CChar) -> UInt8 {
        let byte = UInt8(bitPattern: character)
        return byte <= UInt8(ascii: "9")
            ? byte &- UInt8(ascii: "0") : (byte | 0x20) &- UInt8(ascii: "a") &+ 10
    }
}
