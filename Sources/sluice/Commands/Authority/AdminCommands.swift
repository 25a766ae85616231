import ArgumentParser
import Core
import SluiceClient

/// `sluice admin …`
struct AdminCommands: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "admin", abstract: "Add, renew and revoke administrators.",
        subcommands: [Add.self, List.self, Show.self, Renew.self, Revoke.self])

    @OptionGroup var global: GlobalOptions
}

extension AdminCommands {
    /// `sluice admin add`
    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make another administrator: a new folder with a key and a certificate for it.",
            discussion: """
                The key is made here and never goes to the server. Hand the folder over by a safe way; who has it may do
                everything. Its certificate lasts for a year, and is renewed by any use of it in the last third.

                EXAMPLE:
                  sluice admin add alice --out alice
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: ArgumentHelp("A name for them.", discussion: ResourceName.rule + "."))
        var name: NameArgument
        @Option(help: ArgumentHelp("The new folder.", valueName: "dir"), completion: .directory) var out:
            String

        func run() throws {
            let api = try ControlAPI(global)
            let made: Credentials
            do {
                made = try CredentialBundle.make(
                    name: name.description, folder: out, option: "--out", server: api.server.description
                ) { csr in
                    let answer: Answered<CredentialBundle.Certified> = try api.post(
                        "/v1/admins", AdminCreation(name: name.description, csr: csr))
                    return answer.known
                }
            } catch let error as ClientError {
                throw Failure(error)
            }
            let bundle = AdminBundle(
                name: name.description, credentials: made.folder,
                expiresAt: TimeText.text(made.certificate.notAfter))
            try global.output.show(
                bundle, sentence: "administrator \(name) added; use it with --credentials \(made.folder)")
        }
    }

    /// `sluice admin list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the administrators.", discussion: "EXAMPLE:\n  sluice admin list", aliases: ["ls"]
        )

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let admins: [Answered<Admin>] = try ControlAPI(global).list("/v1/admins")
            try global.output.show(list: admins)
        }
    }

    /// `sluice admin show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one administrator.", discussion: "EXAMPLE:\n  sluice admin show alice")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The administrator's name.") var name: NameArgument

        func run() throws {
            let admin: Answered<Admin> = try ControlAPI(global).get("/v1/admins/\(name)")
            try global.output.show(one: admin)
        }
    }

    /// `sluice admin renew`
    struct Renew: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Renew the certificate of the administrator that you are.",
            discussion: """
                The certificate in the credentials folder is replaced. With --new-key so is the key, and the certificates
                of before no longer count.

                EXAMPLES:
                  sluice admin renew --credentials alice
                  sluice admin renew --credentials alice --new-key
                """)

        @OptionGroup var global: GlobalOptions
        @Flag(help: "Make a new key, too.") var newKey = false

        func run() throws {
            let credentials = try ControlAPI.credentials(global)
            guard credentials.certificate.organizationalUnit == "admin" else {
                throw Failure(
                    .usage,
                    "\(credentials.folder) holds no administrator's certificate; a node's is renewed by itself"
                )
            }
            guard credentials.canBeKept else {
                throw Failure(
                    .denied,
                    "you may not write to \(credentials.folder), where the new certificate would be kept")
            }
            let outcome: CertificateRenewal.Outcome
            do throws(ClientError) {
                outcome = try CertificateRenewal.renew(
                    credentials,
                    server: global.chosenServer ?? credentials.config.server ?? GlobalOptions.localServer,
                    key: newKey ? CredentialBundle.newKey() : nil)
                if let unsaved = outcome.unsaved { throw unsaved }
            } catch {
                throw Failure(error)
            }
            guard outcome.isRenewed else {
                throw Failure(
                    .failure,
                    "this certificate was made before administrators had records and cannot be renewed so; the server renews DIR/admin by itself, and `sluice admin add` makes another"
                )
            }
            let certificate = outcome.credentials.certificate
            let end = TimeText.text(certificate.notAfter)
            try global.output.show(
                AdminBundle(
                    name: certificate.subjectCommonName, credentials: credentials.folder, expiresAt: end),
                sentence:
                    "administrator \(certificate.subjectCommonName): the certificate in \(credentials.folder) lasts until \(end)"
            )
        }
    }

    /// `sluice admin revoke`
    struct Revoke: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Revoke an administrator: their certificates no longer count.",
            discussion: """
                In force when this command ends. The only one that is left cannot be revoked.

                EXAMPLE:
                  sluice admin revoke alice
                """, aliases: ["rm", "remove", "delete"])

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The administrator's name.") var name: NameArgument

        func run() throws {
            try ControlAPI(global).delete("/v1/admins/\(name)")
            try global.output.show(
                Ended(.revoked, "admin/\(name)"), sentence: "administrator \(name) is revoked")
        }
    }
}
