import ArgumentParser
import ControlPlane
import Core
import Foundation
import Reactor
import TLS

/// `sluiced init`: makes a data folder.
struct InitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract:
            "Makes a data folder: identity, certificate authority, signing key, catalog, the pool 'default'.",
        discussion: """
            The folder must be empty or not exist. DIR/admin is the administrator's bundle for curl and sluice.

            EXAMPLE
              sluiced init --data /var/lib/sluice --name io.example --address 192.0.2.10
            """)

    @Option(help: "The folder to make.") var data: String
    @Option(help: "The server's DNS name, for its certificate (default: this host's name).") var name: String?
    @Option(parsing: .singleValue, help: "An IP address or further name that clients use; may be repeated.")
    var address: [String] = []

    func run() async throws {
        let folder = DataFolder(data)
        try await Authority.initialise(
            folder,
            options: Authority.Options(
                name: name ?? ProcessInfo.processInfo.hostName,
                names: address.filter { !Authority.isAddress($0) },
                addresses: address.filter(Authority.isAddress)),
            now: SystemWallClock().now(), random: SystemRandom())
        let host = address.first ?? name ?? "localhost"
        let admin = folder.adminFolder
        print(
            """
            made \(folder.path). Start the server:
              sluiced serve --data \(folder.path)
            and ask it:
              curl --cacert \(admin)/ca.pem --cert \(admin)/cert.pem --key \(admin)/key.pem \
            https://\(host.contains(":") ? "[\(host)]" : host):7480/v1/server
            """)
    }
}
