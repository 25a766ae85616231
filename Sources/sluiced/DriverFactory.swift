import Core
import DriverHost
import DriverKit
import Drivers
import Foundation
import Glibc
import Logging
import Reactor
import Services

/// Makes the drivers of pools: isolated in a host of their own, or inline.
struct DriverFactory: Sendable {
    /// The program of driver hosts.
    let executable: String
    /// How many reactors use a pool.
    let queues: Int
    /// When hosts are started again, and when not any more.
    let policy: HostPolicy
    /// Hears of what becomes of driver hosts.
    let events: EventLog
    let logger: Logger

    /// The program that is set, or the one beside this program. Looked up once: an upgrade replaces the file
    /// under the same path.
    static func executable(_ setting: String?) throws(StatusError) -> String {
        let path = setting ?? besideOwn()
        guard path.hasPrefix("/"), unsafe access(path, X_OK) == 0 else {
            throw StatusError(
                .driverFailed,
                "the program of driver hosts, \(path), cannot be run: install sluice-driver beside sluiced")
        }
        return path
    }

    private static func besideOwn() -> String {
        var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = unsafe readlink("/proc/self/exe", &bytes, bytes.count)
        let path = String(decoding: bytes.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return URL(filePath: path).deletingLastPathComponent().appending(path: "sluice-driver").path
    }

    @Sendable
    func make(_ pool: PoolDescriptor) throws(StatusError) -> any PoolDriver {
        let type = try InstalledDrivers.named(pool.driver)
        switch pool.isolation {
        case .inline:
            let settings = try PoolSettings(pool.settings).ofDriver
            return try type.init(DriverEnvironment(settings: settings, folder: pool.folder))
        case .isolated:
            var options = IsolatedDriver.Options(
                executable: executable, driver: pool.driver, kind: type.kind, settings: pool.settings,
                folder: pool.folder, wallClock: SystemWallClock())
            options.queues = queues
            options.policy = policy
            options.onEvent = { [logger, events] event in
                events.append(pool: pool.name, event)
                logger.notice(
                    "driver host",
                    metadata: [
                        "pool": "\(pool.name)", "state": "\(event.state.rawValue)", "why": "\(event.message)",
                    ])
            }
            return try IsolatedDriver(options)
        }
    }
}
