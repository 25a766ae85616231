import ArgumentParser
import Attach
import Core
import SluiceClient

extension VolumeCommand {
    /// `sluice volume map`
    struct Map: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show which bytes of a volume hold data and which are holes; for nodes with a grant.",
            discussion: """
                Asks the I/O server over the data channel, reads nothing, and does not disturb whoever uses the
                volume. What is not a hole may be zeroes all the same.

                EXAMPLES:
                  sluice volume map data
                  sluice volume map data --range 0:1GiB -o json | jq 'map(select(.type == "data").length) | add'
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: NameArgument
        @Option(help: ArgumentHelp("Only these bytes of the volume.", valueName: "offset:length"))
        var range: RangeArgument?

        func run() throws {
            let options = try open()
            let extents: [VolumeExtent]
            do throws(ChannelError) {
                let range = range.flatMap { ByteRange(offset: $0.offset, length: $0.length) }
                extents = try VolumeMapper.map(options, range: range)
            } catch { throw Failure(error) }
            try global.output.show(list: extents.map(MappedExtent.init))
        }

        /// Has a capability issued that allows reading, and nothing else.
        private func open() throws -> VolumeClientOptions {
            let server = try global.nodeServer()
            do throws(AttachError) {
                var access = try VolumeAccess(
                    volume: name.name, credentialsFolder: global.folder, server: server)
                let capability = try access.issue(rights: .read)
                return try access.clientOptions(capability, rights: .read, channels: 1)
            } catch { throw Failure(error) }
        }
    }
}

/// A stretch of a volume, as `sluice volume map` prints it.
struct MappedExtent: Presentable {
    /// Bytes.
    var offset: UInt64
    /// Bytes.
    var length: UInt64
    /// `data`, `hole`, `zero` (allocated, and known to be zero) or `unknown`.
    var type: String

    init(_ extent: VolumeExtent) {
        offset = extent.offset
        length = extent.length
        type =
            switch (extent.flags.contains(.allocated), extent.flags.contains(.zero)) {
            case (true, false): "data"
            case (true, true): "zero"
            case (false, true): "hole"
            case (false, false): "unknown"
            }
    }

    static let columns = ["OFFSET", "LENGTH", "TYPE"]

    var row: [String] { ["\(offset)", "\(length)", type] }
}
