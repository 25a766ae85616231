import Core
import Glibc
import Simulation
import Testing

@testable import TLS

/// Both libraries that protect records make and take the same bytes.
@Suite struct RecordCipherTests {
    private static let sizes = Array(0...300) + [511, 512, 513, 4095, 4096, 4129, 16383, 16384]

    /// The suites that intel-ipsec-mb does on this machine.
    private static let suites = CipherSuite.allCases.filter { suite in
        guard let cipher = RecordAEAD(suite: suite, isSealing: true, library: .multiBuffer) else {
            return false
        }
        cipher.release()
        return true
    }

    @Test(arguments: suites) func librariesMakeTheSameBytes(_ suite: CipherSuite) throws {
        var random = SplitMix(seed: 5)
        let first = try cipher(suite, .multiBuffer, isSealing: true)
        let second = try cipher(suite, .openSSL, isSealing: true)
        for count in Self.sizes {
            let content = random.bytes(count)
            #expect(seal(first, content) == seal(second, content), "\(count) bytes")
            if count % 100 == 7 { #expect(first.update() && second.update()) }
        }
    }

    @Test(arguments: suites, RecordAEAD.Library.allCases)
    func contentInPiecesMakesTheSameBytes(_ suite: CipherSuite, _ library: RecordAEAD.Library) throws {
        var random = SplitMix(seed: 8)
        let whole = try cipher(suite, .openSSL, isSealing: true)
        let scattered = try cipher(suite, library, isSealing: true)
        for count in Self.sizes.dropFirst() {
            let content = random.bytes(count)
            var cuts = Set((0..<8).map { _ in Int.random(in: 1...count, using: &random) }).sorted()
            if cuts.last != count { cuts.append(count) }
            var record = [UInt8](repeating: 0, count: count + RecordCipher.overheadBytes)
            let isDone = unsafe content.withUnsafeBytes { content in
                var start = 0
                let pieces = unsafe cuts.map { end in
                    defer { start = end }
                    let base = unsafe UnsafeMutableRawPointer(mutating: content.baseAddress! + start)
                    return unsafe iovec(iov_base: base, iov_len: end - start)
                }
                return unsafe pieces.withUnsafeBufferPointer { pieces in
                    unsafe record.withUnsafeMutableBufferPointer { target in
                        unsafe scattered.seal(
                            type: RecordType.applicationData, pieces, count: count, to: target.baseAddress!)
                    }
                }
            }
            #expect(isDone && record == seal(whole, content), "\(count) bytes at \(cuts)")
        }
    }

    @Test(arguments: suites, RecordAEAD.Library.allCases)
    func eachOpensWhatTheOtherMadeInTwoPiecesOfAnySize(
        _ suite: CipherSuite, _ library: RecordAEAD.Library
    ) throws {
        var random = SplitMix(seed: 6)
        let sealing = try cipher(suite, library == .openSSL ? .multiBuffer : .openSSL, isSealing: true)
        let opening = try cipher(suite, library, isSealing: false)
        for count in Self.sizes {
            let content = random.bytes(count)
            let split = Int.random(in: 0...count + 1, using: &random)
            #expect(open(opening, seal(sealing, content), split: split) == content + [23], "\(count) bytes")
        }
    }

    @Test(arguments: suites, RecordAEAD.Library.allCases)
    func noChangedBitIsAccepted(_ suite: CipherSuite, _ library: RecordAEAD.Library) throws {
        var random = SplitMix(seed: 7)
        for count in [0, 1, 15, 16, 17, 100, 1000] {
            let bitCount = (count + RecordCipher.overheadBytes) * 8
            for bit in Set((0..<60).map { _ in Int.random(in: 0..<bitCount, using: &random) }) {
                var record = seal(try cipher(suite, .openSSL, isSealing: true), random.bytes(count))
                record?[bit / 8] ^= 1 << (bit % 8)
                #expect(open(try cipher(suite, library, isSealing: false), record, split: count / 2) == nil)
            }
        }
    }

    private func cipher(
        _ suite: CipherSuite, _ library: RecordAEAD.Library, isSealing: Bool
    ) throws -> RecordCipher {
        let bytes = (0..<suite.secretBytes).map { UInt8($0) }
        let secret = unsafe bytes.withUnsafeBufferPointer { unsafe TrafficSecret($0) }
        return try #require(
            RecordCipher(suite: suite, secret: secret, isSealing: isSealing, library: library))
    }

    private func seal(_ cipher: RecordCipher, _ content: [UInt8]) -> [UInt8]? {
        var record = [UInt8](repeating: 0, count: content.count + RecordCipher.overheadBytes)
        let done = unsafe record.withUnsafeMutableBufferPointer { target in
            unsafe cipher.seal(
                type: RecordType.applicationData, content, count: content.count, to: target.baseAddress!)
        }
        return done ? record : nil
    }

    private func open(_ cipher: RecordCipher, _ record: [UInt8]?, split: Int) -> [UInt8]? {
        guard let record else { return nil }
        let count = record.count - RecordCipher.headerBytes - RecordCipher.tagBytes
        var first = [UInt8](repeating: 0, count: split + 1)
        var second = [UInt8](repeating: 0, count: count - split + 1)
        let isAuthentic = unsafe first.withUnsafeMutableBufferPointer { first in
            unsafe second.withUnsafeMutableBufferPointer { second in
                unsafe cipher.open(
                    record, bodyBytes: count + RecordCipher.tagBytes, first: first.baseAddress!,
                    firstCount: split, second: second.baseAddress)
            }
        }
        return isAuthentic ? Array(first.prefix(split) + second.prefix(count - split)) : nil
    }
}
