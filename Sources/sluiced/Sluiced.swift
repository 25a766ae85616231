import ArgumentParser
import ControlPlane
import Dispatch
import Foundation
import Glibc
import Reactor

/// The I/O server's daemon.
struct Sluiced: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluiced",
        abstract: "The I/O server: owns the devices, serves them to compute nodes over TLS.",
        discussion: """
            EXAMPLES
              sluiced init --data /var/lib/sluice --name io.example --address 192.0.2.10
              sluiced serve --data /var/lib/sluice

            EXIT CODES
              0 it ended as it was told   1 it failed   64 wrong arguments or settings
              70 it stood still, and its watchdog ended it
            """,
        version: "0.1.0",
        subcommands: [InitCommand.self, ServeCommand.self, CheckConfigCommand.self, AdminCommand.self])
}

/// Where the process begins.
///
/// Not `async`: the main thread of an asynchronous program waits in `sigsuspend(2)` with every signal open, so that
/// SIGTERM would end the process there and never reach the signal reactor.
@main
enum Main {
    static func main() {
        // What makes something finishes it; what only looks may be ended.
        if !CommandLine.arguments.dropFirst().starts(with: ["check-config"]) {
            Signals.block(ServeCommand.endingSignals)
        }
        ProcessMemory.keepPrivate()
        ProcessMemory.returnLargePieces()
        // Whoever reads the log may go away; the server goes on.
        Signals.ignoreBrokenPipes()
        // Keys, catalog and volumes are nobody else's business, whoever creates the file.
        umask(0o077)
        let done = DispatchSemaphore(value: 0)
        Task.detached {
            await run()
            done.signal()
        }
        done.wait()
    }

    private static func run() async {
        do {
            var command = try Sluiced.parseAsRoot()
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch let error as SettingsError {
            for problem in error.problems { note(problem) }
            Sluiced.exit(withError: ExitCode(64))
        } catch let error as AuthorityError {
            note(error.description)
            Sluiced.exit(withError: ExitCode(error.isUsage ? 64 : 1))
        } catch {
            Sluiced.exit(withError: error)
        }
    }

    /// Writes a line to standard error.
    static func note(_ text: String) {
        FileHandle.standardError.write(Data("sluiced: \(text)\n".utf8))
    }
}
