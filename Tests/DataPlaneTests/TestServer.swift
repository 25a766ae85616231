import Capability
import Core
import DataPlane
import DriverKit
import Logging
import Reactor
import Services
import Synchronization
import TLS
import Wire

/// The time of day, and the clock for lives beside it, as a test moves them.
final class TestClock: WallClock {
    /// The clock for lives.
    final class Life: MonotonicClock {
        fileprivate let nanoseconds = Mutex<UInt64>(1_000_000_000)
        func now() -> UInt64 { nanoseconds.withLock { $0 } }
    }

    let life = Life()
    private let seconds = Mutex<UInt64>(1_800_000_000)
    func now() -> UInt64 { seconds.withLock { $0 } }

    /// Time passes.
    func advance(_ more: UInt64) {
        seconds.withLock { $0 += more }
        life.nanoseconds.withLock { $0 += more * 1_000_000_000 }
    }

    /// A part of a second passes.
    func advance(nanoseconds: UInt64) { life.nanoseconds.withLock { $0 += nanoseconds } }

    /// Somebody sets the clock.
    func step(_ by: Int64) { seconds.withLock { $0 = UInt64(Int64($0) + by) } }
}

/// A data server on a free port of the loopback interface, with one volume and one node, and what a client needs.
final class TestServer: Sendable {
    let services: IOServices
    let server: DataServer
    let driver: TestDriver
    let clock = TestClock()
    let authority: CertificateAuthority
    let signer: any SignatureSigner
    let cluster = Identifier.random(using: SystemRandom())
    let node = Identifier.random(using: SystemRandom())
    let volume: Identifier
    static let keyID: [UInt8] = [1, 2, 3, 4]
    static let volumeBytes: UInt64 = 8 << 20
    static let nodeEpoch: UInt64 = 3
    static let volumeEpoch: UInt64 = 5

    init(
        options: DataServerOptions = DataServerOptions(),
        accessMode: AccessMode = .singleWriter, volume: Identifier = .random(using: SystemRandom()),
        configure: (inout IOServices.Configuration) -> Void = { _ in }
    ) async throws {
        self.volume = volume
        let driver = TestDriver()
        self.driver = driver
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        var configuration = IOServices.Configuration(
            cluster: cluster, serverName: "test server", signatures: OpenSSLSignatures(), wallClock: clock,
            random: SystemRandom(), logger: logger, driverFactory: { _ in driver })
        configuration.lifeClock = clock.life
        configure(&configuration)
        services = IOServices(configuration: configuration)
        signer = OpenSSLSignatures().makeKey().signer
        authority = try CertificateAuthority.create(commonName: "test CA", validDays: 2)
        let key = PrivateKey.generateP256()
        let certificate = try authority.issueServer(
            key: key, names: ["localhost"], addresses: ["127.0.0.1"], days: 1)
        let context = try TLSContext.server(
            chainPEM: certificate.pem + authority.certificate.pem, key: key, clients: .anyKey,
            alpn: [DataServer.applicationProtocol])
        server = DataServer(
            services: services, tls: context, listen: [try SocketAddress(text: "127.0.0.1:0")],
            options: options)
        try server.start()
        _ = try await services.perform(.trust(keys: [Self.keyID: signer.publicKey]))
        _ = try await services.perform(
            .addPool(
                PoolDescriptor(name: "default", driver: "test", settings: [:], folder: "", whenFull: .fail)))
        _ = try await services.perform(.createVolume(descriptor(accessMode)))
        _ = try await services.perform(.setNode(id: node, name: "node-1", epoch: Self.nodeEpoch))
    }

    func descriptor(_ mode: AccessMode = .singleWriter, epoch: UInt64 = TestServer.volumeEpoch)
        -> VolumeDescriptor
    {
        VolumeDescriptor(
            id: volume, name: "vol", pool: "default", size: Self.volumeBytes, accessMode: mode, epoch: epoch)
    }

    var address: SocketAddress { server.boundAddresses[0] }

    /// A context for a client with this key; nil for a client without a certificate.
    func clientContext(_ key: PrivateKey?, alpn: [String] = [DataServer.applicationProtocol]) throws
        -> TLSContext
    {
        var identity: TLSContext.Identity?
        if let key {
            let certificate = try authority.issueClient(
                key: key, commonName: "node-1", role: "node", uris: [], validSeconds: 86400)
            identity = TLSContext.Identity(chainPEM: certificate.pem, key: key)
        }
        return try TLSContext.client(
            identity: identity, trust: .authority(caPEM: authority.certificate.pem), alpn: alpn)
    }

    func claims(
        for key: PrivateKey, rights: Rights = [.read, .write, .flush, .discard], id: Identifier? = nil,
        of other: Identifier? = nil
    ) -> Claims {
        Claims(
            issuer: cluster, audience: cluster, capability: id ?? Identifier.random(using: SystemRandom()),
            subject: other ?? node, issuedAt: clock.now(), notBefore: clock.now(), expiry: clock.now() + 3600,
            holder: key.publicKeyThumbprint, kind: .volume, resource: volume, rights: rights,
            resourceEpoch: Self.volumeEpoch, nodeEpoch: other == nil ? Self.nodeEpoch : 1)
    }

    func mint(_ claims: Claims) throws -> Capability {
        try Capability.mint(claims, keyID: Self.keyID, signer: signer, keys: OpenSSLSignatures())
    }

    /// A connected client that has said HELLO.
    func client(
        _ key: PrivateKey, joining: TestClient? = nil, slots: UInt16 = 0, features: Features = []
    ) throws -> TestClient {
        let client = try connect(key)
        try client.hello(joining: joining, slots: slots, features: features)
        return client
    }

    /// A connected client that has yet to say HELLO.
    func connect(_ key: PrivateKey) throws -> TestClient {
        try TestClient(address: address, context: try clientContext(key))
    }

    /// A connected client that goes on with the channel of `old`.
    func resumed(_ old: TestClient, _ key: PrivateKey) throws -> TestClient {
        let client = try connect(key)
        _ = try client.resume(old)
        return client
    }
}

/// Runs `body` with a server, and stops it afterwards, also when `body` throws.
func withServer(
    options: DataServerOptions = DataServerOptions(), accessMode: AccessMode = .singleWriter,
    volume: Identifier = .random(using: SystemRandom()),
    configure: (inout IOServices.Configuration) -> Void = { _ in },
    _ body: (TestServer) async throws -> Void
) async throws {
    let server = try await TestServer(
        options: options, accessMode: accessMode, volume: volume, configure: configure)
    do {
        try await body(server)
    } catch {
        server.driver.letGo()
        await server.server.stop()
        throw error
    }
    server.driver.letGo()
    await server.server.stop()
}

extension TestServer {
    /// Returns when the sessions are as `condition` wants; each look goes through every reactor.
    func waitForSessions(_ condition: ([SessionInfo]) -> Bool) async throws {
        try await untilTrue {
            let sessions = try await services.perform(.listSessions)
            return condition(sessions)
        }
    }
}

/// Repeats `condition` until it holds; the suite's time limit ends what never does.
func untilTrue(_ condition: () async throws -> Bool) async throws {
    while try await !condition() {
        try Task.checkCancellation()
        await Task.yield()
    }
}
