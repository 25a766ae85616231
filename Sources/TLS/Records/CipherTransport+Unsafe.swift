import COpenSSL

/// The two byte streams of a connection, as OpenSSL sees them through a BIO of our own: reads come straight
/// from the ciphertext that the owner lent, writes go straight to the output region.
final class CipherTransport {
    let input: TLSInput
    let output: TLSOutput
    let pool: TLSBufferPool

    init(pool: TLSBufferPool) {
        self.pool = pool
        input = TLSInput(pool: pool)
        output = TLSOutput(pool: pool)
    }

    /// A new BIO over this transport. It does not keep the transport alive: the connection does.
    func makeBIO() -> OpaquePointer? {
        guard let bio = unsafe BIO_new(Self.method) else { return nil }
        unsafe BIO_set_data(bio, Unmanaged.passUnretained(self).toOpaque())
        unsafe BIO_set_init(bio, 1)
        return unsafe bio
    }

    // SAFETY: written once, before first use, and only read by OpenSSL afterwards.
    nonisolated(unsafe) private static let method: OpaquePointer? = {
        guard let method = unsafe BIO_meth_new(sluice_bio_type(BIO_get_new_index()), "sluice") else {
            return nil
        }
        unsafe BIO_meth_set_read_ex(method, readCiphertext)
        unsafe BIO_meth_set_write_ex(method, writeCiphertext)
        unsafe BIO_meth_set_ctrl(method) { _, command, _, _ in command == BIO_CTRL_FLUSH ? 1 : 0 }
        return unsafe method
    }()
}

private func readCiphertext(
    _ bio: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int,
    _ done: UnsafeMutablePointer<Int>?
) -> Int32 {
    guard let bio = unsafe bio, let data = unsafe BIO_get_data(bio), let done = unsafe done else { return 0 }
    let transport = unsafe Unmanaged<CipherTransport>.fromOpaque(data)
    let target = unsafe UnsafeMutableRawBufferPointer(start: buffer, count: size)
    let count = unsafe transport._withUnsafeGuaranteedRef { unsafe $0.input.read(into: target) }
    unsafe BIO_clear_flags(bio, sluice_bio_retry_flags)
    unsafe done.pointee = count
    if count > 0 { return 1 }
    unsafe BIO_set_flags(bio, sluice_bio_wants_read)
    return 0
}

private func writeCiphertext(
    _ bio: OpaquePointer?, _ bytes: UnsafePointer<CChar>?, _ count: Int, _ done: UnsafeMutablePointer<Int>?
) -> Int32 {
    guard let bio = unsafe bio, let data = unsafe BIO_get_data(bio), let done = unsafe done else { return 0 }
    let transport = unsafe Unmanaged<CipherTransport>.fromOpaque(data)
    let source = unsafe UnsafeRawBufferPointer(start: bytes, count: count)
    unsafe transport._withUnsafeGuaranteedRef { unsafe $0.output.append(source) }
    unsafe done.pointee = count
    return 1
}
