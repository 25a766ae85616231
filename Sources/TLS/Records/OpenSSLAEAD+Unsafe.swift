import COpenSSL
import Glibc

/// Every cipher of TLS 1.3 by OpenSSL, for one direction.
@safe
struct OpenSSLAEAD {
    private let context: OpaquePointer
    private let isSealing: Bool

    init?(suite: CipherSuite, isSealing: Bool) {
        guard let context = unsafe EVP_CIPHER_CTX_new() else { return nil }
        guard unsafe EVP_CipherInit_ex(context, suite.algorithm, nil, nil, nil, isSealing ? 1 : 0) == 1 else {
            unsafe EVP_CIPHER_CTX_free(context)
            return nil
        }
        unsafe self.context = unsafe context
        self.isSealing = isSealing
    }

    func release() {
        unsafe EVP_CIPHER_CTX_free(context)
    }

    func setKey(_ key: UnsafePointer<UInt8>) -> Bool {
        unsafe EVP_CipherInit_ex(context, nil, nil, key, nil, isSealing ? 1 : 0) == 1
    }

    @inline(__always)
    func seal(
        nonce: UnsafePointer<UInt8>, header: UnsafePointer<UInt8>, headerBytes: Int,
        _ content: UnsafeBufferPointer<iovec>, count: Int, type: UInt8, to body: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        var done: Int32 = 0
        guard unsafe EVP_EncryptInit_ex(context, nil, nil, nil, nonce) == 1,
            unsafe EVP_EncryptUpdate(context, nil, &done, header, Int32(headerBytes)) == 1
        else { return false }
        var target = unsafe body
        for index in 0..<content.count {
            let piece = unsafe content[index]
            let bytes = unsafe piece.iov_base?.assumingMemoryBound(to: UInt8.self)
            guard unsafe EVP_EncryptUpdate(context, target, &done, bytes, Int32(piece.iov_len)) == 1 else {
                return false
            }
            unsafe target += piece.iov_len
        }
        var type = type
        guard unsafe EVP_EncryptUpdate(context, body + count, &done, &type, 1) == 1,
            unsafe EVP_EncryptFinal_ex(context, body + count + 1, &done) == 1
        else { return false }
        return unsafe EVP_CIPHER_CTX_ctrl(
            context, EVP_CTRL_AEAD_GET_TAG, Int32(RecordCipher.tagBytes), body + count + 1) == 1
    }

    @inline(__always)
    func open(
        nonce: UnsafePointer<UInt8>, header: UnsafePointer<UInt8>, headerBytes: Int,
        _ body: UnsafePointer<UInt8>, first: UnsafeMutablePointer<UInt8>, firstCount: Int,
        second: UnsafeMutablePointer<UInt8>?, secondCount: Int
    ) -> Bool {
        var done: Int32 = 0
        guard unsafe EVP_DecryptInit_ex(context, nil, nil, nil, nonce) == 1,
            unsafe EVP_DecryptUpdate(context, nil, &done, header, Int32(headerBytes)) == 1,
            unsafe EVP_DecryptUpdate(context, first, &done, body, Int32(firstCount)) == 1,
            unsafe secondCount == 0
                || EVP_DecryptUpdate(context, second, &done, body + firstCount, Int32(secondCount)) == 1
        else { return false }
        let tag = unsafe UnsafeMutableRawPointer(mutating: body + firstCount + secondCount)
        guard
            unsafe EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(RecordCipher.tagBytes), tag) == 1
        else { return false }
        var none: UInt64 = 0
        return unsafe withUnsafeMutableBytes(of: &none) { scratch in
            unsafe EVP_DecryptFinal_ex(context, scratch.bindMemory(to: UInt8.self).baseAddress, &done) == 1
        }
    }
}
