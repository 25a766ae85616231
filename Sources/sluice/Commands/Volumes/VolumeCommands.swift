import ArgumentParser
import Attach
import Core
import Glibc

/// `sluice volume …`
struct VolumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Create, show, change and delete volumes.",
        subcommands: [
            Create.self, List.self, Show.self, Set.self, Resize.self, Label.self, Mode.self, Fence.self,
            Map.self, Mark.self, Unmark.self, Markers.self, Delete.self,
        ])

    @OptionGroup var global: GlobalOptions
}

extension VolumeCommand {
    /// `sluice volume create`
    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a volume.",
            discussion: """
                EXAMPLES:
                  sluice volume create data --size 10GiB
                  sluice volume create scratch --size 1GiB --pool ram --mode shared --label team=ml
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "Its name: \(ResourceName.rule).") var name: NameArgument
        @Option(help: ArgumentHelp("Its size: \(ByteCount.rule).")) var size: ByteCount
        @Option(help: "The pool that holds it. Default: the pool 'default'.") var pool: NameArgument?
        @Option(help: "Who may write at once: single-writer (the default), multi-reader or shared.")
        var mode: AccessMode?
        @Option(help: "The size of its blocks in bytes: 512 or 4096. Default: what its pool needs.")
        var blockSize: UInt32?
        @Option(help: ArgumentHelp("A label; may be repeated.", valueName: "key=value"))
        var label: [PairArgument] = []
        @Flag(help: "Wait until it can be used, where its device takes long to be prepared.") var wait = false

        func run() throws {
            let labels = try PairArgument.dictionary(label, option: "--label")
            let api = try ControlAPI(global)
            var volume: Answered<Volume> = try api.post(
                "/v1/volumes",
                VolumeCreation(
                    name: name.name.text, size: size.bytes, pool: pool?.name.text,
                    accessMode: mode?.rawValue, blockSize: blockSize, labels: labels))
            let warning = volume.warning
            if wait { volume = try OperationWait.settled(volume, api) }
            let state: Sentence =
                volume.state == "ready"
                ? ""
                : "; its device is being prepared: 'sluice volume show \(volume.name)' says how far that is"
            let note: Sentence = warning.map { "\nnote: \($0)" } ?? ""
            try global.output.show(
                volume,
                sentence:
                    "volume/\(volume.name) created: \(volume.known.sizeText(asked: size)) in pool \(volume.pool)"
                    + state + note)
        }
    }

    /// `sluice volume list`
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the volumes.",
            discussion: """
                EXAMPLES:
                  sluice volume list
                  sluice volume list -o json | jq -r '.[].name'
                """, aliases: ["ls"])

        @OptionGroup var global: GlobalOptions

        func run() throws {
            let volumes: [Answered<Volume>] = try ControlAPI(global).list("/v1/volumes")
            try global.output.show(list: volumes)
        }
    }

    /// `sluice volume show`
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one volume.", discussion: "EXAMPLE:\n  sluice volume show data -o yaml")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument

        func run() throws {
            let volume: Answered<Volume> = try ControlAPI(global).get("/v1/volumes/\(name)")
            try global.output.show(one: volume)
        }
    }

    /// `sluice volume resize`
    struct Resize: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a volume larger, also while it is in use.",
            discussion: """
                On a block device that can take long: the volume keeps its size, and goes on, until it has the new one.
                Nodes that have it attached hear of the new size at once, and their devices have it within a moment. The
                devices of this machine are waited for, some seconds at most.

                EXAMPLES:
                  sluice volume resize data --size 20GiB
                  sluice volume resize data --size 30GiB --wait
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Option(help: ArgumentHelp("Its new size: \(ByteCount.rule).")) var size: ByteCount
        @Flag(help: "Wait until it has its new size, where its device takes long to be prepared.")
        var wait = false

        func run() throws {
            let api = try ControlAPI(global)
            let before: Answered<Volume>
            var volume: Answered<Volume>
            (before, volume) = try api.change("/v1/volumes/\(name)", VolumeChange(size: size.bytes))
            let note: Sentence = volume.warning.map { "\nnote: \($0)" } ?? ""
            if wait { volume = try OperationWait.settled(volume, api) }
            if volume.size < size.bytes {
                guard let operation = volume.operation else {
                    throw Failure(
                        .failure, "volume/\(volume.name) did not grow: 'sluice events' says why")
                }
                return try global.output.show(
                    volume,
                    sentence:
                        "volume/\(volume.name) has \(ByteCount(volume.size)) and is growing: 'sluice operation show \(operation)' says how far that is"
                        + note
                )
            }
            let word = before.size == volume.size ? "as before" : "now"
            let devices: Sentence =
                before.size == volume.size ? "" : "; \(Resize.devices(before, size: volume.size))"
            try global.output.show(
                volume,
                sentence: "volume/\(volume.name) has \(volume.known.sizeText(asked: size)) \(word)" + devices
                    + note)
        }

        /// Waits for this machine's devices of the volume, and says how far they and those of others are.
        private static func devices(_ before: Answered<Volume>, size: UInt64) -> String {
            func own() -> [Attachment] {
                Attachments.list().filter { $0.volumeID == before.id && $0.state == "attached" }
            }
            let end = ContinuousClock.now + .seconds(3)
            // A device of a part of the volume does not grow.
            while ContinuousClock.now < end, own().contains(where: { $0.mayGrow(from: before.size) }) {
                _ = poll(nil, 0, devicesLookMilliseconds)
            }
            let grown = own().filter { $0.size >= size }.map(\.device)
            guard !grown.isEmpty else { return "attached devices grow within a moment" }
            let here = grown.joined(separator: ", ")
            return "\(here) here has it too, and devices elsewhere grow within a moment"
        }

