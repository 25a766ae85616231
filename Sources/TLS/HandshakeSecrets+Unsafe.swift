import COpenSSL
import Core
import Glibc

/// Collects the traffic secrets of one handshake, as OpenSSL reports them in the format of key logs.
final class HandshakeSecrets {
    private(set) var client: TrafficSecret?
    private(set) var server: TrafficSecret?

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
