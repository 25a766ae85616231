import Core
import Simulation
import Testing

@testable import Wire

/// Tokens that somebody pasted: a token that is taken has one text.
@Suite struct JoinTokenFuzzTests {
    private static let tokens: [String] = ["a", "web-1", String(repeating: "n", count: 63)].compactMap {
        name in
        ResourceName(name).map {
            JoinToken(
                authorityFingerprint: Digest32(first: Identifier(high: 1, low: 2), second: .zero),
                nodeName: $0,
                secret: [UInt8](repeating: 0xA5, count: JoinToken.secretBytes)
            ).text
        }
    }

    private static let fuzzer = Fuzzer(
        "join tokens", texts: tokens + tokens.map { "\n  \($0) \n" } + ["sljoin1_", ""],
        tokens: ["sljoin1_", "=", "-", "_", "+", "/", " ", "\r\n", "\u{301}", "\0"])

    @Test func aTokenThatIsTakenHasOneText() throws {
        var taken = 0
        try Self.fuzzer.run(20_000) { input, place, _ in
            let text = String(decoding: input, as: UTF8.self)
            let token: JoinToken
            do {
                token = try JoinToken(text: text)
            } catch {
                #expect(ShownText.isPlain("\(error)"), "\(place)")
                return
            }
            taken += 1
            let again = try JoinToken(text: token.text)
            #expect(again == token, "\(place)")
            #expect(text.contains(token.text), "\(place): \(text)")
            #expect(ShownText.isPlain(token.description), "\(place)")
        }
        #expect(taken > 100)
    }
}
