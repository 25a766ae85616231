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
                It takes a node's credentials, as that node has them after sluice join, or a capability; an administrator's
                will not do, since the data channel knows nodes alone.

                Asks the I/O server over the data channel, reads nothing, and does not disturb whoever uses the
                volume. What is not a hole may be zeroes all the same.

                With --since it also says what was changed since a marker (see sluice volume mark): nothing that was
                is left out, and what shares a unit of 64 KiB or more with it comes along.

                EXAMPLES:
                  sluice volume map data
                  sluice volume map data --range 0:1GiB -o json | jq 'map(select(.type == "data").length) | add'
                  sluice volume map data --since monday -o json | jq '.[] | select(.changed)'
                """)

        @OptionGroup var global: GlobalOptions
        @Argument(help: "The volume's name.") var name: VolumeArgument
        @Option(help: ArgumentHelp("Only these bytes of the volume.", valueName: "offset:length"))
        var range: RangeArgument?
        @Option(help: ArgumentHelp("Also say what was changed since this marker.", valueName: "marker"))
        var since: NameArgument?
        @OptionGroup var token: CapabilityFileOption

        func run() throws {
            let marker = try since.map(find)
            let options = try open()
            let extents: [VolumeExtent]
            do throws(ChannelError) {
                let range = range.flatMap { ByteRange(offset: $0.offset, length: $0.length) }
                extents = try VolumeMapper.map(options, range: range, since: marker) {
                    Terminal.note("waiting: volume/\(name): \($0)")
                }
            } catch { throw Failure(error) }
            if marker == nil {
                try global.output.show(list: extents.map(MappedExtent.init))
            } else {
                try global.output.show(list: extents.map(ChangedExtent.init))
            }
        }

        /// The id of the marker.
        private func find(_ name: NameArgument) throws -> Identifier {
            let api = try ControlAPI(global)
            let marker: Answered<Marker> = try api.get("/v1/volumes/\(self.name)/markers/\(name)")
            guard let id = Identifier(hex: marker.id) else {
                throw Failure(.failure, "the server at \(api.server) gave an id that is none")
            }
            if marker.complete == false {
                Terminal.note("sluice: marker \(name) is not complete: all of the volume counts as changed")
            }
            return id
        }

        /// Has a capability issued that allows reading, and nothing else.
        private func open() throws -> VolumeClientOptions {
            let server = try global.nodeServer()
            let credentials = try ControlAPI.credentials(global)
            if token.path == nil, credentials.certificate.organizationalUnit == "admin" {
                throw Failure(
                    .denied,
                    "\(credentials.folder) has an administrator's credentials, and the data channel knows nodes alone: run "
                        + "this on a node that has a grant on volume/\(name), or give that node's folder as --credentials"
                )
            }
            do throws(AttachError) {
                var access = try VolumeAccess(
                    volume: name.name, credentialsFolder: global.folder, server: server)
                access.capabilityFile = token.path
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
        type = extent.flags.word
    }

    static let columns = ["OFFSET", "LENGTH", "TYPE"]

    var row: [String] { ["\(offset)", "\(length)", type] }
}

/// A stretch of a volume, as `sluice volume map --since` prints it.
struct ChangedExtent: Presentable {
    /// Bytes.
    var offset: UInt64
    /// Bytes.
    var length: UInt64
    /// As in `MappedExtent`.
    var type: String
    /// Whether it was changed since the marker, or may have been.
    var changed: Bool

    init(_ extent: VolumeExtent) {
        offset = extent.offset
        length = extent.length
        type = extent.flags.word
        changed = extent.flags.contains(.changed)
    }

    static let columns = ["OFFSET", "LENGTH", "TYPE", "CHANGED"]

    var row: [String] { ["\(offset)", "\(length)", type, changed ? "yes" : "no"] }
}

extension BlockFlags {
    /// What the device says, in a word.
    fileprivate var word: String {
        switch (contains(.allocated), contains(.zero)) {
        case (true, false): "data"
        case (true, true): "zero"
        case (false, true): "hole"
        case (false, false): "unknown"
        }
    }
}
