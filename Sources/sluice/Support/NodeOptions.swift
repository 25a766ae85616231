import ArgumentParser
import Attach
import Core
import Glibc
import SluiceClient

/// A capability that was handed over, in place of one from the node's own grants.
struct CapabilityFileOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Use the capability in this file, such as one that was attenuated for this machine's key.",
            discussion:
                "It must be for the volume that is named. It is read again when it is about to expire. Default: the server issues one from this node's grants.",
            valueName: "file"), completion: .file())
    var capability: String?

    /// The option as a command that is advised has to repeat it, with a space before it; empty without.
    var words: String { capability.map { " --capability \($0)" } ?? "" }

    /// An absolute path; nil without the option. Links stay as they are: whoever replaces the file may replace the link.
    var path: String? {
        guard let capability, !capability.hasPrefix("/") else { return capability }
        guard let folder = unsafe getcwd(nil, 0) else { return capability }
        defer { unsafe free(folder) }
        return unsafe String(cString: folder) + "/" + capability
    }
}

/// What attaching a volume takes, however it is asked for.
struct DeviceOptions: ParsableArguments {
    @Flag(help: "Refuse writes, and ask for the right to read alone.") var readOnly = false
    @Option(help: "Connections to the server, 1 to \(Limits.channelsPerSessionMax).") var channels = 1
    @Option(
        help: ArgumentHelp(
            "For how long to look for answers before sleeping, 0 to \(Limits.pollMicrosecondsMax) microseconds.",
            discussion: "It costs a processor while requests are under way, and halves their latency.",
            valueName: "us"))
    var poll: UInt64 = 0

    @OptionGroup var token: CapabilityFileOption
    @Option(
        help: ArgumentHelp(
            "Let requests fail that the server has not answered for so long, such as 30s or 5m.",
            discussion:
                "The device stays and works again with the server. Default: they wait (env SLUICE_IO_TIMEOUT).",
            valueName: "time"))
    var ioTimeout: DurationArgument?
    @Option(
        help: ArgumentHelp(
            "Give the connection up when it has been lost for so long; every request fails from then on.",
            discussion: "Default: it is tried for ever (env SLUICE_RECONNECT_TIMEOUT).", valueName: "time"))
    var reconnectTimeout: DurationArgument?

    @Option(
        help: ArgumentHelp(
            "How long each capability should last, such as 8h or 4d; the grant may allow less.",
            discussion:
                "They are renewed all the time; an outage shorter than this costs no authority. Default: 4d (env SLUICE_LIFETIME).",
            valueName: "time"))
    var lifetime: DurationArgument?

    /// An option, or else a variable of the environment.
    private func duration(_ option: DurationArgument?, _ variable: String) throws -> UInt64? {
        if let option { return option.seconds }
        guard let text = GlobalOptions.environment(variable) else { return nil }
        guard let value = DurationArgument(argument: text) else {
            throw ValidationError("\(variable) is a length of time, such as 30s or 5m, not '\(text)'")
        }
        return value.seconds
    }

    /// Seconds; nil for ever.
    func ioTimeoutSeconds() throws -> UInt64? { try duration(ioTimeout, "SLUICE_IO_TIMEOUT") }

    /// Seconds.
    func lifetimeSeconds() throws -> UInt64 {
        let seconds = try duration(lifetime, "SLUICE_LIFETIME") ?? AttachOptions.lifetimeSecondsDefault
        guard (1...DeviceOptions.lifetimeSecondsMax).contains(seconds) else {
            throw ValidationError("--lifetime is from 1s to 30d")
        }
        return seconds
    }

    /// The longest that a grant allows: 30 days.
    private static let lifetimeSecondsMax: UInt64 = 30 * 86_400

    /// Seconds; nil for ever.
    func reconnectTimeoutSeconds() throws -> UInt64? {
        try duration(reconnectTimeout, "SLUICE_RECONNECT_TIMEOUT")
    }

    func validate() throws {
        guard (1...Limits.channelsPerSessionMax).contains(channels) else {
            throw ValidationError("--channels is 1 to \(Limits.channelsPerSessionMax)")
        }
        guard poll <= Limits.pollMicrosecondsMax else {
            throw ValidationError("--poll is 0 to \(Limits.pollMicrosecondsMax) microseconds")
        }
    }
}

extension GlobalOptions {
    /// The server for the compute node's side: as asked for, as the credentials say, or this machine.
    func nodeServer() throws -> String {
        if let chosenServer { return chosenServer }
        return try ControlAPI.credentials(self).config.server ?? GlobalOptions.localServer
    }

    /// What to attach.
    func attachOptions(
        _ resource: ResourceReference, _ device: DeviceOptions, detachesOnUnmount: Bool
    ) throws -> AttachOptions {
        var options = AttachOptions(
            volume: try resource.volumeName(), credentialsFolder: folder, server: try nodeServer(),
            isReadOnly: device.readOnly, channels: device.channels, detachesOnUnmount: detachesOnUnmount)
        options.ioTimeoutSeconds = try device.ioTimeoutSeconds()
        options.pollMicroseconds = device.poll
        options.capabilityFile = device.token.path
        options.lifetimeSeconds = try device.lifetimeSeconds()
        options.reconnectTimeoutSeconds = try device.reconnectTimeoutSeconds()
        return options
    }
}

extension ResourceReference {
    /// The name of the volume.
    ///
    /// - Throws: a usage error for another kind of resource.
    func volumeName() throws -> ResourceName {
        guard kind == .volume else { throw ValidationError("only a volume can be used so: volume/NAME") }
        return name
    }
}

extension Failure {
    /// What an error of an attachment means to the user.
    init(_ error: AttachError) {
        let status: ExitStatus =
            switch error.reason {
            case _ where error.code == "NOT_THE_CONTROL_API": .unreachable
            case .busy: .busy
            case .holdsData: .conflict
            case .notFound: .notFound
            case .denied: .denied
            case .unreachable: .unreachable
            case .system: .failure
            case .usage: .usage
            case .interrupted: .interrupted
            }
        self.init(
            status, Failure.oneLine(error.message),
            code: error.code ?? (error.reason == .holdsData ? "HOLDS_DATA" : nil))
    }

    /// What an error of a data channel means to the user.
    init(_ error: ChannelError) {
        let status: ExitStatus =
            switch error {
            case .unreachable, .lost, .timedOut: .unreachable
            default: ExitStatus(error.status)
            }
        let code = status == .unreachable ? nil : error.status.name
        self.init(status, Failure.oneLine(error.description), code: code)
    }

    /// What an error of a benchmark means to the user.
    init(_ error: BenchError) {
        switch error {
        case .channel(let inner): self.init(inner)
        case .badConfiguration: self.init(.usage, Failure.oneLine(error.description))
        case .system: self.init(.failure, Failure.oneLine(error.description))
        case .interrupted: self.init(.interrupted, Failure.oneLine(error.description))
        }
    }
}
