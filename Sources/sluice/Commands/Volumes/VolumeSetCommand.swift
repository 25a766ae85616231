import ArgumentParser
import Core

extension VolumeCommand {
    /// `sluice volume set`
    struct Set: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Limit what all users of a volume may use together, also while it is in use.",
            discussion: """
                Requests above a limit are delayed, not refused. What is left out stays as it is; 'none' takes a
                limit away. The burst is what a pause saves up, in time at the limited rate: 100 ms by default. It goes with
                the last limit.

                EXAMPLES:
                  sluice volume set data --iops 5000 --bandwidth 200MiB --burst 500ms
                  sluice volume set data --iops none
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Option(help: ArgumentHelp("Operations per second, or none.", valueName: "count"))
        var iops: CeilingArgument<UInt64>?
        @Option(help: ArgumentHelp("Payload bytes per second, or none.", valueName: "size"))
        var bandwidth: CeilingArgument<ByteCount>?
        @Option(help: ArgumentHelp("Such as 250ms or 2s, or none for the default.", valueName: "time"))
        var burst: CeilingArgument<ShortDurationArgument>?

        func run() throws {
            guard iops != nil || bandwidth != nil || burst != nil else {
                throw ValidationError("say what to change: --iops, --bandwidth or --burst")
            }
            let limits = RateLimitsChange(
                iops: iops.map(\.value), bytesPerSecond: bandwidth.map { $0.value?.bytes },
                burstMilliseconds: burst.map { $0.value?.milliseconds })
            let (before, volume): (Answered<Volume>, Answered<Volume>) = try ControlAPI(global).change(
                "/v1/volumes/\(name)", VolumeChange(limits: limits))
            let text = volume.limits?.text ?? ""
            let word = before.limits == volume.limits ? "as before" : "now"
            try global.output.show(
                volume,
                sentence:
                    "volume/\(volume.name) has \(text.isEmpty ? "no limits" : "the limits \(text)") \(word)"
            )
        }
    }
}
