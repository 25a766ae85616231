import ArgumentParser
import Core

/// What grants, capabilities and attenuations can narrow.
struct NarrowingOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Only these bytes of the volume, such as 0:1GiB or 1GiB:512MiB.", valueName: "offset:length"))
    var range: RangeArgument?
    @Option(help: ArgumentHelp("At most this many operations per second.", valueName: "count"))
    var iops: UInt64?
    @Option(help: ArgumentHelp("At most this many bytes per second, such as 100MiB.", valueName: "size"))
    var bandwidth: ByteCount?

    func validate() throws {
        if iops == 0 { throw ValidationError("--iops must be at least 1") }
        if bandwidth?.bytes == 0 { throw ValidationError("--bandwidth must be at least 1") }
    }

    /// The ceilings; nil where none was given.
    var limits: IOLimits? {
        iops == nil && bandwidth == nil ? nil : IOLimits(iops: iops, bytesPerSecond: bandwidth?.bytes)
    }

    /// The ceilings as the API takes them; nil where none was given.
    var limitsModel: LimitsModel? {
        limits.map { LimitsModel(iops: $0.iops, bytesPerSecond: $0.bytesPerSecond) }
    }
}
