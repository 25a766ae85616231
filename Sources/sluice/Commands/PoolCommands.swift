import ArgumentParser
import Core

/// `sluice pool …`
struct PoolCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pool", abstract: "Create and show pools.",
        discussion: "A pool is a driver with its settings; volumes are made in pools.",
        subcommands: [Create.self, List.self, Show.self])

    @OptionGroup var global: GlobalOptions
}

extension PoolCommand {
    /// `sluice pool create`
    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a pool.",
            discussion: """
                EXAMPLES:
                  sluice pool create ram --driver memory --setting size=1073741824
                  sluice pool create fast --driver file --setting path=/srv/nvme
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: ArgumentHelp("Its name.", discussion: ResourceName.rule + ".")) var name: NameArgument
        @Option(help: "The driver: file or memory.") var driver: String
        @Option(help: ArgumentHelp("A setting of the driver; may be repeated.", valueName: "key=value"))
        var setting: [PairArgument] = []
        @Option(help: ArgumentHelp("A label; may be repeated.", valueName: "key=value"))
        var label: [PairArgument] = []

        func run() throws {
            let creation = PoolCreation(
                name: name.name.text, driver: driver,
                settings: try PairArgument.dictionary(setting, option: "--setting"),
                labels: try PairArgument.dictionary(label, option: "--label"))
            let pool: Pool = try ControlAPI(global).post("/v1/pools", creation)
            try global.output.show(pool, sentence: "pool \(pool.name) created, driver \(pool.driver)")
        }
    }

    /// `sluice pool list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the pools.", discussion: "EXAMPLE:\n  sluice pool list", aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let pools: [Pool] = try ControlAPI(global).list("/v1/pools")
            try global.output.show(list: pools)
        }
    }

    /// `sluice pool show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one pool and its space.", discussion: "EXAMPLE:\n  sluice pool show default")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The pool's name.") var name: NameArgument

        func run() throws {
            let pool: Pool = try ControlAPI(global).get("/v1/pools/\(name)")
            try global.output.show(one: pool)
        }
    }
}
