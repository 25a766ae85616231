import ArgumentParser
import Core

/// What helps with arguments that cannot be parsed, beyond what the parser says.
enum UsageAdvice {
    /// The parser's message, with the advice at the end of its first line.
    static func added(to message: String, _ arguments: [String]) -> String {
        guard let advice = misspelt(arguments) ?? negative(message, arguments) else { return message }
        let first = message.prefix { $0 != "\n" }
        return "\(first)\(advice)\(message.dropFirst(first.count))"
    }

    /// Of a word that is no subcommand where one has to be.
    private static func misspelt(_ arguments: [String]) -> String? {
        var command: any ParsableCommand.Type = Sluice.self
        var rest = arguments.dropFirst()
        while let word = rest.popFirst() {
            if word.hasPrefix("-") {
                if ["--server", "--credentials", "-o", "--output"].contains(word) { _ = rest.popFirst() }
                continue
            }
            let known = command.configuration.subcommands
            guard !known.isEmpty, word != "help" else { return nil }
            if let next = known.first(where: { names(of: $0).contains(word) }) {
                command = next
                continue
            }
            return NearestName.of(word, in: known.flatMap(names)).map { "; did you mean '\($0)'?" }
        }
        return nil
    }

    private static func names(of command: any ParsableCommand.Type) -> [String] {
        [command._commandName] + command.configuration.aliases
    }

    /// Of an option whose value was taken for another option.
    private static func negative(_ message: String, _ arguments: [String]) -> String? {
        for (option, value) in zip(arguments, arguments.dropFirst())
        where option.hasPrefix("--") && message.contains("Missing value for '\(option)")
            && value.hasPrefix("-") && value.dropFirst().first?.isNumber == true
        {
            return "; a value that begins with - is written \(option)=\(value)"
        }
        return nil
    }
}
