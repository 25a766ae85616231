import ArgumentParser

/// `sluice session …`
struct SessionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "session", abstract: "Show and end the sessions of the data channel.",
        subcommands: [List.self, Show.self, Disconnect.self])

    @OptionGroup var global: GlobalOptions
}

extension SessionCommand {
    /// `sluice session list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the sessions.", discussion: "EXAMPLE:\n  sluice session list", aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let sessions: [Session] = try ControlAPI(global).list("/v1/sessions")
            try global.output.show(list: sessions)
        }
    }

    /// `sluice session show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one session.",
            discussion: "EXAMPLE:\n  sluice session show 0123456789abcdef0123456789abcdef")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The session's id.") var id: IdentifierArgument

        func run() throws {
            let session: Session = try ControlAPI(global).get("/v1/sessions/\(id)")
            try global.output.show(one: session)
        }
    }

    /// `sluice session disconnect`
    struct Disconnect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End a session; its client may come back. To keep it out, revoke its capability.",
            discussion: """
                EXAMPLE:
                  sluice session disconnect 0123456789abcdef0123456789abcdef --reason maintenance
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The session's id.") var id: IdentifierArgument
        @Option(help: "Why, for the server's log.") var reason: String?

        func run() throws {
            let query = reason.map { [("reason", $0)] } ?? []
            try ControlAPI(global).delete("/v1/sessions/\(id)", query: query)
            try global.output.show(
                Deletion(resource: "session/\(id)"), sentence: "session \(id) disconnected")
        }
    }
}
