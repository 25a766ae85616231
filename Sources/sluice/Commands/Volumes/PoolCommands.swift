import ArgumentParser
import Core

/// `sluice pool …`
struct PoolCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pool", abstract: "Create, show, change, restart and delete pools.",
        discussion: "A pool is a driver with its settings; volumes are made in pools.",
        subcommands: [Create.self, List.self, Show.self, Set.self, Restart.self, Delete.self])

    @OptionGroup var global: GlobalOptions
}

extension PoolCommand {
    /// `sluice pool create`
    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a pool.",
            discussion: """
                The driver file takes path=FOLDER, in which the pool makes a folder of its own, or path=DEVICE, which holds
                one volume; without it volumes are in the server's data folder. Every driver takes quarantine=wait (the
                default) or quarantine=fail: what requests do while the pool is quarantined.

                EXAMPLES:
                  sluice pool create ram --driver memory --setting size=1073741824
                  sluice pool create fast --driver file --setting path=/srv/nvme
                  sluice pool create raw --driver memory --setting size=1GiB --isolation inline
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "Its name: \(ResourceName.rule).") var name: NameArgument
        @Option(help: "The driver: file, memory, or fault (wraps another and fails as told).") var driver:
            String
        @Option(help: ArgumentHelp("A setting of the driver; may be repeated.", valueName: "key=value"))
        var setting: [PairArgument] = []
        @Option(help: "Where the driver runs: isolated (a process of its own, the default) or inline.")
        var isolation: Isolation?
        @Option(help: "What writes do when the pool is full: wait (the default) or fail.")
        var whenFull: WhenFull?
        @Option(help: ArgumentHelp("A label; may be repeated.", valueName: "key=value"))
        var label: [PairArgument] = []

        func run() throws {
            let creation = PoolCreation(
                name: name.name.text, driver: driver,
                settings: try PairArgument.dictionary(setting, option: "--setting"),
                isolation: isolation?.rawValue, whenFull: whenFull?.rawValue,
                labels: try PairArgument.dictionary(label, option: "--label"))
            let pool: Answered<Pool> = try ControlAPI(global).post("/v1/pools", creation)
            try global.output.show(pool, sentence: "pool \(pool.name) created, driver \(pool.driver)")
        }
    }

    /// `sluice pool list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the pools.", discussion: "EXAMPLE:\n  sluice pool list", aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let pools: [Answered<Pool>] = try ControlAPI(global).list("/v1/pools")
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
            let pool: Answered<Pool> = try ControlAPI(global).get("/v1/pools/\(name)")
            try global.output.show(one: pool)
        }
    }

    /// `sluice pool set`
    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Change the settings, labels or isolation of a pool.",
            discussion: """
                Settings are taken over by the running driver; one that it cannot change while it runs is refused, and takes
                another pool.
                The isolation counts from the next start of the server on.

                EXAMPLES:
                  sluice pool set test --setting 'rules=read chance=1/500: delay 20ms'
                  sluice pool set test --setting rules-                          (rules- takes 'rules' away)
                  sluice pool set ram --isolation inline
                  sluice pool set ram --when-full fail
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The pool's name.") var name: NameArgument
        @Option(help: ArgumentHelp("KEY=VALUE sets a setting, KEY- takes it away.", valueName: "key=value"))
        var setting: [PairArgument] = []
        @Option(help: "Where the driver runs: isolated or inline.") var isolation: Isolation?
        @Option(help: "What writes do when the pool is full: wait or fail.") var whenFull: WhenFull?
        @Option(help: ArgumentHelp("KEY=VALUE sets a label, KEY- takes it away.", valueName: "key=value"))
        var label: [PairArgument] = []

        func run() throws {
            guard !setting.isEmpty || !label.isEmpty || isolation != nil || whenFull != nil else {
                throw ValidationError("say what to change: --setting, --label, --isolation or --when-full")
            }
            let change = PoolChange(
                settings: changes(setting), isolation: isolation?.rawValue, whenFull: whenFull?.rawValue,
                labels: changes(label))
            let (before, pool): (Answered<Pool>, Answered<Pool>) = try ControlAPI(global).change(
                "/v1/pools/\(name)", change)
            var said = Changes()
            said.note("setting", setting, from: before.settings, to: pool.settings)
            if isolation != nil { said.note("isolation", from: before.isolation, to: pool.isolation) }
            if whenFull != nil { said.note("when-full", from: before.whenFull, to: pool.whenFull) }
            said.note("label", label, from: before.labels, to: pool.labels)
            let note = pool.message.map { "; \($0)" } ?? ""
            try global.output.show(pool, sentence: said.sentence("pool \(pool.name)") + note)
        }

        private func changes(_ pairs: [PairArgument]) -> [String: String?]? {
            pairs.isEmpty ? nil : Dictionary(pairs.map { ($0.key, $0.value) }) { _, last in last }
        }
    }

    /// `sluice pool restart`
    struct Restart: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Start a pool's driver anew, also out of quarantine; its users see a pause.",
            discussion: "EXAMPLE:\n  sluice pool restart default")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The pool's name.") var name: NameArgument

        func run() throws {
            let pool: Answered<Pool> = try ControlAPI(global).post("/v1/pools/\(name)/restart", EmptyBody())
            try global.output.show(pool, sentence: "pool \(pool.name) restarted, \(pool.state ?? "ready")")
        }
    }

    /// `sluice pool delete`
    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a pool that has no volumes.",
            discussion: """
                What lies in a folder of the operator's choice, or on a device, stays there. A pool that does not run is
                refused: restart it first. --force forgets it, and leaves all that is there.

                EXAMPLE:
                  sluice pool delete raw
                """, aliases: ["rm"])

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The pool's name.") var name: NameArgument
        @Flag(help: "Forget it though it does not run; what lies in its folder or on its device stays.")
        var force = false

        func run() throws {
            let told = try ControlAPI(global).deletion(
                "/v1/pools/\(name)", query: force ? [("force", "true")] : [])
            let note: Sentence = told.note.map { "; \($0)" } ?? ""
            try global.output.show(
                Ended(deleted: "pool/\(name)", told),
                sentence: "pool \(name) \(told.note == nil ? "deleted" : "forgotten")" + note)
        }
    }
}
