import COpenSSL
import Core
import Glibc

/// One TLS 1.3 connection as bytes in, bytes out: it owns no socket and never waits.
///
/// Feed what arrived, call `handshake` until it is done and then `read` until it returns nil, and send what
/// `output` holds after every call. Confined to one thread. After an error other than `configuration` the
/// connection is finished; `output` may still hold the alert that tells the peer why.
@safe
public final class TLSConnection {
    /// What a record is longer than its content, in bytes.
    public static let recordOverheadBytes = RecordCipher.overheadBytes

    /// The ciphertext that waits to be sent.
    public let output: TLSOutput

    private let context: TLSContext
    private let transport: CipherTransport
    private var records: RecordLayer?
    private var peer = Peer()
    /// OpenSSL's side of the handshake; nil as soon as the handshake is done or has failed.
    private var ssl: OpaquePointer?
    private let secrets = HandshakeSecrets()
    private var failure: TLSError?
    /// Whom a client wants.
    private let serverName: String?
    /// Records protected with one key before it is replaced; tests make it small.
    var recordsPerKey = RecordLayer.recordsPerKeyMax

    /// What stays of the handshake.
    private struct Peer {
        var chain: [Certificate] = []
        var alpn: String?
        var cipherSuite: String?
    }

    /// A connection in its initial state. A client must name the server that it wants, as a DNS name or an IP
    /// address; it is checked against the server's certificate. A server passes nil.
    /// Connections of one thread may share `buffers`; without it a connection keeps up to 16 KiB for itself.
    public init(
        context: TLSContext, serverName: String? = nil, buffers: TLSBufferPool? = nil
    ) throws(TLSError) {
        let transport = CipherTransport(pool: buffers ?? TLSBufferPool(retainedBytesMax: 16 << 10))
        guard let ssl = unsafe SSL_new(context.pointer) else { throw .library(ErrorQueue.drain()) }
        unsafe secrets.collect(from: ssl)
        self.context = context
        self.serverName = serverName
        unsafe self.ssl = unsafe ssl
        self.transport = transport
        output = transport.output
        guard let bio = unsafe transport.makeBIO() else { throw .library(ErrorQueue.drain()) }
        unsafe SSL_set_bio(ssl, bio, bio)
        if context.isServer {
            unsafe SSL_set_accept_state(ssl)
        } else {
            guard let serverName else { throw .configuration("a client must name its server") }
            try expect(serverName)
            unsafe SSL_set_connect_state(ssl)
        }
    }

    deinit {
        unsafe SSL_free(ssl)
    }

    // MARK: Bytes in

    /// Lends ciphertext that has arrived. The memory must stay valid until `endInput`, the next `feed`, or
    /// until `read` or `handshake` has said that it wants input; `withInput` does that by itself.
    ///
    /// - Parameter headroom: how many bytes before them may be written to for as long; with enough of it, a record that began
    ///   in what arrived before is not copied as a whole.
    public func feed(_ ciphertext: UnsafeRawBufferPointer, headroom: Int = 0) {
        unsafe transport.input.lend(ciphertext, headroom: headroom)
    }

    /// Ends the loan of the last `feed`: what was not used yet is copied. Needed only when `read` was not
    /// called until it returned nil.
    public func endInput() {
        transport.input.endLoan()
    }

    /// Lends `ciphertext` while `body` runs.
    public func withInput<Result, Failure: Error>(
        _ ciphertext: UnsafeRawBufferPointer, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe transport.input.lend(ciphertext)
        defer { transport.input.endLoan() }
        return try body()
    }

    /// How many bytes were fed and not yet handed out by `read`, as ciphertext or as plaintext. An owner that
    /// stops reading should stop feeding too.
    public var unreadInputBytes: Int { transport.input.count + (records?.keptBytes ?? 0) }

    /// Goes on with the handshake; true when it is done, false when more input is needed.
    public func handshake() throws(TLSError) -> Bool {
        guard records == nil else { return true }
        guard let ssl = unsafe ssl else {
            transport.input.discard()
            throw failure ?? .closed
        }
        ERR_clear_error()
        let result = unsafe SSL_do_handshake(ssl)
        if result == 1 {
            do {
                try unsafe establish(ssl)
            } catch {
                throw fail(error)
            }
            return true
        }
        if unsafe SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ { return false }
        throw fail(unsafe handshakeError(ssl))
    }

