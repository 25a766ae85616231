import ArgumentParser

/// `sluice server …`
struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Show, set and drain the I/O server.",
        subcommands: [Show.self, Set.self, Drain.self, Undrain.self])

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
            let server: Answered<ServerInfo> = try ControlAPI(global).get("/v1/server")
            try global.output.show(one: server)
        }
    }

    /// `sluice server set`
    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Change the names and addresses that the server's certificate has.",
            discussion: """
                The certificate has them when this command ends, on both ports; connections that are there go on. It always
                has localhost.

                EXAMPLES:
                  sluice server set --add-name io2.example --add-address 192.0.2.11
                  sluice server set --remove-name io2.example
                """)

        /// What the control API is asked.
        struct Request: Encodable {
            var names: [String]
            var addresses: [String]
        }

        @OptionGroup var global: GlobalOptions
        @Option(help: "A DNS name to add; may be repeated.") var addName: [String] = []
        @Option(help: "A DNS name to take away; may be repeated.") var removeName: [String] = []
        @Option(help: "An IP address to add; may be repeated.") var addAddress: [String] = []
        @Option(help: "An IP address to take away; may be repeated.") var removeAddress: [String] = []

        func validate() throws {
            if (addName + removeName + addAddress + removeAddress).isEmpty {
                throw ValidationError("say what to change, such as --add-name io2.example")
            }
        }

        func run() throws {
            let api = try ControlAPI(global)
            let present: Answered<ServerInfo> = try api.get("/v1/server")
            let names = try change(present.names ?? [], addName, removeName, "name")
            let addresses = try change(present.addresses ?? [], addAddress, removeAddress, "address")
            let server: Answered<ServerInfo> = try api.patch(
                "/v1/server", Request(names: names, addresses: addresses))
            let isSame = server.names == present.names && server.addresses == present.addresses
            try global.output.show(
                server,
                sentence: "the server's certificate names \(isSame ? "as before " : "")"
                    + ((server.names ?? []) + (server.addresses ?? [])).joined(separator: ", "))
        }

        private func change(
            _ present: [String], _ added: [String], _ removed: [String], _ kind: String
        ) throws -> [String] {
            for text in removed where !present.contains(where: { $0.lowercased() == text.lowercased() }) {
                throw Failure(
                    .notFound,
                    "the server's certificate has no \(kind) \(text); it has \(present.joined(separator: ", "))"
                )
            }
            let gone = removed.map { $0.lowercased() }
            return present.filter { !gone.contains($0.lowercased()) } + added
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
            let drain: Answered<ServerInfo.Drain> = try ControlAPI(global).post(
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
            let api = try ControlAPI(global)
            let before: Answered<ServerInfo> = try api.get("/v1/server")
            try api.delete("/v1/server/drain")
            let note = before.drain == nil ? "; it was not being drained" : ""
            try global.output.show(
                Ended(.undrained, "server"), sentence: "the server takes new sessions\(note)")
        }
    }
}
