import Core
import TLS
import Testing

@Suite struct SealedTextTests {
    private let key = SecretBytes([UInt8](repeating: 7, count: 32))
    private let context = Array("idempotency/1".utf8)

    @Test(arguments: [0, 1, 15, 16, 17, 700, 8192]) func whatWasSealedIsOpenedAgain(count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let text = SealedText.seal(bytes, context: context, key: key, random: OpenSSLRandom())
        #expect(SealedText.open(text, context: context, key: key) == bytes)
        #expect(text != SealedText.seal(bytes, context: context, key: key, random: OpenSSLRandom()))
    }

    @Test func nothingElseOpens() {
        let text = SealedText.seal(
            Array("slcap1_x".utf8), context: context, key: key, random: OpenSSLRandom())
        #expect(SealedText.open(text, context: [1], key: key) == nil)
        let other = SecretBytes([UInt8](repeating: 8, count: 32))
        #expect(SealedText.open(text, context: context, key: other) == nil)
        #expect(SealedText.open("", context: context, key: key) == nil)
        #expect(SealedText.open(String(text.dropLast(4)), context: context, key: key) == nil)
        guard let bytes = Base64URL.decode(text) else {
            Issue.record("it is base64url")
            return
        }
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 1
            #expect(SealedText.open(Base64URL.encode(changed), context: context, key: key) == nil)
        }
    }
}
