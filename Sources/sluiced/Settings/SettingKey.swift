import Core
import Glibc
import Logs
import Reactor
import Services

/// One thing that can be set: what it is called in a file, in the environment and on the command line, and what
/// would be right for it.
struct SettingKey: Sendable, Hashable {
    /// What a setting may be.
    enum Kind: Sendable, Hashable {
        /// One or more of `ADDR:PORT`.
        case addresses
        /// A whole number in this range.
        case integer(ClosedRange<Int>)
        /// Whole numbers in this range, any number of them.
        case integers(ClosedRange<Int>)
        /// An absolute path.
        case path
        /// One of these words.
        case choice([String])
    }

    /// The keys from the top of the file, below `sluice`.
    let path: [String]
    let kind: Kind
    /// Of the command line, without dashes; nil where there is none.
    let flag: String?

    init(_ path: String, _ kind: Kind, flag: String? = nil) {
        self.path = path.split(separator: ".").map(String.init)
        self.kind = kind
        self.flag = flag
    }

    /// As messages and the file have it, such as `driver.host`.
    var name: String { path.joined(separator: ".") }
    /// The variable of the environment.
    var variable: String { SettingKey.prefix + path.joined(separator: "_").uppercased() }

    /// What all variables begin with.
    static let prefix = "SLUICE_"

    static let control = SettingKey("control", .addresses, flag: "control")
    static let channel = SettingKey("channel", .addresses, flag: "channel")
    static let reactors = SettingKey("reactors", .integer(1...64), flag: "reactors")
    static let poll = SettingKey("poll", .integer(0...Int(Limits.pollMicrosecondsMax)))
    static let cpus = SettingKey("cpus", .integers(0...max(0, sysconf(Int32(_SC_NPROCESSORS_CONF)) - 1)))
    static let driverHost = SettingKey("driver.host", .path)
    static let losses = SettingKey("driver.quarantine.losses", .integer(1...1_000_000))
    static let linger = SettingKey("session.linger", .integer(0...Int(UInt32.max)))
    static let stop = SettingKey("stop.seconds", .integer(Limits.stopSecondsRange))
    static let watchdog = SettingKey("watchdog", .integer(0...3600))
    static let logFormat = SettingKey(
        "log.format", .choice(LogFormat.allCases.map(\.rawValue)), flag: "log-format")

    /// Every setting, in the order in which they are shown.
    static let all = [
        control, channel, reactors, poll, cpus, driverHost, losses, linger, stop, watchdog, logFormat,
    ]

    /// Variables that `sluice` knows; a machine may be server and node.
    static let foreignVariables: Set<String> = [
        "SLUICE_SERVER", "SLUICE_CREDENTIALS", "SLUICE_RUN", "SLUICE_IO_TIMEOUT", "SLUICE_RECONNECT_TIMEOUT",
        "SLUICE_LIFETIME",
    ]

    /// What would be right.
    var rule: String {
        switch kind {
        case .addresses: "addresses such as 192.0.2.10:7480 or [2001:db8::1]:7480"
        case .integer(let range): "a whole number from \(range.lowerBound) to \(range.upperBound)"
        case .integers(let range): "whole numbers from \(range.lowerBound) to \(range.upperBound)"
        case .path: "an absolute path"
        case .choice(let words): words.joined(separator: " or ")
        }
    }

    /// Whether a file may give a list.
    var isList: Bool {
        switch kind {
        case .addresses, .integers: true
        case .integer, .path, .choice: false
        }
    }

    /// The value that texts stand for; nil when they are not what is right for it.
    func value(_ texts: [String]) -> SettingValue? {
        switch kind {
        case .addresses:
            let addresses = texts.compactMap { text in try? SocketAddress(text: text) }
            guard addresses.count == texts.count, !texts.isEmpty else { return nil }
            return .addresses(addresses)
        case .integer(let range):
            guard texts.count == 1, let number = SettingKey.number(texts[0]), range.contains(number) else {
                return nil
            }
            return .integer(number)
        case .integers(let range):
            let numbers = texts.compactMap(SettingKey.number).filter(range.contains)
            return numbers.count == texts.count ? .integers(numbers) : nil
        case .path:
            guard texts.count == 1, texts[0].hasPrefix("/") else { return nil }
            return .text(texts[0])
        case .choice(let words):
            return texts.count == 1 && words.contains(texts[0]) ? .text(texts[0]) : nil
        }
    }

    /// A whole number, written with digits alone.
    static func number(_ text: String) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return Int(text)
    }
}

/// What a setting is.
enum SettingValue: Sendable {
    case addresses([SocketAddress])
    case integer(Int)
    case integers([Int])
    case text(String)

    /// As a YAML file has it.
    var yaml: String {
        switch self {
        case .addresses(let all): "[" + all.map { "\"\($0)\"" }.joined(separator: ", ") + "]"
        case .integer(let number): "\(number)"
        case .integers(let numbers): "[" + numbers.map(String.init).joined(separator: ", ") + "]"
        case .text(let text): SettingValue.quoted(text)
        }
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case _ where !ShownText.isPlain(String(scalar)):
                let digits = String(scalar.value, radix: 16)
                result += "\\U" + String(repeating: "0", count: 8 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

/// Where a setting comes from.
enum SettingPlace: Sendable, CustomStringConvertible {
    case preset
    /// A line of a file, from 1.
    case file(String, line: Int)
    case variable(String)
    case flag(String)

    var description: String {
        switch self {
        case .preset: "default"
        case .file(let path, let line): "\(path):\(line)"
        case .variable(let name): "environment \(name)"
        case .flag(let name): "--\(name)"
        }
    }
}

/// Settings that are wrong, all of them at once, each with its place.
struct SettingsError: Error, CustomStringConvertible {
    let problems: [String]

    var description: String { problems.joined(separator: "\n") }
}
