import ArgumentParser
import Capability
import Core
import TLS

/// A capability's token on the command line: itself, a file that holds it, or `-`.
struct TokenOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp("The token (slcap1_…), a file that holds it, or - for standard input."),
        completion: .file())
    var token: String

    /// The capability, parsed and not verified.
    func capability() throws -> Capability {
        let text =
            if token == "-" {
                try TextInput.standardInput()
            } else if token.hasPrefix(Capability.textPrefix) {
                token
            } else {
                try TextInput.file(token)
            }
        let body = text.drop(while: \.isWhitespace).prefix { !$0.isWhitespace }
        do throws(CapabilityError) {
            return try Capability(text: String(body))
        } catch {
            throw Failure(.usage, "this is no capability: \(error)")
        }
    }
}

extension CapabilityCommand {
    /// `sluice capability inspect`
    struct Inspect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Explain a token in plain words, offline.",
            discussion: """
                EXAMPLES:
                  sluice capability inspect data.cap
                  sluice capability issue volume/data | sluice capability inspect -
                """)

        @OptionGroup var global: GlobalOptions
        @OptionGroup var source: TokenOptions

        func run() throws {
            let capability = try source.capability()
            try global.output.show(
                Inspection(capability),
                sentence: Sentence(ownLines: capability.explained(now: TimeText.now)))
        }
    }

    /// `sluice capability attenuate`
    struct Attenuate: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Narrow a token, offline, and print the new one.",
            discussion: """
                The new token can do less, never more. Handing it to another key takes delegation depth.

                EXAMPLES:
                  sluice capability attenuate data.cap --rights read --expires-in 10m
                  sluice capability attenuate data.cap --range 0:1GiB --holder peer/cert.pem --seal
                """)

        @OptionGroup var global: GlobalOptions
        @OptionGroup var source: TokenOptions
        @Option(help: ArgumentHelp("The rights that remain. " + RightsArgument.help)) var rights:
            RightsArgument?
        @OptionGroup(title: "Narrower than before") var narrowing: NarrowingOptions
        @Option(help: ArgumentHelp("How long it stays valid, from now.", valueName: "time"))
        var expiresIn: DurationArgument?
        @Option(
            help: ArgumentHelp(
                "Hand it to this key: its thumbprint (64 hex digits), or a certificate's file.",
                valueName: "thumbprint|cert.pem"))
        var holder: String?
        @Option(help: "How often it may still be handed on.") var delegationDepth: UInt8?
        @Flag(help: "Seal it: nobody can narrow it further.") var seal = false
        @Option(
            help: ArgumentHelp("Write the token to this new file, readable by you alone.", valueName: "file"),
            completion: .file())
        var out: String?

        func run() throws {
            let capability = try source.capability()
            let narrower = try narrow(capability)
            let result = Attenuated(token: narrower.text, isSealed: narrower.isSealed)
            guard let out else { return try global.output.show(result, sentence: narrower.text) }
            try TextInput.writeSecret(to: out) { narrower.text + "\n" }
            Terminal.note("written to \(out)")
        }

        private func narrow(_ capability: Capability) throws -> Capability {
            let limits = narrowing.limits
            let attenuation = Attenuation(
                rights: rights?.rights,
                range: narrowing.range.flatMap { ByteRange(offset: $0.offset, length: $0.length) },
                expiry: expiresIn.map { TimeText.now.addingSaturated($0.seconds) }, limits: limits,
                holder: try holder.map(thumbprint), delegationDepth: delegationDepth)
            let keys = OpenSSLSignatures()
            guard attenuation != Attenuation() || seal else {
                throw ValidationError(
                    "say what to narrow, such as --rights read or --expires-in 10m, or --seal")
            }
            do throws(CapabilityError) {
                let narrower =
                    attenuation == Attenuation()
                    ? capability : try capability.attenuated(by: attenuation, keys: keys)
                return seal ? try narrower.sealed(keys: keys) : narrower
            } catch {
                throw Failure(.failure, "the token cannot be narrowed so: \(error)")
            }
        }

        private func thumbprint(_ text: String) throws -> Digest32 {
            if let digest = Digest32(hex: text) { return digest }
            let pem = Array(try TextInput.file(text).utf8)
            do throws(TLSError) {
                return try Certificate(pem: pem).thumbprint
            } catch {
                throw Failure(.usage, "\(text) is no certificate: \(error)")
            }
        }
    }
}
