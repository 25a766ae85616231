import ArgumentParser
import Core

/// `sluice grant …`
struct GrantCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "grant", abstract: "Say what a node may do with a resource.",
        discussion: "Capabilities are issued from grants.",
        subcommands: [Create.self, List.self, Show.self, Set.self, Delete.self])

    @OptionGroup var global: GlobalOptions
}

extension GrantCommand {
    /// `sluice grant create`
    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a grant.",
            discussion: """
                EXAMPLES:
                  sluice grant create c1-data --node compute-1 --resource volume/data \\
                      --rights read,write,discard,flush
                  sluice grant create c2-head --node compute-2 --resource volume/data --rights read \\
                      --range 0:1GiB --iops 1000 --expires-in 7d
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "Its name: \(ResourceName.rule).") var name: NameArgument
        @Option(help: "The node that gets it.") var node: NameArgument
        @Option(help: ResourceReference.help)
        var resource: ResourceReference
        @Option(help: ArgumentHelp(RightsArgument.help)) var rights: RightsArgument
        @OptionGroup(title: "Narrower than the whole resource") var narrowing: NarrowingOptions
        @Option(
            help: ArgumentHelp("The longest life of a capability from it. Default: 4d.", valueName: "time"))
        var lifetimeMax: DurationArgument?
        @Option(help: ArgumentHelp("When the grant ends, from now. Default: never.", valueName: "time"))
        var expiresIn: DurationArgument?
        @Option(help: "How often a capability from it may be handed to another key. Default: 0.")
        var delegationDepth: Int?
        @Option(help: ArgumentHelp("A label; may be repeated.", valueName: "key=value"))
        var label: [PairArgument] = []

        func run() throws {
            let creation = GrantCreation(
                name: name.name.text, node: node.name.text, resource: resource.description,
                rights: rights.rights.names, range: narrowing.range?.model, limits: narrowing.limitsModel,
                lifetimeSecondsMax: lifetimeMax?.seconds,
                expiresAt: expiresIn.map { TimeText.text(TimeText.now.addingSaturated($0.seconds)) },
                delegationDepth: delegationDepth,
                labels: try PairArgument.dictionary(label, option: "--label"))
            let grant: Answered<Grant> = try ControlAPI(global).post("/v1/grants", creation)
            let note: Sentence = grant.warning.map { "\nnote: \($0)" } ?? ""
            try global.output.show(
                grant,
                sentence: "grant \(grant.name) created: \(grant.node) may "
                    + "\(grant.rights.joined(separator: ",")) \(grant.resource)" + note)
        }
    }

    /// `sluice grant list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the grants.", discussion: "EXAMPLE:\n  sluice grant list --node compute-1",
            aliases: ["ls"])

        @OptionGroup var global: GlobalOptions
        @Option(help: "Only those of this node.") var node: NameArgument?
        @Option(help: ArgumentHelp("Only those on this resource.", valueName: "kind/name"))
        var resource: ResourceReference?

        func run() throws {
            let grants: [Answered<Grant>] = try ControlAPI(global).list(
                "/v1/grants", query: [("node", node?.description), ("resource", resource?.description)])
            try global.output.show(list: grants)
        }
    }

    /// `sluice grant show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one grant.", discussion: "EXAMPLE:\n  sluice grant show c1-data")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The grant's name.") var name: NameArgument

        func run() throws {
            let grant: Answered<Grant> = try ControlAPI(global).get("/v1/grants/\(name)")
            try global.output.show(one: grant)
        }
    }

    /// `sluice grant delete`
    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a grant; capabilities issued from it are revoked.",
            discussion: "EXAMPLE:\n  sluice grant delete c1-data", aliases: ["rm"])

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The grant's name.") var name: NameArgument

        func run() throws {
            try ControlAPI(global).delete("/v1/grants/\(name)")
            try global.output.show(Ended(.deleted, "grant/\(name)"), sentence: "grant \(name) deleted")
        }
    }
}
