import ArgumentParser
import ControlPlane
import Core
import Reactor
import TLS

/// `sluiced admin`: makes an administrator when no other can, on the server itself.
struct AdminCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "admin",
        abstract:
            "Makes an administrator while the server is stopped, for when no certificate of one is left.",
        discussion: """
            The bundle (ca.pem, cert.pem, key.pem) is written to a new folder. A name that is there gets a new key; the
            certificates of before no longer count. While the server runs, 'sluice admin add' does the same.

            EXAMPLE
              sluiced admin --data /var/lib/sluice --name eve --out eve
            """)

    @Option(help: "The data folder that 'sluiced init' made.") var data: String
    @Option(help: "The administrator's name.") var name: String
    @Option(help: "The new folder for the bundle.") var out: String

    func validate() throws {
        guard ResourceName(name) != nil else {
            throw ValidationError("--name is \(ResourceName.rule)")
        }
    }

    func run() async throws {
        guard let name = ResourceName(name) else { return }
        try await Authority.addAdmin(
            name, to: DataFolder(data), output: out, now: SystemWallClock().now(), random: SystemRandom())
        print("administrator \(name) may do everything; its bundle is in \(out)")
    }
}
