import COpenSSL
import Glibc

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
    private let aead: RecordAEAD
    private var secret: TrafficSecret
    /// The nonce of the present record; its last 8 bytes change.
    private let nonce: UnsafeMutableRawPointer
    private var nonceLow: UInt64 = 0

    private static let nonceBytes = 12

    /// A cipher with the key that `secret` gives, by `library` or the fastest that this machine has; nil when the
    /// library refuses.
    init?(suite: CipherSuite, secret: TrafficSecret, isSealing: Bool, library: RecordAEAD.Library? = nil) {
        guard secret.count == suite.secretBytes,
            let aead = RecordAEAD(suite: suite, isSealing: isSealing, library: library)
        else { return nil }
        self.suite = suite
        self.secret = secret
        self.aead = aead
        unsafe nonce = .allocate(byteCount: 16, alignment: 8)
        guard install(secret) else { return nil }
    }

    deinit {
        aead.release()
        unsafe OPENSSL_cleanse(nonce, 16)
        unsafe nonce.deallocate()
    }

    /// Goes on to the next generation of keys; false when OpenSSL fails.
    func update() -> Bool {
        guard let next = secret.next(suite), install(next) else { return false }
        secret = next
        return true
    }

    /// Writes one record with the content, `count` bytes in pieces none of which is empty, to `target`, which has room
    /// for `overheadBytes` more. At most 16 KiB. False only when OpenSSL fails.
    @inline(__always)
    func seal(
        type: UInt8, _ content: UnsafeBufferPointer<iovec>, count: Int, to target: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        let length = count + 1 + Self.tagBytes
        unsafe target[0] = RecordType.applicationData
        unsafe target[1] = 3
        unsafe target[2] = 3
        unsafe target[3] = UInt8(truncatingIfNeeded: length >> 8)
        unsafe target[4] = UInt8(truncatingIfNeeded: length)
        return unsafe aead.seal(
            nonce: nextNonce(), header: target, headerBytes: Self.headerBytes, content, count: count,
            type: type, to: target + Self.headerBytes)
    }

    /// Likewise with content that lies in one place.
    @inline(__always)
    func seal(
        type: UInt8, _ content: UnsafeRawPointer?, count: Int, to target: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        var piece = unsafe iovec(iov_base: UnsafeMutableRawPointer(mutating: content), iov_len: count)
        return unsafe withUnsafePointer(to: &piece) { piece in
            let pieces = unsafe UnsafeBufferPointer(start: piece, count: count > 0 ? 1 : 0)
            return unsafe seal(type: type, pieces, count: count, to: target)
        }
    }

    /// Unprotects the record at `record`, whose body has `bodyBytes` bytes (at least a tag): the first
    /// `firstCount` bytes of the inner plaintext go to `first`, the rest to `second`. False when the record is
    /// not authentic; what was written is then worth nothing.
    @inline(__always)
    func open(
        _ record: UnsafePointer<UInt8>, bodyBytes: Int, first: UnsafeMutablePointer<UInt8>, firstCount: Int,
        second: UnsafeMutablePointer<UInt8>?
    ) -> Bool {
        unsafe aead.open(
            nonce: nextNonce(), header: record, headerBytes: Self.headerBytes, record + Self.headerBytes,
            first: first, firstCount: firstCount, second: second,
            secondCount: bodyBytes - Self.tagBytes - firstCount)
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
            unsafe aead.setKey(key.baseAddress!)
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
