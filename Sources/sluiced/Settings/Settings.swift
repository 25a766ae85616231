import Core
import DriverHost
import Foundation
import Logs
import Reactor
import Services

/// What can be set by file, environment and flag, in rising precedence.
struct Settings {
    let control: [SocketAddress]
    let channel: [SocketAddress]
    let reactors: Int
    /// The CPUs of the reactors, in their order; empty: wherever the system likes.
    let cpus: [Int]
    /// For how long a reactor looks for something to do before it sleeps.
    let pollMicroseconds: UInt64
    /// The program of driver hosts; nil: `sluice-driver` beside `sluiced`.
    let driverHost: String?
    /// When driver hosts are started again, and when not any more.
    let policy: HostPolicy
    /// How long a session that may write nothing outlives its last connection.
    let lingerSeconds: UInt32
    /// How long the server may take to end, in seconds.
    let stopSeconds: Int
    /// For how many seconds a reactor may stand before the server ends itself; 0 for ever.
    let watchdogSeconds: Int
    /// The form of log lines.
    let logFormat: LogFormat
    /// Each setting with its value, if it has one, and where that comes from; in the order in which they are shown.
    let shown: [(key: SettingKey, value: SettingValue?, place: SettingPlace)]
    /// What is ignored, and may be a mistake.
    let warnings: [String]

    /// What the command line says.
    struct Flags {
        var control: [String] = []
        var channel: [String] = []
        var reactors: String?
        var logFormat: String?
    }

    /// The settings that hold.
    ///
    /// - Throws: `SettingsError` with all that is wrong, in whatever place.
    static func load(file: String?, flags: Flags, environment: [String: String]) throws -> Settings {
        var table = SettingsTable()
        if let file { table.add(SettingsFile(path: file)) }
        table.add(environment: environment)
        table.add(flag: .control, flags.control)
        table.add(flag: .channel, flags.channel)
        table.add(flag: .reactors, flags.reactors.map { [$0] } ?? [])
        table.add(flag: .logFormat, flags.logFormat.map { [$0] } ?? [])
        return try Settings(table)
    }

    private init(_ table: SettingsTable) throws {
        var problems = table.problems
        var policy = HostPolicy()
        policy.lossesMax = table.integer(.losses) ?? policy.lossesMax
        let host = table.text(.driverHost)
        do {
            _ = try DriverFactory.executable(host)
        } catch {
            problems.append("driver.host (\(table.place(.driverHost))): \(error.message)")
        }
        let control = table.addresses(.control) ?? Self.everywhere(port: 7480)
        let channel = table.addresses(.channel) ?? Self.everywhere(port: 7481)
        let listeners =
            control.map { (address: $0, key: SettingKey.control) }
            + channel.map { (address: $0, key: SettingKey.channel) }
        for (index, later) in listeners.enumerated() {
            for earlier in listeners[..<index] where Self.collide(earlier.address, later.address) {
                let places = [earlier, later].map { "\($0.key.name) (\(table.place($0.key)))" }
                problems.append(
                    "\(places[1]) is \(later.address), which \(places[0]) has already"
                        + (earlier.address == later.address ? "" : " as \(earlier.address)")
                        + "; another address or port would be right")
            }
        }
        guard problems.isEmpty else { throw SettingsError(problems: problems) }
        self.control = control
        self.channel = channel
        reactors = table.integer(.reactors) ?? 1
        cpus = table.integers(.cpus) ?? []
        pollMicroseconds = UInt64(table.integer(.poll) ?? Self.pollMicrosecondsDefault)
        driverHost = host
        self.policy = policy
        lingerSeconds = UInt32(clamping: table.integer(.linger) ?? Int(Limits.lingerSeconds))
        stopSeconds = table.integer(.stop) ?? Limits.stopSecondsDefault
        watchdogSeconds = table.integer(.watchdog) ?? Self.watchdogSecondsDefault
        logFormat = table.text(.logFormat).flatMap(LogFormat.init(rawValue:)) ?? .text
        warnings = table.warnings
        let presets: [SettingKey: SettingValue] = [
            .control: .addresses(control), .channel: .addresses(channel), .reactors: .integer(reactors),
            .cpus: .integers(cpus), .poll: .integer(Int(pollMicroseconds)),
            .losses: .integer(policy.lossesMax), .linger: .integer(Int(lingerSeconds)),
            .stop: .integer(stopSeconds), .watchdog: .integer(watchdogSeconds),
            .logFormat: .text(logFormat.rawValue),
        ]
        shown = SettingKey.all.map { ($0, table.value($0) ?? presets[$0], table.place($0)) }
    }

    private static let pollMicrosecondsDefault = 50
    private static let watchdogSecondsDefault = 5

