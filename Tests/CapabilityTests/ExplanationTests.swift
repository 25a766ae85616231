import Core
import TLS
import Testing

@testable import Capability

@Suite struct ExplanationTests {
    private let keys = OpenSSLSignatures()

    @Test func saysWhoMayDoWhatUntilWhen() throws {
        let text = try Sample.capability(Sample.claims(range: extent(0, 4096), limits: IOLimits(iops: 9)))
            .explained(now: Sample.now)
        for part in [
            "for the volume \(Sample.claims().resource)", "read, write, flush",
            "the 4096 bytes from 0 up to 4096", "at most 9 operations per second",
            "until 2027-01-16T08:00:00Z", "\(Sample.holder)", "may not be handed on",
            "Valid now, for another 23 h", "Open: whoever has it can attenuate it.",
            "signatures were not checked",
        ] { #expect(text.contains(part), "\(part) is missing from:\n\(text)") }
        #expect(!text.contains("What is left") && !text.contains("Keep it secret"))
    }

    @Test func saysWhatEachAttenuationTookAndWhatIsLeft() throws {
        let capability = try Sample.capability(Sample.claims(delegationDepth: 2))
            .attenuated(by: Attenuation(rights: .read, expiry: Sample.start + 60), keys: keys)
            .attenuated(by: Attenuation(holder: Sample.otherHolder), keys: keys)
        let text = capability.explained(now: nil)
        for part in [
            "Attenuation 1\n  allows only read", "only until 2027-01-15T08:01:00Z",
            "Attenuation 2\n  handed to the holder of the TLS key with thumbprint \(Sample.otherHolder)",
            "What is left\n  allows read on all of it", "may be handed on once", "Keep it secret",
        ] { #expect(text.contains(part), "\(part) is missing from:\n\(text)") }
        #expect(try capability.sealed(keys: keys).explained(now: nil).contains("Sealed: nobody"))
    }

    @Test func saysWhenItIsExpiredOrNotYetValid() throws {
        let capability = try Sample.capability()
        #expect(capability.explained(now: Sample.end + 60).contains("Expired 1 min ago."))
        #expect(capability.explained(now: Sample.start - 1).contains("becomes valid in 1 s"))
    }

    @Test func saysWhyEveryServerWillRefuseATokenThatWidens() throws {
        let vector = try #require(
            VectorFile(named: "invalid.json").vectors.first { $0.name == "widened-rights" })
        let text = try Capability(text: vector.token).explained(now: nil)
        #expect(
            text.contains("Every server will refuse it: attenuation 1 of the capability widens its rights"))
    }

    @Test func showsNoSeed() throws {
        let capability = try Sample.capability()
        let text = capability.explained(now: nil)
        #expect(!text.contains(Hex.encode(capability.bytes[capability.proof])))
        #expect(!text.contains(capability.text))
    }
}
