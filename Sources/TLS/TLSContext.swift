import COpenSSL
import Core

/// Which certificates a server asks its clients for.
public enum ClientAuthentication: Sendable {
    /// A certificate is required, of any key, from any issuer, at any time: only possession of the key is
    /// proved. Authority comes from elsewhere, such as a capability that names the key's thumbprint.
    case anyKey
    /// A certificate is asked for; one that is presented must come from this authority. Whether it is valid *now* is
    /// the caller's to check (`Certificate.isValid`), who can say what is wrong with whose clock, and let a certificate
    /// that has just ended be renewed.
    case optional(caPEM: [UInt8])
}

/// What makes a client trust a server. The server's name is checked in every case.
public enum ServerTrust: Sendable {
    /// The certificate must come from one of these authorities.
    case authority(caPEM: [UInt8])
    /// The chain that the server sends must contain the authority whose DER encoding has this SHA-256, and the
    /// server's certificate must come from exactly that authority.
    case fingerprint(Digest32)
}

/// What connections have in common: identity, trust, application protocols. TLS 1.3 only; no session tickets,
/// no resumption, no compression.
///
/// Made once, used from any thread.
@safe
public final class TLSContext: Sendable {
    /// A certificate with its chain, and its key.
    public struct Identity: Sendable {
        /// The certificate, then those that issued it.
        public let chainPEM: [UInt8]
        /// The first certificate's key.
        public let key: PrivateKey

        /// An identity; whether its parts fit together is checked where it is used.
        public init(chainPEM: [UInt8], key: PrivateKey) {
            self.chainPEM = chainPEM
            self.key = key
        }
    }

    /// Fastest first on processors with AES instructions (RFC 8446 §B.4).
    private static let cipherSuites =
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    private static let groups = "X25519:P-256"
    private static let clientSignatures = "ed25519:ECDSA+SHA256:ECDSA+SHA384"

    // SAFETY: an SSL_CTX is configured in init and not changed afterwards; making connections of it on several
    // threads at once is what OpenSSL documents as safe.
    nonisolated(unsafe) let pointer: OpaquePointer
    let isServer: Bool
    let pinnedAuthority: Digest32?
    private let protocolsWire: [UInt8]

    /// A server's context. Put the authority's certificate at the end of `chainPEM` when clients are to trust
    /// it by fingerprint. With `alpn` not empty, a client that offers protocols must offer one of these;
    /// the first of ours that it offers is chosen.
    public static func server(
        chainPEM: [UInt8], key: PrivateKey, clients: ClientAuthentication, alpn: [String]
    ) throws(TLSError) -> TLSContext {
        let context = try TLSContext(isServer: true, pinnedAuthority: nil, alpn: alpn)
        try context.use(Identity(chainPEM: chainPEM, key: key))
        try context.ask(clients)
        if !alpn.isEmpty {
            unsafe SSL_CTX_set_alpn_select_cb(
                context.pointer, selectProtocol, Unmanaged.passUnretained(context).toOpaque())
        }
        return context
    }

    /// A client's context, with a certificate of its own when `identity` is given. `alpn` are the application
    /// protocols to offer, the preferred first.
    public static func client(
        identity: Identity?, trust: ServerTrust, alpn: [String]
    ) throws(TLSError) -> TLSContext {
        var pinned: Digest32?
        if case .fingerprint(let digest) = trust { pinned = digest }
        let context = try TLSContext(isServer: false, pinnedAuthority: pinned, alpn: alpn)
        if let identity { try context.use(identity) }
        unsafe HandshakeSecrets.noteRefusals(context.pointer)
        switch trust {
        case .authority(let caPEM):
            try context.trust(caPEM, announce: false)
        case .fingerprint:
            unsafe SSL_CTX_set_cert_verify_callback(
                context.pointer, verifyPinned, Unmanaged.passUnretained(context).toOpaque())
        }
        if !alpn.isEmpty {
            let wire = context.protocolsWire
            guard unsafe SSL_CTX_set_alpn_protos(context.pointer, wire, UInt32(wire.count)) == 0 else {
                throw .library(ErrorQueue.drain())
            }
        }
        return context
    }

