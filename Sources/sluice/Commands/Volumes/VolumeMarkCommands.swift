import ArgumentParser
import Core

extension VolumeCommand {
    /// `sluice volume mark`
    struct Mark: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set a marker: from now on the server notes what of the volume is changed.",
            discussion: """
                For incremental backups: set a marker and copy the whole volume; later set another, copy what
                'sluice volume map --since' the first says was changed, and take the first away. A volume has at most 8.

                EXAMPLES:
                  sluice volume mark data monday
                  sluice volume mark data tuesday && sluice volume map data --since monday
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Argument(help: "The marker's name: \(ResourceName.rule).")
        var marker: NameArgument

        func run() throws {
            let marker: Answered<Marker> = try ControlAPI(global).post(
                "/v1/volumes/\(name)/markers", MarkerCreation(name: self.marker.name.text))
            try global.output.show(
                marker, sentence: "marker \(marker.name) is set on volume/\(marker.volume): \(marker.id)")
        }
    }

    /// `sluice volume unmark`
    struct Unmark: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a marker away.", discussion: "EXAMPLE:\n  sluice volume unmark data monday")

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Argument(help: "The marker's name.") var marker: NameArgument

        func run() throws {
            try ControlAPI(global).delete("/v1/volumes/\(name)/markers/\(marker)")
            try global.output.show(
                Ended(.removed, "volume/\(name)/marker/\(marker)"),
                sentence: "marker \(marker) of volume/\(name) is gone")
        }
    }

    /// `sluice volume markers`
    struct Markers: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the markers of a volume.",
            discussion: """
                A marker that is not complete counts all of the volume as changed: set a new one.

                EXAMPLE:
                  sluice volume markers data
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument

        func run() throws {
            let markers: [Answered<Marker>] = try ControlAPI(global).list("/v1/volumes/\(name)/markers")
            try global.output.show(list: markers)
        }
    }
}
