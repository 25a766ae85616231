import ArgumentParser
import Core
import SluiceClient
import Wire

/// `sluice node …`
struct NodeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "node", abstract: "Add, show and remove compute nodes.",
        subcommands: [Add.self, List.self, Show.self, Token.self, Remove.self])

    @OptionGroup var global: GlobalOptions
}

extension NodeCommand {
    /// `sluice node add`
    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Add a compute node and print the token with which it joins.",
            discussion: """
                The token works once, within an hour; it carries the fingerprint of the server's authority.

                EXAMPLES:
                  sluice node add compute-1
                  sluice node add compute-2 --label rack=b4 -o json | jq -r .token
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "Its name: \(ResourceName.rule).") var name: NameArgument
        @Option(help: ArgumentHelp("A label; may be repeated.", valueName: "key=value"))
        var label: [PairArgument] = []

        func run() throws {
            let labels = try PairArgument.dictionary(label, option: "--label")
            let api = try ControlAPI(global)
            let node: Answered<Node> = try api.post(
                "/v1/nodes", NodeCreation(name: name.name.text, labels: labels))
            try global.output.show(
                node,
                sentence: "node \(node.name) added\n"
                    + NodeCommand.invitation(
                        token: try NodeCommand.checked(node.token ?? ""), expires: node.tokenExpiresAt ?? "",
                        server: NodeCommand.reachable(api)))
        }
    }

    /// `sluice node list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the compute nodes.", discussion: "EXAMPLE:\n  sluice node list", aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let nodes: [Answered<Node>] = try ControlAPI(global).list("/v1/nodes")
            try global.output.show(list: nodes)
        }
    }

    /// `sluice node show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one compute node.", discussion: "EXAMPLE:\n  sluice node show compute-1")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The node's name.") var name: NameArgument

        func run() throws {
            let node: Answered<Node> = try ControlAPI(global).get("/v1/nodes/\(name)")
            try global.output.show(one: node)
        }
    }

    /// `sluice node token`
    struct Token: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make another join token for a node; the one before no longer works.",
            discussion: "EXAMPLE:\n  sluice node token compute-1")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The node's name.") var name: NameArgument

        func run() throws {
            let api = try ControlAPI(global)
            let answer: Answered<NodeToken> = try api.post("/v1/nodes/\(name)/token", [String: String]())
            try global.output.show(
                answer,
                sentence: NodeCommand.invitation(
                    token: try NodeCommand.checked(answer.token), expires: answer.tokenExpiresAt,
                    server: NodeCommand.reachable(api)))
        }
    }

    /// `sluice node remove`
    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Remove a compute node: it stops everywhere at once.",
            discussion: """
                Its certificate, its grants, its capabilities and its sessions end before this command does.

                EXAMPLE:
                  sluice node remove compute-1
                """, aliases: ["rm", "delete"])

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The node's name.") var name: NameArgument
        @Flag(help: "Ask nothing. On a terminal the name has to be typed again where the node has sessions.")
        var force = false

        func run() throws {
            let api = try ControlAPI(global)
            if !force { try ask(api) }
            try api.delete("/v1/nodes/\(name)")
            try global.output.show(Ended(.removed, "node/\(name)"), sentence: "node \(name) removed")
        }

        private func ask(_ api: ControlAPI) throws {
            let sessions: [Answered<Session>] = try api.list("/v1/sessions")
            let count = sessions.count { $0.node == name.name.text }
            if count == 0 { return }
            try Confirmation.askPerson(
                "node \(name) has \(count.counted("session")), and what is not written back there would be lost",
                name: "\(name)")
        }
    }

    /// The control API's address as other machines reach it: the server's certificate names it, and an administrator on
    /// the server itself need not have used it.
    static func reachable(_ api: ControlAPI) -> String {
        let asked = api.server
        guard ["localhost", "127.0.0.1", "::1"].contains(asked.host),
            let info = try? api.get("/v1/server") as Answered<ServerInfo>
        else { return asked.description }
        let own = ["localhost", "127.0.0.1", "::1"]
        guard let host = ((info.names ?? []) + (info.addresses ?? [])).first(where: { !own.contains($0) })
        else {
            return asked.description
        }
        let text = "https://" + (host.contains(":") ? "[\(host)]" : host) + ":\(asked.port)"
        return (try? ServerAddress(text: text))?.description ?? asked.description
    }

    /// The token, which is to be copied into a command line.
    static func checked(_ token: String) throws -> String {
        do throws(StatusError) {
            return try JoinToken(text: token).text
        } catch { throw Failure(.failure, "the server gave a token that is none: \(error.message)") }
    }

    /// What to do with a join token.
    static func invitation(token: String, expires: String, server: String) -> Sentence {
        """
        On that machine, before \(expires), run:
          sluice join --server \(server) --token -
        and give it this token, which counts once:
          \(token)
        """
    }
}