    /// Decrypts as much as there is and fits. Returns the number of bytes, nil when more input is needed, 0
    /// when the peer has closed its side cleanly. Completes the handshake first when it has to.
    /// `buffer` must not be empty; what lies beyond the returned count is undefined afterwards.
    public func read(into buffer: UnsafeMutableRawBufferPointer) throws(TLSError) -> Int? {
        precondition(buffer.count > 0, "nothing can be read into an empty buffer")
        if records == nil, !(try handshake()) { return nil }
        return try unsafe records?.read(into: buffer)
    }

    // MARK: Bytes out

    /// Encrypts all of `plaintext` to the end of `output`, in records of at most 16 KiB. Throws `closed` before
    /// the handshake is done and after `close`.
    public func write(_ plaintext: UnsafeRawBufferPointer) throws(TLSError) {
        guard let records else { throw failure ?? .closed }
        try unsafe records.write(plaintext)
    }

    /// Encrypts plaintext that lies in several places, none of them empty, into one record at the end of `output`:
    /// `count` bytes together, at most 16 KiB. Throws as `write` does.
    public func writeRecord(_ pieces: UnsafeBufferPointer<iovec>, count: Int) throws(TLSError) {
        guard let records else { throw failure ?? .closed }
        try unsafe records.writeRecord(pieces, count: count)
    }

    /// Appends a close_notify alert: this side writes no more. Safe to call at any time, also twice.
    public func close() {
        records?.close()
    }

    /// Takes all pending ciphertext with its memory, for a send that outlives this call.
    public func takeOutput() -> OutputBuffer { output.take() }

    /// Has memory for `count` bytes of output, until `takeOutput` or `dropUnusedOutput`.
    public func prepareOutput(_ count: Int) { output.prepare(count) }

    /// Gives back memory for output that none came for.
    public func dropUnusedOutput() { output.dropUnused() }

    /// Returns a buffer whose bytes have been sent, to be used again.
    public func giveBack(_ buffer: consuming OutputBuffer) { output.giveBack(buffer) }

    // MARK: The peer

    /// SHA-256 of the peer's SubjectPublicKeyInfo; nil before the handshake is done, or without a certificate.
    public var peerThumbprint: Digest32? { peer.chain.first?.thumbprint }

    /// The peer's certificate; nil before the handshake is done, or when it presented none. With
    /// `ClientAuthentication.anyKey` nothing in it but the key is proved.
    public var peerCertificate: Certificate? { peer.chain.first }

    /// The certificates that the peer sent, its own first, at most 8; empty before the handshake is done. All
    /// but those that the trust in force verified are mere claims.
    public var peerChain: [Certificate] { peer.chain }

    /// The application protocol that both sides chose; nil when none was.
    public var alpn: String? { peer.alpn }

    /// The name of the cipher suite in use; nil before the handshake is done.
    public var cipherSuite: String? { peer.cipherSuite }

    /// Whether the handshake is done and nothing has failed since.
    public var isOpen: Bool { records.map { !$0.hasFailed } ?? false }

    // MARK: Helpers

