import Glibc

/// Gives a decoder what is right, and then what is nearly right: seeded, so that a failure is had again.
///
/// The corpus is what is right, and what was found once and mended. `SLUICE_FUZZ` multiplies the rounds, `SLUICE_SEED`
/// begins with another seed. The seed of a failure is in its message; one that ends the process is in the thousand after
/// the seed that was printed last.
public struct Fuzzer: Sendable {
    /// What the campaign is scaled by.
    public static let factor = number("SLUICE_FUZZ") ?? 1
    /// The seed that a campaign begins with.
    public static let firstSeed = UInt64(number("SLUICE_SEED") ?? 1)

    private let corpus: [[UInt8]]
    private let tokens: [[UInt8]]
    private let name: String

    /// A fuzzer of one decoder.
    ///
    /// - Parameters:
    ///   - corpus: inputs that begin right; never empty.
    ///   - tokens: pieces that mean something to the decoder, which are put in at random.
    public init(_ name: String, corpus: [[UInt8]], tokens: [[UInt8]] = []) {
        precondition(!corpus.isEmpty, "there is nothing to change")
        self.name = name
        self.corpus = corpus
        self.tokens = tokens
    }

    /// A fuzzer of one decoder of text.
    public init(_ name: String, texts: [String], tokens: [String] = []) {
        self.init(name, corpus: texts.map { Array($0.utf8) }, tokens: tokens.map { Array($0.utf8) })
    }

    /// Calls `body` with the corpus as it is, and then with `rounds` inputs that are changed in a few places; `place` says
    /// how to have an input again.
    public func run(
        _ rounds: Int, _ body: (_ input: [UInt8], _ place: String, _ random: inout SplitMix) throws -> Void
    ) rethrows {
        var random = SplitMix(seed: Self.firstSeed)
        for (index, input) in corpus.enumerated() { try body(input, "\(name), input \(index)", &random) }
        for round in 0..<rounds * Self.factor {
            let seed = Self.firstSeed &+ UInt64(round)
            if round % 1000 == 0, Self.factor > 1 {
                print("\(name): SLUICE_SEED=\(seed) and the next thousand")
            }
            var random = SplitMix(seed: seed)
            let input = changed(&random)
            try body(input, "\(name), SLUICE_SEED=\(seed)", &random)
        }
    }

    private func changed(_ random: inout SplitMix) -> [UInt8] {
        var bytes = corpus[random.below(corpus.count)]
        for _ in 0...random.below(4) { change(&bytes, &random) }
        return bytes
    }

    private func change(_ bytes: inout [UInt8], _ random: inout SplitMix) {
        let start = random.below(bytes.count + 1)
        let end = min(bytes.count, start + 1 + random.below(16))
        switch random.below(10) {
        case 0 where start < bytes.count: bytes[start] ^= 1 << UInt8(random.below(8))
        case 1 where start < bytes.count: bytes[start] = Self.edges[random.below(Self.edges.count)]
        case 2: bytes.removeSubrange(start..<end)
        case 3: bytes.insert(contentsOf: bytes[start..<end], at: start)
        case 4 where random.once(in: 4): bytes.removeSubrange(start...)
        case 5:
            // The beginning of this one and the end of another, as where two are mixed up.
            let other = corpus[random.below(corpus.count)]
            bytes.replaceSubrange(
                start..<end, with: other.dropFirst(random.below(other.count + 1)).prefix(24))
        case 6: bytes.insert(UInt8(truncatingIfNeeded: random.next()), at: start)
        case 7:
            // A number where sums and products break.
            let number: UInt64 =
                random.once(in: 2) ? UInt64.max >> UInt64(random.below(64)) : 1 << UInt64(random.below(64))
            for (index, place) in (start..<min(bytes.count, start + 8)).enumerated() {
                bytes[place] = UInt8(truncatingIfNeeded: number >> UInt64(8 * index))
            }
        default:
            guard !tokens.isEmpty else { return }
            let token = tokens[random.below(tokens.count)]
            bytes.replaceSubrange(start..<(random.once(in: 2) ? start : end), with: token)
        }
    }

    private static let edges: [UInt8] = [
        0x00, 0x01, 0x0A, 0x0D, 0x1B, 0x20, 0x22, 0x25, 0x2C, 0x2D, 0x2F, 0x30, 0x39, 0x3A, 0x5C, 0x7F, 0x80,
        0xC0, 0xED,
        0xFE, 0xFF,
    ]

    private static func number(_ name: String) -> Int? {
        unsafe getenv(name).flatMap { unsafe Int(String(cString: $0)) }
    }
}
