import ArgumentParser

/// `sluice server …`
struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Show and drain the I/O server.",
        subcommands: [Show.self, Drain.self, Undrain.self])

    @OptionGroup var global: GlobalOptions
}

extension ServerCommand {
    /// `sluice server show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the I/O server: its cluster, version, addresses and keys.",
            discussion: "EXAMPLE:\n  sluice server show")

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let server: ServerInfo = try ControlAPI(global).get("/v1/server")
            try global.output.show(one: server)
        }
    }

    /// `sluice server drain`
    struct Drain: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take no new session, and tell the clients that are there.",
            discussion: """
                Sessions that are there go on. With --redirect, who is left when the time is over is sent there: to a
                name or address that the server's certificate has, since clients go nowhere else.
                'sluice server show' counts who is left; 'sluice server undrain' calls it off.

                EXAMPLES:
                  sluice server drain --timeout 600
                  sluice server drain --timeout 30 --redirect localhost:7482
                """)

        /// What the control API is asked.
        struct Request: Encodable {
            var timeoutSeconds: UInt64
            var redirect: String?
        }

        @OptionGroup var global: GlobalOptions
        @Option(help: "Seconds that clients are told that they have.") var timeout: UInt64 = 60
        @Option(help: "ADDR:PORT of the data channel where clients are to go.") var redirect: String?

        func run() throws {
            let drain: ServerInfo.Drain = try ControlAPI(global).post(
                "/v1/server/drain", Request(timeoutSeconds: timeout, redirect: redirect))
            try global.output.show(drain, sentence: "the server is being drained, \(drain.text)")
        }
    }

    /// `sluice server undrain`
    struct Undrain: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take new sessions again.", discussion: "EXAMPLE:\n  sluice server undrain")

        @OptionGroup var global: GlobalOptions

        func run() throws {
            try ControlAPI(global).delete("/v1/server/drain")
            try global.output.show(
                Deletion(resource: "server/drain"), sentence: "the server takes new sessions")
        }
    }
}
