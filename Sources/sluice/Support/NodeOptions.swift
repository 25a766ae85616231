import ArgumentParser
import Attach
import Core
import SluiceClient

/// What attaching a volume takes, however it is asked for.
struct DeviceOptions: ParsableArguments {
    @Flag(help: "Refuse writes, and ask for the right to read alone.") var readOnly = false
    @Option(help: "Connections to the server, 1 to \(Limits.channelsPerSessionMax).") var channels = 1

    func validate() throws {
        guard (1...Limits.channelsPerSessionMax).contains(channels) else {
            throw ValidationError("--channels is 1 to \(Limits.channelsPerSessionMax)")
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
        AttachOptions(
            volume: try resource.volumeName(), credentialsFolder: folder, server: try nodeServer(),
            isReadOnly: device.readOnly, channels: device.channels, detachesOnUnmount: detachesOnUnmount)
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
            case .busy: .busy
            case .notFound: .notFound
            case .denied: .denied
            case .unreachable: .unreachable
            case .system: .failure
            case .usage: .usage
            }
        self.init(status, Failure.oneLine(error.message))
    }

    /// What an error of a benchmark means to the user.
    init(_ error: BenchError) {
        let status: ExitStatus =
            switch error {
            case .badConfiguration: .usage
            case .channel(.unreachable), .channel(.lost), .channel(.timedOut): .unreachable
            case .channel(let inner): ExitStatus(inner.status)
            case .system: .failure
            }
        self.init(status, Failure.oneLine(error.description))
    }
}
