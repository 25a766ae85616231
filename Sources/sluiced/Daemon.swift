import Catalog
import ControlPlane
import Core
import DataPlane
import DriverKit
import Drivers
import Foundation
import Glibc
import Logging
import Logs
import Reactor
import Services
import Synchronization
import TLS

/// Everything of a running server, wired together.
struct Daemon {
    private let lock: DataFolderLock
    private let folder: DataFolder
    private let catalog: SQLiteCatalog
    private let services: IOServices
    private let plane: ControlPlane
    private let control: ControlServer
    private let data: DataServer
    private let watchdog: ReactorWatchdog
    private let events: EventLog
    private let eventFile: EventFile
    private let certificates: Task<Void, Never>
    private let memory: Task<Void, Never>
    private let logger: Logger
    /// What its end has come to, for whoever has waited too long for it.
    let ending: Ending

    static func start(
        data path: String, settings: Settings, inherited: InheritedSockets, log: LogSink,
        words: LastWords, willServe: () -> Void
    ) async throws -> Daemon {
        // Every channel and volume is a descriptor; the soft limit of a shell is far too low.
        _ = OpenFiles.allow(.max)
        let logger = Logger(label: "sluiced")
        let folder = DataFolder(path)
        let lock = try folder.lock()
        let catalog = try SQLiteCatalog(path: folder.catalogFile)
        let store = try await RecordStore(catalog: catalog)
        let authority = try Authority.load(folder, store: store, now: SystemWallClock().now())
        let boot = try bootID()
        let keeper = SessionKeeper(store: store, bootID: boot, logger: logger)
        let (events, eventFile) = try openEvents(folder, log, words, logger)
        let drivers = DriverFactory(
            executable: try DriverFactory.executable(settings.driverHost), queues: settings.reactors,
            policy: settings.policy, events: events, logger: logger)
        var configuration = IOServices.Configuration(
            cluster: authority.clusterID, serverName: authority.name, signatures: OpenSSLSignatures(),
            wallClock: SystemWallClock(), random: SystemRandom(), logger: logger, driverFactory: drivers.make)
        configuration.events = events
        configuration.lingerSeconds = settings.lingerSeconds
        configuration.sessionStore = keeper
        configuration.grantCeiling = { [store] capability in
            guard let issued = store.get(CapabilityRecord.self, capability.hex)?.record,
                let grant = store.get(GrantRecord.self, issued.grantName)?.record, grant.id == issued.grantID
            else { return nil }
            return (grant.id, grant.limits)
        }
        configuration.markers = MarkerFolder(
            path: folder.markersFolder,
            boot: Identifier(hex: boot.filter { $0 != "-" }) ?? .random(using: SystemRandom()),
            logger: logger)
        let stood = WatchdogFile(path: folder.watchdogFile)
        let (suspects, ends) = ServerWatchdog.takeUp(stood, events: events, logger: logger)
        configuration.suspects = suspects
        let services = IOServices(configuration: configuration)
        let watchdog = try ServerWatchdog.start(
            services: services, events: events, file: stood, seconds: settings.watchdogSeconds, logger: logger
        )
        var planeConfiguration = ControlPlane.Configuration(
            authority: authority, store: store, services: services, events: events,
            isVolatile: InstalledDrivers.isVolatile, poolsFolder: folder.poolsFolder,
            wallClock: SystemWallClock(), random: SystemRandom(), logger: logger)
        planeConfiguration.sessionKeeper = keeper
        planeConfiguration.watchdog = watchdog
        planeConfiguration.watchdogEnds = UInt64(ends)
        planeConfiguration.log = log
        planeConfiguration.eventFile = eventFile
        let plane = ControlPlane(planeConfiguration)
        var options = DataServerOptions()
        options.reactors = settings.reactors
        options.cpus = settings.cpus
        options.pollNanoseconds = settings.pollMicroseconds * 1000
        let sockets = [SettingKey.control, .channel].map { key in
            inherited.named[key == .control ? ServiceManager.controlSocket : ServiceManager.dataSocket] ?? []
        }
        for (key, handed) in zip([SettingKey.control, .channel], sockets) {
            if let warning = settings.overruled(key, by: handed) { logger.warning("\(warning)") }
        }
        let data = DataServer(
            services: services, tls: try channelContext(authority),
            listen: sockets[1].isEmpty ? settings.channel : [], inherited: sockets[1], options: options)
        let control = ControlServer(
            tls: try controlContext(authority), listen: sockets[0].isEmpty ? settings.control : [],
            inherited: sockets[0], logger: logger, handler: plane)
        plane.onServerCertificate { authority in
            do throws(TLSError) {
                control.use(try controlContext(authority))
                data.use(try channelContext(authority))
            } catch {
                logger.error("the renewed certificate cannot be used", metadata: ["reason": "\(error)"])
            }
        }
        // A client that came before pools are there and sessions known would hear that its session is gone.
        try data.prepare()
        for (name, remote) in data.reactors { watchdog.watch(name, remote) }
        try await plane.start()
        willServe()
        data.accept()
        try control.start()
        if let remote = control.remote { watchdog.watch("control", remote) }
        let daemon = Daemon(
            lock: lock, folder: folder, catalog: catalog, services: services, plane: plane,
            control: control, data: data, watchdog: watchdog, events: events, eventFile: eventFile,
            certificates: lookAfterCertificates(plane), memory: returnMemory(), logger: logger,
            ending: Ending(services))
        try daemon.announce()
        BundledServer.note(
            control.boundAddresses, addresses: store.get(ServerRecord.self, "self")?.record.addresses ?? [],
            in: folder, logger)
        events.append(
            .serverStarted, subject: "server",
            message:
                "process \(getpid()) takes requests at \(control.boundAddresses.first?.description ?? "no address")"
        )
        ServiceManager.tellReady()
        return daemon
    }