        private static let devicesLookMilliseconds: Int32 = 50
    }

    /// `sluice volume label`
    struct Label: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set labels of a volume, or take them away.",
            discussion:
                "EXAMPLE:\n  sluice volume label data team=ml tier=gold old-     (old- takes 'old' away)")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Argument(help: "KEY=VALUE sets a label, KEY- takes it away.") var labels: [PairArgument]

        func run() throws {
            let changes = Dictionary(labels.map { ($0.key, $0.value) }) { _, last in last }
            let (before, volume): (Answered<Volume>, Answered<Volume>) = try ControlAPI(global).change(
                "/v1/volumes/\(name)", VolumeChange(labels: changes))
            var said = Changes()
            said.note("label", labels, from: before.labels, to: volume.labels)
            try global.output.show(volume, sentence: said.sentence("volume/\(volume.name)"))
        }
    }

    /// `sluice volume mode`
    struct Mode: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say how many sessions may write to a volume at once.",
            discussion: """
                single-writer: one; multi-reader: none; shared: any number, which coordinate among themselves.

                EXAMPLE:
                  sluice volume mode data multi-reader
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Argument(help: "single-writer, multi-reader or shared.") var mode: AccessMode

        func run() throws {
            let (before, volume): (Answered<Volume>, Answered<Volume>) = try ControlAPI(global).change(
                "/v1/volumes/\(name)", VolumeChange(accessMode: mode.rawValue))
            let word = before.accessMode == volume.accessMode ? "as before" : "now"
            try global.output.show(volume, sentence: "volume/\(volume.name) is \(volume.accessMode) \(word)")
        }
    }

    /// `sluice volume fence`
    struct Fence: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Cut off everybody who has a volume open, so that another may write to it.",
            discussion: """
                When it answers, no write of those who had the volume open can land any more, not even one that was
                on its way. They see I/O errors and are told the reason; capabilities issued before no longer count.
                Whoever still has a grant gets a new one: take the grant away to keep a node out.

                EXAMPLE:
                  sluice volume fence data --reason "compute-1 does not answer"
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Option(help: "Why; those who are cut off are told.") var reason: String?
        @Flag(
            help:
                "Ask nothing. On a terminal the name has to be typed again where somebody writes to the volume."
        )
        var force = false

        func run() throws {
            let api = try ControlAPI(global)
            if !force { try ask(api) }
            let fenced: Answered<FencedVolume> = try api.post(
                "/v1/volumes/\(name)/fence", FenceRequest(reason: reason))
            let who = fenced.sessions.map { session in
                "node \(session.node ?? "unknown") (session \(session.session.prefix(8)))"
            }
            try global.output.show(
                fenced,
                sentence: "volume/\(fenced.volume) is fenced, its epoch is \(fenced.epoch); "
                    + (who.isEmpty ? "nobody had it open" : "cut off: \(who.joined(separator: ", "))"))
        }

        private func ask(_ api: ControlAPI) throws {
            let volume: Answered<Volume> = try api.get("/v1/volumes/\(name)")
            guard let writers = volume.writers, !writers.isEmpty else { return }
            let who = writers.map { "node \($0.node ?? "unknown") since \($0.since)" }.joined(separator: ", ")
            try Confirmation.askPerson(
                "volume/\(name) is being written by \(who), and what is not written back there would be lost",
                name: "\(name)")
        }
    }

    /// `sluice volume delete`
    struct Delete: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a volume and everything on it.",
            discussion: """
                On a terminal the volume's name has to be typed again. Elsewhere --confirm repeats it. Its grants go with it.
                A volume whose pool does not run is refused: restart the pool first. --force forgets such a volume, and what
                it holds stays where it is.

                EXAMPLE:
                  sluice volume delete data --confirm data
                """, aliases: ["rm"])

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Option(help: ArgumentHelp("The name again, in place of the question.", valueName: "name"))
        var confirm: VolumeArgument?
        @Flag(help: "Ask nothing, and delete it even while it is in use; its users get I/O errors.")
        var force = false

        func run() throws {
            let api = try ControlAPI(global)
            if !force { try ask(api) }
            let told = try api.deletion("/v1/volumes/\(name)", query: force ? [("force", "true")] : [])
            let count = told.grants ?? 0
            let grants = count == 0 ? "" : ", and \(count.counted("grant")) on it"
            let note: Sentence = told.note.map { "; \($0)" } ?? ""
            try global.output.show(
                Ended(deleted: "volume/\(name)", told),
                sentence: "volume/\(name) \(told.note == nil ? "deleted" : "forgotten")\(grants)" + note)
        }

        private func ask(_ api: ControlAPI) throws {
            if let confirm {
                guard confirm.name == name.name else {
                    throw ValidationError("--confirm says '\(confirm)', not '\(name)': nothing was done")
                }
                return
            }
            let volume: Answered<Volume> = try api.get("/v1/volumes/\(name)")
            let writers = (volume.writers ?? []).map { "node \($0.node ?? "unknown") writes to it" }
            let state = [
                "\(ByteCount(volume.size)) in pool \(volume.pool)", "created \(volume.createdAt)",
            ]
            try Confirmation.ask(
                "volume/\(name) (\((state + writers).joined(separator: ", "))) would be deleted with everything on it",
                name: "\(name)", otherwise: "sluice volume delete \(name) --confirm \(name)")
        }
    }
}
