import Core
import DriverKit
import Glibc
import Reactor
import Synchronization
import Testing

@testable import DriverHost

/// An isolated driver in a folder of its own, with what was reported of its hosts.
final class IsolatedRig {
    /// What the keeper reported, in order.
    final class Events: Sendable {
        private let events = Mutex<[DriverHostEvent]>([])
        private let semaphore = ThreadSemaphore()

        func append(_ event: DriverHostEvent) {
            events.withLock { $0.append(event) }
            semaphore.signal()
        }

        /// Waits for the next event in this state; nil after a minute.
        func next(_ state: DriverHostReport.State) -> DriverHostEvent? {
            while semaphore.wait(milliseconds: 60_000) {
                let event = events.withLock { $0.removeFirst() }
                if event.state == state { return event }
            }
            Issue.record("no host is \(state.rawValue)")
            return nil
        }
    }

    let events = Events()
    let folder: String
    let driver: IsolatedDriver

    /// The drivers' own program, beside the tests' own.
    static let hostProgram = String(HostileProgram.path.dropLast("HostileDriver".count)) + "sluice-driver"

    init(
        executable: String = HostileProgram.path, driver: String = "harmful", settings: [String: String],
        policy: HostPolicy = HostPolicy()
    ) throws {
        folder = "/dev/shm/sluice-isolated-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        var options = IsolatedDriver.Options(
            executable: executable, driver: driver, settings: settings, folder: folder,
            wallClock: SystemWallClock())
        options.policy = policy
        options.onEvent = { [events] in events.append($0) }
        do throws(StatusError) { self.driver = try IsolatedDriver(options) } catch {
            IsolatedRig.remove(folder)
            throw error
        }
        _ = events.next(.running)
    }

    deinit {
        driver.shutDown()
        IsolatedRig.remove(folder)
    }

    private static func remove(_ folder: String) {
        _ = try? ChildProcess(executable: "/bin/rm", arguments: ["-rf", folder], environment: []).wait()
    }

    /// Kills the host that serves and waits for the next one.
    func killHost() throws {
        let processID = try #require(driver.report.processID)
        #expect(kill(processID, SIGKILL) == 0)
        _ = events.next(.running)
    }
}

// SAFETY: `parts` is touched on the reactor's thread only.
/// A queue of a driver, with one request at a time.
final class RequestRig: @unchecked Sendable {
    private final class Parts {
        let submissions = SubmissionRing(capacity: 16)
        let completions = CompletionRing(capacity: 16)
        var queue: (any DriverQueue)?
    }

    private let parts = Parts()
    private let statuses = Mutex<[UInt16]>([])
    private let semaphore = ThreadSemaphore()
    private var thread: ReactorThread?

    init(_ driver: IsolatedDriver) throws {
        let arena = try Arena(bytes: 1 << 20)
        let started = ThreadSemaphore()
        let failure = Mutex<StatusError?>(nil)
        thread = try Reactor.start { [self] reactor in
            do throws(StatusError) {
                parts.queue = try driver.makeQueue(
                    reactor: reactor, arena: arena, submissions: parts.submissions,
                    completions: parts.completions, onCompletions: { [unowned self] in collect() })
            } catch { failure.withLock { $0 = error } }
            started.signal()
        }
        started.wait()
        if let error = failure.withLock({ $0 }) { throw error }
    }

    private func collect() {
        while let completion = parts.completions.pop() {
            statuses.withLock { $0.append(completion.status) }
            semaphore.signal()
        }
    }

    /// The status of one request; nil when it takes more than a minute.
    func status(_ opcode: DriverOpcode, volume: UInt32 = 0, length: UInt64 = 4096) -> Status? {
        begin(opcode, volume: volume, length: length, tag: 1)
        return result()
    }

    /// Asks without waiting.
    func begin(_ opcode: DriverOpcode, volume: UInt32 = 0, length: UInt64 = 4096, tag: UInt64) {
        thread?.remote.post { [self] in
            _ = parts.submissions.push(
                DriverRequest(opcode: opcode, index: volume, tag: tag, offset: 0, length: length))
            parts.queue?.process()
        }
    }

    /// Withdraws requests.
    func withdraw(_ tags: Set<UInt64>, status: Status) {
        thread?.remote.post { [self] in parts.queue?.withdraw(tags, status: status) }
    }

    /// The status of the next request that ends; nil when that takes more than a minute.
    func result() -> Status? {
        guard semaphore.wait(milliseconds: 60_000) else { return nil }
        return statuses.withLock { Status(rawValue: $0.removeFirst()) }
    }

    /// Ends queue and reactor.
    func stop() {
        thread?.remote.post { [self] in
            parts.queue?.stop()
            parts.queue = nil
        }
        thread?.remote.stop()
        thread?.join()
        thread = nil
    }
}