    private init(isServer: Bool, pinnedAuthority: Digest32?, alpn: [String]) throws(TLSError) {
        protocolsWire = try ProtocolList.encode(alpn)
        guard let pointer = unsafe SSL_CTX_new(isServer ? TLS_server_method() : TLS_client_method()) else {
            throw .library(ErrorQueue.drain())
        }
        unsafe self.pointer = unsafe pointer
        self.isServer = isServer
        self.pinnedAuthority = pinnedAuthority
        guard unsafe sluice_ctx_tls13_only(pointer) == 1,
            unsafe SSL_CTX_set_ciphersuites(pointer, Self.cipherSuites) == 1,
            unsafe sluice_ctx_groups(pointer, Self.groups) == 1,
            unsafe SSL_CTX_set_num_tickets(pointer, 0) == 1
        else { throw .library(ErrorQueue.drain()) }
        unsafe SSL_CTX_set_options(pointer, sluice_ssl_options)
        unsafe sluice_ctx_modes(pointer)
        unsafe HandshakeSecrets.enable(pointer)
        unsafe sluice_ctx_max_cert_list(pointer, CertificateLimits.handshakeChainBytesMax)
    }

    deinit {
        unsafe SSL_CTX_free(pointer)
    }

    private func use(_ identity: Identity) throws(TLSError) {
        var isFirst = true
        _ = unsafe try Certificate.withX509(pem: identity.chainPEM) { x509 throws(TLSError) in
            let done =
                unsafe isFirst
                ? SSL_CTX_use_certificate(pointer, x509) : sluice_ctx_add_chain_certificate(pointer, x509)
            guard done == 1 else { throw .configuration("the certificate chain: \(ErrorQueue.drain())") }
            isFirst = false
        }
        guard unsafe SSL_CTX_use_PrivateKey(pointer, identity.key.key.pointer) == 1,
            unsafe SSL_CTX_check_private_key(pointer) == 1
        else {
            ERR_clear_error()
            throw .configuration("the certificate and the key do not belong together")
        }
    }

    private func ask(_ clients: ClientAuthentication) throws(TLSError) {
        guard unsafe sluice_ctx_client_signatures(pointer, Self.clientSignatures) == 1 else {
            throw .library(ErrorQueue.drain())
        }
        switch clients {
        case .anyKey:
            unsafe SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
            unsafe SSL_CTX_set_cert_verify_callback(
                pointer,
                { store, _ in
                    unsafe X509_STORE_CTX_set_error(store, X509_V_OK)
                    return 1
                }, nil)
        case .optional(let caPEM):
            unsafe SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER, admitUntimely)
            try trust(caPEM, announce: true)
        }
    }

    private func trust(_ caPEM: [UInt8], announce: Bool) throws(TLSError) {
        guard let store = unsafe SSL_CTX_get_cert_store(pointer) else { throw .library(ErrorQueue.drain()) }
        _ = unsafe try Certificate.withX509(pem: caPEM) { x509 throws(TLSError) in
            guard unsafe X509_check_ca(x509) == 1 else {
                throw .configuration("a certificate that is to be trusted is no authority's")
            }
            guard unsafe X509_STORE_add_cert(store, x509) == 1,
                unsafe !announce || SSL_CTX_add_client_CA(pointer, x509) == 1
            else { throw .library(ErrorQueue.drain()) }
        }
    }

    /// Chooses the first of our protocols that the client's list holds.
    fileprivate func choose(
        from offered: UnsafeBufferPointer<UInt8>, _ chosen: UnsafeMutablePointer<UnsafePointer<UInt8>?>,
        _ length: UnsafeMutablePointer<UInt8>
    ) -> Int32 {
        var ours = 0
        while ours < protocolsWire.count {
            let name = protocolsWire[(ours + 1)...(ours + Int(protocolsWire[ours]))]
            var theirs = 0
            while theirs < offered.count {
                let count = unsafe Int(offered[theirs])
                guard theirs + 1 + count <= offered.count else { break }
                if unsafe offered[(theirs + 1)..<(theirs + 1 + count)].elementsEqual(name) {
                    unsafe chosen.pointee = unsafe offered.baseAddress.map { unsafe $0 + theirs + 1 }
                    unsafe length.pointee = UInt8(count)
                    return SSL_TLSEXT_ERR_OK
                }
                theirs += 1 + count
            }
            ours += 1 + name.count
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }
}