    /// Whether two sockets cannot listen at these addresses at once. An address of all addresses takes every other's
    /// port, of IPv4 as well where it is one of IPv6.
    private static func collide(_ first: SocketAddress, _ second: SocketAddress) -> Bool {
        guard first.port == second.port, first.port != 0 else { return false }
        if first.host == second.host { return true }
        return [(first.host, second.host), (second.host, first.host)].contains { all, other in
            all == "::" || all == "0.0.0.0" && !other.contains(":")
        }
    }

    /// All addresses of this machine, of both families where the kernel has them.
    private static func everywhere(port: UInt16) -> [SocketAddress] {
        (try? SocketAddress(host: Sockets.hasIPv6 ? "::" : "0.0.0.0", port: port)).map { [$0] } ?? []
    }

    /// What is said of addresses that were set although a service manager hands over a socket in their place, where
    /// the socket listens elsewhere; nil when all is well.
    func overruled(_ key: SettingKey, by sockets: [Int32]) -> String? {
        guard !sockets.isEmpty, let entry = shown.first(where: { $0.key == key }),
            case .addresses(let wanted)? = entry.value
        else { return nil }
        if case .preset = entry.place { return nil }
        let bound = sockets.compactMap { try? Sockets.localAddress(fd: $0) }
        let isSame = wanted.allSatisfy { address in
            bound.contains(address) || address.port == 0 && bound.contains { $0.host == address.host }
        }
        guard !isSame else { return nil }
        let list = { (all: [SocketAddress]) in all.map(\.description).joined(separator: " ") }
        return
            "\(key.name) (\(entry.place)) says \(list(wanted)), but the service manager hands over sockets on "
            + "\(list(bound)), which count: set it in sluiced-\(key.name == "channel" ? "data" : key.name).socket, or mask that unit"
    }

    /// Text that somebody wrote, as far as it may go to a terminal or a log.
    static func shown(_ text: String) -> String { ShownText.line(text, charactersMax: 100) }
}

/// Settings as they are collected, the later over the earlier.
struct SettingsTable {
    private var found: [SettingKey: (value: SettingValue, place: SettingPlace)] = [:]
    private(set) var problems: [String] = []
    private(set) var warnings: [String] = []

    /// What a file says.
    mutating func add(_ file: SettingsFile) {
        found.merge(file.found) { $1 }
        problems += file.problems
    }

    /// What variables say; one that is empty says nothing. A variable that is nobody's is a problem where it looks
    /// like one of ours, and a warning elsewhere.
    mutating func add(environment: [String: String]) {
        let known = Dictionary(uniqueKeysWithValues: SettingKey.all.map { ($0.variable, $0) })
        for (name, text) in environment.sorted(by: { $0.key < $1.key })
        where name.hasPrefix(SettingKey.prefix) {
            if SettingKey.foreignVariables.contains(name) { continue }
            guard let key = known[name] else {
                stranger(name, known: Array(known.keys))
                continue
            }
            guard !text.isEmpty else { continue }
            let texts =
                key.isList
                ? text.split(separator: ",", omittingEmptySubsequences: false).map(Self.trimmed) : [text]
            guard let value = key.value(texts) else {
                problems.append(
                    "environment \(name) is \"\(Settings.shown(text))\"; \(key.rule) would be right")
                continue
            }
            found[key] = (value, .variable(name))
        }
    }

    private mutating func stranger(_ name: String, known: [String]) {
        let short = { (name: String) in String(name.dropFirst(SettingKey.prefix.count)) }
        let own = known.map(short)
        let near = NearestName.of(short(name), in: own + SettingKey.foreignVariables.map(short))
        if let near, own.contains(near) {
            problems.append(
                "environment \(Settings.shown(name)) is no setting; did you mean \(SettingKey.prefix)\(near)?"
            )
        } else {
            warnings.append("environment \(Settings.shown(name)) is no setting of sluiced, and is ignored")
        }
    }

    /// What a flag says; nothing when it is not there.
    mutating func add(flag key: SettingKey, _ texts: [String]) {
        guard !texts.isEmpty, let flag = key.flag else { return }
        guard let value = key.value(texts) else {
            let all = texts.map { "\"\(Settings.shown($0))\"" }.joined(separator: ", ")
            problems.append("--\(flag) is \(all); \(key.rule) would be right")
            return
        }
        found[key] = (value, .flag(flag))
    }

    private static func trimmed(_ text: Substring) -> String {
        text.trimmingCharacters(in: .whitespaces)
    }

    func value(_ key: SettingKey) -> SettingValue? { found[key]?.value }

    func place(_ key: SettingKey) -> SettingPlace { found[key]?.place ?? .preset }

    func addresses(_ key: SettingKey) -> [SocketAddress]? {
        if case .addresses(let all)? = value(key) { all } else { nil }
    }

    func integer(_ key: SettingKey) -> Int? {
        if case .integer(let number)? = value(key) { number } else { nil }
    }

    func integers(_ key: SettingKey) -> [Int]? {
        if case .integers(let numbers)? = value(key) { numbers } else { nil }
    }

    func text(_ key: SettingKey) -> String? { if case .text(let text)? = value(key) { text } else { nil } }
}
