import ArgumentParser
import Configuration
import Core
import DriverHost
import Logs
import Reactor
import Services
import SystemPackage

/// What can be set by file, environment and flag, in rising precedence.
struct Settings {
    let control: [SocketAddress]
    let channel: [SocketAddress]
    /// Sockets of a service manager, which take the place of the addresses.
    let inherited: InheritedSockets
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

    static func load(
        file: String?, control: [String], channel: [String], reactors: Int?, logFormat: LogFormat?
    ) async throws -> Settings {
        var providers: [any ConfigProvider] = [EnvironmentVariablesProvider()]
        if let file {
            providers.append(try await FileProvider<YAMLSnapshot>(filePath: FilePath(file)))
        }
        let reader = ConfigReader(providers: providers)
        let count = reactors ?? reader.int(forKey: "sluice.reactors", default: 1)
        guard (1...64).contains(count) else {
            throw ValidationError("reactors is \(count): 1 to 64 would be right")
        }
        let poll = reader.int(forKey: "sluice.poll", default: Settings.pollMicrosecondsDefault)
        guard let poll = UInt64(exactly: poll), poll <= Limits.pollMicrosecondsMax else {
            throw ValidationError(
                "poll is \(poll): 0 to \(Limits.pollMicrosecondsMax) microseconds would be right")
        }
        let cpus = reader.intArray(forKey: "sluice.cpus", default: [])
        guard cpus.allSatisfy({ (0..<1024).contains($0) }) else {
            throw ValidationError("cpus is \(cpus): numbers of CPUs, from 0, would be right")
        }
        var policy = HostPolicy()
        policy.lossesMax = reader.int(
            forKey: "sluice.driver.quarantine.losses", default: policy.lossesMax)
        guard policy.lossesMax > 0 else {
            throw ValidationError("driver.quarantine.losses is below 1")
        }
        let linger = reader.int(forKey: "sluice.session.linger", default: Int(Limits.lingerSeconds))
        guard (0...Int(UInt32.max)).contains(linger) else {
            throw ValidationError("session.linger is \(linger): seconds from 0 would be right")
        }
        let stop = reader.int(forKey: "sluice.stop.seconds", default: Limits.stopSecondsDefault)
        guard Limits.stopSecondsRange.contains(stop) else {
            let range = Limits.stopSecondsRange
            throw ValidationError(
                "stop.seconds is \(stop): \(range.lowerBound) to \(range.upperBound) would be right")
        }
        let watchdog = reader.int(forKey: "sluice.watchdog", default: Settings.watchdogSecondsDefault)
        guard (0...3600).contains(watchdog) else {
            throw ValidationError(
                "watchdog is \(watchdog): seconds from 1 to 3600 would be right, or 0 for never")
        }
        let formatName = reader.string(forKey: "sluice.log.format", default: LogFormat.text.rawValue)
        guard let format = logFormat ?? LogFormat(rawValue: formatName) else {
            throw ValidationError("log.format is '\(formatName)': text or json would be right")
        }
        let inherited = try ServiceManager.sockets()
        let hasControl = inherited.named[ServiceManager.controlSocket] != nil
        let hasData = inherited.named[ServiceManager.dataSocket] != nil
        return Settings(
            control: hasControl
                ? []
                : try addresses(
                    control.isEmpty
                        ? reader.stringArray(forKey: "sluice.control", default: ["0.0.0.0:7480"]) : control),
            channel: hasData
                ? []
                : try addresses(
                    channel.isEmpty
                        ? reader.stringArray(forKey: "sluice.channel", default: ["0.0.0.0:7481"]) : channel),
            inherited: inherited,
            reactors: count, cpus: cpus, pollMicroseconds: poll,
            driverHost: reader.string(forKey: "sluice.driver.host"), policy: policy,
            lingerSeconds: UInt32(linger), stopSeconds: stop, watchdogSeconds: watchdog, logFormat: format)
    }

    private static let pollMicrosecondsDefault = 50
    private static let watchdogSecondsDefault = 5

    private static func addresses(_ texts: [String]) throws -> [SocketAddress] {
        try texts.map { text in
            do throws(ReactorError) { return try SocketAddress(text: text) } catch {
                throw ValidationError(
                    "'\(text)' is no address: 192.0.2.10:7480 or [2001:db8::1]:7480 would be right")
            }
        }
    }
}
