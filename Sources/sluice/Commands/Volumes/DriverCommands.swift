import ArgumentParser

/// `sluice driver …`
struct DriverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "driver", abstract: "Show and upgrade the drivers that run the pools.",
        discussion: """
            A pool's driver runs in a sandboxed process of its own, its driver host. When the host is lost, another
            takes its place and users see a pause. See also `sluice pool restart` and `sluice events`.
            """,
        subcommands: [List.self, Show.self, Upgrade.self])

    @OptionGroup var global: GlobalOptions
}

extension DriverCommand {
    /// `sluice driver list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the drivers and their hosts.", discussion: "EXAMPLE:\n  sluice driver list",
            aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let drivers: [Answered<Driver>] = try ControlAPI(global).list("/v1/drivers")
            try global.output.show(list: drivers)
        }
    }

    /// `sluice driver show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one pool's driver: its process, how often it was lost and why.",
            discussion: "EXAMPLE:\n  sluice driver show default")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The pool's name.") var pool: NameArgument

        func run() throws {
            let driver: Answered<Driver> = try ControlAPI(global).get("/v1/drivers/\(pool)")
            try global.output.show(one: driver)
        }
    }

    /// `sluice driver upgrade`
    struct Upgrade: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Hand a pool over to a driver host from the program that is installed now.",
            discussion: """
                Users see a pause of some milliseconds.

                EXAMPLE:
                  sluice driver upgrade default
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The pool's name.") var pool: NameArgument

        func run() throws {
            let upgrade: Answered<DriverUpgrade> = try ControlAPI(global).post(
                "/v1/drivers/\(pool)/upgrade", EmptyBody())
            try global.output.show(
                upgrade,
                sentence: "the driver of pool \(upgrade.pool) was upgraded; users waited "
                    + "\(upgrade.pauseMilliseconds) ms")
        }
    }
}