    /// Makes `name` the only one that the server's certificate may be for.
    private func expect(_ name: String) throws(TLSError) {
        guard !name.isEmpty, !name.utf8.contains(0) else {
            throw .configuration("the server's name is empty")
        }
        let parameters = unsafe SSL_get0_param(ssl)
        if let address = AlternativeName.addressBytes(name) {
            guard unsafe X509_VERIFY_PARAM_set1_ip(parameters, address, address.count) == 1 else {
                throw .configuration("\"\(name)\": \(ErrorQueue.drain())")
            }
            return
        }
        unsafe X509_VERIFY_PARAM_set_hostflags(
            parameters, UInt32(X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
        guard unsafe X509_VERIFY_PARAM_set1_host(parameters, name, name.utf8.count) == 1,
            unsafe sluice_ssl_set_server_name(ssl, name) == 1
        else { throw .configuration("\"\(name)\" is no server's name: \(ErrorQueue.drain())") }
    }

    /// Takes over from OpenSSL: its keys, what it learned of the peer, and then the connection itself.
    private func establish(_ ssl: OpaquePointer) throws(TLSError) {
        guard let cipher = unsafe SSL_get_current_cipher(ssl),
            let suite = unsafe CipherSuite(rawValue: SSL_CIPHER_get_protocol_id(cipher)),
            let own = context.isServer ? secrets.server : secrets.client,
            let other = context.isServer ? secrets.client : secrets.server,
            let reader = RecordCipher(suite: suite, secret: other, isSealing: false),
            let writer = RecordCipher(suite: suite, secret: own, isSealing: true),
            unsafe SSL_has_pending(ssl) == 0
        else { throw .library("the keys of a finished handshake: \(ErrorQueue.drain())") }
        peer.chain = try unsafe Self.chain(of: ssl)
        peer.alpn = unsafe Self.alpn(of: ssl)
        peer.cipherSuite = unsafe SSL_CIPHER_get_name(cipher).map { unsafe String(cString: $0) }
        records = RecordLayer(
            transport: transport, reader: reader, writer: writer, isServer: context.isServer,
            recordsPerKey: recordsPerKey)
        secrets.forget()
        ERR_clear_error()
        unsafe SSL_free(ssl)
        unsafe self.ssl = nil
    }

    private static func chain(of ssl: OpaquePointer) throws(TLSError) -> [Certificate] {
        guard let x509 = unsafe SSL_get0_peer_certificate(ssl) else { return [] }
        var chain = [try unsafe Certificate(x509: x509)]
        let sent = unsafe SSL_get_peer_cert_chain(ssl)
        let count = unsafe min(Int(sluice_x509_stack_count(sent)), CertificateLimits.chainLengthMax)
        for index in 0..<Int32(max(count, 0)) {
            guard let x509 = unsafe sluice_x509_stack_at(sent, index) else { continue }
            let next = try unsafe Certificate(x509: x509)
            if next != chain[0] { chain.append(next) }
        }
        return chain
    }

    private static func alpn(of ssl: OpaquePointer) -> String? {
        var name: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        unsafe SSL_get0_alpn_selected(ssl, &name, &count)
        guard let name = unsafe name, count > 0 else { return nil }
        return unsafe String(
            validating: UnsafeBufferPointer(start: name, count: Int(count)), as: UTF8.self)
    }

    /// Ends the handshake for good.
    private func fail(_ error: TLSError) -> TLSError {
        failure = error
        transport.input.discard()
        secrets.forget()
        unsafe SSL_free(ssl)
        unsafe ssl = nil
        return error
    }

    /// Why the handshake failed: the verification of the peer first, then what OpenSSL says.
    private func handshakeError(_ ssl: OpaquePointer) -> TLSError {
        let reason = ErrorQueue.firstReason()
        let text = ErrorQueue.drain()
        switch reason {
        case SSL_R_CERTIFICATE_VERIFY_FAILED:
            let code = unsafe SSL_get_verify_result(ssl)
            if code == X509_V_ERR_APPLICATION_VERIFICATION {
                return .untrustedPeer("its chain holds no authority with the expected fingerprint")
            }
            if let refusal = refusal(Int32(clamping: code)) { return refusal }
            return unsafe .untrustedPeer(String(cString: X509_verify_cert_error_string(Int(code))))
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
            return .untrustedPeer("it presented no certificate")
        case SSL_AD_REASON_OFFSET...(SSL_AD_REASON_OFFSET + 255):
            return .peerAlert(Alert.name(UInt8(reason - SSL_AD_REASON_OFFSET)))
        default:
            return .handshakeFailed(text)
        }
    }

    /// What can be said of a certificate whose time or name is wrong; nil for anything else.
    private func refusal(_ code: Int32) -> TLSError? {
        guard let certificate = secrets.refused else { return nil }
        switch code {
        case X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED:
            return .untimelyPeer(
                notBefore: certificate.notBefore, notAfter: certificate.notAfter,
                now: UInt64(max(0, time(nil))), isAuthority: certificate.isAuthority)
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
            return .misnamedPeer(wanted: serverName ?? "", names: certificate.serverNames)
        default: return nil
        }
    }
}
