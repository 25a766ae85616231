import Catalog
import Core
import DriverKit
import Drivers
import Foundation
import HTTPTypes
import Logging
import Reactor
import Services
import Synchronization
import TLS

@testable import ControlPlane

/// A driver whose host a test loses, quarantines and brings back; its volumes are in memory.
final class HostedDriver: SupervisedDriver, VolumeDriver {
    struct State {
        var report = DriverHostReport(state: .running)
        var restarts = 0
        var upgrades = 0
        var settings: [String: String] = [:]
        var isShutDown = false
        var observer: (@Sendable (DriverHostEvent) -> Void)?
        /// What the next restart or upgrade fails with.
        var failure: StatusError?
        /// What keeps it from saying how full it is, until it is raised.
        var silence: ThreadSemaphore?
    }

    static let pause: UInt64 = 18_250_999
    let state = Mutex(State())
    private let memory: MemoryDriver
    private let machine: ControlRig.Machine

    init(_ memory: MemoryDriver, _ machine: ControlRig.Machine) {
        self.memory = memory
        self.machine = machine
    }

    var report: DriverHostReport { state.withLock { $0.report } }

    func observe(_ observer: @escaping @Sendable (DriverHostEvent) -> Void) {
        state.withLock { $0.observer = observer }
    }

    func restart() throws(StatusError) {
        try act { state in
            state.restarts += 1
            state.report.state = .running
            state.report.ends[.restart, default: 0] += 1
        }
    }

    func upgrade() throws(StatusError) -> UInt64 {
        try act { $0.upgrades += 1 }
        return HostedDriver.pause
    }

    /// Takes `delay`, refuses to change `direct` while it runs, and knows nothing else.
    func configure(settings: [String: String]) throws(StatusError) {
        if settings["direct"] != nil {
            throw StatusError(.notSupported, "direct cannot be changed while the pool runs")
        }
        if let stranger = settings.keys.sorted().first(where: { $0 != "delay" }) {
            throw StatusError(.badRequest, "there is no setting \(stranger)")
        }
        state.withLock { $0.settings = settings }
    }

    func shutDown() {
        state.withLock { state in
            state.isShutDown = true
            state.report.state = .stopped
        }
    }

    private func act(_ body: (inout State) -> Void) throws(StatusError) {
        try state.withLock { state throws(StatusError) in
            if let failure = state.failure { throw failure }
            body(&state)
        }
    }

    // MARK: The device

    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        try memory.createVolume(id, size: size)
    }
    func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 {
        let (left, failure) = machine.preparation.withLock { $0 }
        if let failure { throw failure }
        // As a device would be busy with it.
        if left > 0 { _ = ThreadSemaphore().wait(milliseconds: 5) }
        return min(left, size)
    }
    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        try memory.resizeVolume(id, to: size)
    }
    func deleteVolume(_ id: Identifier) throws(StatusError) { try memory.deleteVolume(id) }
    func volumes() throws(StatusError) -> [Identifier: UInt64] { try memory.volumes() }
    func capacity() throws(StatusError) -> PoolCapacity {
        if let silence = state.withLock({ $0.silence }) { _ = silence.wait(milliseconds: 60_000) }
        return try memory.capacity()
    }
    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        try memory.openVolume(id, index: index)
    }
    func closeVolume(_ index: UInt32) { memory.closeVolume(index) }
    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        try memory.makeQueue(
            reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
    }
}

/// A control plane over a real catalog and real services, without sockets; one for each start of the server.
final class ControlRig: Sendable {
    /// What outlives a start of the server.
    final class Machine: Sendable {
        let folder: DataFolder
        let isBroken = Mutex(false)
        /// Bytes that the devices of volumes still need before these are made or larger, and what stands against that.
        let preparation = Mutex<(left: UInt64, failure: StatusError?)>((0, nil))
        /// Which commits its catalog refuses.
        let commits = CommitRule()

        init() async throws {
            folder = DataFolder(NSTemporaryDirectory() + "sluice-rig-" + UUID().uuidString)
            try await Authority.initialise(
                folder, options: Authority.Options(name: "localhost"), now: SystemWallClock().now(),
                random: SystemRandom())
        }

        deinit { try? FileManager.default.removeItem(atPath: folder.path) }
    }

    struct Answer {
        let status: Int
        let headers: HTTPFields
        let text: String
        let json: JSONValue
        let isStream: Bool
        var code: String? { if case .string(let code) = json["code"] { code } else { nil } }
    }

    let machine: Machine
    let events: EventLog
    let services: IOServices
    let plane: ControlPlane
    private let catalog: SQLiteCatalog
    private let hosted: HostedDrivers

    /// The drivers that were made, by pool.
    private final class HostedDrivers: Sendable {
        let drivers = Mutex<[String: HostedDriver]>([:])
    }

