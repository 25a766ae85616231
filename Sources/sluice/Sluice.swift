import ArgumentParser
import Attach
import Core
import Reactor

/// The command line of Sluice: administration, and the compute node's side.
@main
struct Sluice: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice",
        abstract: "Remote volumes, protected by capabilities.",
        discussion: """
            An I/O server (sluiced) owns the disks; compute nodes attach its volumes over TLS 1.3.

            EXAMPLES:
              sluice --credentials /var/lib/sluice/admin volume create data --size 10GiB
              sluice node add compute-1
              sluice grant create c1-data --node compute-1 --resource volume/data \\
                  --rights read,write,discard,flush
              sluice join --server https://io1.example:7480 --token -   (on compute-1; asks for the token)
              sluice mount volume/data /mnt/data --mkfs ext4             (on compute-1)

            ENVIRONMENT:
              SLUICE_SERVER, SLUICE_CREDENTIALS: defaults of --server and --credentials
              SLUICE_RUN: the folder with the state of attached devices
              SLUICE_IO_TIMEOUT, SLUICE_RECONNECT_TIMEOUT, SLUICE_LIFETIME: defaults of --io-timeout,
                --reconnect-timeout and --lifetime
              SLUICE_LOG_FORMAT: the form of the log of attached devices, text or json

            \(ExitStatus.help)

            COMPLETIONS: sluice --generate-completion-script bash|zsh|fish
            """,
        version: "0.1.0",
        groupedSubcommands: [
            CommandGroup(
                name: "Compute node",
                subcommands: [
                    JoinCommand.self, AttachCommand.self, DetachCommand.self, MountCommand.self,
                    UmountCommand.self, StatusCommand.self, BenchCommand.self,
                ]),
            CommandGroup(
                name: "Administration",
                subcommands: [
                    VolumeCommand.self, PoolCommand.self, NodeCommand.self, AdminCommands.self,
                    GrantCommand.self,
                    CapabilityCommand.self, SessionCommand.self, DriverCommand.self,
                    OperationCommand.self, EventsCommand.self, ServerCommand.self,
                ]),
        ])

    @OptionGroup var global: GlobalOptions

    /// Runs the command; the process ends with a code of `ExitStatus`.
    static func main() {
        ProcessMemory.keepPrivate()
        // What a command has begun it finishes, also when nobody reads what it says any more.
        Signals.ignoreBrokenPipes()
        if let code = LoopHelper.run(CommandLine.arguments) { exit(withError: ExitCode(code)) }
        do {
            var command = try parseAsRoot()
            try command.run()
            try Terminal.finish()
        } catch let failure as Failure {
            report(failure)
            exit(withError: ExitCode(failure.status.rawValue))
        } catch let error as ValidationError {
            // Thrown by a running command: the usage of `sluice` itself would not help.
            report(Failure(.usage, error.message))
            exit(withError: ExitCode(ExitStatus.usage.rawValue))
        } catch {
            let code = exitCode(for: error)
            if code == ExitCode.success { exit(withError: error) }
            if wantedOutput != .table {
                let status = ExitStatus(rawValue: code.rawValue) ?? .usage
                let text = UsageAdvice.added(to: message(for: error), CommandLine.arguments)
                report(Failure(status, text, code: "USAGE"))
                exit(withError: code)
            }
            // It repeats arguments, which a shell may have made of the names of files.
            Terminal.notes(UsageAdvice.added(to: fullMessage(for: error), CommandLine.arguments))
            exit(withError: code)
        }
    }

    /// The form that the arguments ask for, also where they cannot be parsed.
    private static var wantedOutput: OutputFormat {
        let arguments = CommandLine.arguments
        for (index, argument) in arguments.enumerated() {
            let next = index + 1 < arguments.count ? arguments[index + 1] : ""
            let value =
                ["-o", "--output"].contains(argument)
                ? next
                : ["--output=", "-o=", "-o"].first(where: argument.hasPrefix).map {
                    String(argument.dropFirst($0.count))
                } ?? ""
            if let format = OutputFormat(rawValue: value) { return format }
        }
        return .table
    }

    /// Says on standard error why the command failed: a sentence, or an object where the output is one.
    private static func report(_ failure: Failure) {
        let report = FailureReport(
            error: .init(code: failure.code, message: failure.message, exit: failure.status.rawValue))
        switch wantedOutput {
        case .json: Terminal.note(report.json ?? failure.message)
        case .yaml: Terminal.notes(report.yaml ?? failure.message)
        case .table: Terminal.note("sluice: \(failure.message)")
        }
    }
}
