import Capability
import Core
import Testing

@testable import TLS

@Suite struct PrivateKeyTests {
    @Test func keysAreReadBackFromPEM() throws {
        for key in [PrivateKey.generateP256(), .generateEd25519()] {
            let text = String(decoding: key.pem, as: UTF8.self)
            #expect(text.hasPrefix("-----BEGIN PRIVATE KEY-----\n"))
            #expect(try PrivateKey(pem: key.pem).publicKeyThumbprint == key.publicKeyThumbprint)
            #expect(try PrivateKey(pem: key.secretPEM).publicKeyThumbprint == key.publicKeyThumbprint)
        }
    }

    @Test func keysDiffer() {
        #expect(
            PrivateKey.generateP256().publicKeyThumbprint != PrivateKey.generateP256().publicKeyThumbprint)
    }

    @Test func whatIsNoKeyIsRefused() throws {
        let pem = PrivateKey.generateP256().pem
        let certificate = try CertificateAuthority.create(commonName: "x", validDays: 1).certificate.pem
        for bad in [[], [1], certificate, Array(pem.dropLast(30)), [UInt8](repeating: 65, count: 100_000)] {
            #expect(throws: TLSError.self) { try PrivateKey(pem: bad) }
        }
    }

    @Test func digestsMatchTheirStandards() {
        // FIPS 180-4 example, and RFC 4231 test cases 1, 2 and 6.
        #expect(
            SHA256.hash(Array("abc".utf8)).hex
                == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(
            SHA256.hash([]).hex == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        let cases: [(key: [UInt8], message: String, code: String)] = [
            (
                [UInt8](repeating: 0x0B, count: 20), "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
            ),
            (
                Array("Jefe".utf8), "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            ),
            (
                [UInt8](repeating: 0xAA, count: 131),
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
            ),
        ]
        for (key, message, code) in cases {
            let made = HMACSHA256.authenticate(Array(message.utf8), key: key)
            #expect(made.hex == code)
            #expect(HMACSHA256.isValid(made.bytes, for: Array(message.utf8), key: key))
            #expect(!HMACSHA256.isValid(Array(made.bytes.dropLast()), for: Array(message.utf8), key: key))
        }
        #expect(
            HMACSHA256.authenticate([], key: []).hex
                == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
    }

    @Test func capabilitySignaturesMatchTheirStandard() throws {
        // RFC 8032 §7.1, test 2.
        let seed = try #require(
            Hex.decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
        let publicKey = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        let expected =
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            + "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        let signatures = OpenSSLSignatures()
        let signer = try signatures.signer(seed: seed)
        let signature = try signer.sign([0x72])
        #expect(Hex.encode(signer.publicKey) == publicKey)
        #expect(signatures.publicKey(seed: seed) == signer.publicKey)
        #expect(Hex.encode(signature) == expected)
        #expect(signatures.isValid(signature: signature, message: [0x72], publicKey: signer.publicKey))
        #expect(!signatures.isValid(signature: signature, message: [0x73], publicKey: signer.publicKey))
        #expect(!signatures.isValid(signature: [], message: [0x72], publicKey: signer.publicKey))
        #expect(!signatures.isValid(signature: signature, message: [0x72], publicKey: []))
        #expect(throws: CapabilityError.self) { try signatures.signer(seed: [1]) }
        #expect(signatures.publicKey(seed: []) == nil)
        let other = signatures.makeKey()
        #expect(!signatures.isValid(signature: signature, message: [0x72], publicKey: other.signer.publicKey))
        #expect(signatures.publicKey(seed: other.seed) == other.signer.publicKey)
    }
}