    /// The administrator that every folder has.
    let admin: PeerIdentity

    init(
        _ machine: Machine, eventsKept: Int = 1000, clock: any WallClock = SystemWallClock(),
        configure: (inout ControlPlane.Configuration) -> Void = { _ in }
    ) async throws {
        self.machine = machine
        let hosted = HostedDrivers()
        self.hosted = hosted
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        catalog = try SQLiteCatalog(path: machine.folder.catalogFile)
        machine.commits.refuse { _ in false }
        let store = try await RecordStore(
            catalog: RefusingCatalog(catalog: catalog, rule: machine.commits))
        let authority = try Authority.load(machine.folder, store: store, now: clock.now())
        events = EventLog(wallClock: clock, bounds: EventLog.Bounds(perKind: eventsKept))
        // A folder that lost its bundle has tests that bring their own.
        let pem = try? PrivateFiles.read("\(machine.folder.adminFolder)/cert.pem")
        admin = try pem.map { PeerIdentity(certificate: try Certificate(pem: $0)) } ?? .anonymous
        var configuration = IOServices.Configuration(
            cluster: authority.clusterID, serverName: authority.name, signatures: OpenSSLSignatures(),
            wallClock: clock, random: SystemRandom(), logger: logger
        ) { pool throws(StatusError) in
            if machine.isBroken.withLock({ $0 }) { throw StatusError(.ioError, "the disk is gone") }
            let memory = try MemoryDriver(
                DriverEnvironment(settings: pool.settings.filter { $0.key == "size" }, folder: pool.folder))
            guard pool.isolation == .isolated else { return memory }
            let driver = HostedDriver(memory, machine)
            hosted.drivers.withLock { $0[pool.name] = driver }
            return driver
        }
        configuration.events = events
        services = IOServices(configuration: configuration)
        var planeConfiguration = ControlPlane.Configuration(
            authority: authority, store: store, services: services, events: events,
            isVolatile: InstalledDrivers.isVolatile, poolsFolder: machine.folder.poolsFolder,
            wallClock: clock, random: SystemRandom(), logger: logger)
        configure(&planeConfiguration)
        plane = ControlPlane(planeConfiguration)
        try await plane.start()
    }

    /// Ends this start of the server.
    func stop() async throws {
        plane.drain()
        await services.stop()
        try catalog.close()
    }

    /// The administrator of the folder, whose certificate may have been renewed.
    private func currentAdmin() -> PeerIdentity {
        guard let pem = try? PrivateFiles.read("\(machine.folder.adminFolder)/cert.pem"),
            let certificate = try? Certificate(pem: pem)
        else { return admin }
        return PeerIdentity(certificate: certificate)
    }

    /// The host of a pool.
    func host(_ pool: String) -> HostedDriver? { hosted.drivers.withLock { $0[pool] } }

    func ask(
        _ method: HTTPRequest.Method, _ target: String, _ body: String = "", headers: HTTPFields = [:],
        role: PeerRole? = .admin, peer: PeerIdentity? = nil
    ) async throws -> Answer {
        let nobody = PeerIdentity(role: role, commonName: "someone")
        let request = ControlRequest(
            method: method, target: target, headers: headers, body: Array(body.utf8),
            peer: peer ?? (role == .admin ? currentAdmin() : nobody))
        guard let request else { throw Problem(.invalidRequest, "\(target) is no target") }
        let response = await plane.respond(to: request)
        guard case .bytes(let bytes) = response.body else {
            return Answer(
                status: response.status.code, headers: response.headers, text: "", json: .null, isStream: true
            )
        }
        let json =
            response.headers[.contentType]?.contains("json") == true ? try JSONParser.parse(bytes) : .null
        return Answer(
            status: response.status.code, headers: response.headers,
            text: String(decoding: bytes, as: UTF8.self), json: json, isStream: false)
    }
}

/// Runs `body` with a started control plane, and stops it afterwards.
func withControlPlane(
    eventsKept: Int = 1000, clock: any WallClock = SystemWallClock(),
    configure: (inout ControlPlane.Configuration) -> Void = { _ in },
    _ body: (ControlRig) async throws -> Void
) async throws {
    let rig = try await ControlRig(
        try await ControlRig.Machine(), eventsKept: eventsKept, clock: clock, configure: configure)
    do {
        try await body(rig)
    } catch {
        try await rig.stop()
        throw error
    }
    try await rig.stop()
}

/// The time of day, moved by a test.
final class MovableClock: WallClock {
    private let shift = Mutex<Int64>(0)

    func now() -> UInt64 { UInt64(Int64(SystemWallClock().now()) + shift.withLock { $0 }) }

    func advance(_ seconds: UInt64) { shift.withLock { $0 += Int64(seconds) } }

    func rewind(_ seconds: UInt64) { shift.withLock { $0 -= Int64(seconds) } }
}
