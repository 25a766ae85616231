import FoundationEssentials
import Yams

/// What a command that failed says on standard error where its output is JSON or YAML.
struct FailureReport: Encodable {
    /// Why, for programs and for people.
    struct Reason: Encodable {
        /// The stable code, such as `IN_USE`; where nobody has one of its own, what the exit code says.
        var code: String
        var message: String
        /// The exit code.
        var exit: Int32
    }

    var error: Reason

    /// One line; nil when it cannot be written.
    var json: String? {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(self)).map { String(decoding: $0, as: UTF8.self) }
    }

    /// Lines without the last line's end; nil when they cannot be written.
    var yaml: String? {
        let encoder = YAMLEncoder()
        encoder.options.sortKeys = true
        return (try? encoder.encode(self)).map { String($0.dropLast($0.hasSuffix("\n") ? 1 : 0)) }
    }
}
