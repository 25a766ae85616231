import ArgumentParser
import Core

extension GrantCommand {
    /// `sluice grant set`
    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Change a grant, also while it is in use.",
            discussion: """
                What was issued from it and allows more than it does then is revoked before this command ends. What is left
                out stays as it is; 'none' takes a narrowing away.

                EXAMPLES:
                  sluice grant set c1-data --rights read,flush
                  sluice grant set c2-head --range none --iops 5000 --expires-in none
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The grant's name.") var name: NameArgument
        @Option(help: ArgumentHelp(RightsArgument.help)) var rights: RightsArgument?
        @Option(
            help: ArgumentHelp(
                "Only these bytes of the volume, such as 0:1GiB, or none for all.", valueName: "offset:length"
            ))
        var range: CeilingArgument<RangeArgument>?
        @Option(help: ArgumentHelp("At most this many operations per second, or none.", valueName: "count"))
        var iops: CeilingArgument<UInt64>?
        @Option(
            help: ArgumentHelp(
                "At most this many bytes per second, such as 100MiB, or none.", valueName: "size"))
        var bandwidth: CeilingArgument<ByteCount>?
        @Option(help: ArgumentHelp("The longest life of a capability from it.", valueName: "time"))
        var lifetimeMax: DurationArgument?
        @Option(help: ArgumentHelp("When the grant ends, from now, or none for never.", valueName: "time"))
        var expiresIn: CeilingArgument<DurationArgument>?
        @Option(help: "How often a capability from it may be handed to another key.")
        var delegationDepth: Int?
        @Option(help: ArgumentHelp("KEY=VALUE sets a label, KEY- takes it away.", valueName: "key=value"))
        var label: [PairArgument] = []

        func run() throws {
            let change = change
            guard !change.isEmpty else {
                throw ValidationError("say what to change, such as --rights read or --range none")
            }
            let (before, grant): (Answered<Grant>, Answered<Grant>) = try ControlAPI(global).change(
                "/v1/grants/\(name)", change)
            let note: Sentence = grant.warning.map { "\nnote: \($0)" } ?? ""
            try global.output.show(
                grant,
                sentence: "\(changes(from: before.known, to: grant.known).sentence("grant \(grant.name)"))"
                    + note)
        }

        private var change: GrantChange {
            var change = GrantChange()
            change.rights = rights?.rights.names
            change.range = range.map { $0.value?.model }
            if iops != nil || bandwidth != nil {
                change.limits = RateLimitsChange(
                    iops: iops.map(\.value), bytesPerSecond: bandwidth.map { $0.value?.bytes })
            }
            change.lifetimeSecondsMax = lifetimeMax?.seconds
            change.expiresAt = expiresIn.map { end in
                end.value.map { TimeText.text(TimeText.now.addingSaturated($0.seconds)) }
            }
            change.delegationDepth = delegationDepth
            if !label.isEmpty {
                change.labels = Dictionary(label.map { ($0.key, $0.value) }) { _, last in last }
            }
            return change
        }

        private func changes(from old: Grant, to new: Grant) -> Changes {
            var changes = Changes()
            func note(_ isAsked: Bool, _ member: String, _ value: (Grant) -> String?) {
                if isAsked { changes.note(member, from: value(old), to: value(new)) }
            }
            note(rights != nil, "rights") { $0.rights.joined(separator: ",") }
            note(range != nil, "range") { $0.range?.text }
            note(iops != nil, "iops") { $0.limits?.iops.map { "\($0)" } }
            note(bandwidth != nil, "bandwidth") { $0.limits?.bytesPerSecond.map { "\(ByteCount($0))/s" } }
            note(lifetimeMax != nil, "lifetime-max") { $0.lifetimeSecondsMax.map { "\($0) s" } }
            note(expiresIn != nil, "end", { $0.expiresAt })
            note(delegationDepth != nil, "delegation-depth") { $0.delegationDepth.map { "\($0)" } }
            changes.note("label", label, from: old.labels, to: new.labels)
            return changes
        }
    }
}
