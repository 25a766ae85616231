import ArgumentParser

/// `sluice server …`
struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Show the I/O server.", subcommands: [Show.self])

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
}
