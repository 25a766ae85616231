import ArgumentParser
import Foundation

/// What `serve` and `check-config` are told alike.
struct SettingsOptions: ParsableArguments {
    @Option(
        parsing: .singleValue,
        help: "ADDR:PORT of the control API; may be repeated (default: [::]:7480, IPv4 included).")
    var control: [String] = []
    @Option(
        parsing: .singleValue,
        help: "ADDR:PORT of the data channel; may be repeated (default: [::]:7481, IPv4 included)."
    )
    var channel: [String] = []
    @Option(help: "Data reactors, so threads (default: one).") var reactors: String?
    @Option(help: "The form of log lines, on standard error: text or json (default: text).")
    var logFormat: String?
    @Option(help: "A YAML file with settings.") var config: String?

    /// The settings that hold; throws all that is wrong with them.
    func load() throws -> Settings {
        try Settings.load(
            file: config,
            flags: Settings.Flags(
                control: control, channel: channel, reactors: reactors, logFormat: logFormat),
            environment: ProcessInfo.processInfo.environment)
    }
}

/// `sluiced check-config`: says what would hold, and from where, without starting anything.
struct CheckConfigCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-config",
        abstract: "Checks the settings as 'serve' does, and prints what holds and from where.",
        discussion: """
            Prints the settings as a file that 'serve --config' takes, with the place of each beside it. Ends with 64 when
            something is wrong, and says all that is.

            EXAMPLE
              sluiced check-config --config /etc/sluice/sluiced.yaml
            """)

    @OptionGroup var options: SettingsOptions

    func run() async throws {
        let settings = try options.load()
        print(Self.text(settings), terminator: "")
        for warning in settings.warnings { Main.note("warning: \(warning)") }
    }

    /// The settings as YAML, each with its place as a comment.
    static func text(_ settings: Settings) -> String {
        var lines: [(text: String, comment: String)] = [("\(SettingsFile.top):", "")]
        var parents: [String] = []
        for entry in settings.shown {
            for depth in 0..<(entry.key.path.count - 1)
            where !parents.starts(with: entry.key.path.prefix(depth + 1)) {
                parents = Array(entry.key.path.prefix(depth + 1))
                lines.append((indent(depth) + parents[depth] + ":", ""))
            }
            let name = entry.key.path[entry.key.path.count - 1]
            let start = indent(entry.key.path.count - 1)
            if let value = entry.value {
                lines.append(("\(start)\(name): \(value.yaml)", "\(entry.place)"))
            } else {
                lines.append(("\(start)# \(name) is not set", ""))
            }
            parents = Array(entry.key.path.dropLast())
        }
        let width = lines.map(\.text.count).max() ?? 0
        return lines.map { line in
            guard !line.comment.isEmpty else { return line.text + "\n" }
            return line.text + String(repeating: " ", count: width - line.text.count + 2)
                + "# \(line.comment)\n"
        }.joined()
    }

    private static func indent(_ depth: Int) -> String { String(repeating: "  ", count: depth + 1) }
}
