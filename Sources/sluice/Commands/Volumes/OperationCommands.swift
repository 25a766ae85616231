import ArgumentParser

/// `sluice operation …`
struct OperationCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "operation", abstract: "Show and cancel long work of the server.",
        discussion: """
            A volume on a block device is zeroed before it can be used, or be larger. That goes on beside everything
            else, also after a restart of the server. What has ended is listed for an hour.
            """,
        subcommands: [List.self, Show.self, Cancel.self])

    @OptionGroup var global: GlobalOptions
}

extension OperationCommand {
    /// `sluice operation list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the operations: what is under way, and what has ended lately.",
            discussion: "EXAMPLE:\n  sluice operation list", aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let operations: [Answered<LongOperation>] = try ControlAPI(global).list("/v1/operations")
            try global.output.show(list: operations)
        }
    }

    /// `sluice operation show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one operation: how far it is, or why it waits or has failed.",
            discussion: """
                EXAMPLES:
                  sluice operation show 0123456789abcdef0123456789abcdef
                  sluice operation show 0123456789abcdef0123456789abcdef --wait
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: IdentifierArgument.help("operation")) var id: IdentifierArgument
        @Flag(help: "Wait until it has ended; the exit code is 0 only if it is done.") var wait = false

        func run() throws {
            let api = try ControlAPI(global)
            let id = try id.whole("operation", "/v1/operations", api)
            let operation: Answered<LongOperation> =
                try wait ? OperationWait.untilDone(id, api) : api.get("/v1/operations/\(id)")
            try global.output.show(one: operation)
        }
    }

    /// `sluice operation cancel`
    struct Cancel: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End an operation before it is done.",
            discussion: """
                A volume that is being made is removed; one that is to be larger stays as it is, and in use.

                EXAMPLE:
                  sluice operation cancel 0123456789abcdef0123456789abcdef
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: IdentifierArgument.help("operation")) var id: IdentifierArgument

        func run() throws {
            let api = try ControlAPI(global)
            let id = try id.whole("operation", "/v1/operations", api)
            try api.delete("/v1/operations/\(id)")
            try global.output.show(
                Ended(.cancelled, "operation/\(id)"), sentence: "operation \(id) cancelled")
        }
    }
}