/// Application protocol names in their wire form (RFC 7301 §3.1).
enum ProtocolList {
    static func encode(_ names: [String]) throws(TLSError) -> [UInt8] {
        var wire: [UInt8] = []
        for name in names {
            guard (1...255).contains(name.utf8.count) else {
                throw .configuration("an application protocol's name has 1 to 255 bytes")
            }
            wire.append(UInt8(name.utf8.count))
            wire += Array(name.utf8)
        }
        return wire
    }
}

private func selectProtocol(
    _ ssl: OpaquePointer?, _ chosen: UnsafeMutablePointer<UnsafePointer<UInt8>?>?,
    _ length: UnsafeMutablePointer<UInt8>?, _ offered: UnsafePointer<UInt8>?, _ count: UInt32,
    _ argument: UnsafeMutableRawPointer?
) -> Int32 {
    guard let chosen = unsafe chosen, let length = unsafe length, let argument = unsafe argument else {
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }
    let context = unsafe Unmanaged<TLSContext>.fromOpaque(argument).takeUnretainedValue()
    return unsafe context.choose(from: UnsafeBufferPointer(start: offered, count: Int(count)), chosen, length)
}

/// Lets a client's chain pass although a certificate does not count yet or no longer, for who can say so in words; all
/// else is OpenSSL's verdict.
private func admitUntimely(_ isGood: Int32, _ store: OpaquePointer?) -> Int32 {
    guard isGood == 0, let store = unsafe store else { return isGood }
    switch unsafe X509_STORE_CTX_get_error(store) {
    case X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED:
        unsafe X509_STORE_CTX_set_error(store, X509_V_OK)
        return 1
    default: return 0
    }
}

/// Replaces OpenSSL's chain verification where the authority is known by its fingerprint only: finds it among
/// the certificates that the peer sent, and then verifies against it alone.
private func verifyPinned(_ store: OpaquePointer?, _ argument: UnsafeMutableRawPointer?) -> Int32 {
    guard let store = unsafe store, let argument = unsafe argument else { return 0 }
    let context = unsafe Unmanaged<TLSContext>.fromOpaque(argument).takeUnretainedValue()
    let sent = unsafe X509_STORE_CTX_get0_untrusted(store)
    for index in unsafe 0..<max(sluice_x509_stack_count(sent), 0) {
        guard let candidate = unsafe sluice_x509_stack_at(sent, index),
            let der = unsafe try? DER.encode(candidate, i2d_X509),
            SHA256.hash(der) == context.pinnedAuthority,
            unsafe X509_check_ca(candidate) == 1
        else { continue }
        guard let trusted = unsafe sluice_x509_stack_new() else { return 0 }
        // The store context looks at the stack during the verification only, and is not used again after it.
        defer {
            unsafe X509_STORE_CTX_set0_trusted_stack(store, nil)
            unsafe sluice_x509_stack_free(trusted)
        }
        guard unsafe sluice_x509_stack_push(trusted, candidate) > 0 else { return 0 }
        unsafe X509_STORE_CTX_set0_trusted_stack(store, trusted)
        return unsafe X509_verify_cert(store) == 1 ? 1 : 0
    }
    unsafe X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION)
    return 0
}
