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
            let sessions: [Answered<Session>] = try ControlAPI(global).list("/v1/sessions")
            try global.output.show(list: sessions)
        }
    }

    /// `sluice session show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one session.",
            discussion: "EXAMPLE:\n  sluice session show 0123456789abcdef0123456789abcdef")

        @OptionGroup var global: GlobalOptions
        @Argument(help: IdentifierArgument.help("session")) var id: IdentifierArgument

        func run() throws {
            let api = try ControlAPI(global)
            let id = try id.whole("session", "/v1/sessions", api)
            let session: Answered<Session> = try api.get("/v1/sessions/\(id)")
            try global.output.show(one: session)
        }
    }

    /// `sluice session disconnect`
    struct Disconnect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End the connections of a session: its client connects again, and nothing fails.",
            discussion: """
                With --end the session is ended for good: what its client has under way fails, and a file system that is
                mounted from its volume finds failed writes. Its node may begin a new session at once, and goes on writing in
                that. To keep a node out, take its grant away: sluice grant delete.

                EXAMPLES:
                  sluice session disconnect 0123456789abcdef0123456789abcdef --reason maintenance
                  sluice session disconnect 0123456789abcdef0123456789abcdef --end
                """)

        /// What the control API is asked.
        struct Request: Encodable {
            var reason: String?
        }

        @OptionGroup var global: GlobalOptions
        @Argument(help: IdentifierArgument.help("session")) var id: IdentifierArgument
        @Option(help: "Why, for the server's log and its events.") var reason: String?
        @Flag(
            help: "End the session itself: its client cannot go on with it, and what it has under way fails.")
        var end = false

        func run() throws {
            let api = try ControlAPI(global)
            let id = try id.whole("session", "/v1/sessions", api)
            let session: Answered<Session> = try api.get("/v1/sessions/\(id)")
            guard end else {
                let now: Answered<Session> = try api.post(
                    "/v1/sessions/\(id)/disconnect", Request(reason: reason))
                let word =
                    session.state == "disconnected" ? "had no connection: nothing was ended" : "disconnected"
                return try global.output.show(
                    now, sentence: "session \(id) \(word); its client may go on with it")
            }
            try api.delete("/v1/sessions/\(id)", query: reason.map { [("reason", $0)] } ?? [])
            try global.output.show(
                Ended(.ended, "session/\(id)"),
                sentence: "session \(id) ended\(cost(of: session))\(sequel(of: session))")
        }

        /// What its node may do, and what keeps it from that.
        private func sequel(of session: Answered<Session>) -> String {
            guard let node = session.node else { return "" }
            return
                ". Node \(node) may begin a new session at once; to keep it out, take its grant away (sluice grant list "
                + "--node \(node), sluice grant delete), or revoke a capability that was handed to it"
        }

        /// What ending it has cost, as far as the server knows.
        private func cost(of session: Answered<Session>) -> String {
            let volumes = (session.writing ?? []).map { "volume/\($0.volume ?? "")" }.joined(separator: ", ")
            let requests = session.inFlight ?? 0
            guard !volumes.isEmpty || requests > 0 else { return "" }
            let whose = session.node.map { "node \($0)" } ?? "its client"
            let lost =
                requests > 0
                ? "\(requests.counted("request under way has failed", "requests under way have failed"))"
                : "what it had under way has failed"
            guard !volumes.isEmpty else { return ": \(lost)" }
            return
                ": \(lost), and this session no longer writes to \(volumes); who has that mounted on \(whose) unmounts "
                + "it, checks it, detaches and attaches again"
        }
    }
}
