/// Memory that decrypted bytes are put into, a call at a time.
@safe
final class IncomingBuffer {
    // SAFETY: allocated here, freed in deinit; the owner hands it to one call at a time.
    let memory: UnsafeMutableRawBufferPointer

    init(bytes: Int) {
        unsafe memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 16)
    }

    deinit { unsafe memory.deallocate() }
}
