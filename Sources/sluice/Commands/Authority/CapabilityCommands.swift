import ArgumentParser
import Capability
import Core

/// `sluice capability …`
struct CapabilityCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "capability", abstract: "Issue, explain, narrow and revoke capabilities.",
        discussion: "'inspect' and 'attenuate' work offline.",
        subcommands: [
            Issue.self, List.self, Show.self, Inspect.self, Attenuate.self, Revoke.self,
        ])

    @OptionGroup var global: GlobalOptions
}

extension CapabilityCommand {
    /// `sluice capability issue`
    struct Issue: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Issue a capability and print its token.",
            discussion: """
                A node issues for its own key; an administrator names the node. A token that is not sealed can be
                narrowed by whoever has it: keep it as secret as a password.

                EXAMPLES:
                  sluice capability issue volume/data --out data.cap
                  sluice capability issue volume/data --rights read --lifetime 10m --node compute-1
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: ResourceReference.help)
        var resource: ResourceReference
        @Option(help: ArgumentHelp(RightsArgument.help + " Default: all that the grant gives."))
        var rights: RightsArgument?
        @OptionGroup(title: "Narrower than the grant") var narrowing: NarrowingOptions
        @Option(help: ArgumentHelp("How long it is valid. Default: 1h.", valueName: "time"))
        var lifetime: DurationArgument?
        @Option(help: "How often it may be handed to another key. Default: as often as the grant allows.")
        var delegationDepth: Int?
        @Option(help: "The grant to issue it from. Default: one that suffices.") var grant: NameArgument?
        @Option(help: "The node to issue it to (administrators only).") var node: NameArgument?
        @Option(
            help: ArgumentHelp("Write the token to this new file, readable by you alone.", valueName: "file"),
            completion: .file())
        var out: String?

        func run() throws {
            guard let out else {
                let issued = try issue()
                return try global.output.show(issued, sentence: issued.token ?? "")
            }
            var shown: Answered<CapabilityRecord>?
            try TextInput.writeSecret(to: out) {
                let issued = try issue()
                shown = issued.hiding("token")
                return (issued.token ?? "") + "\n"
            }
            guard let shown else { return }
            try global.output.show(
                shown, sentence: "capability \(shown.id) written to \(out), valid until \(shown.expiresAt)")
        }

        private func issue() throws -> Answered<CapabilityRecord> {
            let issued: Answered<CapabilityRecord> = try ControlAPI(global).post(
                "/v1/capabilities",
                CapabilityIssue(
                    resource: resource.description, rights: rights?.rights.names,
                    range: narrowing.range?.model, limits: narrowing.limitsModel,
                    lifetimeSeconds: lifetime?.seconds, delegationDepth: delegationDepth,
                    grant: grant?.description, node: node?.description))
            guard issued.token != nil else {
                throw Failure(.failure, "the server issued capability \(issued.id) without its token")
            }
            return issued
        }
    }

    /// `sluice capability list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the capabilities that were issued.",
            discussion: "EXAMPLE:\n  sluice capability list --node compute-1 --revoked false", aliases: ["ls"]
        )

        @OptionGroup var global: GlobalOptions
        @Option(help: "Only those of this node.") var node: NameArgument?
        @Option(help: ArgumentHelp("Only those on this resource.", valueName: "kind/name"))
        var resource: ResourceReference?
        @Option(help: ArgumentHelp("Only those that are revoked, or are not.", valueName: "true|false"))
        var revoked: Bool?

        func run() throws {
            let capabilities: [Answered<CapabilityRecord>] = try ControlAPI(global).list(
                "/v1/capabilities",
                query: [
                    ("node", node?.description), ("resource", resource?.description),
                    ("revoked", revoked.map { "\($0)" }),
                ])
            try global.output.show(list: capabilities)
        }
    }

    /// `sluice capability show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one capability that was issued; the token itself is not kept.",
            discussion: "EXAMPLE:\n  sluice capability show 0123456789abcdef0123456789abcdef")

        @OptionGroup var global: GlobalOptions
        @Argument(help: IdentifierArgument.help("capability")) var id: IdentifierArgument

        func run() throws {
            let api = try ControlAPI(global)
            let id = try id.whole("capability", "/v1/capabilities", api)
            let capability: Answered<CapabilityRecord> = try api.get("/v1/capabilities/\(id)")
            try global.output.show(one: capability)
        }
    }

    /// `sluice capability revoke`
    struct Revoke: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Revoke a capability; in force when this command ends.",
            discussion: """
                Its grant remains: the node gets a new capability when it asks. To keep a node out, take its
                grant away: 'sluice grant delete' revokes what was issued from it, too.

                EXAMPLE:
                  sluice capability revoke 0123456789abcdef0123456789abcdef --reason "laptop lost"
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: IdentifierArgument.help("capability")) var id: IdentifierArgument
        @Option(help: "Why, for the server's log.") var reason: String?

        func run() throws {
            let api = try ControlAPI(global)
            let id = try id.whole("capability", "/v1/capabilities", api)
            let before: Answered<CapabilityRecord> = try api.get("/v1/capabilities/\(id)")
            let revoked: Answered<CapabilityRecord> = try api.post(
                "/v1/capabilities/\(id)/revoke", CapabilityRevocation(reason: reason))
            let warning: Sentence = revoked.warning.map { "; \($0)" } ?? ""
            let since = before.revokedAt.map { ", since \($0)" } ?? ""
            try global.output.show(
                revoked,
                sentence: "capability \(id) on \(revoked.resource) is revoked, on every channel\(since)"
                    + warning)
        }
    }
}
