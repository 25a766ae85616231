import Core
import Foundation
import Glibc
import Logging
import Reactor
import Services
import Synchronization

/// What the server does about a reactor that stands: says so, and at last ends itself, with a note for its successor.
enum ServerWatchdog {
    /// Looks after reactors that are named later.
    ///
    /// - Parameter seconds: after so many the server ends itself; 0 for never.
    static func start(
        services: IOServices, events: EventLog, file: WatchdogFile, seconds: Int, logger: Logger
    ) throws(ReactorError) -> ReactorWatchdog {
        var options = ReactorWatchdog.Options()
        options.endNanoseconds = seconds > 0 ? UInt64(seconds) * 1_000_000_000 : nil
        // For the last words: finding names takes a while.
        let stacks = Mutex<[String: [String]]>([:])
        return try ReactorWatchdog(options: options) { finding in
            switch finding {
            case .stands(let stall):
                let words = describe(stall, services)
                // The event does not wait for the log, which may be what stands.
                events.append(.reactorStands, subject: "reactor/\(stall.name)", message: words)
                logger.critical("\(words)", metadata: ["reactor": "\(stall.name)"])
                let stack = Array(stall.stack.prefix(framesMax))
                stacks.withLock { $0[stall.name] = stack }
                for line in stack {
                    logger.critical("  at \(line)", metadata: ["reactor": "\(stall.name)"])
                }
            case .goesOn(let name, let nanoseconds):
                let words = "it turns again after \(tenths(nanoseconds))"
                events.append(.reactorGoesOn, subject: "reactor/\(name)", message: words)
                logger.warning("\(words)", metadata: ["reactor": "\(name)"])
            }
        } lastWords: { stall in
            let request = services.request(of: stall.activity, on: stall.remote)
            file.append(
                WatchdogRecord(
                    at: SystemWallClock().now(), reactor: stall.name,
                    milliseconds: stall.nanoseconds / 1_000_000,
                    request: request?.identity))
            say("sluiced: \(describe(stall, services)); ended by its watchdog")
            let stack = stacks.withLockIfAvailable { $0[stall.name] } ?? nil
            for line in stack ?? [] { say("sluiced:   at \(line)") }
        }
    }

    /// Says what servers before this one stood at, if the last one did; returns what is not to be repeated.
    static func takeUp(_ file: WatchdogFile, events: EventLog, logger: Logger) -> (Suspects, ends: Int) {
        let records = file.load()
        let now = SystemWallClock().now()
        if let last = records.last, now < last.at + recentSeconds {
            let count = records.count { now < $0.at + recentSeconds }
            let words =
                "reactor \(last.reactor) did not turn for \(tenths(last.milliseconds * 1_000_000)), and the watchdog ended "
                + "the server, \(count) times in the last ten minutes; see the log of then"
            events.append(.serverEnded, subject: "reactor/\(last.reactor)", message: words)
            logger.error("\(words)")
        }
        return (Suspects(records), records.count)
    }

    private static let framesMax = 24
    private static let recentSeconds: UInt64 = 600

    private static func describe(_ stall: ReactorWatchdog.Stall, _ services: IOServices) -> String {
        let how = stall.isBlocked ? "its thread waits in the kernel" : "its thread runs in a circle"
        let what = services.request(of: stall.activity, on: stall.remote).map { ", \($0.description)" } ?? ""
        let noStack = stall.frames.isEmpty ? "; where it is it does not say" : ""
        return
            "reactor \(stall.name) has not turned for \(tenths(stall.nanoseconds)): \(how)\(what)\(noStack)"
    }

    private static func tenths(_ nanoseconds: UInt64) -> String {
        "\(nanoseconds / 1_000_000_000).\(nanoseconds / 100_000_000 % 10) s"
    }

    /// Writes to standard error past the logger, if somebody reads it: whatever stands must not keep this thread.
    private static func say(_ text: String) {
        var target = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
        guard unsafe poll(&target, 1, 0) > 0, target.revents & Int16(POLLOUT) != 0 else { return }
        let line = String(text.prefix(1000)) + "\n"
        _ = unsafe write(STDERR_FILENO, line, line.utf8.count)
    }
}
