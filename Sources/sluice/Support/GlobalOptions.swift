import ArgumentParser
import Glibc
import SluiceClient

/// What every command that talks to the I/O server takes, before or after the command's name.
struct GlobalOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The I/O server's control API, https://HOST:PORT (env SLUICE_SERVER).",
            discussion: "Default: the server that the credentials name, or \(GlobalOptions.localServer).",
            valueName: "url"))
    var server: String?

    @Option(
        help: ArgumentHelp(
            "The folder with ca.pem, cert.pem and key.pem (env SLUICE_CREDENTIALS).",
            discussion: "Default: /etc/sluice for root, ~/.config/sluice for others.", valueName: "dir"),
        completion: .directory)
    var credentials: String?

    @Option(
        name: [.short, .long], help: ArgumentHelp("How to print: table, json or yaml.", valueName: "format"))
    var output: OutputFormat = .table

    static let localServer = "https://localhost:7480"

    /// The server that was asked for by option or environment.
    var chosenServer: String? { server ?? GlobalOptions.environment("SLUICE_SERVER") }

    /// The credentials folder that the option, the environment or the default names.
    var folder: String {
        if let credentials { return credentials }
        let names = ["SLUICE_CREDENTIALS", "XDG_CONFIG_HOME", "HOME"]
        let known = names.compactMap { name in GlobalOptions.environment(name).map { (name, $0) } }
        return Credentials.defaultFolder(
            environment: Dictionary(known) { first, _ in first }, userID: geteuid())
    }

    /// A variable of the environment; nil when it is unset or empty.
    static func environment(_ name: String) -> String? {
        guard let value = unsafe getenv(name) else { return nil }
        let text = unsafe String(cString: value)
        return text.isEmpty ? nil : text
    }
}
