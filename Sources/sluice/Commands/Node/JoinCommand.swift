import ArgumentParser
import SluiceClient
import Wire

/// `sluice join`
struct JoinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "join",
        abstract: "Make this machine a compute node, with a token from 'sluice node add'.",
        discussion: """
            Makes a key that never leaves this machine, and keeps it with its certificate in the credentials
            folder. The token pins the server's authority: nobody in between can pass for the server.

            A folder that holds credentials already is refused while its certificate lasts. A node whose certificate has
            ended, and is no longer renewed, enrols again with a token from 'sluice node token', by the key that it has.

            EXAMPLES:
              sluice join --server https://io1.example:7480 --token -            (asks for the token)
              sluice join --server https://io1.example:7480 --token token.txt
            """)

    @OptionGroup var global: GlobalOptions
    @Option(
        help: ArgumentHelp(
            "The token that 'sluice node add' printed: a file that holds it, or - for standard input.",
            discussion:
                "The token itself is taken too, but whoever may list this machine's processes can read it there.",
            valueName: "file"))
    var token: String
    @Flag(help: "Enrol again although the folder holds credentials; its key stays.") var again = false

    func run() throws {
        guard let server = global.chosenServer else {
            throw ValidationError("--server https://HOST:PORT is needed: the I/O server to join")
        }
        let text = try chosenToken()
        let credentials: Credentials
        do throws(ClientError) {
            credentials = try NodeEnrolment.join(
                server: server, token: text, folder: global.folder, again: again, now: TimeText.now)
        } catch {
            throw Failure(error)
        }
        let joined = Joined(
            node: credentials.config.node ?? credentials.certificate.subjectCommonName,
            server: credentials.config.server ?? server, credentials: credentials.folder,
            expiresAt: TimeText.text(credentials.certificate.notAfter))
        try global.output.show(
            joined,
            sentence: "joined as node \(joined.node); credentials in \(joined.credentials), "
                + "renewed by themselves before \(joined.expiresAt)")
    }

    private func chosenToken() throws -> String {
        if token.hasPrefix(JoinToken.prefix) { return token }
        let text: String
        if token == "-" {
            let isTyped = Terminal.hasInputTerminal
            if isTyped { Terminal.note("the token that 'sluice node add' printed, then Enter:") }
            text = try TextInput.standardInput(endsWithLine: isTyped)
        } else {
            text = try TextInput.file(token)
        }
        return String(text.filter { !$0.isWhitespace })
    }
}

/// What `sluice join` prints as JSON or YAML.
struct Joined: Encodable {
    var node: String
    var server: String
    /// The folder.
    var credentials: String
    /// When the certificate expires.
    var expiresAt: String
}