    /// The log of events with what is kept of earlier runs, and what there is to say of the last one.
    private static func openEvents(
        _ folder: DataFolder, _ log: LogSink, _ words: LastWords, _ logger: Logger
    ) throws -> (EventLog, EventFile) {
        let eventFile = EventFile(path: folder.eventsFile, logger: logger)
        let events = EventLog(
            wallClock: SystemWallClock(), start: UInt64(Date().timeIntervalSince1970 * 1_000_000),
            history: eventFile.load(now: SystemWallClock().now()), keeper: eventFile)
        try eventFile.follow { events.history }
        words.include(eventFile)
        log.tell { events.append($0) }
        if let words = crash(in: events.history.events) {
            events.append(.serverCrashed, subject: "server", message: words)
            logger.warning("\(words)")
        }
        return (events, eventFile)
    }

    /// Ends in the order in which users notice least: no new requests, then the channels, then the drivers, then the
    /// catalog.
    func stop() async {
        logger.notice("stopping")
        // Before the end of the log of events, so that those who follow it hear of it.
        events.append(
            .serverStopped, subject: "server", message: "process \(getpid()) was told to end, and does so")
        certificates.cancel()
        memory.cancel()
        ServiceManager.tellStopping()
        plane.drain()
        ending.waits(for: "requests of the control API")
        await control.stop()
        ending.waits(for: "data channels")
        await data.stop()
        ending.waits(for: "driver hosts")
        await services.stop()
        watchdog.stop()
        eventFile.finish()
        ending.waits(for: "the catalog")
        try? FileManager.default.removeItem(atPath: folder.endpointsFile)
        do throws(CatalogError) { try catalog.close() } catch {
            logger.error("the catalog did not close", metadata: ["reason": "\(error)"])
        }
        logger.notice("stopped")
    }

    /// Tells the API, tools and the operator where the server listens.
    private func announce() throws {
        let endpoints = [
            "control": control.boundAddresses.map(\.description),
            "channel": data.boundAddresses.map(\.description),
        ]
        plane.announce(control: endpoints["control"] ?? [], channel: endpoints["channel"] ?? [])
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let text = Array(try encoder.encode(endpoints)) + [0x0A]
        do throws(AuthorityError) { try PrivateFiles.write(text, to: folder.endpointsFile) } catch {
            // The disk may be full: a server has to start on it all the same, so that somebody can make room.
            logger.error("tools cannot be told where the server listens", metadata: ["reason": "\(error)"])
        }
        logger.notice(
            "ready",
            metadata: [
                "control": "\(endpoints["control"]?.joined(separator: " ") ?? "")",
                "channel": "\(endpoints["channel"]?.joined(separator: " ") ?? "")",
            ])
    }

    /// Of both ports: the control API knows its clients by their certificates, the data channel by their keys.
    private static func controlContext(_ authority: Authority) throws(TLSError) -> TLSContext {
        try TLSContext.server(
            chainPEM: authority.serverChainPEM, key: authority.serverKey,
            clients: .optional(caPEM: authority.certificates.certificate.pem), alpn: ["h2", "http/1.1"])
    }

    private static func channelContext(_ authority: Authority) throws(TLSError) -> TLSContext {
        try TLSContext.server(
            chainPEM: authority.serverChainPEM, key: authority.serverKey, clients: .anyKey,
            alpn: [DataServer.applicationProtocol])
    }

    /// Compares two numbers each second, since the clock may be set; the look itself is rare.
    private static func lookAfterCertificates(_ plane: ControlPlane) -> Task<Void, Never> {
        Task.detached {
            while !Task.isCancelled {
                try? await Task.sleep(for: .seconds(1))
                await plane.lookAtCertificates()
            }
        }
    }

    /// Gives back what a flood has left free in memory.
    private static func returnMemory() -> Task<Void, Never> {
        Task.detached {
            var look = MemoryReturn()
            while !Task.isCancelled {
                try? await Task.sleep(for: .seconds(memoryLookSeconds))
                guard let own = ProcessMemory.ownBytes, look.isDue(own) else { continue }
                ProcessMemory.returnFree()
                look.returned(from: own, to: ProcessMemory.ownBytes ?? own)
            }
        }
    }

    private static let memoryLookSeconds = 10

    /// What is to be said of the run before this one, if that did not end in order; nil when it did, or nothing is known
    /// of it.
    static func crash(in history: [ServerEvent]) -> String? {
        let marks: Set<ServerEvent.Kind> = [.serverStarted, .serverStopped, .serverCrashed]
        guard let last = history.last(where: { marks.contains($0.kind) }), last.kind == .serverStarted,
            let end = history.last
        else { return nil }
        return
            "the run that began at \(Timestamp.text(last.at)) did not end in order: it crashed, was killed, or the machine"
            + " went down; its last event is of \(Timestamp.text(end.at)). See the log of then"
    }

    /// The id of the machine's run: what was written and not flushed outlives the server, but not that.
    private static func bootID() throws -> String {
        try String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

extension Daemon {
    /// How far the end of the server has come, and what it waits for. Any thread.
    final class Ending: Sendable, CustomStringConvertible {
        private struct State {
            var step = "nothing yet"
            var details: [String] = []
        }

        private static let detailsMax = 16

        private let services: IOServices
        private let state = Mutex(State())

        init(_ services: IOServices) {
            self.services = services
        }

        /// Notes the step that has begun.
        func waits(for step: String) {
            state.withLock { $0 = State(step: step) }
        }

        /// Has what is not over yet say what it is: the description has the answers a moment later.
        func ask() {
            services.askWhatIsUnfinished { [self] details in
                state.withLock { state in
                    state.details += details.prefix(Ending.detailsMax - state.details.count)
                }
            }
        }

        var description: String {
            state.withLock { state in ([state.step] + state.details).joined(separator: "; ") }
        }
    }
}

extension EventLog {
    /// Adds what becomes of the log.
    fileprivate func append(_ notice: LogSink.Notice) {
        switch notice {
        case .losing(let reason):
            append(.logLosing, subject: "log", message: "log lines are being lost: \(reason)")
        case .recovered(let lost):
            append(.logRecovered, subject: "log", message: "log lines are written again; \(lost) were lost")
        }
    }
}
